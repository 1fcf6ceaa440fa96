"""Changes of pickles by opcodes: what comes out is a pickle again, most often."""

from __future__ import annotations

import pickletools
import struct
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.fuzz.mutate_bytes import NUMBERS, TEXTS, damage, repeats, size

if TYPE_CHECKING:
    from random import Random

MOST = 20_000  # opcodes that are told apart; what follows them is left as it is
_NEWLINES = {"decimalnl_short": 1, "decimalnl_long": 1, "floatnl": 1, "stringnl": 1}
_NEWLINES |= {"stringnl_noescape": 1, "unicodestringnl": 1, "stringnl_noescape_pair": 2}
_FIXED: dict[int, int] = {}  # bytes behind an opcode
_COUNTED: dict[int, int] = {}  # bytes of the length behind an opcode
_LINES: dict[int, int] = {}  # lines behind an opcode
for _op in pickletools.opcodes:
    _code = ord(_op.code)
    if _op.arg is None:
        _FIXED[_code] = 0
    elif _op.arg.n >= 0:
        _FIXED[_code] = _op.arg.n
    elif _op.arg.n == pickletools.UP_TO_NEWLINE:
        _LINES[_code] = _NEWLINES[_op.arg.name]
    else:
        _COUNTED[_code] = {-2: 1, -3: 4, -4: 4, -5: 8}[_op.arg.n]
PUSHING = b"NK\x4aMX\x8cG\x8a)]}\x8f\x88\x89hjC"  # opcodes that push one value and take none
_PAIRS = (b"(", b")", b"]", b"}", b"\x8f", b"N", b"t", b"u", b"e", b"R", b"Q", b"b", b"\x81", b"0")
_ALONE = (
    *_PAIRS,
    b"s",
    b"a",
    b"\x85",
    b"\x86",
    b"\x87",
    b"\x90",
    b"\x91",
    b"\x94",
    b"2",
    b"1",
    b".",
)
_NAMES = (
    b"cbuiltins\nset\n", b"c_codecs\nencode\n", b"ccollections\nOrderedDict\n", b"ctorch\nSize\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nBFloat16Storage\n", b"cbuiltins\ncomplex\n",
    b"cbuiltins\nbytearray\n", b"cbuiltins\nfrozenset\n", b"cbuiltins\ndict\n", b"cos\nsystem\n",
    b"cargparse\nNamespace\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\nscalar\n",
    b"ctorch\nfloat32\n", b"ctorch._utils\n_rebuild_parameter\n", b"cx\ny\n",
)  # fmt: skip


def opcodes(data: bytes) -> list[bytes]:
    """Return each opcode with its argument; the last piece may be the rest."""
    found: list[bytes] = []
    pos, end = 0, len(data)
    while pos < end and len(found) < MOST:
        start, op = pos, data[pos]
        pos += 1
        if op in _FIXED:
            pos += _FIXED[op]
        elif op in _COUNTED:
            width = _COUNTED[op]
            pos += width + int.from_bytes(data[pos : pos + width], "little")
        else:
            for _ in range(_LINES.get(op, 0)):
                pos = (data.find(b"\n", pos) + 1) or end
        found.append(data[start:pos])
    if pos < end:
        found.append(data[pos:])
    return found


def mutate(data: bytes, random: Random) -> bytes:
    """Return a pickle with one to three changes."""
    if random.random() < 0.1:
        return damage(data, random)
    ops = opcodes(data)
    for _ in range(random.choice((1, 1, 2, 3))):
        if not ops:
            break
        at = random.randrange(len(ops))
        end = at + random.choice((1, 1, 2, 4, 12))
        match random.randrange(10):
            case 0:
                del ops[at:end]
            case 1:
                piece = ops[at:end]
                ops[at:at] = piece * repeats(sum(map(len, piece)), random)
            case 2:
                to = random.randrange(len(ops))
                ops[to:to] = ops[at:end]
            case 3:
                ops[at] = random.choice(_ALONE)
            case 4:
                ops.insert(at, random.choice((*_ALONE, *_NAMES)))
            case _:
                # Where a value was, there is another: of any type, nesting, sharing and size.
                places = [i for i in _near(at, len(ops)) if ops[i][:1] in PUSHING and ops[i]]
                if places:
                    ops[random.choice(places)] = value(random)
    return b"".join(ops)


def _near(at: int, length: int) -> range:
    return range(max(0, at - 12), min(length, at + 12))


def value(random: Random, depth: int = 0) -> bytes:
    """Return opcodes that push one value."""
    kind = random.randrange(16 if depth < 3 else 8)
    match kind:
        case 0 | 1:
            return number(random.choice(NUMBERS))
        case 2 | 3:
            return text(random.choice(TEXTS))
        case 4:
            return random.choice((b"N", b"\x88", b"\x89", b")", b"]", b"}", b"\x8f"))
        case 5:
            return b"G" + struct.pack(">d", random.choice((0.0, -1.5, 1e308, float("nan"))))
        case 6:
            return random.choice(_NAMES)
        case 7:
            return random.choice((b"h", b"K")) + bytes([random.randrange(8)])
        case 8:
            return nested(value(random, 3), size(random), random)
        case 9:
            return doubled(value(random, 3), min(size(random), 70), random)
        case 10:
            return keys(random)
        case 11:
            items = b"".join(value(random, depth + 1) for _ in range(random.randrange(4)))
            return b"(" + items + random.choice((b"t", b"l", b"\x91"))
        case 12:
            pairs = (value(random, depth + 1) + value(random, depth + 1) for _ in range(2))
            return b"}(" + b"".join(pairs) + b"u"
        case 13:
            return number(random.choice((10, -10)) ** min(size(random) * 70, 20_000))
        case 14:
            return random.choice(_NAMES) + value(random, depth + 1) + b"\x85" + b"R"
        case _:
            made = random.choice(_NAMES) + b")\x81}"
            return made + text(random.choice(TEXTS)) + value(random, depth + 1) + b"sb"


def number(of: int) -> bytes:
    """Return the opcodes of an integer."""
    raw = of.to_bytes(of.bit_length() // 8 + 1, "little", signed=True)
    if len(raw) < 256:
        return b"\x8a" + bytes([len(raw)]) + raw
    return b"\x8b" + struct.pack("<i", len(raw)) + raw


def text(of: str) -> bytes:
    """Return the opcodes of a text; half a surrogate pair is left as it is."""
    raw = of.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def nested(inner: bytes, depth: int, random: Random) -> bytes:
    """Return opcodes of a value in so many containers, one in the other."""
    match random.randrange(6):
        case 0:
            return inner + b"\x85" * depth
        case 1:
            return b"]" * depth + inner + b"a" * depth
        case 2:
            return b"}N" * depth + inner + b"s" * depth
        case 3:
            return b"(" * depth + inner + b"\x91" * depth
        case 4:
            return b"cx\ny\n" * depth + inner + b"\x85R" * depth
        case _:
            return b"cx\ny\n)\x81" * depth + inner + b"b" * depth


def doubled(inner: bytes, times: int, random: Random) -> bytes:
    """Return opcodes of pairs that hold the pair before twice: few bytes, many parts."""
    pair = random.choice((b"h%c\x86q%c", b"h%c\x86\x85q%c", b"h%cK\x01\x87q%c"))
    first = 100 + random.randrange(80)
    steps = (pair % (old, new) for old, new in pairwise(range(first, min(first + times, 256))))
    return inner + b"q" + bytes([first]) + b"".join(steps)


def keys(random: Random) -> bytes:
    """Return opcodes of a dictionary or set of many keys, all of one hash, or equal as text."""
    count = size(random)
    match random.randrange(5):
        case 0:
            made = [number(i * ((1 << 61) - 1)) for i in range(count)]
        case 1:
            zero = b"cbuiltins\ncomplex\n"
            raw = [b"G" + struct.pack(">d", i * 1e16) for i in range(count)]
            made = [zero + one + one + b"\x86R" for one in raw]
        case 2:
            made = [number(i) + b"\x85" for i in range(count)]
        case 3:
            made = [one for i in range(count) for one in (number(i), text(str(i)))]
        case _:
            made = [b"G" + struct.pack(">d", i * float(1 << 61)) for i in range(count)]
    if random.random() < 0.5:
        return b"\x8f(" + b"".join(made) + b"\x90"
    return b"}(" + b"".join(one + b"N" for one in made) + b"u"
