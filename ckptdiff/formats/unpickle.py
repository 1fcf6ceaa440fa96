"""Read a pickle so that nothing in it can run: a small pickle machine that imports nothing.

A name in a pickle becomes a `Global`, and a call a `Placeholder` that keeps the arguments. Only the
few names in a caller's `builders` become values, made by functions of our own. `pickle.Unpickler`
is not used: its C memo grows to whatever index a file claims, and its extension registry cannot be
closed.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import CorruptFile
from ckptdiff.formats.inert import PLAIN, Global, Placeholder, escaped, latin1, signed
from ckptdiff.formats.pickle_limits import COPIED, FEW, Limits, check_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptdiff.formats.inert import Builders


MAX_NAME = 1000  # characters of the module, and of the name, of a class
_DICT = Global("collections", "OrderedDict")


class _ReachedKey(Exception):
    """The key to stop at was reached; `head` is the outermost dictionary without it."""

    def __init__(self, head: dict[Any, Any]) -> None:
        self.head = head


def load(
    data: bytes,
    persistent_load: Callable[[object], object] | None = None,
    builders: Builders = PLAIN,
    *,
    before: str | None = None,
) -> Any:
    """Return the object that the pickle describes, with placeholders for what is not plain data.

    `persistent_load` turns a persistent id into a value. With `before`, reading stops at that key
    of the outermost dictionary if a container follows it. Raises CorruptFile for a pickle that ends
    early, holds an unknown opcode, an extension code or an unexpected persistent id, or is made to
    fill memory or time.
    """
    check_memory(data)
    try:
        return _Machine(data, persistent_load, builders, before).run()
    except _ReachedKey as reached:
        return reached.head
    except CorruptFile:
        raise
    except (IndexError, struct.error) as error:
        raise CorruptFile("the pickle ends in the middle or takes from an empty stack") from error
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        TypeError,
        ValueError,
    ) as error:
        why = str(error)[:200]
        raise CorruptFile(f"the pickle is damaged ({type(error).__name__}: {why})") from error


class _Machine:
    """Executes one pickle: `run` the frequent opcodes, `_rare` the others."""

    def __init__(
        self,
        data: bytes,
        persistent_load: Callable[[object], object] | None,
        builders: Builders,
        before: str | None,
    ) -> None:
        self.data = data
        self.persistent_load = persistent_load
        self.builders = builders
        self.memo: dict[int, Any] = {}
        self.stack: list[Any] = []
        self.limits = Limits(len(data))
        self.marks: list[int] = []  # stack heights at the open MARKs
        self.globals: dict[tuple[str, str], Global] = {}
        self.before = before

    def run(self) -> Any:
        """Execute opcodes until STOP; those that torch.save writes most often are tested first."""
        data, stack, memo, marks = self.data, self.stack, self.memo, self.marks
        length = len(data)
        unpack_int = struct.Struct("<i").unpack_from
        unpack_uint = struct.Struct("<I").unpack_from
        pos = 0
        while True:
            op = data[pos]
            pos += 1
            if op == 0x72:  # LONG_BINPUT
                index = unpack_uint(data, pos)[0]
                if index > length:
                    self._memo_index(index)
                memo[index] = stack[-1]
                pos += 4
            elif op == 0x58:  # BINUNICODE
                pos += 4
                end = pos + unpack_uint(data, pos - 4)[0]
                if end > length:
                    raise CorruptFile("the pickle ends in the middle of a text")
                stack.append(data[pos:end].decode("utf-8", "surrogatepass"))
                pos = end
            elif op == 0x4B:  # BININT1
                stack.append(data[pos])
                pos += 1
            elif op == 0x6A:  # LONG_BINGET
                stack.append(memo[unpack_uint(data, pos)[0]])
                pos += 4
            elif op == 0x71:  # BINPUT
                memo[data[pos]] = stack[-1]
                pos += 1
            elif op == 0x4D:  # BININT2
                stack.append(data[pos] | data[pos + 1] << 8)
                pos += 2
            elif op == 0x28:  # MARK
                marks.append(len(stack))
            elif op == 0x74:  # TUPLE
                height = marks.pop()
                if height > len(stack):
                    raise CorruptFile("the pickle takes from an empty stack")
                stack[height:] = (tuple(stack[height:]),)
            elif op == 0x52:  # REDUCE
                args = stack.pop()
                stack[-1] = self._call(stack[-1], args)
            elif op == 0x89:  # NEWFALSE
                stack.append(False)
            elif op == 0x29:  # EMPTY_TUPLE
                stack.append(())
            elif op == 0x86:  # TUPLE2
                stack[-2:] = [(stack[-2], stack[-1])]
            elif op == 0x51:  # BINPERSID
                stack.append(self._persistent(stack.pop()))
            elif op == 0x85:  # TUPLE1
                stack[-1] = (stack[-1],)
            elif op == 0x4E:  # NONE
                stack.append(None)
            elif op == 0x68:  # BINGET
                stack.append(memo[data[pos]])
                pos += 1
            elif op == 0x4A:  # BININT
                stack.append(unpack_int(data, pos)[0])
                pos += 4
            elif op == 0x94:  # MEMOIZE
                memo[len(memo)] = stack[-1]
            elif op == 0x8C:  # SHORT_BINUNICODE
                size = data[pos]
                pos += 1
                stack.append(self._text(pos, size))
                pos += size
            elif op == 0x2E:  # STOP
                return stack.pop()
            else:
                pos = self._rare(op, pos)

    def _rare(self, op: int, pos: int) -> int:
        """Execute one of the other opcodes; return the position of the next one."""
        data, stack, memo = self.data, self.stack, self.memo
        match op:
            case 0x7D | 0x5D:  # EMPTY_DICT, EMPTY_LIST
                if self.before is not None:
                    self._check_key()
                stack.append({} if op == 0x7D else [])
            case 0x8F:  # EMPTY_SET
                stack.append(set())
            case 0x75:  # SETITEMS
                items = self._pop_mark()
                self._set_items(stack[-1], zip(items[::2], items[1::2], strict=True))
            case 0x73:  # SETITEM
                value, key = stack.pop(), stack.pop()
                self._set_items(stack[-1], [(key, value)])
            case 0x65:  # APPENDS
                items = self._pop_mark()
                self._extend(stack[-1], items)
            case 0x61:  # APPEND
                item = stack.pop()
                self._extend(stack[-1], [item])
            case 0x90:  # ADDITEMS
                items = self._pop_mark()
                target = stack[-1]
                if isinstance(target, set):
                    self.limits.check_keys(items)
                    target.update(items)
                else:
                    self._extend(target, items)
            case 0x91:  # FROZENSET
                members = self._pop_mark()
                self.limits.check_keys(members)
                stack.append(frozenset(members))
            case 0x6C:  # LIST
                stack.append(self._pop_mark())
            case 0x64:  # DICT
                items = self._pop_mark()
                self.limits.check_keys(items[::2])
                stack.append(dict(zip(items[::2], items[1::2], strict=True)))
            case 0x87:  # TUPLE3
                stack[-3:] = [(stack[-3], stack[-2], stack[-1])]
            case 0x88:  # NEWTRUE
                stack.append(True)
            case 0x47:  # BINFLOAT
                stack.append(struct.unpack_from(">d", data, pos)[0])
                pos += 8
            case 0x8A:  # LONG1
                pos = self._take(pos + 1, data[pos], stack, signed)
            case 0x8B:  # LONG4
                (size,) = struct.unpack_from("<i", data, pos)
                pos = self._take(pos + 4, size, stack, signed)
            case 0x43 | 0x55:  # SHORT_BINBYTES, SHORT_BINSTRING
                pos = self._take(pos + 1, data[pos], stack, bytes if op == 0x43 else latin1)
            case 0x42 | 0x54:  # BINBYTES, BINSTRING
                (size,) = struct.unpack_from("<I" if op == 0x42 else "<i", data, pos)
                pos = self._take(pos + 4, size, stack, bytes if op == 0x42 else latin1)
            case 0x8E | 0x96:  # BINBYTES8, BYTEARRAY8
                (size,) = struct.unpack_from("<Q", data, pos)
                pos = self._take(pos + 8, size, stack, bytes if op == 0x8E else bytearray)
            case 0x8D:  # BINUNICODE8
                (size,) = struct.unpack_from("<Q", data, pos)
                stack.append(self._text(pos + 8, size))
                pos += 8 + size
            case 0x80:  # PROTO
                if data[pos] > 5:
                    raise CorruptFile(f"pickle protocol {data[pos]} is unknown")
                pos += 1
            case 0x95:  # FRAME
                pos += 8
            case 0x63:  # GLOBAL
                module, pos = self._line(pos)
                name, pos = self._line(pos)
                stack.append(self._global(module, name))
            case 0x93:  # STACK_GLOBAL
                name, module = stack.pop(), stack.pop()
                if not (isinstance(module, str) and isinstance(name, str)):
                    raise CorruptFile("the pickle names a class by something that is not text")
                stack.append(self._global(module, name))
            case 0x81:  # NEWOBJ
                args = stack.pop()
                stack[-1] = Placeholder(stack[-1], args)
            case 0x92:  # NEWOBJ_EX
                keywords, args = stack.pop(), stack.pop()
                stack[-1] = Placeholder(stack[-1], (args, keywords))
            case 0x62:  # BUILD
                state = stack.pop()
                # Only a placeholder can have state: plain values have no attributes to set.
                if isinstance(stack[-1], Placeholder):
                    stack[-1].state = state
            case 0x69:  # INST
                module, pos = self._line(pos)
                name, pos = self._line(pos)
                stack.append(Placeholder(self._global(module, name), tuple(self._pop_mark())))
            case 0x6F:  # OBJ
                what, *rest = self._pop_mark()
                stack.append(Placeholder(what, tuple(rest)))
            case 0x50:  # PERSID
                text, pos = self._line(pos)
                stack.append(self._persistent(text))
            case 0x30:  # POP
                # A MARK on top of the stack is popped like a value.
                if self.marks and self.marks[-1] == len(stack):
                    self.marks.pop()
                else:
                    stack.pop()
            case 0x31:  # POP_MARK
                self._pop_mark()
            case 0x32:  # DUP
                stack.append(stack[-1])
            case 0x67:  # GET
                text, pos = self._line(pos)
                stack.append(memo[int(text)])
            case 0x70:  # PUT
                text, pos = self._line(pos)
                memo[self._memo_index(int(text))] = stack[-1]
            case 0x49:  # INT
                text, pos = self._line(pos)
                stack.append(text == "01" if text in ("00", "01") else int(text))
            case 0x4C:  # LONG
                text, pos = self._line(pos)
                stack.append(int(text.removesuffix("L")))
            case 0x46:  # FLOAT
                text, pos = self._line(pos)
                stack.append(float(text))
            case 0x53:  # STRING
                text, pos = self._line(pos)
                stack.append(escaped(text.strip("'\"").encode("latin1")))
            case 0x56:  # UNICODE
                text, pos = self._line(pos)
                stack.append(text.encode("latin1").decode("raw-unicode-escape"))
            case 0x82 | 0x83 | 0x84:  # EXT1, EXT2, EXT4
                raise CorruptFile("the pickle uses an extension code, which no checkpoint does")
            case _:
                raise CorruptFile(f"unknown pickle opcode {op:#04x} at byte {pos - 1}")
        return pos

    def _check_key(self) -> None:
        """Raise _ReachedKey if the key on the stack is `before`, in the outermost dictionary."""
        stack = self.stack
        if self.marks == [1] and stack[-1] == self.before and isinstance(stack[0], dict):
            items = stack[1:-1]
            self.limits.check_keys(items[::2])
            raise _ReachedKey(stack[0] | dict(zip(items[::2], items[1::2], strict=True)))

    def _text(self, pos: int, size: int) -> str:
        if pos + size > len(self.data):
            raise CorruptFile(f"the pickle claims a text of {size} bytes and ends before")
        return self.data[pos : pos + size].decode("utf-8", "surrogatepass")

    def _take(self, pos: int, size: int, stack: list[Any], make: Callable[[bytes], object]) -> int:
        """Push what `make` returns for `size` bytes; return the position behind them."""
        if size < 0 or pos + size > len(self.data):
            raise CorruptFile(f"the pickle claims {size} bytes and ends before")
        stack.append(make(self.data[pos : pos + size]))
        return pos + size

    def _line(self, pos: int) -> tuple[str, int]:
        end = self.data.index(b"\n", pos)
        return self.data[pos:end].decode("latin1"), end + 1

    def _pop_mark(self) -> list[Any]:
        height = self.marks.pop()
        if height > len(self.stack):
            raise CorruptFile("the pickle takes from an empty stack")
        items = self.stack[height:]
        del self.stack[height:]
        return items

    def _global(self, module: str, name: str) -> Global:
        if len(module) > MAX_NAME or len(name) > MAX_NAME:
            raise CorruptFile(f"the pickle names a class by more than {MAX_NAME} characters")
        return self.globals.setdefault((module, name), Global(module, name))

    def _persistent(self, pid: object) -> object:
        if self.persistent_load is None:
            raise CorruptFile("the pickle refers to data outside itself")
        return self.persistent_load(pid)

    def _memo_index(self, index: int) -> int:
        """Return a memo index; raise CorruptFile if it is larger than the pickle has bytes."""
        if not 0 <= index <= len(self.data):
            raise CorruptFile(f"the pickle, of {len(self.data)} bytes, uses its memo at {index}")
        return index

    def _call(self, what: object, args: object) -> object:
        if isinstance(what, Global) and isinstance(args, tuple):
            build = self.builders.get((what.module, what.name))
            if build is not None:
                if args and (type(args[0]) in COPIED or len(args) > FEW):
                    self.limits.count_call(args, pairs=what == _DICT)
                return build(*args)
        return Placeholder(what, args)

    def _set_items(self, target: object, pairs: Any) -> None:
        if isinstance(target, dict):
            pairs = list(pairs)
            self.limits.check_keys(key for key, _ in pairs)
            target.update(pairs)
        elif isinstance(target, Placeholder):
            target.items.extend(pairs)
        else:
            raise CorruptFile("the pickle sets items on something that has none")

    def _extend(self, target: object, items: list[Any]) -> None:
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, Placeholder):
            target.items.extend(items)
        else:
            raise CorruptFile("the pickle appends to something that is not a list")
