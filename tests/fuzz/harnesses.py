"""The table of harnesses: what reads an input, and how inputs are changed.

Each reader goes as far as the program goes with such a file: an error of the program's own is a
good answer, and so is a result. The limits on time and memory are those of `guard`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from tests.fuzz import mutate_json, mutate_pickle, mutate_zip
from tests.fuzz.mutate_bytes import damage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fuzz.mutate_bytes import Mutate

    Read = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Harness:
    """How one kind of file is read and changed."""

    module: str  # imported where it is fuzzed: that takes long, when all is instrumented
    mutate: Mutate
    most: int = 400_000  # bytes of an input
    in_worker: bool = False  # the program reads it in a process that may die


HARNESSES = {
    "safetensors": Harness("read_formats", mutate_json.mutate_safetensors),
    "pickle": Harness("read_formats", mutate_pickle.mutate),
    "torch_zip": Harness("read_formats", mutate_zip.mutate),
    "rank": Harness("read_formats", mutate_zip.mutate),
    "optimizer": Harness("read_formats", mutate_zip.mutate),
    "flat_optimizer": Harness("read_formats", mutate_zip.mutate),
    "ranks": Harness("read_formats", mutate_zip.mutate),
    "deepspeed_model": Harness("read_formats", mutate_zip.mutate),
    "deepspeed_flat": Harness("read_formats", mutate_zip.mutate),
    "metadata": Harness("read_formats", mutate_pickle.mutate),
    "common_state": Harness("read_formats", mutate_zip.mutate),
    "index": Harness("read_formats", mutate_json.mutate),
    "config": Harness("read_configs", mutate_json.mutate),
    "args": Harness("read_configs", mutate_pickle.mutate),
    "params": Harness("read_configs", mutate_json.mutate),
    "yaml": Harness("read_configs", damage),
    "token_files": Harness("read_configs", mutate_json.mutate),
    "tokenizer": Harness("read_formats", mutate_json.mutate, most=60_000, in_worker=True),
    "adapter": Harness("read_configs", mutate_json.mutate),
    "settings": Harness("read_own", mutate_json.mutate),
    "results": Harness("read_own", mutate_json.mutate_lines),
    "journal": Harness("read_own", mutate_json.mutate_lines),
    "scores": Harness("read_own", mutate_json.mutate_lines),
}


def reader(name: str, bases: Path, folder: Path) -> Read:
    """Return what reads one input of a harness, which it writes into the empty `folder`."""
    folder.mkdir(parents=True)
    prepare = getattr(import_module(f"tests.fuzz.{HARNESSES[name].module}"), name)
    read: Read = prepare(bases, folder)
    return read
