"""Find the stored tensors of each layer and rank, by the names that the model's program uses.

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
class HeldTensor:
    """A tensor as one rank holds it."""

    name: str  # in the file
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[Chunk, ...]  # parts of files that make it up


Tensors = dict[str, HeldTensor]  # by the name inside the layer; Megatron's as in its local layer
Ranks = tuple[Tensors, ...]  # by tensor parallel rank


# By the names that transformers and Megatron have for it in a layer.
_NORM_BEHIND = "post_feedforward_layernorm.weight", "mlp.linear_fc2.post_layernorm.weight"


@dataclass(frozen=True, slots=True)
class Holdings:
    """The tensors of a whole model, not yet read."""

    layers: tuple[Ranks, ...]
    first: Ranks  # before the layers: the embedding
    last: Ranks  # after the layers: the norm and the head

    @property
    def has_norms_behind(self) -> bool:
        """Whether any layer has a norm behind its MLP."""
        return any(name in rank for layer in self.layers for rank in layer for name in _NORM_BEHIND)


# ── Hugging Face ─────────────────────────────────────────────────────────────────────────────────

# In front of names; a language model may be part of one that sees pictures.
_HF_FRONT = (
    r"^(?:model\.language_model\.|language_model\.(?:model\.)?"
    r"|model\.|transformer\.|backbone\.|gpt_neox\.)?"
)
_HF_LAYER = re.compile(_HF_FRONT + r"(?:layers|h)\.(\d+)\.(.+)$")
# Mixtral's and Nemotron-H's names, and what Llama's would be.
_LLAMA_NAMES = {
    "block_sparse_moe.": "mlp.",
    **{f"mixer.{part}_proj.": f"self_attn.{part}_proj." for part in "qkvo"},
    **{
        f"mixer.{part}": f"mlp.{part}"
        for part in ("up_proj.", "down_proj.", "gate.", "experts.", "shared_experts.")
    },
    **{f"mixer.{part}_latent_proj.": f"mlp.{part}_latent_proj." for part in ("fc1", "fc2")},
}
_MIXTRAL_EXPERT = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_HF_ALTERNATING = re.compile(r"^mlp\.experts\.(gate_up|down)_proj(_bias)?$")
_HF_EXPERT = re.compile(r"^mlp\.experts\.(\d+)\.(w[123])\.weight$")


def huggingface(checkpoint: Checkpoint, model: Model) -> Holdings:
    """Return the tensors of a Hugging Face folder. Raises MissingShard if a layer has none.

    Layers after the model's own (multi-token prediction) are left out.
    """
    layers: dict[int, Tensors] = defaultdict(dict)
    rest: Tensors = {}
    for shard in checkpoint.shards:
        for name, held in _tensors_of(checkpoint, shard):
            if not (found := _HF_LAYER.match(name)):
                plain = re.sub(_HF_FRONT, "", name)
                rest[_local_name(plain, {"embed_out.": "lm_head."})] = held
            elif int(found[1]) < len(model.layers):
                local, alternates = _local_name(found[2], _LLAMA_NAMES), model.family == "gpt_oss"
                inside = _inside(local, held, alternates=alternates)
                layers[int(found[1])].update(inside)
    return Holdings(_layers_of(checkpoint, [{0: layers}], len(model.layers)), (rest,), (rest,))


def _inside(name: str, held: HeldTensor, *, alternates: bool) -> Iterator[tuple[str, HeldTensor]]:
    """Yield a layer's tensor by name; one of all experts is split into a tensor for each.

    `alternates`: matrices are (experts, input features, output features), and columns of gate and
    up alternate.
    """
    if alternates and (of := _HF_ALTERNATING.match(name)):
        kind = "bias" if of[2] else "weight"
        for expert in range(held.shape[0]):
            one = _held_index(held, expert)
            if of[1] == "down":
                yield f"mlp.experts.{expert}.down_proj.{kind}", _held_transposed(one)
                continue
            for start, part in enumerate(("gate", "up")):
                every_second = _held_transposed(one, start, 2)
                yield f"mlp.experts.{expert}.{part}_proj.{kind}", every_second
    elif found := _HF_EXPERT.match(name):
        yield f"mlp.experts.{found[1]}.{_MIXTRAL_EXPERT[found[2]]}.weight", held
    elif name == "mlp.experts.gate_up_proj":  # (experts, gate and up, hidden)
        for expert in range(held.shape[0]):
            both = _held_index(held, expert)
            half = both.shape[0] // 2
            yield f"mlp.experts.{expert}.gate_proj.weight", _held_rows(both, 0, half)
            yield f"mlp.experts.{expert}.up_proj.weight", _held_rows(both, half, 2 * half)
    elif name in ("mlp.experts.up_proj", "mlp.experts.down_proj"):  # (experts, rows, columns)
        for expert in range(held.shape[0]):
            place = f"mlp.experts.{expert}.{name.removeprefix('mlp.experts.')}.weight"
            yield place, _held_index(held, expert)
    else:
        yield name, held


# ── Meta ─────────────────────────────────────────────────────────────────────────────────────────

_META_LAYER = re.compile(r"^layers\.(\d+)\.(.+)$")


def meta(checkpoint: Checkpoint, model: Model) -> Holdings:
    """Return the tensors of each rank of Meta's format. Raises MissingShard if a layer has none."""
    layers: dict[int, dict[int, Tensors]] = {}
    rests: list[Tensors] = []
    for shard in sorted(checkpoint.shards, key=lambda s: s.rank.tp):
        inside = layers.setdefault(shard.rank.tp, defaultdict(dict))
        rests.append({})
        for name, held in _tensors_of(checkpoint, shard):
            if found := _META_LAYER.match(name):
                inside[int(found[1])][found[2]] = held
            else:
                rests[-1][name] = held
    made = _layers_of(checkpoint, [layers], len(model.layers))
    return Holdings(made, tuple(rests), tuple(rests))


# ── Megatron ─────────────────────────────────────────────────────────────────────────────────────

_MEGATRON_LAYER = re.compile(
    r"^(?:decoder|encoder|language_model\.(?:encoder|transformer))\.layers\.(\d+)\.(.+)$"
)
# In front of all names: wrappers of the model, which NeMo saves with it.
_MEGATRON_FRONT = re.compile(r"^(?:module\.)+")
# Names inside a layer in other specs and versions, and in the local layer spec.
_LOCAL_NAMES = {
    "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
    "self_attention.linear_q_up_proj.layer_norm_": "self_attention.q_layernorm.",
    "self_attention.linear_kv_up_proj.layer_norm_": "self_attention.kv_layernorm.",
    "self_attention.in_proj.layer_norm_": "input_layernorm.",
    "mixer.in_proj.layer_norm_": "norm.",
    "mixer.conv1d_": "mixer.conv1d.",
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
_LOCAL_NAMES_OUTSIDE = {
    "decoder.final_layernorm.": "final_layernorm.",
    "decoder.final_norm.": "final_layernorm.",
    "encoder.final_layernorm.": "final_layernorm.",
    "encoder.final_norm.": "final_layernorm.",
    "transformer.final_layernorm.": "final_layernorm.",
    "embedding.": "",
    "word_embeddings_for_head.": "output_layer.",
}


# Experts of one rank: a module each (SequentialMLP), a weight each (TEGroupedMLP), or one matrix
# of all (GroupedMLP).
_LOCAL_EXPERT = re.compile(
    r"^mlp\.experts\.(?:local_experts\.(\d+)\.(linear_fc[12]\.(?:weight|bias))"
    r"|(linear_fc[12]\.(?:weight|bias))(\d+)"
    r"|weight([12]))$"
)


def megatron(checkpoint: Checkpoint, model: Model) -> Holdings:
    """Return the tensors of each tensor parallel rank, by layer of the whole model.

    Experts are numbered over the whole layer: those of a file follow those of lower expert parallel
    ranks. A rank's slice of an expert is that of its expert tensor index.
    Layers are in the order of virtual chunks, then of pipeline stages, then as in the file.
    Raises MissingShard if a layer has no tensor.
    """
    tp = len({shard.rank.tp for shard in checkpoint.shards})
    experts = max((one.routing.experts for one in model.layers if one.routing), default=0)
    local_experts = experts // len({shard.rank.ep for shard in checkpoint.shards})
    stages: dict[tuple[int, int], dict[int, dict[int, Tensors]]] = {}
    outside: dict[tuple[int, int], list[Tensors]] = {}
    for shard in sorted(checkpoint.shards, key=lambda s: (s.chunk, s.rank.pp, s.rank.ep)):
        stage = shard.chunk, shard.rank.pp
        expert_slice = checkpoint.parallelism.expert_slice(shard.rank)
        layers = stages.setdefault(stage, {rank: defaultdict(dict) for rank in range(tp)})
        rests = outside.setdefault(stage, [{} for _ in range(tp)])
        for stored, held in _tensors_of(checkpoint, shard):
            name = _MEGATRON_FRONT.sub("", stored)
            if found := _MEGATRON_LAYER.match(name):
                number, inside = int(found[1]), _local_name(found[2], _LOCAL_NAMES)
                if one := _LOCAL_EXPERT.match(inside):
                    tensors = layers[expert_slice][number]
                    for expert, part, weight in _experts(one, held, local_experts):
                        whole = shard.rank.ep * local_experts + expert
                        tensors.setdefault(f"mlp.experts.{whole}.{part}", weight)
                else:
                    # All expert parallel ranks have equal copies of what is no expert.
                    layers[shard.rank.tp][number].setdefault(inside, held)
            else:
                plain = _local_name(name.removeprefix("language_model."), _LOCAL_NAMES_OUTSIDE)
                rests[shard.rank.tp].setdefault(plain, held)
    order = list(stages)
    return Holdings(
        _layers_of(checkpoint, [stages[stage] for stage in order], len(model.layers)),
        tuple(outside[order[0]]),
        tuple(outside[order[-1]]),
    )


def _experts(
    found: re.Match[str], held: HeldTensor, local_experts: int
) -> Iterator[tuple[int, str, HeldTensor]]:
    """Yield the experts in one rank's tensor: number on that rank, name inside, tensor.

    GroupedMLP views the numbers of `weight1` as (experts, hidden, features), and those of `weight2`
    as (experts, features, hidden). It multiplies by them as they are stored, so they are transposed
    here. Source: megatron.core.transformer.moe.experts. Raises UnsupportedLayout for a tensor that
    cannot be split into the experts.
    """
    module, module_part, grouped_part, grouped, all_of = found.groups()
    if all_of is None:
        yield int(module or grouped or 0), module_part or grouped_part, held
        return
    rows, columns = held.shape
    if local_experts < 1 or (columns if all_of == "1" else rows) % local_experts:
        raise UnsupportedLayout(
            f"{held.name} of shape {[rows, columns]} holds no {local_experts} experts"
        )
    shape = (rows, columns // local_experts) if all_of == "1" else (rows // local_experts, columns)
    (chunk,) = held.chunks
    for expert in range(local_experts):
        ref = replace(
            chunk.ref,
            shape=shape[::-1],
            stride=(1, shape[1]),
            offset=chunk.ref.offset + expert * shape[0] * shape[1] * ITEMSIZE[held.dtype],
        )
        yield expert, f"linear_fc{all_of}.weight", _held_whole(held.name, ref)


def _local_name(name: str, spellings: Mapping[str, str]) -> str:
    for other, local in spellings.items():
        if name.startswith(other):
            return local + name.removeprefix(other)
    return name


# ── both ─────────────────────────────────────────────────────────────────────────────────────────


def _tensors_of(checkpoint: Checkpoint, shard: Shard) -> Iterator[tuple[str, HeldTensor]]:
    for name, ref in shard.tensors.items():
        yield name, HeldTensor(ref.name, ref.shape, ref.dtype, _chunks(checkpoint, ref))


def _chunks(checkpoint: Checkpoint, ref: TensorRef) -> tuple[Chunk, ...]:
    if checkpoint.chunks is not None and ref in checkpoint.chunks:
        return checkpoint.chunks[ref]
    return (Chunk(ref, tuple((0, size) for size in ref.shape)),)


def _held_whole(name: str, ref: TensorRef) -> HeldTensor:
    return HeldTensor(name, ref.shape, ref.dtype, (Chunk(ref, tuple((0, n) for n in ref.shape)),))


def _held_index(held: HeldTensor, index: int) -> HeldTensor:
    """Return one matrix of a tensor of (matrices, rows, columns) that is one chunk."""
    ref = _single_ref(held)
    offset = ref.offset + index * ref.stride[0] * ITEMSIZE[ref.dtype]
    part = replace(ref, shape=ref.shape[1:], stride=ref.stride[1:], offset=offset)
    return _held_whole(held.name, part)


def _held_rows(held: HeldTensor, start: int, stop: int) -> HeldTensor:
    ref = _single_ref(held)
    offset = ref.offset + start * ref.stride[0] * ITEMSIZE[ref.dtype]
    part = replace(ref, shape=(stop - start, *ref.shape[1:]), offset=offset)
    return _held_whole(held.name, part)


def _held_transposed(held: HeldTensor, start: int = 0, step: int = 1) -> HeldTensor:
    """Return each `step`-th column of a matrix, from `start` on, as rows; of a vector, elements."""
    ref = _single_ref(held)
    *rows, columns = ref.shape
    part = replace(
        ref,
        shape=((columns - start + step - 1) // step, *rows),
        stride=(step * ref.stride[-1], *ref.stride[:-1]),
        offset=ref.offset + start * ref.stride[-1] * ITEMSIZE[ref.dtype],
    )
    return _held_whole(held.name, part)


def _single_ref(held: HeldTensor) -> TensorRef:
    if len(held.chunks) != 1:
        raise UnsupportedLayout(f"{held.name}: experts that lie in parts cannot be computed")
    (chunk,) = held.chunks
    if chunk.ref.scale is not None:
        raise UnsupportedLayout(f"{held.name}: experts in one quantised tensor cannot be computed")
    return chunk.ref


def _layers_of(
    checkpoint: Checkpoint, stages: list[dict[int, dict[int, Tensors]]], num_layers: int
) -> tuple[Ranks, ...]:
    """Return the layers of all stages in their order, by TP rank. Raises MissingShard."""
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
