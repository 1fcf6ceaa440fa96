"""Which faults are planted where, and what must be said of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from tests.support import faults as f
from tests.support import faults_model as m
from tests.support import faults_order as o

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from tests.support.native import Native

    Plant = Callable[[Native], None]


@dataclass(frozen=True)
class Tiny:
    """A checkpoint that the tests write themselves."""

    layout: dict[str, Any] = field(default_factory=dict)  # of make_megatron
    model: dict[str, Any] = field(default_factory=dict)  # of make_hf


@dataclass(frozen=True)
class Real:
    """One that NVIDIA's code wrote, from the corpus."""

    path: str


@dataclass(frozen=True)
class Case:
    """Faults planted in one checkpoint; each is said to be of its class, and nothing else is."""

    name: str
    source: Tiny | Real
    plants: tuple[tuple[str, Plant], ...]  # the class that must be named, "" for none
    is_info: bool = False
    mends: bool = False  # --undo must give the reference back
    allow: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("megatron",)
    said: str = ""  # must be in what the finding says
    invisible: bool = False  # the fault leaves every byte as it was


BIG = {"layers": 4, "hidden": 64, "heads": 8, "groups": 8, "ffn": 96, "vocab": 125}
GQA = {**BIG, "groups": 4, "family": "mistral"}
QWEN2 = {**GQA, "family": "qwen2", "tied": False}
QWEN3 = {**GQA, "family": "qwen3", "head_dim": 16}
MIXTRAL = {**GQA, "family": "mixtral", "experts": 4}
MHA_1, MHA_2 = Tiny({}, BIG), Tiny({"tp": 2}, BIG)
GQA_1, GQA_2, GQA_4 = (Tiny({"tp": tp}, GQA) for tp in (1, 2, 4))
GQA_22 = Tiny({"tp": 2, "pp": 2, "names": "te"}, GQA)
MOE = Tiny({"ep": 2, "names": "te", "experts": "te_grouped"}, MIXTRAL)
MOE_2 = Tiny({"tp": 2, "ep": 2}, MIXTRAL)
MATRICES = (f.QKV, f.PROJ, "mlp.linear_fc1.weight", "mlp.linear_fc2.weight")
PROJ, FC2 = f.PROJ, "mlp.linear_fc2.weight"
ALL = range(4)
EVERY = ("megatron", "torch_dist", "hf")


def case(name: str, source: Tiny | Real, *plants: tuple[str, Plant], **more: Any) -> Case:
    return Case(name, source, plants, **more)


def mended(name: str, source: Tiny | Real, *plants: tuple[str, Plant], **more: Any) -> Case:
    return Case(name, source, plants, mends=True, **more)


def p(call: Callable[..., None], *args: Any, **kw: Any) -> Plant:
    """Return a fault of these arguments."""
    return lambda n: call(n, *args, **kw)


def both(*plants: Plant) -> Plant:
    """Return several changes as one fault."""

    def plant(n: Native) -> None:
        for one in plants:
            one(n)

    return plant


def changed(change: Callable[[Tensor], Tensor], layer: int, *endings: str) -> Plant:
    """Return a change of every shard of a tensor."""
    return lambda n: n.change(change, layer, *endings)


ATTENTION = (
    mended("qkv_flat tp1 one layer", GQA_1, ("QKV-LAYOUT", p(f.qkv_flat, [2])), formats=EVERY),
    mended("qkv_flat tp2 all", GQA_22, ("QKV-LAYOUT", p(f.qkv_flat, ALL))),
    mended("qkv_flat mha tp4", Tiny({"tp": 4}, BIG), ("QKV-LAYOUT", p(f.qkv_flat, [0, 3]))),
    mended("qkv_flat_per_rank", GQA_2, ("QKV-LAYOUT", p(f.qkv_flat_per_rank, ALL)), formats=EVERY),
    case("qkv_flat_per_rank, one group a rank", GQA_4,
         ("", p(f.qkv_flat_per_rank, ALL)), invisible=True),
    mended("qkv_wrong_groups 2 of 4", GQA_1, ("QKV-LAYOUT", p(f.qkv_wrong_groups, [1], 2))),
    mended("qkv_wrong_groups 8 of 4", GQA_2, ("QKV-LAYOUT", p(f.qkv_wrong_groups, ALL, 8))),
    mended("qkv_v1_layout", GQA_2, ("QKV-LAYOUT", p(f.qkv_v1_layout, ALL)), formats=EVERY),
    mended("qkv_v1_layout qwen3", Tiny({"tp": 2}, QWEN3), ("QKV-LAYOUT", p(f.qkv_v1_layout, [0]))),
    mended("kv_swap all", GQA_22, ("QKV-SWAP", p(f.kv_swap, ALL)), formats=EVERY),
    mended("q and k exchanged, MHA", MHA_2, ("QKV-SWAP", p(f.qkv_order, [1], "kqv"))),
    mended("v first", GQA_1, ("QKV-SWAP", p(f.qkv_order, [3], "vqk"))),
    mended("kv_swap in weight and bias", Tiny({"tp": 2}, QWEN2),
           ("QKV-SWAP", both(p(f.kv_swap, [1]), p(f.qkv_order, [1], "qvk", f.QKV_BIAS)))),
    mended("q_head_stride", GQA_2, ("QKV-HEADMAP", p(f.q_head_stride, ALL)), formats=EVERY),
    mended("q_head_stride back", GQA_1, ("QKV-HEADMAP", p(f.q_head_stride, [1], back=True))),
    mended("proj_head_stride back", Tiny({"tp": 2}, {**BIG, "groups": 2}),
         ("QKV-HEADMAP", p(f.proj_head_stride, ALL, back=True))),
    mended("q_head_stride of 4 heads a group", Tiny({"tp": 2}, {**BIG, "groups": 2}),
         ("QKV-HEADMAP", p(f.q_head_stride, ALL))),
    case("q_head_stride, one head a group", MHA_2, ("", p(f.q_head_stride, ALL)), invisible=True),
    mended("proj_head_stride", GQA_2, ("QKV-HEADMAP", p(f.proj_head_stride, [2])), formats=EVERY),
    mended("q_head_stride and proj_head_stride", GQA_2, ("QKV-HEADMAP",
           both(p(f.q_head_stride, ALL), p(f.proj_head_stride, ALL)))),
    case("kv_replicate", GQA_2, ("KV-REPL", p(f.kv_replicate, ALL))),
    case("kv_replicate by 4", GQA_1, ("KV-REPL", p(f.kv_replicate, [1], 4))),
    mended("qkv_bias_flat", Tiny({"tp": 2, "pp": 2}, QWEN2),
         ("QKV-BIAS", p(f.qkv_bias_flat, [1, 3]))),
    case("qkv_bias_zero", Tiny({"tp": 2}, QWEN2), ("QKV-BIAS", p(f.qkv_bias_zero, ALL))),
    mended("qkv_flat in weight and bias", Tiny({}, QWEN2), ("QKV-LAYOUT",
           both(p(f.qkv_flat, ALL), p(f.qkv_bias_flat, ALL)))),
    mended("rope_hf_to_meta", GQA_22, ("ROPE-PERM", p(f.rope, ALL)), formats=EVERY),
    mended("rope_meta_to_hf", GQA_2, ("ROPE-PERM", p(f.rope, [2], f.to_hf))),
    mended("rope_k_only", MHA_2, ("ROPE-PERM", p(f.rope, ALL, which="k"))),
    mended("rope_k_wrong_heads", GQA_1, ("ROPE-PERM", p(f.rope_k_wrong_heads, [0])), formats=EVERY),
    mended("rope of q and k, k with wrong heads", GQA_2,
           ("ROPE-PERM", p(f.rope, ALL, k_heads=8))),
    mended("rope in weight and bias", Tiny({"tp": 2}, QWEN2), ("ROPE-PERM", p(f.rope_biased, ALL))),
)  # fmt: skip

MLP = (
    mended("gate_up_swap", GQA_2, ("FC1-SWAP", p(f.gate_up_swap, [1])), formats=EVERY),
    mended("gate_up_swap all", GQA_22, ("FC1-SWAP", p(f.gate_up_swap, ALL))),
    mended("expert_gate_up_swap", MOE, ("FC1-SWAP", p(f.expert_gate_up_swap, ALL))),
    mended("expert_gate_up_swap of one", MOE_2, ("FC1-SWAP", p(f.expert_gate_up_swap, [2], [1]))),
    mended("fc1_global_chunk tp2", GQA_2, ("FC1-TPLAYOUT", p(f.fc1_global_chunk, ALL)),
         formats=EVERY),
    mended("fc1_global_chunk tp4", GQA_4, ("FC1-TPLAYOUT", p(f.fc1_global_chunk, [3])),
         formats=EVERY),
    mended("fc1_merge_no_glu 4 to 1", GQA_1, ("FC1-TPLAYOUT", p(f.fc1_merge_no_glu, ALL, 4)),
         formats=EVERY),
    mended("fc1_merge_no_glu 8 to 2", GQA_2, ("FC1-TPLAYOUT", p(f.fc1_merge_no_glu, [0, 2], 8))),
    mended("fc1_interleave rows", GQA_2, ("FC1-INTERLEAVE", p(f.fc1_interleave, ALL)),
         formats=EVERY),
    mended("fc1_interleave 16", GQA_2, ("FC1-INTERLEAVE", p(f.fc1_interleave, [1], 16))),
    mended("fc1_interleave 32", GQA_1, ("FC1-INTERLEAVE", p(f.fc1_interleave, [1], 32))),
    mended("proj_transpose", GQA_2, ("TRANSPOSE", p(f.proj_transpose, [2])), formats=EVERY),
)  # fmt: skip

RANKS = (
    mended("tp_swap", Tiny({"tp": 4, "pp": 2}, BIG), ("TP-ORDER", p(f.tp_swap, 1, 3))),
    mended("tp_rotate", GQA_4, ("TP-ORDER", p(f.tp_rotate))),
    mended("tp_swap_tensor", GQA_4, ("TP-ORDER", p(f.tp_swap_tensor, 1, 0, 2, PROJ))),
    mended("tp_swap_tensor fc1", GQA_2, ("TP-ORDER", p(f.tp_swap_tensor, 0, 0, 1, f.FC1))),
    mended("tp_swap of experts too", MOE_2, ("TP-ORDER", p(f.tp_swap, 0, 1))),
    case("tp_dup_rank0", GQA_4, ("TP-DUP", p(f.tp_dup_rank0))),
    case("tp_dup_rank0 in a moe", MOE_2, ("TP-DUP", p(f.tp_dup_rank0))),
    case("etp_shard_lost", MOE_2, ("TP-DUP", p(m.etp_shard_lost, ALL))),
    mended("fc2_reshape_axis", GQA_2, ("TP-AXIS", p(f.fc2_reshape_axis, ALL))),
    mended("fc2_reshape_axis of proj", GQA_4, ("TP-AXIS", p(f.fc2_reshape_axis, [1], PROJ))),
    case("replica_drift", GQA_2, ("REPLICA", p(f.replica_drift, 1, 1, *f.INPUT_NORM))),
    case("replica_drift of rank 0", GQA_2, ("REPLICA", p(f.replica_drift, 2, 0, *f.MLP_NORM))),
    case("replica_drift of the router", MOE_2, ("REPLICA", p(f.replica_drift, 2, 1, f.ROUTER))),
    case("stale_shard", GQA_22, ("STALE", p(f.stale_shard, 1, 0))),
    case("stale_shard by little", Tiny({"tp": 4}, BIG), ("STALE", p(f.stale_shard, 2, 0, 0.02))),
)  # fmt: skip

PP4 = Tiny({"pp": 4}, BIG)
PP22 = Tiny({"tp": 2, "pp": 2, "names": "te"}, GQA)
EIGHT = {**BIG, "layers": 8}
LAYERS = (
    case("pp_offset_zero", PP22, ("LAYER-OFFSET", p(m.pp_offset_zero))),
    case("pp_offset_zero pp4", PP4, ("LAYER-OFFSET", p(m.pp_offset_zero))),
    mended("layer_shift", GQA_1, ("LAYER-OFFSET", p(m.layer_shift))),
    mended("layer_shift of 2, eight layers", Tiny({"pp": 2}, EIGHT),
         ("LAYER-OFFSET", p(m.layer_shift, 2))),
    mended("pp_swap", PP4, ("LAYER-ORDER", p(m.pp_swap, 0, 3))),
    mended("layer_swap", GQA_2, ("LAYER-ORDER", p(m.layer_swap, 1, 3)), formats=EVERY),
    mended("vpp_as_pp", Tiny({"pp": 2, "vpp": 2}, EIGHT), ("LAYER-ORDER", p(m.vpp_as_pp))),
    mended("layer_lexsort", Tiny({}, {**BIG, "layers": 12}), ("LAYER-ORDER", p(m.layer_lexsort))),
    mended("layer_swap in a moe", MOE_2, ("LAYER-ORDER", p(m.layer_swap, 0, 2))),
    case("layer_dup", GQA_2, ("LAYER-DUP", p(m.layer_dup, 3, 1)), formats=EVERY),
    case("layer_dup in a moe", MOE, ("LAYER-DUP", p(m.layer_dup, 0, 2))),
    case("layer 5 of 8 is 2", Tiny({"pp": 2, "tp": 2}, EIGHT), ("LAYER-DUP", p(m.layer_dup, 5, 2))),
    case("final_norm_missing", GQA_2, ("MISSING", p(m.delete, None, f.FINAL_NORM))),
)  # fmt: skip

VOCABULARY = (
    mended("vocab_shift", GQA_2, ("VOCAB-SHIFT", p(m.vocab_shift, 1)), formats=EVERY),
    case("vocab_shift back", GQA_1, ("VOCAB-SHIFT", p(m.vocab_shift, -3))),
    case("vocab_shift of the head", GQA_2, ("VOCAB-SHIFT", p(m.vocab_shift, 2, f.HEAD))),
    case("vocab_tail_lost", GQA_2, ("VOCAB-TRUNC", p(m.vocab_tail_lost, 9))),
    mended("vocab_pad_per_rank", GQA_2, ("VOCAB-PAD", p(m.vocab_pad_per_rank, 125))),
    mended("embed_head_swap", GQA_2, ("EMBED-HEAD", p(m.embed_head_swap)), formats=EVERY),
    case("head_is_embed", GQA_2, ("TIED", p(m.copied, f.EMBEDDING, f.HEAD)), formats=EVERY),
    case("head_stale, tied", Tiny({"tp": 2, "pp": 2}, QWEN3), ("TIED", p(m.head_stale))),
)  # fmt: skip

NORMS = (
    case("gamma_minus1", GQA_2, ("GAMMA-OFFSET", p(m.gamma, ALL, -1.0)), formats=EVERY),
    case("gamma_plus1 of one", GQA_22, ("GAMMA-OFFSET", p(m.gamma, [1], 1.0))),
    case("gamma_plus1 of the final norm", GQA_1,
         ("GAMMA-OFFSET", p(m.gamma, [None], 1.0, f.FINAL_NORM))),
    case("gamma_minus1 of q and k norms", Tiny({"tp": 2}, QWEN3),
         ("GAMMA-OFFSET", p(m.gamma, ALL, -1.0, "q_layernorm.weight", "k_layernorm.weight"))),
    mended("norm_swap", GQA_2, ("NORM-SWAP", p(m.norm_swap, ALL)), formats=EVERY),
    mended("norm_swap of one", GQA_22, ("NORM-SWAP", p(m.norm_swap, [2]))),
    mended("qk_norm_swap", Tiny({"tp": 2}, QWEN3), ("NORM-SWAP", p(m.qk_norm_swap, [0, 1]))),
    case("norm_ones", GQA_2, ("NOT-LOADED", p(m.ones, 2, *f.INPUT_NORM)), formats=EVERY),
    case("norm_ones of the final norm", GQA_2, ("NOT-LOADED", p(m.ones, None, f.FINAL_NORM))),
)  # fmt: skip

LOADED = (
    case("random_init", GQA_2, ("NOT-LOADED", p(m.random_init, 1, FC2)), formats=EVERY),
    case("random_init of qkv", GQA_22, ("NOT-LOADED", p(m.random_init, 3, f.QKV))),
    case("random_init of a layer", GQA_2,
         ("NOT-LOADED", both(*(p(m.random_init, 2, x) for x in MATRICES)))),
    case("expert_zero", MOE, ("NOT-LOADED", p(m.expert_zero, 1, 2))),
    case("expert_zero tp2", MOE_2, ("NOT-LOADED", p(m.expert_zero, 3, 0))),
    case("zeros in the router", MOE_2, ("NOT-LOADED", p(m.zeros, 3, f.ROUTER))),
    mended("expert_swap", MOE, ("EXPERT-ORDER", p(m.expert_swap, [1], 0, 3))),
    mended("expert_swap, all layers", MOE_2, ("EXPERT-ORDER", p(m.expert_swap, ALL, 1, 2))),
    mended("expert_stride", MOE, ("EXPERT-ORDER", p(m.expert_stride, ALL))),
    case("expert_local_index", MOE_2, ("EXPERT-DUP", p(m.expert_local_index, ALL))),
    mended("router_perm", MOE_2, ("ROUTER-ORDER", p(m.router_perm, [0], {0: 1, 1: 2, 2: 0}))),
    mended("router_perm everywhere", MOE, ("ROUTER-ORDER", p(m.router_perm, ALL, {0: 3, 3: 0}))),
    case("router and experts alike", MOE_2,
         ("EXPERT-ORDER", p(m.expert_swap, ALL, 1, 2)),
         ("ROUTER-ORDER", p(m.router_perm, ALL, {1: 2, 2: 1})), is_info=True),
)  # fmt: skip

VALUES = (
    case("fp16_roundtrip", Tiny({"tp": 2}, {**GQA, "dtype": torch.float32}),
         ("DTYPE", p(m.everything, m.through(torch.float16))), is_info=True),
    case("fp16_roundtrip of bf16", GQA_2,
         ("", p(m.everything, m.through(torch.float16))), allow=("DTYPE",)),
    case("fp16_overflow", GQA_2, ("DTYPE", p(m.overflow, 1, FC2))),
    case("fp8_scale_skipped", GQA_2, ("BLOCK-SCALE", changed(m.by_blocks, 1, FC2))),
    case("fp8_ue8m0", GQA_2, ("BLOCK-SCALE", changed(m.to_power_of_two, 1, PROJ))),
    case("fp8 codes", GQA_2, ("BLOCK-SCALE", both(*(changed(m.fp8_codes, x, FC2) for x in ALL)))),
    case("fp8 codes in large blocks", GQA_2, ("BLOCK-SCALE",
         both(*(changed(lambda w: m.fp8_codes(w, 128), x, e) for x in ALL for e in (FC2, PROJ,
         f.QKV))))),
    case("lora of q and v", GQA_1, ("LOW-RANK", p(m.lora_of_q_and_v, [0, 2]))),
    case("lora of q and v, tp2", GQA_2, ("LOW-RANK", p(m.lora_of_q_and_v, ALL))),
    case("vocab_tail repeated", GQA_2, ("VOCAB-TRUNC", p(m.vocab_tail_lost, 11, repeat=True))),
    case("random_init of all of a layer", GQA_2, ("NOT-LOADED",
         both(*(p(m.random_init, 2, x) for x in MATRICES), p(m.ones, 2, *f.INPUT_NORM),
         p(m.ones, 2, *f.MLP_NORM)))),
    case("random_init of the embedding", GQA_2,
         ("NOT-LOADED", p(m.random_init, None, f.EMBEDDING))),
    case("replica_drift by a factor", GQA_2, ("REPLICA", p(f.replica_scaled, ALL, 1))),
    case("inf everywhere", GQA_2, ("DTYPE", changed(lambda w: w * float("inf"), 1, PROJ))),
    case("lora_twice", GQA_1, ("LOW-RANK", p(m.lora, ALL, f.QKV)),
         formats=("megatron", "torch_dist")),
    case("lora_twice tp2", GQA_2, ("LOW-RANK", p(m.lora, [1], PROJ, 4, 1))),
    case("scaled", GQA_2, ("SCALE", p(f.scaled, [2], 0.5, PROJ))),
    case("scaled by no power of two", GQA_2, ("SCALE", p(f.scaled, ALL, 0.7071, PROJ))),
    case("negated", GQA_2, ("SCALE", p(f.scaled, [0], -1.0, FC2))),
    case("embedding scaled", GQA_2, ("SCALE", p(f.scaled, [None], 8.0, f.EMBEDDING))),
    case("cfg_rotary_base", GQA_2, ("", p(m.set_args, rotary_base=77777)), said="rotary_base"),
    case("cfg_norm_epsilon", GQA_2, ("", p(m.set_args, norm_epsilon=1e-6)), said="norm_epsilon"),
    case("cfg_rotary_interleaved", GQA_2, ("", p(m.set_args, rotary_interleaved=True)),
         said="rotary_interleaved"),
    case("cfg_rotary_percent", GQA_2, ("", p(m.set_args, rotary_percent=0.5)),
         said="rotary_percent"),
    case("cfg_rope_scaling", GQA_2, ("", p(m.set_args, use_rope_scaling=True)),
         said="use_rope_scaling"),
    case("cfg_layernorm_1p", GQA_2, ("", p(m.set_args, apply_layernorm_1p=True)),
         said="apply_layernorm_1p"),
    case("cfg_topk", MOE_2, ("", p(m.set_args, moe_router_topk=1)), said="moe_router_topk"),
)  # fmt: skip

ALIKE = (
    case("neurons", GQA_2, ("FC1-TPLAYOUT", p(o.neurons, [1, 2])), is_info=True, formats=EVERY),
    case("neurons of one expert", MOE_2, ("FC1-TPLAYOUT", p(o.neurons_of_expert, 1, 2)),
         is_info=True),
    case("neurons, but not of down", GQA_2, ("FC1-TPLAYOUT", p(o.neurons, ALL, down=False))),
    case("heads", GQA_2, ("QKV-HEADMAP", p(o.heads, [1])), is_info=True, formats=EVERY),
    case("heads and their biases", Tiny({"tp": 2}, QWEN2), ("QKV-HEADMAP", p(o.heads, ALL)),
         is_info=True),
    case("query heads alone", GQA_2, ("QKV-HEADMAP", p(o.heads, ALL, keys=False, out=False)),
         formats=EVERY),
    case("query heads and their biases alone", Tiny({"tp": 2}, QWEN2),
         ("QKV-HEADMAP", p(o.heads, [0, 2], keys=False, out=False))),
    case("rows of values", GQA_1, ("QKV-HEADMAP", p(o.values, [3])), is_info=True),
)  # fmt: skip

_SOUND = tuple(
    case(f"clean {i}", source, ("", lambda _: None), invisible=True)
    for i, source in enumerate(
        (
            MHA_1,
            GQA_22,
            GQA_4,
            MOE,
            MOE_2,
            Tiny({"tp": 2}, QWEN2),
            Tiny({"tp": 2, "pp": 2}, QWEN3),
            Tiny({"extra_state": "bytesio", "names": "te"}, GQA),
            Tiny({"optimizer": True, "tp": 2}, BIG),
            Tiny({"pp": 2, "vpp": 2}, EIGHT),
            Tiny({"tp": 4, "pad": "random"}, GQA),
            Tiny({"tp": 2, "pad": "zeros"}, QWEN2),
            Tiny({"extra_state": "tensor"}, BIG),
        )
    )
)
CLEAN = (
    *_SOUND,
    case("odd padding", GQA_2, ("", p(m.odd_padding, 125))),
    case("bf16 of fp32", Tiny({"tp": 2}, {**GQA, "dtype": torch.float32}),
         ("", p(m.everything, torch.Tensor.bfloat16)), allow=("DTYPE",)),
    case("trained", GQA_22, ("STALE", m.trained), is_info=True),
)  # fmt: skip

CASES = (*ATTENTION, *MLP, *RANKS, *LAYERS, *VOCABULARY, *NORMS, *LOADED, *VALUES, *ALIKE, *CLEAN)
# Cases that are not said as they are, and why.
MISSED: dict[str, str] = {}
