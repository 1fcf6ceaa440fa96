"""torch.save files and pickles that lie, or that would run something in a careless reader."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zipfile
from typing import TYPE_CHECKING, Any
from unittest import mock

from tests.support.hostile import Hostile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def fragment(value: object) -> bytes:
    """Return the opcodes that push a value of plain data."""
    return pickle.dumps(value, 2)[2:-1]


def mapping(items: Mapping[str, bytes]) -> bytes:
    """Return the opcodes that push a dictionary whose values these opcodes push."""
    return b"}(" + b"".join(fragment(key) + value for key, value in items.items()) + b"u"


def program(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def tensor(
    shape: object = (2,),
    stride: object = (1,),
    offset: object = 0,
    *,
    numel: object = 2,
    key: object = "0",
    storage: bytes = b"ctorch\nFloatStorage\n",
    kind: str = "storage",
) -> bytes:
    """Return the opcodes of a tensor as torch.save spells them."""
    pid = (
        b"(" + fragment(kind) + storage + fragment(key) + fragment("cpu") + fragment(numel) + b"tQ"
    )
    sizes = fragment(offset) + fragment(shape) + fragment(stride)
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + pid
        + sizes
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def torch_zip(
    data: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    names: tuple[str, ...] = ("data.pkl",),
    byteorder: bytes = b"little",
    compression: int = zipfile.ZIP_STORED,
    zip64: bool = False,
) -> bytes:
    """Return a file as torch.save writes it: a zip with the pickle and one member a storage."""
    buffer = io.BytesIO()
    limit = mock.patch.object(zipfile, "ZIP64_LIMIT", 0 if zip64 else zipfile.ZIP64_LIMIT)
    with limit, warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as z:
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name in names:
            z.writestr(f"archive/{name}", data)
        z.writestr("archive/byteorder", byteorder)
        for key, content in ({"0": bytes(8)} if storages is None else storages).items():
            z.writestr(f"archive/data/{key}", content)
        z.writestr("archive/version", b"3\n")
    return buffer.getvalue()


def hf_bin(content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "pytorch_model.bin").write_bytes(content)
        return folder

    return make


def with_tensor(**given: Any) -> bytes:
    return torch_zip(program(mapping({"a": tensor(**given)})))


HUGE = 2**62

TENSORS: Mapping[str, bytes] = {
    "offset outside the storage": with_tensor(offset=1),
    "offset far outside the storage": with_tensor(offset=HUGE),
    "negative offset of a tensor": with_tensor(offset=-1),
    "size outside the storage": with_tensor(shape=(3,)),
    "size whose bytes overflow": with_tensor(shape=(HUGE, 4)),
    "negative size": with_tensor(shape=(-1,)),
    "two negative sizes in a tensor": with_tensor(shape=(-1, -2), stride=(1, 1)),
    "stride outside the storage": with_tensor(shape=(2,), stride=(2,)),
    "stride that overflows": with_tensor(shape=(2,), stride=(HUGE,)),
    "negative stride": with_tensor(shape=(2,), stride=(-1,), offset=1),
    "fewer strides than sizes": with_tensor(shape=(1, 1), stride=(1,)),
    "a hundred dimensions": with_tensor(shape=(1,) * 100, stride=(1,) * 100),
    "float size of a tensor": with_tensor(shape=(2.0,)),
    "size that is text": with_tensor(shape="2"),
    "size that is nothing": with_tensor(shape=None),
    "size of true": with_tensor(shape=(True,)),
    "sixty huge sizes": with_tensor(shape=(HUGE,) * 60, stride=(0,) * 60),
    "more elements than bytes": with_tensor(shape=(10**9, 10**9), stride=(HUGE, 1)),
    "storage larger than its member": with_tensor(numel=3),
    "storage of a negative size": with_tensor(numel=-1),
    "storage of a size that overflows": with_tensor(numel=HUGE),
    "storage that is not there": with_tensor(key="1"),
    "storage in the folder above": with_tensor(key="../data.pkl"),
    "storage named by a number": with_tensor(key=0),
    "data of an unknown kind": with_tensor(kind="url"),
}

PICKLES: Mapping[str, bytes] = {
    "empty pickle": b"",
    "pickle without an end": b"\x80\x02}",
    "pickle that ends in a text": b"\x80\x02X\x10\0\0\0ab",
    "pickle that ends in a number": b"\x80\x02J\0\0",
    "pickle that ends in an opcode's name": b"\x80\x02cos",
    "end with nothing on the stack": b"\x80\x02.",
    "unknown opcode": b"\x80\x02\xff.",
    "opcode zero": b"\x80\x02\0.",
    "protocol 255": b"\x80\xff}.",
    "mark that is never set": b"\x80\x02t.",
    "mark above the stack": b"\x80\x02](0000t.",
    "reduce of an empty stack": b"\x80\x02R.",
    "build of an empty stack": b"\x80\x02b.",
    "duplicate of an empty stack": b"\x80\x022.",
    "memo that was never put": b"\x80\x02h\x05.",
    "memo of text": b"\x80\x02gx\n.",
    "negative memo": b"\x80\x02}p-1\n.",
    "odd number of items": b"\x80\x02}(K\x01u.",
    "items set on a number": b"\x80\x02K\x01(K\x01K\x02u.",
    "items appended to a number": b"\x80\x02K\x01(K\x01e.",
    "list as a key": b"\x80\x02}]K\x01s.",
    "set with a list": b"\x80\x04\x8f(]\x90.",
    "text that is not UTF-8": b"\x80\x02X\x02\0\0\0\xff\xfe.",
    "number that is no number": b"I12x\n.",
    "number of five thousand digits in text": b"L" + b"9" * 5000 + b"L\n.",
    "bytes of two to the 60th": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"a.",
    "bytearray of two to the 60th": b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b"a.",
    "text of two to the 62nd": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.",
    "bytes of four gigabytes": b"\x80\x03B\xff\xff\xff\xffa.",
    "string of negative length": b"\x80\x02T\xff\xff\xff\xffa.",
    "number of two gigabytes": b"\x80\x02\x8b\xff\xff\xff\x7fa.",
    "number of negative length": b"\x80\x02\x8b\xff\xff\xff\xffa.",
    "frame of two to the 62nd and no end": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}",
    "extension of one byte": b"\x80\x02\x82\xf0)R.",
    "extension of two bytes": b"\x80\x02\x83\xf0\xf0)R.",
    "extension of four bytes": b"\x80\x02\x84\xf0\xf0\xf0\x70)R.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "class named by a number": b"\x80\x04K\x01K\x02\x93.",
    "reference to data outside": program(b"Vsecret\nQ"),
    "reference of protocol zero": b"Psecret\n.",
    "list for a dictionary of tensors": program(b"]"),
    "number for a dictionary of tensors": program(b"K\x01"),
    "empty dictionary": program(b"}"),
    "class for a dictionary of tensors": program(b"cos\nsystem\n"),
}

DEEP = 200_000
MERSENNE = 2**61 - 1  # Python hashes its multiples to 0


def colliding(after: bytes = b"") -> bytes:
    """Return opcodes that push numbers of one hash, each with some opcodes after it."""
    numbers = (i * MERSENNE for i in range(2, 40_000))
    return b"".join(b"\x8a\x0a" + n.to_bytes(10, "little") + after for n in numbers)


# Small pickles that want much: memory, time or stack.
BOMBS: Mapping[str, bytes] = {
    "memo index of four billion": program(b"}r\xff\xff\xff\xff"),
    "memo index of a trillion": program(b"}p1000000000000\n"),
    "many lists deep": program(b"]" * DEEP + b"a" * (DEEP - 1)),
    "many tuples deep": program(b")" + b"\x85" * DEEP),
    "many tuples deep as a key": program(b"})" + b"\x85" * DEEP + b"K\x01s"),
    "many frozensets deep": b"\x80\x04(\x91" + b"".join([b"q\0(h\0\x91"] * DEEP) + b".",
    "many dictionaries deep": program(b"}" + b"K\x01}" * DEEP + b"s" * DEEP),
    "many placeholders deep": program(b"cos\nsystem\n" + b")R" * DEEP),
    "two to the 60th tuples": program(b")" + b"2\x86" * 60),
    "two to the 60th tuples as a key": program(b"})" + b"2\x86" * 60 + b"K\x01s"),
    "two to the 60th lists": program(b"]" + b"q\0](h\0h\0e" * 60),
    "numbers of one hash as keys": program(b"}(" + colliding(b"K\0") + b"u"),
    "tuples of one hash as keys": program(b"}(" + colliding(b"\x85K\0") + b"u"),
    "numbers of one hash in a set": program(b"\x8f(" + colliding() + b"\x90"),
    "memo indices of one hash": program(
        b"}" + b"".join(b"p%d\n" % (i * MERSENNE) for i in range(40_000))
    ),
    "list in itself": program(b"]q\0h\0a"),
    "dictionary in itself": program(b"}q\0Vself\nh\0s"),
    "bytearray of a terabyte": program(b"c__builtin__\nbytearray\n\x8a\x06\0\0\0\0\0\x01\x85R"),
    "bytes of a terabyte": program(b"c__builtin__\nbytes\n\x8a\x06\0\0\0\0\0\x01\x85R"),
    "bytearray copied often": program(
        b"(B" + struct.pack("<I", 10**6) + bytes(10**6) + b"q\0"
        + b"c__builtin__\nbytearray\nq\x01" + b"h\x01h\0\x85R" * 10**5 + b"t"
    ),
    "text encoded often": program(
        b"(X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"q\0"
        + b"c_codecs\nencode\nq\x01" + b"h\x01h\0\x85R" * 10**5 + b"t"
    ),
    "list made a set often": program(
        fragment(list(range(300, 20_300))) + b"q\0(c__builtin__\nset\nq\x01"
        + b"h\x01h\0\x85R" * 10**4 + b"t"
    ),
    "dictionary copied often": program(
        fragment(dict.fromkeys(range(300, 20_300))) + b"q\0(ccollections\nOrderedDict\nq\x01"
        + b"h\x01h\0\x85R" * 10**4 + b"t"
    ),
}  # fmt: skip


def deflated_bomb(folder: Path) -> Path:
    content = torch_zip(bytes(1 << 28), compression=zipfile.ZIP_DEFLATED)
    return hf_bin(content)(folder)


def directory_field(at: int, new: bytes) -> bytes:
    """Return a good file with a field of its first directory record replaced."""
    content = torch_zip(program(mapping({"a": tensor()})))
    start = content.index(b"PK\x01\x02") + at
    return content[:start] + new + content[start + len(new) :]


def end_field(at: int, new: bytes, *, zip64: bool = False) -> bytes:
    """Return a good file with a field of the record at its end replaced."""
    content = bytearray(torch_zip(program(mapping({"a": tensor()})), zip64=zip64))
    if zip64:  # so that the wide record is the one that counts
        end = content.rindex(b"PK\x05\x06")
        content[end + 8 : end + 20] = b"\xff" * 12
    start = content.rindex(b"PK\x06\x06" if zip64 else b"PK\x05\x06") + at
    content[start : start + len(new)] = new
    return bytes(content)


GOOD = torch_zip(program(mapping({"a": tensor()})))
OLD_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)

ZIPS: Mapping[str, bytes] = {
    "zip that is empty": b"",
    "zip of zeros": bytes(1000),
    "zip with no members": b"PK\x05\x06" + bytes(18),
    "zip without a pickle": torch_zip(b"", names=()),
    "zip with two pickles": torch_zip(program(b"}"), names=("data.pkl", "x/data.pkl")),
    "zip with a member twice": torch_zip(program(b"}"), names=("data.pkl", "data.pkl")),
    "zip with a storage twice": torch_zip(program(b"}"), names=("data.pkl", "data/0")),
    "zip of compressed members": torch_zip(program(b"}"), compression=zipfile.ZIP_DEFLATED),
    "zip of bzip2 members": torch_zip(program(b"}"), compression=zipfile.ZIP_BZIP2),
    "zip of the other byte order": torch_zip(program(b"}"), byteorder=b"big"),
    "zip of an odd byte order": torch_zip(program(b"}"), byteorder=b"x" * 1000),
    "zip with an encrypted member": directory_field(8, b"\x01\0"),
    "zip with a member outside": directory_field(42, struct.pack("<I", 10**9)),
    "zip with a member at the end": directory_field(42, struct.pack("<I", len(GOOD) - 4)),
    "zip with a member larger than itself": directory_field(20, struct.pack("<II", 10**9, 10**9)),
    "zip with members that overlap": directory_field(20, struct.pack("<II", 400, 400)),
    "zip with a header elsewhere": directory_field(42, struct.pack("<I", 7)),
    "zip with a name that never ends": directory_field(28, b"\xff\xff"),
    "zip64 member without its sizes": directory_field(20, b"\xff" * 8),
    "zip directory cut off": end_field(12, struct.pack("<I", 10)),
    "zip directory outside": end_field(16, struct.pack("<I", 10**9)),
    "zip of too many records": end_field(10, b"\xff\x7f"),
    "zip64 of too many records": end_field(32, struct.pack("<Q", 2**62), zip64=True),
    "zip64 directory outside": end_field(48, struct.pack("<Q", 2**63), zip64=True),
    "zip64 directory too long": end_field(40, struct.pack("<Q", 2**63), zip64=True),
    "legacy torch file": OLD_MAGIC + program(b"}"),
    "tar torch file": b"storages".ljust(257, b"\0") + b"ustar\x0000" + bytes(2000),
    "text for a torch file": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
}


def hf(name: str, content: bytes, errors: tuple[str, ...] = ("CorruptFile",)) -> Hostile:
    return Hostile(name, hf_bin(content), errors)


REFUSED = ("CorruptFile", "NotACheckpoint")

TORCH = [
    *(hf(name, content) for name, content in TENSORS.items()),
    *(hf(name, torch_zip(data), REFUSED) for name, data in PICKLES.items()),
    *(hf(name, torch_zip(data), REFUSED) for name, data in BOMBS.items()),
    *(hf(name, content, REFUSED) for name, content in ZIPS.items()),
    Hostile("zip bomb", deflated_bomb),
]
