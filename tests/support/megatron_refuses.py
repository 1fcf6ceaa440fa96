"""What megatron-core says to a plan: `python -m tests.support.megatron_refuses [WHEEL]`.

Standard input is a list of plans: args, and the layers asked for on the first and the last stage.
Standard output is a list of what each was refused with, or null. Each plan's configuration is
built, its process groups by a backend that only counts ranks, and its model without data. WHEEL is
a folder with another megatron-core than the one installed.
"""

from __future__ import annotations

import json
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from math import lcm
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.support.by_channels import by_channels
from tests.support.stand_ins import prepare

# Fields of the configuration that have args of the same name, and of another one.
SAME = (
    *("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "kv_channels"),
    *("add_bias_linear", "add_qkv_bias", "moe_ffn_hidden_size", "moe_layer_freq"),
    *("moe_shared_expert_intermediate_size", "q_lora_rank", "kv_lora_rank", "qk_head_dim"),
    *("qk_pos_emb_head_dim", "v_head_dim", "linear_num_key_heads", "linear_num_value_heads"),
    *("linear_key_head_dim", "linear_value_head_dim", "linear_conv_kernel_dim"),
    *("linear_attention_freq", "experimental_attention_variant", "attention_output_gate"),
    *("mamba_num_heads", "mamba_head_dim", "mamba_num_groups", "mamba_state_dim"),
    *("mtp_num_layers", "tensor_model_parallel_size", "pipeline_model_parallel_size"),
    *("virtual_pipeline_model_parallel_size", "expert_model_parallel_size"),
    "expert_tensor_parallel_size",
)
OTHERWISE = {
    "num_experts": "num_moe_experts",
    "swiglu": "gated_linear_unit",
    "decoder_first_pipeline_num_layers": "num_layers_in_first_pipeline_stage",
    "decoder_last_pipeline_num_layers": "num_layers_in_last_pipeline_stage",
}


def join(args: dict[str, Any]) -> None:
    """Be the first of as many processes as the plan needs."""
    tp, pp, ep, etp = (
        args[f"{name}_parallel_size"]
        for name in ("tensor_model", "pipeline_model", "expert_model", "expert_tensor")
    )
    torch.distributed.init_process_group(
        "fake", store=FakeStore(), rank=0, world_size=pp * lcm(tp, etp * ep)
    )
    import_module("megatron.core.parallel_state").initialize_model_parallel(
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        virtual_pipeline_model_parallel_size=args["virtual_pipeline_model_parallel_size"],
        expert_model_parallel_size=ep,
        expert_tensor_parallel_size=etp,
        create_gloo_process_groups=False,
    )


def leave() -> None:
    if torch.distributed.is_initialized():
        import_module("megatron.core.parallel_state").destroy_model_parallel()
        torch.distributed.destroy_process_group()


def configuration(args: dict[str, Any]) -> Any:
    transformer = import_module("megatron.core.transformer")
    latent = bool(args.get("multi_latent_attention"))
    cls: Any = transformer.MLATransformerConfig if latent else transformer.TransformerConfig
    names = {**{name: name for name in SAME}, **OTHERWISE}
    known = cls.__dataclass_fields__
    options = {
        field: args[name]
        for name, field in names.items()
        if args.get(name) is not None and field in known
    }
    if latent:
        options["q_lora_rank"] = args.get("q_lora_rank")  # None: queries are not compressed
    if "num_moe_experts" in options:
        options |= {"moe_router_topk": 1, "moe_router_pre_softmax": True}
        options["moe_token_dispatcher_type"] = "alltoall"
    else:
        options = {n: v for n, v in options.items() if not n.startswith("moe_")}
    return cls(
        **options,
        num_query_groups=args["num_query_groups"] if args["group_query_attention"] else None,
        use_cpu_initialization=True,
        perform_initialization=False,
        params_dtype=torch.float32,
        pipeline_dtype=torch.float32,
        gradient_accumulation_fusion=False,
        bias_dropout_fusion=False,
    )


def build(args: dict[str, Any]) -> None:
    """Build what the first process of a plan builds; raise what megatron-core raises."""
    config = configuration(args)
    join(args)
    # Of gated DeltaNet the configuration knows all sizes; it is built as plain attention.
    config.experimental_attention_variant = config.linear_attention_freq = None
    with torch.device("meta"):
        if pattern := args.get("hybrid_override_pattern"):
            build_hybrid(config, args, pattern)
        else:
            build_plain(config, args)


def check_stages(counts: list[int], num_layers: int) -> None:
    """Refuse what Megatron builds without a word: layers left out, or twice, or an empty stage."""
    is_whole = sum(counts) == num_layers and min(counts) > 0
    assert is_whole, f"Megatron builds {counts} layers of {num_layers}"


def build_plain(config: Any, args: dict[str, Any]) -> None:
    block = import_module("megatron.core.transformer.transformer_block")
    specs: Any = import_module("megatron.core.models.gpt.gpt_layer_specs")
    spec_of = import_module("megatron.core.transformer.spec_utils")
    vpp = args["virtual_pipeline_model_parallel_size"]
    state = import_module("megatron.core.parallel_state")
    counts = []
    for stage in range(args["pipeline_model_parallel_size"]):
        state.set_pipeline_model_parallel_rank(stage)
        chunks = range(vpp) if vpp else [None]
        counts += [block.get_num_layers_to_build(config, vp_stage=chunk) for chunk in chunks]
    state.set_pipeline_model_parallel_rank(None)
    check_stages(counts, config.num_layers)
    chunk = vpp - 1 if vpp else None  # the last one, where prediction layers are
    spec = specs.get_gpt_decoder_block_spec(config, use_transformer_engine=False, vp_stage=chunk)
    # Of the layers of other stages, one of each kind.
    frequency = config.moe_layer_freq if config.num_moe_experts else [0]
    kinds = [
        specs.get_gpt_layer_local_spec(
            num_experts=config.num_moe_experts if kind else None,
            moe_grouped_gemm=False,
            multi_latent_attention=config.multi_latent_attention,
        )
        for kind in sorted(set(frequency if isinstance(frequency, list) else [1]))
    ]
    for layer in (*spec.layer_specs, *kinds):
        if config.multi_latent_attention:
            layer.submodules.self_attention.submodules.core_attention = by_channels()
    for layer in kinds:
        spec_of.build_module(layer, config=config, layer_number=1, vp_stage=chunk)
    parts = {}
    if args.get("mtp_num_layers"):
        prediction: Any = import_module("megatron.core.transformer.multi_token_prediction")
        # The last stage has it; here it is put on the first.
        prediction.get_mtp_num_layers_to_build = lambda *a, **k: config.mtp_num_layers
        specs.get_mtp_num_layers_to_build = prediction.get_mtp_num_layers_to_build
        module: Any = import_module("megatron.core.models.gpt.gpt_model")
        module.mtp_on_this_rank = lambda *a, **k: True  # which 0.16 does not ask
        parts["mtp_block_spec"] = specs.get_gpt_mtp_block_spec(
            config, spec.layer_specs[-1], use_transformer_engine=False, vp_stage=chunk
        )
        assert parts["mtp_block_spec"] is not None
    import_module("megatron.core.models.gpt").GPTModel(
        config,
        spec,
        vocab_size=args["padded_vocab_size"],
        max_sequence_length=64,
        position_embedding_type="none",
        share_embeddings_and_output_weights=False,
        vp_stage=chunk,
        **parts,
    )


def build_hybrid(config: Any, args: dict[str, Any], pattern: str) -> None:
    """Build one layer of each kind that the pattern has, and the embedding."""
    if args["virtual_pipeline_model_parallel_size"]:
        raise ValueError("a hybrid model is built without virtual stages")
    pp = args["pipeline_model_parallel_size"]
    counts = [layers_of_hybrid(config, pattern, stage, pp) for stage in range(pp)]
    check_stages(counts, config.num_layers)
    parallel = import_module("megatron.core.tensor_parallel")
    specs = import_module("megatron.core.models.gpt.gpt_layer_specs")
    groups = import_module("megatron.core.process_groups_config").ProcessGroupCollection
    collection = groups.use_mpu_process_groups()
    spec_of = import_module("megatron.core.transformer.spec_utils")
    local = specs.get_gpt_layer_local_spec
    for letter in sorted(set(pattern)):
        if letter == "M":
            mixer: Any = import_module("megatron.core.ssm.mamba_mixer")
            mixer.MambaMixer(
                config,
                mixer.MambaMixerSubmodules(
                    in_proj=parallel.ColumnParallelLinear, out_proj=parallel.RowParallelLinear
                ),
                d_model=config.hidden_size,
                layer_number=1,
                pg_collection=collection,
            )
        else:
            routed = {"num_experts": config.num_moe_experts} if letter == "E" else {}
            layer = local(**routed, moe_grouped_gemm=False)
            if letter == "*":  # of attention alone
                nothing = import_module("megatron.core.transformer.identity_op").IdentityOp
                layer.submodules.mlp = nothing
            spec_of.build_module(layer, config=config, layer_number=1)
    parallel.VocabParallelEmbedding(
        args["padded_vocab_size"],
        config.hidden_size,
        init_method=config.init_method,
        config=config,
        tp_group=collection.tp,
    )


def layers_of_hybrid(config: Any, pattern: str, stage: int, pp: int) -> int:
    """Return how many layers of a hybrid model a stage builds."""
    if find_spec("megatron.core.models.hybrid") is None:  # before 0.18
        stack = import_module("megatron.core.ssm.mamba_block").MambaStack
        group: Any = SimpleNamespace(rank=lambda: stage, size=lambda: pp)
        asks = SimpleNamespace(config=config, pp_group=group)
        return len(stack._select_layers_for_pipeline_parallel(asks, list(pattern))[1])
    allocation = import_module("megatron.core.models.hybrid.hybrid_layer_allocation")
    group, distributed = object(), torch.distributed
    with (
        patch.object(distributed, "get_rank", lambda *a, **k: stage),
        patch.object(distributed, "get_world_size", lambda *a, **k: pp),
    ):
        layers, _ = allocation.select_pipeline_segment(
            pattern,
            group,
            None,
            config.num_layers_in_first_pipeline_stage,
            config.num_layers_in_last_pipeline_stage,
        )
    return len(layers)


def answer(args: dict[str, Any]) -> str | None:
    try:
        build(args)
    except (ValueError, AssertionError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        leave()
    return None


def main(wheel: str = "") -> None:
    warnings.filterwarnings("ignore")
    prepare(wheel)
    torch.set_grad_enabled(False)
    cuda: Any = torch.cuda
    cuda.Stream = lambda *args, **named: None
    torch.Tensor.cuda = lambda self, *args, **named: self  # type: ignore[method-assign]
    answers = [answer(args) for args in json.load(sys.stdin)]
    version = import_module("megatron.core").__version__
    sys.stdout.write(json.dumps({"version": version, "answers": answers}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
