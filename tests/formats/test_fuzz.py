"""Damaged headers, made by the thousand: whatever they are, the readers bring errors of ours.

Inputs that reach lines which none before them reached are kept and damaged further. The seed is
fixed; CKPTDIFF_FUZZ_SECONDS makes a run longer, CKPTDIFF_FUZZ_SEED another.
"""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import random
import sys
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckptdiff.formats
from ckptdiff.errors import CkptDiffError
from ckptdiff.formats.safetensors import read_header
from ckptdiff.formats.torch_zip import read_index
from ckptdiff.formats.unpickle import load
from tests.support.hostile import SAFETENSORS, entry, safetensors
from tests.support.hostile_system import rank_file
from tests.support.hostile_torch import PICKLES, TENSORS, ZIPS, program
from tests.support.hostile_weapons import weapons

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType

SECONDS = float(os.environ.get("CKPTDIFF_FUZZ_SECONDS", "1.5"))
SEED = int(os.environ.get("CKPTDIFF_FUZZ_SEED", "1"))
LIMIT = 20_000  # bytes of an input
FOLDER = str(Path(ckptdiff.formats.__file__).parent)
TOKENS = [
    *(bytes([n]) for n in (0, 1, 0x28, 0x2E, 0x52, 0x62, 0x7F, 0x80, 0x85, 0x86, 0x8F, 0x93, 0xFF)),
    *(n.to_bytes(4, "little") for n in (0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)),
    *(n.to_bytes(8, "little") for n in (0, 1 << 32, 1 << 62, (1 << 64) - 1)),
    *(t.encode() for t in ("-1", "1e9", "NaN", "null", "[", "]", "{", "}", '"', ",", "9" * 30)),
    *(t.encode() for t in ("PK\x03\x04", "PK\x01\x02", "PK\x05\x06", "data.pkl", "\n", "\\ud800")),
    *(b"c" + m + b"\n" + n + b"\n" for m, n in ((b"builtins", b"set"), (b"_codecs", b"encode"))),
]


def damaged(data: bytes, others: list[bytes], random: random.Random) -> bytes:
    """Return `data` with one to four changes, of the kinds that storage and attackers make."""
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
                token = random.choice(TOKENS)
                raw[at : at + len(token)] = token
            case 5:
                raw[at:at] = random.choice(TOKENS)
            case 6 if random.random() < 0.3:
                del raw[at:]
            case 7:
                other = random.choice(others)
                start = random.randrange(len(other) + 1)
                raw[at:end] = other[start : start + random.choice((2, 8, 30))]
    return bytes(raw[:LIMIT])


class Lines:
    """The lines of the readers that one call reaches."""

    def __init__(self) -> None:
        self.reached: set[tuple[str, int]] = set()

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        self.reached.add((frame.f_code.co_name, frame.f_lineno))
        return self


def fuzz(read: Callable[[bytes], object], seeds: Iterable[bytes]) -> None:
    """Call `read` with damaged seeds for SECONDS; anything but an error of ours is a failure."""
    chance = random.Random(SEED)
    kept = [seed for seed in seeds if len(seed) <= LIMIT]
    known: set[tuple[str, int]] = set()
    end = time.process_time() + SECONDS
    fresh = iter(list(kept))
    while time.process_time() < end:
        data = next(fresh, None) or damaged(chance.choice(kept), kept, chance)
        lines = Lines()
        before = sys.gettrace()
        sys.settrace(lines)
        try:
            read(data)
        except CkptDiffError:
            pass
        except Exception as error:  # noqa: BLE001 -- what must not come is what is looked for
            sys.settrace(before)
            packed = base64.b85encode(zlib.compress(data)).decode()
            pytest.fail(f"{type(error).__name__}: {error}; zlib.decompress(b85decode({packed!r}))")
        finally:
            sys.settrace(before)
        if not lines.reached <= known:
            known |= lines.reached
            kept.append(data)
    assert known


def torch_file(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@pytest.mark.slow
def test_a_damaged_safetensors_header_brings_an_error_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        for name, ref in read_header(file).items():
            assert ref.name == name
            assert 0 <= ref.offset <= ref.offset + ref.nbytes <= len(data)

    header = {f"layers.{i}.weight": entry(offsets=[8 * i, 8 * i + 8]) for i in range(3)}
    whole = safetensors({"__metadata__": {"format": "pt"}, **header}, bytes(24))
    fuzz(read, [whole, *(s for n, s in SAFETENSORS.items() if "huge" not in n)])


@pytest.mark.slow
def test_a_damaged_torch_file_brings_an_error_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        read_index(file)

    weight = torch.ones(2, 3, dtype=torch.bfloat16)
    state = {"a": weight, "b": torch.nn.Linear(2, 2).state_dict(), "c": weight.t()}
    fuzz(read, [torch_file(state), rank_file(), *TENSORS.values(), *ZIPS.values()])


@pytest.mark.slow
def test_a_damaged_pickle_brings_an_error_of_ours() -> None:
    data = [{"a": [1, 2.5, "x", b"y", None, True]}, (1, {2, 3}, frozenset({4}), bytearray(b"5"))]
    plain = [pickle.dumps(data, protocol) for protocol in range(6)]
    armed = [program(body) for body in weapons(Path("canary")).values()]

    def read(data: bytes) -> None:
        load(data, lambda pid: ("outside", pid))

    fuzz(read, [*plain, *armed, *PICKLES.values(), json.dumps(data, default=str).encode()])
