"""Say which stored tensors a layer is made of: by rank, under the names that its model gives them.

Sources of the names: transformers' models; megatron.core.models.gpt.gpt_layer_specs for the local
and the Transformer Engine layer, megatron.legacy.model.transformer for the legacy one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptdiff.checkpoint import Chunk
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.errors import MissingShard, UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptdiff.checkpoint import Checkpoint, Shard, TensorRef
    from ckptdiff.forward.model import Model


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
# Mixtral's words for what others call by Llama's.
_MIXTRAL = {"block_sparse_moe.": "mlp."}
_MIXTRAL_EXPERT = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_HF_EXPERT = re.compile(r"^mlp\.experts\.(\d+)\.(w[123])\.weight$")


def huggingface(checkpoint: Checkpoint, model: Model) -> Holdings:
    """Return what a Hugging Face folder holds. Raises MissingShard where a layer has nothing.

    Layers behind the model's own are further predictions, and left out.
    """
    layers: dict[int, Tensors] = defaultdict(dict)
    rest: Tensors = {}
    for shard in checkpoint.shards:
        for name, held in _held(checkpoint, shard):
            if not (found := _HF_LAYER.match(name)):
                rest[re.sub(r"^(?:model|transformer)\.", "", name)] = held
            elif int(found[1]) < len(model.layers):
                layers[int(found[1])].update(_inside(_spelled(found[2], _MIXTRAL), held))
    return Holdings(_complete(checkpoint, [{0: layers}], len(model.layers)), (rest,), (rest,))


def _inside(name: str, held: Held) -> Iterator[tuple[str, Held]]:
    """Yield a layer's tensor, and of one that holds all experts the tensors of each."""
    if found := _HF_EXPERT.match(name):
        yield f"mlp.experts.{found[1]}.{_MIXTRAL_EXPERT[found[2]]}.weight", held
    elif name == "mlp.experts.gate_up_proj":  # (experts, gate and up, hidden)
        for expert in range(held.shape[0]):
            both = _index(held, expert)
            half = both.shape[0] // 2
            yield f"mlp.experts.{expert}.gate_proj.weight", _rows(both, 0, half)
            yield f"mlp.experts.{expert}.up_proj.weight", _rows(both, half, 2 * half)
    elif name == "mlp.experts.down_proj":  # (experts, hidden, features)
        for expert in range(held.shape[0]):
            yield f"mlp.experts.{expert}.down_proj.weight", _index(held, expert)
    else:
        yield name, held


# ── Meta ─────────────────────────────────────────────────────────────────────────────────────────

_META_LAYER = re.compile(r"^layers\.(\d+)\.(.+)$")


def meta(checkpoint: Checkpoint, model: Model) -> Holdings:
    """Return what each rank of Meta's format holds. Raises MissingShard where a layer is not."""
    layers: dict[int, dict[int, Tensors]] = {}
    rests: list[Tensors] = []
    for shard in sorted(checkpoint.shards, key=lambda s: s.rank.tp):
        inside = layers.setdefault(shard.rank.tp, defaultdict(dict))
        rests.append({})
        for name, held in _held(checkpoint, shard):
            if found := _META_LAYER.match(name):
                inside[int(found[1])][found[2]] = held
            else:
                rests[-1][name] = held
    made = _complete(checkpoint, [layers], len(model.layers))
    return Holdings(made, tuple(rests), tuple(rests))


# ── Megatron ─────────────────────────────────────────────────────────────────────────────────────

_MEGATRON_LAYER = re.compile(
    r"^(?:decoder|encoder|language_model\.(?:encoder|transformer))\.layers\.(\d+)\.(.+)$"
)
# Other spellings of a local name, inside a layer.
_SPELLINGS = {
    "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
    "self_attention.linear_q_up_proj.layer_norm_": "self_attention.q_layernorm.",
    "self_attention.linear_kv_up_proj.layer_norm_": "self_attention.kv_layernorm.",
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


# An expert of one rank: as a module, as one of a grouped product, or in the matrix of all of them.
_LOCAL_EXPERT = re.compile(
    r"^mlp\.experts\.(?:local_experts\.(\d+)\.(linear_fc[12])\.weight"
    r"|(linear_fc[12])\.weight(\d+)"
    r"|weight([12]))$"
)


def megatron(checkpoint: Checkpoint, model: Model) -> Holdings:
    """Return what each tensor parallel rank holds of each layer, numbered over the whole model.

    Experts are numbered over the whole layer, and are held by the rank that has their share of
    expert tensor parallelism: the experts of a file follow those of lower expert parallel ranks.
    Stages hold the layers in the order of their virtual chunks, and inside a chunk in theirs.
    Raises MissingShard where a layer has nothing.
    """
    tp = len({shard.rank.tp for shard in checkpoint.shards})
    etp = min(tp, checkpoint.parallelism.etp)
    experts = max((one.routing.experts for one in model.layers if one.routing), default=0)
    local = experts // len({shard.rank.ep for shard in checkpoint.shards})
    stages: dict[tuple[int, int], dict[int, dict[int, Tensors]]] = {}
    outside: dict[tuple[int, int], list[Tensors]] = {}
    for shard in sorted(checkpoint.shards, key=lambda s: (s.chunk, s.rank.pp, s.rank.ep)):
        stage = shard.chunk, shard.rank.pp
        layers = stages.setdefault(stage, {rank: defaultdict(dict) for rank in range(tp)})
        rests = outside.setdefault(stage, [{} for _ in range(tp)])
        for name, held in _held(checkpoint, shard):
            if found := _MEGATRON_LAYER.match(name):
                number, inside = int(found[1]), _spelled(found[2], _SPELLINGS)
                if one := _LOCAL_EXPERT.match(inside):
                    share = layers[shard.rank.tp % etp][number]
                    for expert, part, weight in _experts(one, held, local):
                        place = f"mlp.experts.{shard.rank.ep * local + expert}.{part}.weight"
                        share.setdefault(place, weight)
                else:
                    # What is no expert is the same on all expert parallel ranks.
                    layers[shard.rank.tp][number].setdefault(inside, held)
            else:
                plain = _spelled(name.removeprefix("language_model."), _OUTSIDE)
                rests[shard.rank.tp].setdefault(plain, held)
    order = list(stages)
    return Holdings(
        _complete(checkpoint, [stages[stage] for stage in order], len(model.layers)),
        tuple(outside[order[0]]),
        tuple(outside[order[-1]]),
    )


def _experts(found: re.Match[str], held: Held, local: int) -> Iterator[tuple[int, str, Held]]:
    """Yield the experts of one rank's tensor: the number on that rank, the product, the weights.

    In GroupedMLP, `weight1` is a run of numbers that is read as (experts, hidden, features), and
    `weight2` one that is read as (experts, features, hidden): products are with what is stored, not
    with its transpose. Source: megatron.core.transformer.moe.experts.
    """
    module, module_part, grouped_part, grouped, all_of = found.groups()
    if all_of is None:
        yield int(module or grouped or 0), module_part or grouped_part, held
        return
    rows, columns = held.shape
    if local < 1 or (columns if all_of == "1" else rows) % local:
        raise UnsupportedLayout(f"{held.name} of shape {[rows, columns]} holds no {local} experts")
    shape = (rows, columns // local) if all_of == "1" else (rows // local, columns)
    (chunk,) = held.chunks
    for expert in range(local):
        ref = replace(
            chunk.ref,
            shape=shape[::-1],
            stride=(1, shape[1]),
            offset=chunk.ref.offset + expert * shape[0] * shape[1] * ITEMSIZE[held.dtype],
        )
        yield expert, f"linear_fc{all_of}", _whole(held.name, ref)


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


def _whole(name: str, ref: TensorRef) -> Held:
    return Held(name, ref.shape, ref.dtype, (Chunk(ref, tuple((0, n) for n in ref.shape)),))


def _index(held: Held, index: int) -> Held:
    """Return one of the matrices of a tensor that lies in one piece."""
    ref = _piece(held)
    offset = ref.offset + index * ref.stride[0] * ITEMSIZE[ref.dtype]
    part = replace(ref, shape=ref.shape[1:], stride=ref.stride[1:], offset=offset)
    return _whole(held.name, part)


def _rows(held: Held, start: int, stop: int) -> Held:
    ref = _piece(held)
    offset = ref.offset + start * ref.stride[0] * ITEMSIZE[ref.dtype]
    part = replace(ref, shape=(stop - start, *ref.shape[1:]), offset=offset)
    return _whole(held.name, part)


def _piece(held: Held) -> TensorRef:
    (chunk,) = held.chunks
    if chunk.ref.scale is not None:
        raise UnsupportedLayout(f"{held.name}: experts in one quantised tensor cannot be computed")
    return chunk.ref


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
