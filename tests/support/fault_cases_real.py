"""Faults in checkpoints that NVIDIA's code wrote: other families, experts, stages, formats."""

from __future__ import annotations

import torch

from tests.support import faults as f
from tests.support import faults_model as m
from tests.support import faults_order as o
from tests.support.fault_cases import EVERY, FC2, PROJ, Real, both, case, changed, mended, p

DEEPSEEK = Real("deepseek-v3/megatron-tp2-pp1-ep2-torch")
DEEPSEEK_1 = Real("deepseek-v3/megatron-tp1-pp1-torch")
DEEPSEEK_PP = Real("deepseek-v3/megatron-tp2-pp2-ep2-torch")
GPT2 = Real("gpt2/megatron-tp2-pp1-torch")
GPT2_TE = Real("gpt2/megatron-tp2-pp2-te-torch")
NEMOTRON = Real("nemotron/megatron-tp2-pp1-torch")
NEMOTRON_PP = Real("nemotron/megatron-tp2-pp2-torch")
UNEVEN = Real("llama-5l/megatron-tp1-pp3-first1-last2-torch")
LAYOUT = Real("llama-5l/megatron-tp1-pp2-vpp3-layout-r0.14-torch")
VPP = Real("llama2-8l/megatron-tp2-pp2-vpp4-torch")
TP8 = Real("llama2/megatron-tp8-pp1-core-local")
TP8_TE = Real("llama2/megatron-tp8-pp2-core-transformer_engine-te2")
GROUPED = Real("mixtral/megatron-tp2-pp1-ep2-groupedmlp-torch")
ETP1 = Real("mixtral-etp/megatron-tp2-pp1-ep2-etp1-torch")
ETP2 = Real("mixtral-etp/megatron-tp4-pp1-ep2-etp2-torch")
QWEN2MOE = Real("qwen2moe/megatron-tp2-pp1-ep2-torch")
QWEN3MOE = Real("qwen3moe/megatron-tp2-pp1-ep2-torch")
QWEN3 = Real("qwen3/megatron-tp2-pp2-torch")
QWEN2 = Real("qwen2/megatron-tp2-pp2-core-local")
QWEN2_1 = Real("qwen2/megatron-tp1-pp2-core-transformer_engine-te2")
FP32 = Real("llama3-fp32/megatron-tp2-pp1-core-local-fp32")
LLAMA3 = Real("llama3/megatron-tp2-pp2-core-transformer_engine-te1")
MISTRAL4 = Real("mistral/megatron-tp4-pp1-core-local")
EP4 = Real("mixtral/megatron-tp1-pp2-ep4-core-transformer_engine-te1")
ALL = range(4)
SHARED = "shared_experts.linear_fc1.weight"

REAL = (
    mended("gpt2 qkv_flat", GPT2, ("QKV-LAYOUT", p(f.qkv_flat, ALL))),
    mended("gpt2 qkv_v1_layout", GPT2_TE, ("QKV-LAYOUT", p(f.qkv_v1_layout, ALL))),
    mended("gpt2 kv_swap", GPT2, ("QKV-SWAP", p(f.kv_swap, [1]))),
    mended("gpt2 qkv_bias_flat", GPT2, ("QKV-BIAS", p(f.qkv_bias_flat, ALL))),
    mended("gpt2 tp_swap", GPT2_TE, ("TP-ORDER", p(f.tp_swap, 0, 1))),
    mended("gpt2 fc2_reshape_axis", GPT2, ("TP-AXIS", p(f.fc2_reshape_axis, [1]))),
    case("gpt2 rowbias_scaled", GPT2, ("BIAS-SCALE",
         both(*(p(f.scaled, ALL, 2.0, x) for x in ("linear_proj.bias", "linear_fc2.bias"))))),
    mended("gpt2 layer_swap", GPT2_TE, ("LAYER-ORDER", p(m.layer_swap, 0, 3))),
    case("gpt2 head_stale", GPT2_TE, ("TIED", p(m.head_stale))),
    case("gpt2 neurons", GPT2_TE, ("FC1-TPLAYOUT", p(o.neurons, [0, 2])), is_info=True),
    case("gpt2 heads", GPT2, ("QKV-HEADMAP", p(o.heads, ALL)), is_info=True),
    case("nemotron neurons", NEMOTRON, ("FC1-TPLAYOUT", p(o.neurons, ALL)), is_info=True),
    case("gpt2 stale_shard and layer_swap", GPT2_TE, ("STALE", p(f.stale_shard, 1, 0)),
         ("LAYER-ORDER", p(m.layer_swap, 0, 3))),
    case("gpt2 stale_shard with the head and layer_swap", GPT2_TE,
         ("STALE", p(f.stale_shard, 1, 1)), ("LAYER-ORDER", p(m.layer_swap, 0, 3))),
    mended("nemotron qkv_flat", NEMOTRON, ("QKV-LAYOUT", p(f.qkv_flat, [0, 1]))),
    mended("nemotron rope", NEMOTRON_PP, ("ROPE-PERM", p(f.rope, ALL))),
    case("nemotron gamma_minus1", NEMOTRON, ("GAMMA-OFFSET", p(m.gamma, ALL, -1.0))),
    case("nemotron gamma_plus1 of norms", NEMOTRON_PP, ("GAMMA-OFFSET", p(m.gamma, [2, 3], 1.0))),
    mended("nemotron embed_head_swap", NEMOTRON, ("EMBED-HEAD", p(m.embed_head_swap))),
    mended("nemotron fc1 cut wrongly", NEMOTRON, ("TP-AXIS", p(f.fc1_axis, [2]))),
    mended("deepseek expert_swap", DEEPSEEK, ("EXPERT-ORDER", p(m.expert_swap, [2], 1, 6))),
    mended("deepseek expert_stride", DEEPSEEK_PP, ("EXPERT-ORDER", p(m.expert_stride, [1, 2, 3]))),
    mended("deepseek expert_gate_up_swap", DEEPSEEK, ("FC1-SWAP", p(f.expert_gate_up_swap, [3]))),
    mended("deepseek shared_gate_up_swap", DEEPSEEK,
         ("FC1-SWAP", p(f.shared_gate_up_swap, [1, 2]))),
    case("deepseek router_bias_zero", DEEPSEEK,
         ("NOT-LOADED", p(m.zeros, 2, "router.expert_bias"))),
    case("deepseek router_bias_bf16", DEEPSEEK_1, ("DTYPE",
         both(*(changed(m.through(torch.bfloat16), x, "router.expert_bias") for x in (1, 2, 3)))),
         is_info=True),
    mended("deepseek eh_proj halves", DEEPSEEK_1, ("MTP-LAYOUT", p(m.eh_proj_halves))),
    mended("deepseek eh_proj halves tp2", DEEPSEEK, ("MTP-LAYOUT", p(m.eh_proj_halves))),
    case("deepseek expert_local_index", DEEPSEEK,
         ("EXPERT-DUP", p(m.expert_local_index, [1, 2, 3]))),
    mended("deepseek tp_swap", DEEPSEEK_PP, ("TP-ORDER", p(f.tp_swap, 0, 1))),
    mended("deepseek layer_swap", DEEPSEEK, ("LAYER-ORDER", p(m.layer_swap, 1, 3))),
    case("deepseek q norm ones", DEEPSEEK,
         ("NOT-LOADED", p(m.ones, 1, "q_layernorm.weight", "linear_q_up_proj.layer_norm_weight"))),
    case("deepseek kv norm gamma", DEEPSEEK, ("GAMMA-OFFSET",
         p(m.gamma, ALL, -1.0, "kv_layernorm.weight", "linear_kv_up_proj.layer_norm_weight"))),
    mended("deepseek vocab_shift", DEEPSEEK, ("VOCAB-SHIFT", p(m.vocab_shift, 1))),
    case("uneven pp_offset_zero", UNEVEN, ("LAYER-OFFSET", p(m.pp_offset_zero))),
    mended("uneven layer_swap", UNEVEN, ("LAYER-ORDER", p(m.layer_swap, 0, 4))),
    mended("layout layer_shift", LAYOUT, ("LAYER-OFFSET", p(m.layer_shift))),
    mended("vpp_as_pp of four", VPP, ("LAYER-ORDER", p(m.vpp_as_pp))),
    mended("vpp kv_swap", VPP, ("QKV-SWAP", p(f.kv_swap, [1, 6]))),
    mended("tp8 swap of 1 and 6", TP8, ("TP-ORDER", p(f.tp_swap, 1, 6))),
    mended("tp8 rotate", TP8, ("TP-ORDER", p(f.tp_rotate))),
    case("tp8 dup", TP8_TE, ("TP-DUP", p(f.tp_dup_rank0))),
    mended("tp8 fc1_global_chunk", TP8, ("FC1-TPLAYOUT", p(f.fc1_global_chunk, ALL)),
         formats=EVERY),
    case("tp8 stale_shard", TP8_TE, ("STALE", p(f.stale_shard, 5, 1))),
    mended("tp8 interleave of 2", TP8, ("FC1-INTERLEAVE", p(f.fc1_interleave, ALL, 2))),
    case("grouped as a stack", GROUPED, ("EXPERT-LAYOUT", p(m.grouped_as_stack, ALL))),
    case("grouped transposed", GROUPED, ("EXPERT-LAYOUT", p(m.grouped_transposed, ALL))),
    mended("etp1 expert_swap", ETP1, ("EXPERT-ORDER", p(m.expert_swap, [0, 1], 0, 3))),
    mended("etp2 expert_gate_up_swap", ETP2, ("FC1-SWAP", p(f.expert_gate_up_swap, [1]))),
    case("etp2 shard lost", ETP2, ("TP-DUP", p(m.etp_shard_lost, [0, 1]))),
    mended("etp1 tp_swap", ETP1, ("TP-ORDER", p(f.tp_swap, 0, 1))),
    case("ep4 expert_zero", EP4, ("NOT-LOADED", p(m.expert_zero, 2, 3))),
    case("ep4 expert_local_index", EP4, ("EXPERT-DUP", p(m.expert_local_index, ALL))),
    mended("ep4 expert_stride of one layer", EP4, ("EXPERT-ORDER", p(m.expert_swap, [3], 2, 1))),
    mended("qwen2moe shared_gate_up_swap", QWEN2MOE, ("FC1-SWAP", p(f.shared_gate_up_swap, ALL))),
    mended("qwen2moe router_perm", QWEN2MOE, ("ROUTER-ORDER", p(m.router_perm, [1], {0: 3, 3: 0}))),
    mended("qwen2moe fc1_global_chunk of shared", QWEN2MOE,
         ("FC1-TPLAYOUT", p(f.shared_chunk, [0]))),
    case("qwen2moe qkv_bias_zero", QWEN2MOE, ("QKV-BIAS", p(f.qkv_bias_zero, [0, 2]))),
    mended("qwen3moe qk_norm_swap", QWEN3MOE, ("NORM-SWAP", p(m.qk_norm_swap, ALL))),
    case("qwen3moe alike", QWEN3MOE, ("EXPERT-ORDER", p(m.expert_swap, [1], 2, 5)),
         ("ROUTER-ORDER", p(m.router_perm, [1], {2: 5, 5: 2})), is_info=True),
    mended("qwen3 rope", QWEN3, ("ROPE-PERM", p(f.rope, ALL))),
    case("qwen3 head_stale", QWEN3, ("TIED", p(m.head_stale))),
    case("qwen2 head random", QWEN2, ("TIED", p(m.random_init, None, f.HEAD))),
    case("qwen2 pp_offset_zero", QWEN2_1, ("LAYER-OFFSET", p(m.pp_offset_zero))),
    mended("qwen2 flat per rank", QWEN2, ("QKV-LAYOUT", p(f.qkv_flat, [1]))),
    mended("qwen2 wrong groups", QWEN2, ("QKV-LAYOUT", p(f.qkv_wrong_groups, ALL, 4))),
    case("qwen2 kv_replicate", QWEN2, ("KV-REPL", p(f.kv_replicate, ALL))),
    mended("fp32 qkv_flat", FP32, ("QKV-LAYOUT", p(f.qkv_flat, [0]))),
    case("fp32 through fp16", FP32, ("DTYPE", p(m.everything, m.through(torch.float16))),
         is_info=True),
    case("fp32 gamma_plus1", FP32, ("GAMMA-OFFSET", p(m.gamma, [1], 1.0))),
    mended("fp32 bf16 and kv_swap", FP32, ("", p(m.everything, torch.Tensor.bfloat16)),
         ("QKV-SWAP", p(f.kv_swap, [0])), allow=("DTYPE",)),
    case("llama3 vocab_tail_lost", LLAMA3, ("VOCAB-TRUNC", p(m.vocab_tail_lost, 40))),
    case("llama3 stale", LLAMA3, ("STALE", p(f.stale_shard, 0, 1, 0.05))),
    case("llama3 final norm gone", LLAMA3, ("MISSING", p(m.delete, None, f.FINAL_NORM))),
    mended("mistral pad per rank", MISTRAL4, ("VOCAB-PAD", p(m.vocab_pad_per_rank, 500))),
    case("mistral dup and swap", MISTRAL4, ("LAYER-DUP", p(m.layer_dup, 2, 0)),
         ("FC1-SWAP", p(f.gate_up_swap, [3]))),
    case("mistral proj random", MISTRAL4, ("NOT-LOADED", p(m.random_init, 0, PROJ))),
    case("mistral block scale everywhere", MISTRAL4,
         ("BLOCK-SCALE", both(*(changed(m.by_blocks, x, FC2) for x in ALL)))),
)  # fmt: skip
