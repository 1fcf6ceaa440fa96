"""Changes of torch.save's zips by their members, with checksums that are right again."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tests.fuzz import mutate_pickle
from tests.fuzz.mutate_bytes import NUMBERS, TEXTS, damage, repeats

if TYPE_CHECKING:
    from random import Random

_RECORD = struct.Struct("<4sHHHHHHIIIHHHHHII")
_LOCAL = struct.Struct("<4sHHHHHIIIHH")


@dataclass(frozen=True, slots=True)
class Member:
    """One member as it is written: what the directory says of it may be something else."""

    name: bytes
    content: bytes
    method: int = 0
    flags: int = 0
    extra: bytes = b""
    sizes: int | None = None  # claimed
    header: int | None = None  # claimed


def members(data: bytes) -> list[Member]:
    """Return the members that the directory of a zip names; none if it is damaged."""
    end = data.rfind(b"PK\x05\x06")
    if end < 0 or len(data) < end + 22:
        return []
    count, _, at = struct.unpack_from("<HII", data, end + 10)
    found = []
    for _ in range(min(count, 500)):
        if at + 46 > len(data) or data[at : at + 4] != b"PK\x01\x02":
            break
        record = _RECORD.unpack_from(data, at)
        flags, method, packed = record[3], record[4], record[8]
        name_length, extra_length, comment, header = record[10], record[11], record[12], record[16]
        name = data[at + 46 : at + 46 + name_length]
        at += 46 + name_length + extra_length + comment
        if header + 30 > len(data):
            continue
        start = header + 30 + sum(struct.unpack_from("<HH", data, header + 26))
        found.append(Member(name, data[start : start + packed], method, flags))
    return found


def write(found: list[Member], random: Random) -> bytes:
    """Return a zip of these members, aligned or not."""
    out, directory = bytearray(), bytearray()
    aligned = random.random() < 0.5
    for one in found:
        at = len(out)
        padding = -(at + 30 + len(one.name) + 4) % 64 if aligned else 0
        extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding if aligned else b""
        length = (len(one.content) if one.sizes is None else one.sizes) & 0xFFFFFFFF
        checksum = zlib.crc32(one.content)
        about = (one.flags, one.method, 0, 33, checksum, length, length, len(one.name))
        out += _LOCAL.pack(b"PK\3\4", 20, *about, len(extra)) + one.name + extra + one.content
        where = (0, 0, 0, 0, (at if one.header is None else one.header) & 0xFFFFFFFF)
        directory += _RECORD.pack(b"PK\1\2", 20, 20, *about, len(one.extra), *where)
        directory += one.name + one.extra
    counts = (0, 0, len(found) & 0xFFFF, len(found) & 0xFFFF, len(directory), len(out), 0)
    return bytes(out + directory) + struct.pack("<4sHHHHIIH", b"PK\5\6", *counts)


def mutate(data: bytes, random: Random) -> bytes:
    """Return a zip of torch.save with one or two changes, most often of its pickle."""
    found = members(data)
    if not found or random.random() < 0.08:
        return damage(data, random)
    for _ in range(random.choice((1, 1, 2))):
        at = next((i for i, one in enumerate(found) if one.name.endswith(b"data.pkl")), 0)
        if random.random() < 0.3:
            at = random.randrange(len(found))
        one = found[at]
        match random.randrange(20):
            case 0 if len(found) > 1:
                del found[at]
            case 1:
                found[at:at] = [one] * repeats(len(one.content) + 100, random)
            case 2:
                name = random.choice(TEXTS).encode("utf-8", "surrogatepass")
                found[at] = replace(one, name=random.choice((name, one.name[:-1], b"a/" + name)))
            case 3:
                found[at] = replace(one, sizes=random.choice(NUMBERS))
            case 4:
                found[at] = replace(one, header=random.choice((0, 1, 30, 64, *NUMBERS)))
            case 5:
                found[at] = replace(one, method=random.choice((8, 12, 99)))
            case 6:
                found[at] = replace(one, flags=random.choice((1, 8, 0x800, 0xFFFF)))
            case 7:
                wide = random.choice(
                    (b"\1\0\x18\0" + bytes(24), b"\1\0\x08\0" + b"\xff" * 8, b"\1")
                )
                claimed = random.choice((None, 0xFFFFFFFF))
                found[at] = replace(one, extra=wide, sizes=claimed, header=claimed)
            case 8:
                found[at] = replace(
                    one, content=one.content[: random.randrange(len(one.content) + 1)]
                )
            case 9:
                random.shuffle(found)
            case _:
                changed = mutate_pickle.mutate if one.name.endswith(b".pkl") else damage
                found[at] = replace(one, content=changed(one.content, random))
    return write(found, random)
