"""The rules of a model family: which slices of which Hugging Face tensors make up a rank's shard.

One rule is read in both directions. Forward it scatters Hugging Face tensors over ranks, backward
it says where the rows of a Hugging Face tensor lie in the shards. There is no inverse to write.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from ckptdiff.errors import UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ckptdiff.arch.fused import Fused
    from ckptdiff.config.model import ModelConfig

    Partition = Callable[["ModelConfig", int, int], "Iterable[Slice]"]  # (config, tp, rank)

# What a tensor is in the model, whatever a family or a naming scheme calls it. A weight and its
# bias have one role.
Role = Literal[
    "embedding", "positions", "head", "norm", "qkv", "proj", "fc1", "fc2", "router",
    "eh_proj",  # joins embedding and hidden state for a prediction layer
]  # fmt: skip

MANY_NAMES = 1 << 17  # more than the largest models have; every name is split several times
PADDING = -1  # the source of rows that no Hugging Face tensor has

# Indices in a name: a whole dotted part, or the expert's number behind `fc1.weight` and the like.
# As Python prints a number: `01` is another name, and nothing has a billion layers.
_NUMBER = r"(0|[1-9][0-9]{0,8})"
_INDEX = re.compile(_NUMBER)
_EXPERT_INDEX = re.compile(rf"(fc\d\.(?:weight|bias)){_NUMBER}$")
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows `start:stop` (along the rule's dim) of the `source`-th HF tensor, or of PADDING."""

    source: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class ParamMapping:
    """One rule: a Megatron name, the Hugging Face names, and each rank's slices of the latter.

    Names are patterns such as `model.layers.{layer}.self_attn.q_proj.weight`.
    """

    megatron: str
    hf: tuple[str, ...]
    dim: int | None = None  # None: every rank holds the whole tensor
    partition: Partition | None = None  # None exactly where `dim` is
    # Some versions keep the whole tensor on every rank, whatever the partition says.
    or_replicated: bool = False
    # The Hugging Face tensor is stored with its two dimensions exchanged (Conv1D).
    transposed: bool = False
    role: Role | None = None  # None: one that nothing depends on
    # A name that a layer must have beside it: several rules may speak of one Hugging Face name.
    beside: str | None = None
    # Megatron keeps this weight minus one where its norms are zero-centred, Hugging Face does not.
    zero_centred: bool = False
    # How many rows each of its blocks has, where it is made of such.
    block_rows: Callable[[ModelConfig], list[int]] | None = None

    @property
    def of_experts(self) -> bool:
        """Whether the rule speaks of a routed expert, which expert parallelism distributes."""
        return "{expert}" in self.megatron

    @property
    def of_predictions(self) -> bool:
        """Whether the rule speaks of a layer for multi-token prediction."""
        return "{mtp}" in self.megatron

    @property
    def of_layers(self) -> bool:
        """Whether the rule speaks of a layer of the decoder, which pipeline stages share."""
        return "{layer}" in self.megatron

    @property
    def of_vocabulary(self) -> bool:
        """Whether rows are tokens. A tied head is a copy of the embedding."""
        return self.role in ("embedding", "head")

    @property
    def is_bias(self) -> bool:
        return self.megatron.endswith("bias")


def replicated(megatron: str, hf: str, *, role: Role | None = None) -> ParamMapping:
    """Every rank holds the whole tensor."""
    return ParamMapping(megatron, (hf,), role=role)


def norm(megatron: str, hf: str) -> ParamMapping:
    """Every rank holds the whole weight or bias of a norm."""
    return replicated(megatron, hf, role="norm")


def column(
    megatron: str,
    hf: str,
    size: Callable[[ModelConfig], int],
    *,
    role: Role | None = None,
    dim: int = 0,
) -> ParamMapping:
    """Each rank holds an equal run of `size` output rows: a column-parallel linear layer."""

    def partition(config: ModelConfig, tp: int, rank: int) -> list[Slice]:
        share = _share(size(config), tp, megatron)
        return [Slice(0, rank * share, (rank + 1) * share)]

    return ParamMapping(megatron, (hf,), dim, partition, role=role)


def row(
    megatron: str, hf: str, size: Callable[[ModelConfig], int], *, role: Role | None = None
) -> ParamMapping:
    """Each rank holds an equal run of `size` input columns: a row-parallel linear layer."""
    return column(megatron, hf, size, role=role, dim=1)


def blocks(
    megatron: str,
    hf: tuple[str, ...],
    layout: Callable[[ModelConfig], list[list[Slice]]],
    *,
    role: Role | None = None,
) -> ParamMapping:
    """Each rank holds its equal share of every block; a block is slices laid end to end."""

    def partition(config: ModelConfig, tp: int, rank: int) -> list[Slice]:
        rows: list[Slice] = []
        for block in layout(config):
            share = _share(sum(part.stop - part.start for part in block), tp, megatron)
            rows += crop_slices(block, rank * share, (rank + 1) * share)
        return rows

    def rows(config: ModelConfig) -> list[int]:
        return [sum(part.stop - part.start for part in block) for block in layout(config)]

    return ParamMapping(megatron, hf, 0, partition, role=role, block_rows=rows)


def gated(megatron: str, gate: str, up: str, size: Callable[[ModelConfig], int]) -> ParamMapping:
    """Each rank holds its share of the gate, then its share of the up projection."""
    return blocks(
        megatron,
        (gate, up),
        lambda c: [[Slice(0, 0, size(c))], [Slice(1, 0, size(c))]],
        role="fc1",
    )


def fused_gated(megatron: str, hf: str, size: Callable[[ModelConfig], int]) -> ParamMapping:
    """One Hugging Face tensor with all gate rows, then all up rows, cut as `gated` cuts."""
    return blocks(
        megatron,
        (hf,),
        lambda c: [[Slice(0, 0, size(c))], [Slice(0, size(c), 2 * size(c))]],
        role="fc1",
    )


def qkv(megatron: str, q: str, k: str, v: str) -> ParamMapping:
    """Grouped-query attention: per group its query heads, then one key and one value head.

    The rows of all groups are cut evenly over the ranks, so with fewer groups than ranks a cut
    falls inside a group.
    """

    def partition(config: ModelConfig, tp: int, rank: int) -> Iterator[Slice]:
        d, per_group = config.kv_channels, config.heads_per_group
        rows = [
            part
            for g in range(config.num_query_groups)
            for part in (
                Slice(0, g * per_group * d, (g + 1) * per_group * d),
                Slice(1, g * d, (g + 1) * d),
                Slice(2, g * d, (g + 1) * d),
            )
        ]
        share = _share((config.num_attention_heads + 2 * config.num_query_groups) * d, tp, megatron)
        return crop_slices(rows, rank * share, (rank + 1) * share)

    return ParamMapping(megatron, (q, k, v), 0, partition, role="qkv")


def fused_qkv(megatron: str, hf: str, *, transposed: bool = False) -> ParamMapping:
    """One Hugging Face tensor with all query rows, all key rows, all value rows, as `qkv` cuts."""

    def partition(config: ModelConfig, tp: int, rank: int) -> list[Slice]:
        d = config.kv_channels
        keys = config.num_attention_heads * d
        starts = (0, keys, keys + config.num_query_groups * d)
        parts = qkv(megatron, "", "", "").partition
        assert parts is not None
        return [
            Slice(0, part.start + starts[part.source], part.stop + starts[part.source])
            for part in parts(config, tp, rank)
        ]

    return ParamMapping(megatron, (hf,), 0, partition, role="qkv", transposed=transposed)


def gated_qkv(megatron: str, q: str, k: str, v: str) -> ParamMapping:
    """As `qkv`, with an output gate: per group its query heads, their gates, then key and value.

    Hugging Face keeps the gate of a head behind the query of that head.
    """

    def layout(config: ModelConfig) -> list[list[Slice]]:
        d, per_group = config.kv_channels, config.heads_per_group
        rows = []
        for g in range(config.num_query_groups):
            heads = range(g * per_group, (g + 1) * per_group)
            rows += [Slice(0, 2 * h * d, (2 * h + 1) * d) for h in heads]
            rows += [Slice(0, (2 * h + 1) * d, (2 * h + 2) * d) for h in heads]
            rows += [Slice(1, g * d, (g + 1) * d), Slice(2, g * d, (g + 1) * d)]
        return [rows]

    return blocks(megatron, (q, k, v), layout, role="qkv")


def vocab(megatron: str, hf: str, role: Literal["embedding", "head"]) -> ParamMapping:
    """Each rank holds an equal run of the vocabulary, whose end Megatron pads."""

    def partition(config: ModelConfig, tp: int, rank: int) -> Iterator[Slice]:
        padded = config.padded_vocab_size or config.vocab_size
        if padded is None:
            raise UnsupportedLayout(f"{megatron}: the size of the vocabulary is not known")
        tokens = min(config.vocab_size or padded, padded)
        share = _share(padded, tp, megatron)
        rows = [Slice(0, 0, tokens), Slice(PADDING, tokens, padded)]
        return crop_slices(rows, rank * share, (rank + 1) * share)

    return ParamMapping(megatron, (hf,), 0, partition, role=role)


def _share(size: int, tp: int, what: str) -> int:
    if size % tp:
        raise UnsupportedLayout(f"{what}: {size} rows or columns cannot be cut evenly for TP {tp}")
    return size // tp


def crop_slices(parts: Iterable[Slice], start: int, stop: int) -> Iterator[Slice]:
    """Yield what lies between `start` and `stop` when the parts are laid end to end."""
    at = 0
    for part in parts:
        if at >= stop:
            return
        first, last = max(start, at), min(stop, at + part.stop - part.start)
        if first < last:
            shift = part.start - at
            yield Slice(part.source, first + shift, last + shift)
        at += part.stop - part.start


@lru_cache(maxsize=MANY_NAMES)
def split_name(name: str) -> tuple[str, tuple[int, ...]]:
    """Return a name with its layer and expert numbers replaced by `#`, and the numbers."""
    indices = []
    parts = name.split(".")
    for at, part in enumerate(parts):
        if at and part.isdecimal() and _INDEX.fullmatch(part):
            indices.append(int(part))
            parts[at] = "#"
    key = ".".join(parts)
    if key[-1:].isdecimal() and (expert := _EXPERT_INDEX.search(key)):
        indices.append(int(expert[2]))
        key = f"{key[: expert.start(2)]}#"
    return sys.intern(key), tuple(indices)


def fill_name(pattern: str, indices: tuple[int, ...]) -> str:
    """Return a pattern with its fields filled in their order; without a number, with 0."""
    fields, text = _fields(pattern)
    return text.format(*indices, *(0,) * (fields - len(indices)))


@lru_cache(maxsize=1000)
def _fields(pattern: str) -> tuple[int, str]:
    """Return how many fields a pattern has, and the pattern with their names left out."""
    return len(_FIELD.findall(pattern)), _FIELD.sub("{}", pattern)


def fill_template(key: str, indices: tuple[int, ...]) -> str:
    """Return the name that `split_name` splits into this template and these numbers."""
    numbers = iter(indices)
    return re.sub("#", lambda _: str(next(numbers)), key)


def template(pattern: str) -> str:
    """Return a pattern as `split_name` returns the names that match it."""
    return _FIELD.sub("#", pattern)


# How models that are part of a larger one (with a vision tower, say) begin their names.
LANGUAGE_PARTS = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model family: its names in config.json and its rules, in model order."""

    name: str
    architectures: tuple[str, ...]  # classes of transformers, as in config.json
    model_types: tuple[str, ...]
    mappings: tuple[ParamMapping, ...]
    marks: tuple[str, ...] = ()  # Megatron names that only this family's checkpoints have
    # Hugging Face names that are nothing but copies, and of what.
    shared: tuple[tuple[str, str], ...] = ()
    # The norms of queries and keys are over all heads together, not over each: names do not tell.
    wide_qk_norm: bool = False
    tied_by_default: bool = False  # what a config.json means that does not speak of it
    # How other writers begin the Hugging Face names, and how the rules do.
    prefixes: tuple[tuple[str, str], ...] = LANGUAGE_PARTS
    fused: tuple[Fused, ...] = ()  # stored tensors that hold several of the rules' tensors
    # Hugging Face counts the prediction layers on, behind the model's own.
    _counts_on: bool = field(init=False, repr=False, compare=False)
    _by_megatron: dict[str, ParamMapping] = field(init=False, repr=False, compare=False)
    _hf_order: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = {template(mapping.megatron): mapping for mapping in self.mappings}
        patterns = [hf for mapping in self.mappings for hf in mapping.hf]
        order = [template(hf) for hf in patterns]
        counts_on = any("layers.{mtp}." in hf and not hf.startswith("mtp.") for hf in patterns)
        object.__setattr__(self, "_counts_on", counts_on)
        object.__setattr__(self, "_by_megatron", names)
        object.__setattr__(self, "_hf_order", {name: i for i, name in enumerate(order)})

    def rule_for(self, template: str) -> ParamMapping | None:
        """Return the rule of a Megatron name, given as `naming.split_native` splits it."""
        return self._by_megatron.get(template)

    def order_of(self, template: str) -> int | None:
        """Return where in the model a Hugging Face name (as `split_name` splits it) comes."""
        return self._hf_order.get(template)

    def stores_transposed(self, key: str) -> bool:
        """Return whether Hugging Face keeps a tensor with its dimensions exchanged."""
        return any(
            mapping.transposed and key == template(hf)
            for mapping in self.mappings
            for hf in mapping.hf
        )

    def layers_of(self, mapping: ParamMapping, num_layers: int) -> range:
        """Return the layer numbers, as Hugging Face counts, that a rule speaks of.

        Megatron counts a rule's layers from 0.
        """
        if not self._counts_on:
            return range(sys.maxsize)
        return range(num_layers, sys.maxsize) if mapping.of_predictions else range(num_layers)

    def embedding(self) -> ParamMapping:
        """Return the rule of the token embedding."""
        return next(mapping for mapping in self.mappings if mapping.role == "embedding")
