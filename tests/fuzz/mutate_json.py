"""Changes of JSON by its tree, with texts in it that Python's writer would not write."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

from tests.fuzz.mutate_bytes import NUMBERS, TEXTS, damage, repeats, size

if TYPE_CHECKING:
    from random import Random

_RAW = "\ue000"  # marks a text that stands for raw JSON
_ODD = (
    "-0", "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "1.0", "01", "1e5", "0.1e-400",
    '"\\ud800"', '"\\u0000"', '"\\ud83d\\ude00"', "tru", "", '{"a":1,"a":2}', "[1,]", "'x'",
)  # fmt: skip
# Words that settings are, in many configs: one in the place of another has a meaning.
WORDS = (
    "linear", "yarn", "llama3", "longrope", "dynamic", "default", "silu", "gelu", "relu2", "llama",
    "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gpt2", "gpt_neox", "nemotron",
    "deepseek_v3", "phi3", "full_attention", "sliding_attention", "bfloat16", "fp8",
)  # fmt: skip


def mutate(data: bytes, random: Random) -> bytes:
    """Return JSON with one to three changes."""
    if random.random() < 0.1:
        return damage(data, random)
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return damage(data, random)
    return write(change(tree, random))


def change(tree: Any, random: Random) -> Any:
    """Return a tree with one to three changes; raw JSON in it is written by `write`."""
    holder = [tree]
    for _ in range(random.choice((1, 1, 2, 3))):
        _change_one(holder, random)
    return holder[0]


def write(tree: Any) -> bytes:
    """Return the JSON of a tree that `change` returned."""
    try:
        text = json.dumps(tree)
    except (ValueError, RecursionError):
        return b"{}"
    mark = json.dumps(_RAW)[1:-1]
    if mark not in text:
        return text.encode()
    first, *others = text.split(f'"{mark}')
    parts = [first]
    for other in others:
        raw, closed, rest = other.partition(f'{mark}"')
        parts += [json.loads(f'"{raw}"'), rest] if closed else [f'"{other}']
    return "".join(parts).encode("utf-8", "replace")


def _change_one(holder: list[Any], random: Random) -> None:
    node: Any = holder
    key: Any = 0
    # Down to some place of the tree, most often a deep one.
    while isinstance(node[key], (dict, list)) and node[key] and random.random() < 0.8:
        node = node[key]
        key = random.choice(list(node)) if isinstance(node, dict) else random.randrange(len(node))
    old = node[key]
    match random.randrange(10):
        case 0 if node is not holder:
            del node[key]
        case 1 if isinstance(node, dict):
            name = random.choice(list(node) if random.random() < 0.5 else TEXTS)
            node[name] = node.pop(key)
        case 2 if isinstance(node, dict):
            node[random.choice(TEXTS)] = value(random)
        case 3 if isinstance(node, list) and node is not holder:
            node[key:key] = [old] * (2 if isinstance(old, (dict, list, str)) else size(random))
        case 4 if isinstance(old, (int, float)) and abs(old) < 1 << 64:
            node[key] = random.choice((old + 1, old - 1, -old, old * 2, str(old), [old], bool(old)))
        case 5 if isinstance(old, str):
            cut = random.randrange(len(old) + 1)
            node[key] = old[:cut] + random.choice(TEXTS) + old[cut:]
        case 6:
            node[key] = random.choice(([old], {"a": old}, {random.choice(TEXTS): old}, [old, old]))
        case 7 if isinstance(node, dict):
            node[key] = random.choice(list(node.values()))
        case _:
            node[key] = value(random)


def value(random: Random) -> Any:
    """Return any value: plain, odd, deep, long."""
    match random.randrange(12):
        case 0 | 1:
            return random.choice(NUMBERS)
        case 2 | 3:
            return random.choice(TEXTS)
        case 4:
            return random.choice(WORDS)
        case 5:
            return random.choice((None, True, False, [], {}, [None], {"a": None}))
        case 6:
            return random.choice((0.0, 0.5, -1.5, 1e308, 5e-324, 1e18))
        case 7:
            return raw(random.choice(_ODD))
        case 8:
            depth = size(random)
            start, end = random.choice((("[", "]"), ('{"a":', "}"), ('[{"a":[', "]}]")))
            return raw(start * depth + "1" + end * depth)
        case 9:
            return raw("9" * min(70 * size(random), 10_000))
        case 10:
            return "x" * size(random)
        case _:
            return {f"k{i}": i for i in range(size(random) // 4)}


def raw(text: str) -> str:
    """Return what `write` writes as this text, without quotes."""
    return f"{_RAW}{text}{_RAW}"


_DTYPES = ("F32", "BF16", "F16", "I64", "BOOL", "F8_E4M3", "F4", "F6_E2M3", "C64", "X9", "", "f32")
_BITS = {"F32": 32, "BF16": 16, "F16": 16, "I64": 64, "BOOL": 8, "F8_E4M3": 8, "F4": 4, "C64": 64}


def mutate_safetensors(data: bytes, random: Random) -> bytes:
    """Return a safetensors file with changes of its header, and most often a body that fits."""
    chance = random.random()
    length = int.from_bytes(data[:8], "little")
    if chance < 0.1 or 8 + length > len(data):
        return damage(data, random)
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        return damage(data, random)
    body = data[8 + length :]
    if isinstance(header, dict) and chance < 0.6:
        body = bytes(min(_lay_out(header, random), 4096))
    if chance > 0.4:
        header = change(header, random)
    written = write(header)
    if random.random() < 0.2:
        written += random.choice((b" ", b"\0", b"\n", b"x")) * random.choice((1, 7, 8))
    length = len(written) + (random.choice((-1, 1, 8, 1 << 20, 1 << 62)) if chance > 0.97 else 0)
    return struct.pack("<Q", length % (1 << 64)) + written + body


def _lay_out(header: dict[str, Any], random: Random) -> int:
    """Give tensors other shapes and dtypes, in other order, and ranges that fit; return the end."""
    names = [n for n, entry in header.items() if isinstance(entry, dict) and n != "__metadata__"]
    if random.random() < 0.3:
        names += [f"{random.choice(TEXTS)}{i}" for i in range(min(size(random), 2000))]
    if random.random() < 0.2:
        random.shuffle(names)
    at = 0
    for name in names:
        if not isinstance(header.get(name), dict):
            header[name] = {"dtype": "F32", "shape": [2]}
        entry = header[name]
        if random.random() < 0.3:
            entry["shape"] = [random.choice((0, 1, 2, 3, 5)) for _ in range(random.randrange(5))]
        if random.random() < 0.3:
            entry["dtype"] = random.choice(_DTYPES)
        bits = _BITS.get(str(entry.get("dtype")), 8)
        for n in entry["shape"] if isinstance(entry.get("shape"), list) else ():
            bits *= n if isinstance(n, int) else 1
        end = at + bits // 8
        entry["data_offsets"] = [at, end]
        at = end
    return at if 0 <= at < 1 << 20 else 0


def mutate_lines(data: bytes, random: Random) -> bytes:
    """Return lines of JSON with one or two changes: of a line, or of which there are."""
    lines = data.split(b"\n")
    for _ in range(random.choice((1, 1, 2))):
        # The first line often says what the file is of: with another, nothing of it is read.
        at = random.randrange(len(lines)) if random.random() < 0.3 else len(lines) // 2
        match random.randrange(12):
            case 0 if len(lines) > 1:
                del lines[at]
            case 1:
                lines[at:at] = [lines[at]] * repeats(len(lines[at]), random)
            case 2:
                lines[at] = lines[at][: random.randrange(len(lines[at]) + 1)]
            case 3:
                lines[at] = b"\0" * random.choice((1, 8, 500))
            case 4:
                lines[at] = write(value(random))
            case 5:
                return b"\n".join(lines)[: random.randrange(len(data) + 1)]
            case _:
                lines[at] = mutate(lines[at], random)
        lines = lines or [b""]
    return b"\n".join(lines)
