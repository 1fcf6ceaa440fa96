"""Say which stored tensors a layer is made of: by rank, under the names that its model gives them.

Sources of the names: transformers' models; megatron.core.models.gpt.gpt_layer_specs for the local
and the Transformer Engine layer, megatron.legacy.model.transformer for the legacy one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdiff.errors import MissingShard
from ckptdiff.tensors import Chunk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptdiff.tensors import Checkpoint, Shard, TensorRef


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor as one rank has it."""

    name: str  # as the file spells it
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[Chunk, ...]  # together they fill it


Tensors = dict[str, Held]  # by names inside the layer, in local spelling
Ranks = tuple[Tensors, ...]  # by tensor parallel rank


@dataclass(frozen=True, slots=True)
class Holdings:
    """A whole model, still unread."""

    layers: tuple[Ranks, ...]
    first: Ranks  # what comes before the layers: the embedding
    last: Ranks  # what comes behind them: the norm and the head


# ── Hugging Face ─────────────────────────────────────────────────────────────────────────────────

_HF_LAYER = re.compile(r"^(?:model\.|transformer\.)?(?:layers|h)\.(\d+)\.(.+)$")


def huggingface(checkpoint: Checkpoint, num_layers: int) -> Holdings:
    """Return what a Hugging Face folder holds. Raises MissingShard where a layer has nothing."""
    layers: dict[int, Tensors] = defaultdict(dict)
    rest: Tensors = {}
    for shard in checkpoint.shards:
        for name, held in _held(checkpoint, shard):
            if found := _HF_LAYER.match(name):
                layers[int(found[1])][found[2]] = held
            else:
                rest[re.sub(r"^(?:model|transformer)\.", "", name)] = held
    return Holdings(_complete(checkpoint, [{0: layers}], num_layers), (rest,), (rest,))


# ── Megatron ─────────────────────────────────────────────────────────────────────────────────────

_MEGATRON_LAYER = re.compile(
    r"^(?:decoder|encoder|language_model\.(?:encoder|transformer))\.layers\.(\d+)\.(.+)$"
)
# Other spellings of a local name, inside a layer.
_SPELLINGS = {
    "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
    "mlp.linear_fc1.layer_norm_": "pre_mlp_layernorm.",
    "self_attention.query_key_value.": "self_attention.linear_qkv.",
    "self_attention.dense.": "self_attention.linear_proj.",
    "attention.query_key_value.": "self_attention.linear_qkv.",
    "attention.dense.": "self_attention.linear_proj.",
    "mlp.dense_h_to_4h.": "mlp.linear_fc1.",
    "mlp.dense_4h_to_h.": "mlp.linear_fc2.",
    "input_norm.": "input_layernorm.",
    "post_attention_norm.": "pre_mlp_layernorm.",
    "post_attention_layernorm.": "pre_mlp_layernorm.",
}
_OUTSIDE = {
    "decoder.final_layernorm.": "final_layernorm.",
    "decoder.final_norm.": "final_layernorm.",
    "encoder.final_layernorm.": "final_layernorm.",
    "encoder.final_norm.": "final_layernorm.",
    "transformer.final_layernorm.": "final_layernorm.",
    "embedding.": "",
    "word_embeddings_for_head.": "output_layer.",
}


def megatron(checkpoint: Checkpoint, num_layers: int) -> Holdings:
    """Return what each tensor parallel rank holds of each layer, numbered over the whole model.

    Stages hold the layers in the order of their virtual chunks, and inside a chunk in theirs.
    Raises MissingShard where a layer has nothing.
    """
    tp = len({shard.rank.tp for shard in checkpoint.shards})
    stages: dict[tuple[int, int], dict[int, dict[int, Tensors]]] = {}
    outside: dict[tuple[int, int], list[Tensors]] = {}
    for shard in sorted(checkpoint.shards, key=lambda s: (s.chunk, s.rank.pp, s.rank.ep)):
        stage = shard.chunk, shard.rank.pp
        layers = stages.setdefault(stage, {rank: defaultdict(dict) for rank in range(tp)})
        rests = outside.setdefault(stage, [{} for _ in range(tp)])
        for name, held in _held(checkpoint, shard):
            if found := _MEGATRON_LAYER.match(name):
                # Of experts' ranks the first that has it: what is no expert is the same on all.
                inside = _spelled(found[2], _SPELLINGS)
                layers[shard.rank.tp][int(found[1])].setdefault(inside, held)
            else:
                plain = _spelled(name.removeprefix("language_model."), _OUTSIDE)
                rests[shard.rank.tp].setdefault(plain, held)
    order = list(stages)
    return Holdings(
        _complete(checkpoint, [stages[stage] for stage in order], num_layers),
        tuple(outside[order[0]]),
        tuple(outside[order[-1]]),
    )


def _spelled(name: str, spellings: Mapping[str, str]) -> str:
    for other, local in spellings.items():
        if name.startswith(other):
            return local + name.removeprefix(other)
    return name


# ── both ─────────────────────────────────────────────────────────────────────────────────────────


def _held(checkpoint: Checkpoint, shard: Shard) -> Iterator[tuple[str, Held]]:
    for name, ref in shard.tensors.items():
        yield name, Held(ref.name, ref.shape, ref.dtype, _chunks(checkpoint, ref))


def _chunks(checkpoint: Checkpoint, ref: TensorRef) -> tuple[Chunk, ...]:
    if checkpoint.chunks is not None and ref in checkpoint.chunks:
        return checkpoint.chunks[ref]
    return (Chunk(ref, tuple((0, size) for size in ref.shape)),)


def _complete(
    checkpoint: Checkpoint, stages: list[dict[int, dict[int, Tensors]]], num_layers: int
) -> tuple[Ranks, ...]:
    """Return the layers of stages that follow each other, by TP rank."""
    made: list[Ranks] = []
    for ranks in stages:
        made += [
            tuple(layers.get(number, {}) for layers in ranks.values())
            for number in sorted(ranks[0])
        ]
    if len(made) != num_layers or not all(all(ranks) for ranks in made):
        raise MissingShard(
            f"{checkpoint.root}: holds {len(made)} of {num_layers} layers; all are needed"
        )
    return tuple(made)
