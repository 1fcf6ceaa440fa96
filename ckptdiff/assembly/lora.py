"""A LoRA adapter as pairs of narrow matrices, by the module of the model that each pair changes."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdiff.arch.wrappers import adapter_name
from ckptdiff.assembly.compose import transpose
from ckptdiff.config.peft import lora_settings
from ckptdiff.errors import CorruptFile, UnsupportedLayout
from ckptdiff.text import shown

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled, Assembly
    from ckptdiff.config.peft import LoraSettings

# `default` stands where PEFT has the name of an adapter: in a model, not in an adapter's folder.
_LORA = re.compile(
    r"(?P<host>.+?)\.(?P<kind>lora_(?:embedding_)?[AB])(?:\.(?P<which>\w+?))??(?P<bias>\.bias)?"
    r"(?:\.weight)?$"
)
_FRONT = "base_model.model."
# What stands inside the names of whole tensors that an adapter's folder holds beside the pairs.
_INSIDE = re.compile(r"\.(?:base_layer|modules_to_save(?:\.\w+)?)(?=\.(?:weight|bias)$)")
_OTHER_PARTS = {
    "lora_magnitude_vector": "DoRA",
    "trainable_tokens": "trainable tokens",
}

MOST_MATCHES = 2_000_000  # of a module with a pattern: some seconds


@dataclass(frozen=True, slots=True)
class LoraPair:
    """What an adapter adds to one weight: a factor times `up` times `down`."""

    module: str  # by its name in the model
    up: Assembly  # (features out, rank)
    down: Assembly  # (rank, features in)
    factor: float  # alpha by the rank, or by its root
    alpha: float
    is_embedding: bool = False  # its weight is stored (features in, features out)
    bias: Assembly | None = None  # that is added to the module's, times the factor

    @property
    def rank(self) -> int:
        return self.down.shape[0]


@dataclass(frozen=True, slots=True)
class Lora:
    """An adapter: its pairs, and the tensors that it holds in place of the model's."""

    root: Path
    settings: LoraSettings
    pairs: tuple[LoraPair, ...]
    whole: dict[str, Assembly]  # by their names in the model

    @property
    def words(self) -> str:
        """What it is: `rank 4, alpha 8, on q_proj and v_proj`."""
        ranks = " and ".join(map(str, sorted({pair.rank for pair in self.pairs})))
        alphas = {pair.alpha for pair in self.pairs}
        alpha = " and ".join(f"{alpha:g}" for alpha in sorted(alphas))
        targets = sorted({pair.module.rpartition(".")[2] for pair in self.pairs})
        return f"rank {ranks}, alpha {alpha}, on {', '.join(targets)}"


def lora_of(adapter: Assembled) -> Lora:
    """Return the LoRA adapter in a checkpoint, with the factors that its config states.

    Raises UnsupportedLayout for another kind of adapter or one whose factor is not stated,
    CorruptFile if its tensors do not fit together or its config.
    """
    checkpoint = adapter.checkpoint
    root = checkpoint.root
    if adapter.adapter is None:
        raise UnsupportedLayout(f"{root}: holds no tensor of a LoRA adapter")
    if checkpoint.adapter_config is None:
        where = "no adapter_config.json is beside the adapter"
        if checkpoint.convention == "megatron":
            where = "neither its args nor a run_config.yaml have both"
        raise UnsupportedLayout(
            f"{root}: states no rank and alpha, without which it is not known what it is "
            f"multiplied by: {where}"
        )
    settings = lora_settings(checkpoint.adapter_config, root)
    parts: dict[str, dict[str, Assembly]] = defaultdict(dict)
    whole: dict[str, Assembly] = {}
    names: set[str | None] = set()
    for name, tensor in adapter.tensors.items():
        stored = tensor.pieces[0].ref.name if checkpoint.convention == "hf" else name
        own = stored.removeprefix(_FRONT)
        for part, kind in _OTHER_PARTS.items():
            if part in own:
                raise UnsupportedLayout(f"{root}: {shown(stored)} is of {kind}; merge it with PEFT")
        found = _LORA.match(own)
        if found is None:
            _refuse_part(root, stored)
            whole[_INSIDE.sub("", own)] = tensor
            continue
        names.add(found["which"])
        parts[found["host"]][found["kind"] + (found["bias"] or "")] = tensor
    if not parts:
        raise UnsupportedLayout(f"{root}: holds no tensor of a LoRA adapter")
    if len(parts) * (len(settings.ranks) + len(settings.alphas)) > MOST_MATCHES:
        raise UnsupportedLayout(
            f"{root}: has more patterns of ranks and alphas than are looked up for "
            f"{len(parts)} modules"
        )
    if len(names) > 1:
        which = ", ".join(sorted(filter(None, names)))
        raise UnsupportedLayout(f"{root}: holds several adapters ({shown(which)}); give one alone")
    # The file that PEFT writes holds what is the adapter's alone.
    is_own = all(file.name.startswith("adapter_model") for file in checkpoint.files)
    if not is_own and all(f"{module}.weight" in whole for module in parts):
        whole = {}  # of the model that it stands beside
    pairs = tuple(_pair(root, module, held, settings) for module, held in parts.items())
    return Lora(root, settings, pairs, whole)


def _refuse_part(root: Path, name: str) -> None:
    """Raise UnsupportedLayout for a part of an adapter that is not one of LoRA's pairs."""
    part = adapter_name(name)
    if part is None or part.kind == "modules_to_save":
        return
    why = "is no matrix of LoRA; merge it with the program that trained it"
    if part.kind.startswith("adapter."):
        why = (
            "cannot be joined to one matrix: a rank's part of it or of its counterpart is missing, "
            "or they do not fit together"
        )
    raise UnsupportedLayout(f"{root}: {shown(name)} {why}")


def _pair(root: Path, module: str, held: dict[str, Assembly], settings: LoraSettings) -> LoraPair:
    """Return the pair of a module. Raises CorruptFile if the matrices are not one pair."""
    is_embedding = any(kind.startswith("lora_embedding") for kind in held)
    kinds = [f"lora_embedding_{x}" if is_embedding else f"lora_{x}" for x in "AB"]
    if absent := [kind for kind in kinds if kind not in held]:
        raise CorruptFile(f"{root}: {shown(module)} has no {' and no '.join(absent)}")
    down, up = (held[kind] for kind in kinds)
    where = f"{root}: {shown(module)}"
    if len(down.shape) != 2 or len(up.shape) != 2:
        raise UnsupportedLayout(
            f"{where}: {kinds[0]} has {len(down.shape)} dimensions, {kinds[1]} {len(up.shape)}: "
            "adapters of matrices alone are read"
        )
    rank = settings.rank_of(module)
    if down.shape[0] != up.shape[1] or down.shape[0] != rank:
        shapes = f"{kinds[0]} is {_size(down)}, {kinds[1]} {_size(up)}"
        is_swapped = up.shape[0] == down.shape[1] == rank
        raise CorruptFile(
            f"{where}: {shapes}, and the config states rank {rank}: "
            + ("A and B are swapped" if is_swapped else "they are no pair of this rank")
        )
    return LoraPair(
        module,
        up,
        down,
        settings.factor_of(module, rank),
        settings.alpha_of(module),
        is_embedding,
        held.get(f"{kinds[1]}.bias"),
    )


def as_stored(pair: LoraPair, *, transposed: bool) -> tuple[Assembly, Assembly]:
    """Return the two matrices whose product has the shape of the weight as it is stored."""
    if transposed:
        return transpose(pair.down), transpose(pair.up)
    return pair.up, pair.down


def _size(tensor: Assembly) -> str:
    return "x".join(map(str, tensor.shape))
