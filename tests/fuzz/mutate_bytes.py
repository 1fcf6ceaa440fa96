"""Changes of bytes that know nothing of a format, and the texts and numbers that hurt."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    Mutate = Callable[[bytes, Random], bytes]

EDGES = (0, 1, -1, 2, 3, 7, 63, 64, 127, 128, 255, 256, 1000, 65535, 65536, 1 << 24, (1 << 31) - 1)
WIDE = (-(1 << 31), 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 53, (1 << 61) - 1, 1 << 62, 1 << 63)
HUGE = ((1 << 64) - 1, 1 << 64, -(1 << 63) - 1, 10**30, -(10**60))
NUMBERS = (*EDGES, *WIDE, *HUGE)
TEXTS = (
    "", ".", "..", "../x", "/etc/passwd", "a/b", "\0", "\n", "\r\n", "\t", "\x1b[2J", "\x1b]0;x",
    "\u202e", "\u200b", "\ud800", "\udcff", "`", "``", "[b]", "[/]", "<b>", "&amp;", "'", '"', "\\",
    "$(x)", "%s", "{0}", "-1", "1", "01", "1e999", "nan", "true", "null", "none", "é", "日本", "😀",
    "model", "args", "optimizer", "weight", "data.pkl", "version", "0", "cpu", "cuda:0", "storage",
    "*", "?", "~", " ", "x" * 300, "x." * 200,
)  # fmt: skip
_TOKENS = (
    *(bytes([n]) for n in (0, 1, 0x28, 0x2E, 0x52, 0x62, 0x7F, 0x80, 0x85, 0x86, 0x8F, 0x93, 0xFF)),
    *(n.to_bytes(4, "little") for n in (0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)),
    *(n.to_bytes(8, "little") for n in (0, 1 << 32, 1 << 62, (1 << 64) - 1)),
    *(
        t.encode()
        for t in ("-1", "1e9", "NaN", "null", "[", "]", "{", "}", '"', ",", "9" * 30, ":")
    ),
    *(
        t.encode()
        for t in ("PK\x03\x04", "PK\x01\x02", "PK\x05\x06", "\n", "\\ud800", "&a", "*a", ":")
    ),
    *(t.encode() for t in ("!!python/name:x.y", "- ", "? ", "---\n", "<<: ", "0x", "1:2:3")),
)


def damage(data: bytes, random: Random) -> bytes:
    """Return bytes with one to four changes, of the kinds that storage and attackers make."""
    raw = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(raw) + 1)
        end = min(len(raw), at + random.choice((1, 2, 4, 8, 30)))
        match random.randrange(8):
            case 0 if at < len(raw):
                raw[at] ^= 1 << random.randrange(8)
            case 1 if at < len(raw):
                raw[at] = random.randrange(256)
            case 2:
                del raw[at:end]
            case 3:
                raw[at:at] = raw[at:end]
            case 4:
                token = random.choice(_TOKENS)
                raw[at : at + len(token)] = token
            case 5:
                raw[at:at] = random.choice(_TOKENS)
            case 6 if random.random() < 0.3:
                del raw[at:]
            case 7:
                raw[at:at] = raw[at:end] * random.choice((2, 20, 200))
    return bytes(raw)


def size(random: Random) -> int:
    """Return how often something is repeated: seldom, and then so often that limits are met."""
    chance = random.random()
    if chance < 0.98:
        return random.choice((1, 2, 3, 5, 8, 13, 31, 65))
    if chance < 0.998:
        return random.choice((300, 1000, 3000))
    return random.choice((20_000, 70_000, 160_000))


def repeats(length: int, random: Random) -> int:
    """Return how often a piece of so many bytes is repeated: 400 kB of it are enough."""
    return max(1, min(size(random), 400_000 // max(1, length)))
