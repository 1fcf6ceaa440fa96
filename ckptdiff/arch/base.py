"""The rules of a model family: which slices of which Hugging Face tensors make up a rank's shard.

One rule is read in both directions. Forward it splits Hugging Face tensors over ranks, backward it
gives the place of every Hugging Face row in the shards. There is no inverse to write.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from ckptdiff.arch.hf_class import LANGUAGE_PARTS
from ckptdiff.arch.templates import shown, template
from ckptdiff.errors import UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ckptdiff.arch.fused import Fused
    from ckptdiff.arch.hf_class import HfClass
    from ckptdiff.arch.peculiarity import Peculiarity
    from ckptdiff.config.model import ModelConfig

    Partition = Callable[["ModelConfig", int, int], "Iterable[Slice]"]  # (config, tp, rank)

# What a tensor is in the model, whatever a family or a naming scheme calls it. A weight and its
# bias have the same role.
Role = Literal[
    "embedding", "positions", "head", "norm", "qkv", "proj", "fc1", "fc2", "router",
    "eh_proj",  # joins embedding and hidden state for a prediction layer
]  # fmt: skip

# Behind the name of a gated MLP's first layer where Megatron-FSDP stores it as two tensors: gate
# rows and up rows (handle_swiglu_in_state_dict of megatron.core's fsdp_dtensor_checkpoint).
GATED_HALVES = ("_w", "_v")

PADDING = -1  # `Slice.source` of vocabulary rows that no Hugging Face tensor has


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows `start:stop` (along the rule's dim) of the rule's `source`-th Hugging Face tensor.

    `source` is PADDING for rows that only Megatron has.
    """

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
    # Some versions store the whole tensor on every rank, whatever the partition says.
    or_replicated: bool = False
    # The Hugging Face tensor is stored with its two dimensions exchanged (Conv1D).
    transposed: bool = False
    role: Role | None = None  # None: nothing depends on what the tensor is
    # A Hugging Face name that the layer must have for this rule to apply to it. It tells apart
    # several rules for one Hugging Face name.
    beside: str | None = None
    # With apply_layernorm_1p Megatron stores this weight minus one; Hugging Face never does.
    zero_centred: bool = False
    # The number of rows of each block, if the rule is one of `blocks`.
    block_rows: Callable[[ModelConfig], list[int]] | None = None
    # Whether a config promises the tensor; None: every config of the family does. Where one does
    # not, a layer has the tensor if others of its kind do.
    promised: Callable[[ModelConfig], bool] | None = None

    @property
    def of_experts(self) -> bool:
        """Whether this is a tensor of a routed expert, which expert parallelism distributes."""
        return "{expert}" in self.megatron

    @property
    def of_predictions(self) -> bool:
        """Whether this is a tensor of a multi-token prediction layer."""
        return "{mtp}" in self.megatron

    @property
    def of_layers(self) -> bool:
        """Whether this is a tensor of a decoder layer, which pipeline parallelism distributes."""
        return "{layer}" in self.megatron

    @property
    def of_vocabulary(self) -> bool:
        """Whether its rows are tokens: the embedding, or the head, which may be tied to it."""
        return self.role in ("embedding", "head")

    @property
    def is_bias(self) -> bool:
        return self.megatron.endswith("bias")


def replicated(megatron: str, hf: str, *, role: Role | None = None) -> ParamMapping:
    """Return the rule of a tensor that every rank holds whole."""
    return ParamMapping(megatron, (hf,), role=role)


def norm(megatron: str, hf: str) -> ParamMapping:
    """Return the rule of a norm's weight or bias, which every rank holds whole."""
    return replicated(megatron, hf, role="norm")


def column(
    megatron: str,
    hf: str,
    size: Callable[[ModelConfig], int],
    *,
    role: Role | None = None,
    dim: int = 0,
) -> ParamMapping:
    """Return the rule of a column-parallel linear layer, whose weight is (out, in).

    Each rank holds an equal range of the `size` output rows, or of another dimension `dim`. Reading
    the rule raises UnsupportedLayout if TP does not divide `size`, here and in the rules below.
    """

    def partition(config: ModelConfig, tp: int, rank: int) -> list[Slice]:
        each = _per_rank(size(config), tp, megatron)
        return [Slice(0, rank * each, (rank + 1) * each)]

    return ParamMapping(megatron, (hf,), dim, partition, role=role)


def row(
    megatron: str, hf: str, size: Callable[[ModelConfig], int], *, role: Role | None = None
) -> ParamMapping:
    """Return the rule of a row-parallel layer: ranks hold equal ranges of `size` input columns."""
    return column(megatron, hf, size, role=role, dim=1)


def blocks(
    megatron: str,
    hf: tuple[str, ...],
    layout: Callable[[ModelConfig], list[list[Slice]]],
    *,
    role: Role | None = None,
) -> ParamMapping:
    """Return the rule of a tensor of several blocks: each rank holds an equal range of every block.

    `layout` returns the blocks, each as slices of the Hugging Face tensors laid end to end.
    """

    def partition(config: ModelConfig, tp: int, rank: int) -> list[Slice]:
        rows: list[Slice] = []
        for block in layout(config):
            each = _per_rank(sum(part.stop - part.start for part in block), tp, megatron)
            rows += crop_slices(block, rank * each, (rank + 1) * each)
        return rows

    def rows(config: ModelConfig) -> list[int]:
        return [sum(part.stop - part.start for part in block) for block in layout(config)]

    return ParamMapping(megatron, hf, 0, partition, role=role, block_rows=rows)


def gated(
    megatron: str,
    gate: str,
    up: str,
    size: Callable[[ModelConfig], int],
    turns: Callable[[ModelConfig], int] = lambda _: 0,
) -> ParamMapping:
    """Return the rule of a gated MLP's first layer, `size` rows each of gate and up.

    Each rank holds its range of the gate rows, then its range of the up rows. Where `turns` are not
    0, the two ranges take turns, so many rows each. Reading the rule raises UnsupportedLayout if
    that does not divide them.
    """
    rule = blocks(
        megatron,
        (gate, up),
        lambda c: [[Slice(0, 0, size(c))], [Slice(1, 0, size(c))]],
        role="fc1",
    )

    def partition(config: ModelConfig, tp: int, rank: int) -> list[Slice]:
        each = _per_rank(size(config), tp, megatron)
        turn = turns(config) or each
        if each % turn:
            raise UnsupportedLayout(f"{shown(megatron)}: {each} gate rows do not divide by {turn}")
        first = range(rank * each, (rank + 1) * each, turn)
        return [Slice(half, row, row + turn) for row in first for half in (0, 1)]

    return replace(rule, partition=partition)


def gated_halves(mapping: ParamMapping) -> list[ParamMapping]:
    """Return the rules of the two tensors that Megatron-FSDP makes of a gated MLP's first layer.

    Empty for any other rule, and where one Hugging Face tensor holds both.
    """
    rows = mapping.block_rows
    if mapping.role != "fc1" or rows is None or len(mapping.hf) != len(GATED_HALVES):
        return []
    return [
        column(f"{mapping.megatron}{half}", hf, lambda c, i=i: rows(c)[i])  # type: ignore[misc]
        for i, (half, hf) in enumerate(zip(GATED_HALVES, mapping.hf, strict=True))
    ]


def fused_gated(megatron: str, hf: str, size: Callable[[ModelConfig], int]) -> ParamMapping:
    """Return the rule of `gated` for one Hugging Face tensor: all gate rows, then all up rows."""
    return blocks(
        megatron,
        (hf,),
        lambda c: [[Slice(0, 0, size(c))], [Slice(0, size(c), 2 * size(c))]],
        role="fc1",
    )


def qkv(megatron: str, q: str, k: str, v: str) -> ParamMapping:
    """Return the rule of grouped-query attention's projection, (heads + 2 groups) * head size rows.

    They are ordered group by group: its query heads, then one key head and one value head (as in
    SelfAttention of megatron.core.transformer.attention). They are split evenly over the ranks;
    with fewer groups than ranks, a group is split too.
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
        each = _per_rank(
            (config.num_attention_heads + 2 * config.num_query_groups) * d, tp, megatron
        )
        return crop_slices(rows, rank * each, (rank + 1) * each)

    return ParamMapping(megatron, (q, k, v), 0, partition, role="qkv")


def fused_qkv(megatron: str, hf: str, *, transposed: bool = False) -> ParamMapping:
    """Return the rule of `qkv` for one Hugging Face tensor: all query, all key, all value rows."""

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
    """Return the rule of `qkv` with an output gate: per group queries, gates, key, value.

    Hugging Face stores the gate rows of each head behind the query rows of that head.
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
    """Return the rule of the embedding or the head, whose rows are the vocabulary.

    Megatron pads the end of the vocabulary; each rank holds an equal range of the padded rows.
    Reading the rule raises UnsupportedLayout if the config has no vocabulary size.
    """

    def partition(config: ModelConfig, tp: int, rank: int) -> Iterator[Slice]:
        padded = config.padded_vocab_size or config.vocab_size
        if padded is None:
            raise UnsupportedLayout(f"{shown(megatron)}: the size of the vocabulary is not known")
        tokens = min(config.vocab_size or padded, padded)
        each = _per_rank(padded, tp, megatron)
        rows = [Slice(0, 0, tokens), Slice(PADDING, tokens, padded)]
        return crop_slices(rows, rank * each, (rank + 1) * each)

    return ParamMapping(megatron, (hf,), 0, partition, role=role)


def _per_rank(size: int, tp: int, what: str) -> int:
    """Return how many of `size` rows or columns a rank holds. Raises UnsupportedLayout."""
    if size % tp:
        raise UnsupportedLayout(
            f"{shown(what)}: {size} rows or columns cannot be cut evenly for TP {tp}"
        )
    return size // tp


def crop_slices(parts: Iterable[Slice], start: int, stop: int) -> Iterator[Slice]:
    """Yield the slices that make up rows `start:stop` of the parts laid end to end."""
    at = 0
    for part in parts:
        if at >= stop:
            return
        low, high = max(start, at), min(stop, at + part.stop - part.start)
        if low < high:
            shift = part.start - at
            yield Slice(part.source, low + shift, high + shift)
        at += part.stop - part.start


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model family: its names in config.json, its rules in model order, and what else it needs.

    Plain values only, so that `config` and `logits` read them without importing the family.
    """

    name: str
    architectures: tuple[str, ...]  # classes of transformers; `architectures` in config.json
    model_types: tuple[str, ...]
    mappings: tuple[ParamMapping, ...]
    marks: tuple[str, ...] = ()  # Megatron names that only this family's checkpoints have
    # Hugging Face names that only repeat another tensor, and the name of that one.
    shared: tuple[tuple[str, str], ...] = ()
    # Query and key norms span all heads together, not each head. Names do not show it.
    wide_qk_norm: bool = False
    tied_by_default: bool = False  # if config.json does not state tie_word_embeddings
    # How other writers begin Hugging Face names, and how the rules begin them.
    prefixes: tuple[tuple[str, str], ...] = LANGUAGE_PARTS
    fused: tuple[Fused, ...] = ()  # stored tensors that hold several tensors of the rules
    peculiarities: tuple[Peculiarity, ...] = ()  # of what its models compute
    # The class that a config.json made from Megatron's args names; None: the first one above.
    written_class: HfClass | None = None
    computes_logits: bool = False  # `forward` has its layers
    by_words: bool = False  # these are other families' rules, chosen by words (`arch.vocabulary`)
    # Hugging Face numbers the prediction layers on from the decoder's last layer.
    _counts_on: bool = field(init=False, repr=False, compare=False)
    _by_megatron: dict[str, ParamMapping] = field(init=False, repr=False, compare=False)
    _hf_order: dict[str, tuple[int, int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        halves = [half for mapping in self.mappings for half in gated_halves(mapping)]
        names = {template(mapping.megatron): mapping for mapping in (*halves, *self.mappings)}
        patterns = [(hf, at) for at, rule in enumerate(self.mappings) for hf in rule.hf]
        order = {template(hf): (at, place) for place, (hf, at) in enumerate(patterns)}
        counts_on = any("layers.{mtp}." in hf and not hf.startswith("mtp.") for hf, _ in patterns)
        object.__setattr__(self, "_counts_on", counts_on)
        object.__setattr__(self, "_by_megatron", names)
        object.__setattr__(self, "_hf_order", order)

    def rule_for(self, template: str) -> ParamMapping | None:
        """Return the rule of a Megatron name, given as a template of `naming.split_native`."""
        return self._by_megatron.get(template)

    def order_of(self, template: str) -> tuple[int, int] | None:
        """Return the number of a name's rule and its own: of a Hugging Face name's template."""
        return self._hf_order.get(template)

    def stores_transposed(self, key: str) -> bool:
        """Return whether Hugging Face stores a tensor, given as a template, transposed."""
        return any(
            mapping.transposed and key == template(hf)
            for mapping in self.mappings
            for hf in mapping.hf
        )

    def layers_of(self, mapping: ParamMapping, num_layers: int) -> range:
        """Return the layer numbers of a rule as Hugging Face counts them; Megatron starts at 0.

        They are told apart only where Hugging Face numbers prediction layers on from the decoder's.
        """
        if not self._counts_on:
            return range(sys.maxsize)
        return range(num_layers, sys.maxsize) if mapping.of_predictions else range(num_layers)

    def embedding(self) -> ParamMapping:
        """Return the rule of the token embedding."""
        return next(mapping for mapping in self.mappings if mapping.role == "embedding")

    def head_name(self) -> str:
        """Return the Hugging Face name of the output layer."""
        return next(mapping.hf[0] for mapping in self.mappings if mapping.role == "head")
