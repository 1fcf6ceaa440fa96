"""What reads checkpoints: each function takes the bases and an empty folder for the input."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdiff.assembly.optimizer_states import read_states
from ckptdiff.formats import hf, megatron, open_checkpoint, read_entries, tree
from ckptdiff.formats.common_state import OBJECT, read_common
from ckptdiff.formats.dcp import Place
from ckptdiff.formats.safetensors import read_header
from ckptdiff.formats.torch_state import names_beside, read_state_dict
from ckptdiff.formats.unpickle import load
from ckptdiff.logits.tokenizer import JSON, MODEL, encode_text, token_texts
from tests.support.deepspeed_runs import OPTIMIZER, PART, STEP

if TYPE_CHECKING:
    from tests.fuzz.harnesses import Read


def safetensors(bases: Path, folder: Path) -> Read:
    file = folder / "model.safetensors"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        for name, ref in read_header(file).items():
            assert ref.name == name
            assert 0 <= ref.offset <= ref.offset + ref.nbytes <= len(data)

    return read


def pickle(bases: Path, folder: Path) -> Read:
    def read(data: bytes) -> None:
        tree.entries("", load(data, lambda pid: ("outside", pid)))

    return read


def torch_zip(bases: Path, folder: Path) -> Read:
    file = folder / "pytorch_model.bin"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        state = read_state_dict(file)
        names_beside(state)
        for ref in state.tensors.values():
            assert ref.offset + ref.nbytes >= 0

    return read


def rank(bases: Path, folder: Path) -> Read:
    """One rank's file of Megatron's, whose weights are read up to the optimizer behind them."""
    file = folder / "model_optim_rng.pt"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        read_entries(open_checkpoint(file))

    return read


def optimizer(bases: Path, folder: Path) -> Read:
    """A rank's file with an optimizer's state, which is named by the model's tensors."""
    file = folder / "model_optim_rng.pt"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        read_states(open_checkpoint(file))

    return read


def flat_optimizer(bases: Path, folder: Path) -> Read:
    """The file of a distributed optimizer, beside the rank's file that seeds are made for."""
    shutil.copy(bases / "rank.pt", folder / "model_optim_rng.pt")
    checkpoint = open_checkpoint(folder / "model_optim_rng.pt")

    def read(data: bytes) -> None:
        (folder / "distrib_optim.pt").write_bytes(data)
        read_states(checkpoint)

    return read


def ranks(bases: Path, folder: Path) -> Read:
    """The file of FSDP's only rank."""

    def read(data: bytes) -> None:
        (folder / "model_world_size_1_rank_0.pt").write_bytes(data)
        read_entries(open_checkpoint(folder))

    return read


def deepspeed_model(bases: Path, folder: Path) -> Read:
    """A rank's part of a model of ZeRO-3, with frozen parameters, beside the other files."""
    return _in_deepspeed(bases, folder, PART.format(0))


def deepspeed_flat(bases: Path, folder: Path) -> Read:
    """A rank's flat partitions of ZeRO-3, beside the other files."""
    return _in_deepspeed(bases, folder, OPTIMIZER.format(0))


def _in_deepspeed(bases: Path, folder: Path, name: str) -> Read:
    root = folder / "zero3"
    shutil.copytree(bases / "zero3" / STEP, root)

    def read(data: bytes) -> None:
        (root / name).write_bytes(data)
        checkpoint = open_checkpoint(root)
        read_entries(checkpoint)
        read_states(checkpoint)

    return read


def metadata(bases: Path, folder: Path) -> Read:
    root = folder / "dcp"
    shutil.copytree(bases / "dcp", root)

    def read(data: bytes) -> None:
        (root / ".metadata").write_bytes(data)
        read_entries(open_checkpoint(root))

    return read


def common_state(bases: Path, folder: Path) -> Read:
    (folder / "old").mkdir()
    (folder / "new").mkdir()

    def read(data: bytes) -> None:
        (folder / "old/common.pt").write_bytes(data)
        (folder / "new/__0_0.distcp").write_bytes(b"before" + data)
        try:
            _said_of(read_common(folder / "old", {}))
        finally:
            place = Place("__0_0.distcp", 6, len(data))
            _said_of(read_common(folder / "new", {OBJECT: place}))

    return read


def _said_of(common: dict[Any, Any]) -> None:
    megatron.plain_args(common, Path("common.pt"))
    for key, value in common.items():
        if key != "args":
            tree.entries(tree.text_of(key), value)


def index(bases: Path, folder: Path) -> Read:
    root = folder / "indexed"
    shutil.copytree(bases / "indexed", root)

    def read(data: bytes) -> None:
        (root / "model.safetensors.index.json").write_bytes(data)
        hf.open(root)

    return read


def tokenizer(bases: Path, folder: Path) -> Read:
    def read(data: bytes) -> None:
        file = folder / (JSON if data[:1] in b"{[" else MODEL)
        file.write_bytes(data)
        encode_text(file, "The capital", "auto", None)
        token_texts(file, [0, 5, 300])

    return read
