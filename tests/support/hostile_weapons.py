"""Pickles that run a command in any reader that believes them."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

from tests.support.hostile_torch import fragment, program

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SYSTEM = b"cposix\nsystem\n"
EXTENSION = 240  # registered as posix.system by `control`


def text(value: str) -> bytes:
    return b"V" + value.encode() + b"\n"


def blob(value: bytes) -> bytes:
    return pickle.dumps(value, 3)[2:-1]


def call(function: bytes, *args: bytes) -> bytes:
    """Return the opcodes that call what `function` pushes with what `args` push."""
    return function + b"(" + b"".join(args) + b"tR"


def weapons(canary: Path) -> Mapping[str, bytes]:
    """Return opcodes that push one object each, and on the way make the file `canary`."""
    shell = f"touch {canary}"
    python = f"__import__('os').system('{shell}')"
    command = text(shell)
    run = call(SYSTEM, command)
    made = b"cargparse\nNamespace\n)\x81"  # an instance, to hang things on

    def attribute(of: bytes, name: str) -> bytes:
        return call(b"cbuiltins\ngetattr\n", of, text(name))

    # Making an instance of this class calls what its attribute `touch` is.
    new = call(b"coperator\nmethodcaller\n", text("touch"))
    touch = call(b"cfunctools\npartial\n", SYSTEM, command)
    methods = b"}(" + text("__new__") + new + text("touch") + touch + b"u"
    class_of_ours = call(b"cbuiltins\ntype\n", text("X"), b"cbuiltins\nobject\n\x85", methods)

    def with_attribute(name: str) -> bytes:
        return made + b"}" + text(name) + SYSTEM + b"sb"

    return {
        "GLOBAL and REDUCE": run,
        "GLOBAL of os": call(b"cos\nsystem\n", command),
        "STACK_GLOBAL and REDUCE": call(b"\x8c\x05posix\x8c\x06system\x93", command),
        "dotted STACK_GLOBAL": call(b"\x80\x04\x8c\x02os\x8c\x0epath.os.system\x93", command),
        "eval": call(b"cbuiltins\neval\n", text(python)),
        "exec": call(b"cbuiltins\nexec\n", text(python)),
        "eval by its old name": call(b"c__builtin__\neval\n", text(python)),
        "getattr": call(attribute(attribute(b"cos\npath\n", "os"), "system"), command),
        "INST": b"(" + command + b"iposix\nsystem\n",
        "OBJ": b"(" + SYSTEM + command + b"o",
        "call of a call": call(call(b"cfunctools\npartial\n", SYSTEM, command)),
        "BUILD of an instance's own __setstate__": with_attribute("__setstate__") + command + b"b",
        "BUILD of a class's __setstate__": b"cargparse\nNamespace\n"
        + b"N}"
        + text("__setstate__")
        + SYSTEM
        + b"s\x86b)\x81"
        + command
        + b"b",
        "APPEND to an instance": with_attribute("append") + command + b"a",
        "APPENDS to an instance": with_attribute("append") + b"(" + command + b"e",
        "ADDITEMS to an instance": with_attribute("add") + b"(" + command + b"\x90",
        "set that iterates": call(
            b"cbuiltins\nset\n", call(b"cbuiltins\nmap\n", SYSTEM, b"](" + command + b"e")
        ),
        "OrderedDict that iterates": call(
            b"cbuiltins\nlist\n", call(b"cbuiltins\nmap\n", SYSTEM, b"](" + command + b"e")
        ),
        "pickle in a pickle": call(b"c_pickle\nloads\n", blob(program(run))),
        "NEWOBJ": class_of_ours + b")\x81",
        "NEWOBJ_EX": class_of_ours + b")}\x92",
        "extension code": b"\x82" + bytes([EXTENSION]) + b"(" + command + b"tR",
        "array of objects": call(
            b"cnumpy.core.multiarray\n_reconstruct\n",
            b"cnumpy\nndarray\n",
            fragment((0,)),
            blob(b"b"),
        )
        + b"(K\x01K\x01\x85"
        + call(b"cnumpy\ndtype\n", text("O8"), b"\x89\x88")
        + b"\x89]"
        + run
        + b"atb",
        "import of a module beside the file": b"ccanary_module\nx\n",
    }


MODULE = "from pathlib import Path\nPath({!r}).touch()\nx = 1\n"

# Believes a pickle, to show that each of them would do it.
CONTROL = f"""
import copyreg, pickle, sys
copyreg.add_extension("posix", "system", {EXTENSION})
try:
    pickle.loads(sys.stdin.buffer.read())
except Exception:
    pass
"""
