"""Which tensors megatron-core's own models ask a checkpoint for, by the args of the checkpoint.

`python -m tests.support.asked_names WHEEL`: WHEEL is a folder into which a wheel of megatron-core
was unpacked, or empty for the installed one. Standard input is an object of name to args; the last
line of standard output is one of name to what each model asks for. A model is built of the layer
specs of megatron-core, as Megatron-LM's gpt_builders.py and mamba_builders.py choose them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from argparse import Namespace
from contextlib import suppress
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException

from tests.support.oracle_args import DERIVED, RENAMED
from tests.support.stand_ins import prepare

# Kinds of position embeddings that matter to names; megatron-core has more.
POSITIONS = {"learned_absolute": "learned_absolute", "none": "none"}


def config_of(args: dict[str, Any]) -> Any:
    """Return the configuration that Megatron-LM's core_transformer_config_from_args builds."""
    module = import_module("megatron.core.transformer.transformer_config")
    cls: Any = module.TransformerConfig
    more: dict[str, Any] = {}
    if args["multi_latent_attention"]:
        cls = module.MLATransformerConfig
        more = {"q_lora_rank": args["q_lora_rank"]}  # None says that there is none
    known = {field.name for field in fields(cls)}
    renamed = {RENAMED.get(name, name): value for name, value in args.items()}
    shared = {n: v for n, v in renamed.items() if n in known and v is not None and n not in DERIVED}
    functional: Any = torch.nn.functional
    gated = bool(args.get("swiglu") or args.get("gated"))
    shared |= {
        "num_query_groups": args["num_query_groups"] if args["group_query_attention"] else None,
        "gated_linear_unit": gated,
        "activation_func": functional.silu if gated else functional.gelu,
        "layernorm_zero_centered_gamma": False,  # torch's norm has none; the names are the same
        "params_dtype": torch.float32,
        "bf16": False,
        "fp16": False,
        "use_cpu_initialization": True,
        "perform_initialization": False,
        "gradient_accumulation_fusion": False,
        "moe_token_dispatcher_type": "allgather",
    }
    return cls(**shared | more)


def layers(args: dict[str, Any], config: Any) -> tuple[Any, Any]:
    """Return the spec of the decoder, and that of the prediction layers or None."""
    specs = import_module("megatron.core.models.gpt.gpt_layer_specs")
    engine = args["transformer_impl"] == "transformer_engine"
    variants = import_module("megatron.core.models.gpt.experimental_attention_variant_module_specs")
    if args.get("experimental_attention_variant"):
        spec = variants.get_transformer_block_with_experimental_attention_variant_spec(config)
    elif args.get("num_experts"):
        spec = specs.get_gpt_decoder_block_spec(
            config, use_transformer_engine=engine, normalization=config.normalization
        )
    else:
        options = {
            "qk_layernorm": config.qk_layernorm,
            "multi_latent_attention": config.multi_latent_attention,
        }
        spec = (
            specs.get_gpt_layer_with_transformer_engine_spec(**options)
            if engine
            else specs.get_gpt_layer_local_spec(**options, normalization=config.normalization)
        )
    if not args.get("mtp_num_layers"):
        return spec, None
    newer = "get_transformer_layer_with_experimental_attention_variant_spec"
    if args.get("experimental_attention_variant") and hasattr(variants, newer):
        inner = getattr(variants, newer)(config=config)
    else:
        inner = specs.get_gpt_decoder_layer_specs(
            config, use_transformer_engine=engine, normalization=config.normalization
        )
    return spec, specs.get_gpt_mtp_block_spec(config, inner[-1], use_transformer_engine=engine)


def build(args: dict[str, Any]) -> Any:
    """Return the model that Megatron-LM builds from args."""
    config = config_of(args)
    common = {
        "vocab_size": args["padded_vocab_size"],
        "max_sequence_length": args["max_position_embeddings"],
        "position_embedding_type": POSITIONS.get(args["position_embedding_type"], "rope"),
        "share_embeddings_and_output_weights": not args["untie_embeddings_and_output_weights"],
    }
    if args.get("hybrid_override_pattern"):
        return hybrid(args, config, common)
    spec, predictions = layers(args, config)
    model = import_module("megatron.core.models.gpt").GPTModel(
        config, spec, mtp_block_spec=predictions, **common
    )
    for layer in model.decoder.layers:
        put_norms(layer, args)
    return model


def hybrid(args: dict[str, Any], config: Any, common: dict[str, Any]) -> Any:
    """Return a model with Mamba layers; local parts are in ModelOpt's spec alone."""
    pattern = args["hybrid_override_pattern"]
    newer = find_spec("megatron.core.models.hybrid") is not None
    kind, model = ("hybrid", "Hybrid") if newer else ("mamba", "Mamba")
    if args["transformer_impl"] == "local":
        specs = import_module(f"megatron.core.post_training.modelopt.{kind}.model_specs")
        stack = getattr(specs, f"get_{kind}_stack_modelopt_spec")(local_core_attention=True)
    else:
        specs = import_module(f"megatron.core.models.{kind}.{kind}_layer_specs")
        stack = getattr(specs, f"{kind}_stack_spec")
    module = import_module(f"megatron.core.models.{kind}.{kind}_model")
    common["hybrid_layer_pattern" if newer else "hybrid_override_pattern"] = pattern
    return getattr(module, f"{model}Model")(config, stack, **common)


def put_norms(layer: Any, args: dict[str, Any]) -> None:
    """Move and widen norms, for what args have no word of: as Megatron-Bridge's classes have them.

    `norms` is "behind" or "behind alone" of norms behind attention and MLP; with `wide_qk_norm` the
    norms of queries and keys span all heads.
    """
    attention, mlp = layer.self_attention, layer.mlp
    engine = args["transformer_impl"] == "transformer_engine"
    if args.get("wide_qk_norm"):
        for norm, heads in (("q", "num_attention_heads"), ("k", "num_query_groups")):
            size = args["kv_channels"] * args[heads]
            getattr(attention, f"{norm}_layernorm").weight = torch.nn.Parameter(torch.ones(size))
    if not args.get("norms"):
        return
    for linear in (attention.linear_proj, mlp.linear_fc2):
        stand_ins = import_module("tests.support.stand_ins")
        norm = stand_ins.RMSNorm if engine else stand_ins.Norm
        linear.post_layernorm = norm(args["hidden_size"])
    if args["norms"] == "behind alone":
        identity = import_module("megatron.core.transformer.identity_op").IdentityOp
        layer.input_layernorm = layer.pre_mlp_layernorm = identity()
        if engine:
            attention.linear_qkv.layer_norm_weight = mlp.linear_fc1.layer_norm_weight = None


def take_channels() -> None:
    """Let latent attention tell local attention how wide values are, as it tells any.

    Local attention takes no such arguments, so no release builds the two together.
    """
    module = import_module("megatron.core.transformer.dot_product_attention")
    local: Any = module.DotProductAttention
    plain = local.__init__

    def init(self: Any, *args: Any, **rest: Any) -> None:
        plain(self, *args, **{n: v for n, v in rest.items() if not n.endswith("_channels")})

    local.__init__ = init


def asked(args: dict[str, Any]) -> dict[str, Any]:
    """Return names and shapes that a model asks for, in both formats, and the names of states."""
    model = build(args)
    mapping = import_module("megatron.core.dist_checkpointing.mapping")
    utils = import_module("megatron.core.dist_checkpointing.dict_utils")
    groups = import_module("megatron.core.parallel_state")
    metadata = {
        "dp_cp_group": groups.get_data_parallel_group(with_context_parallel=True),
        "singleton_local_shards": False,
    }
    sharded = model.sharded_state_dict(metadata=metadata)
    mapping.apply_factories(sharded)
    whole: dict[str, Any] = {}
    states = []
    for entry in utils.nested_values(sharded):
        if isinstance(entry, mapping.ShardedTensor):
            whole[entry.key] = list(entry.global_shape)
        elif isinstance(entry, mapping.ShardedObject):
            states.append(entry.unique_key)
    saved = model.state_dict_for_save_checkpoint()
    return {
        "different": different(model, metadata, args),
        "torch_dist": whole,
        "states": sorted(states),
        "megatron": {
            n: list(v.shape) for n, v in saved.items() if torch.is_tensor(v) and "_extra" not in n
        },
        "rank states": sorted(name for name in saved if "_extra_state" in name),
    }


def different(model: Any, metadata: dict[str, Any], args: dict[str, Any]) -> list[str]:
    """Return the tensors that the model has otherwise once it has loaded a distributed checkpoint.

    It is that of the folder `whole` in args; the file `ranks` has the same for a single rank.
    Raises what loading raises, of a name that is asked for and not there.
    """
    checkpointing = import_module("megatron.core.dist_checkpointing")
    loaded = checkpointing.load(model.sharded_state_dict(metadata=metadata), args["whole"])
    tensors = {n: v for n, v in loaded.items() if torch.is_tensor(v)}
    with torch.no_grad():
        model.load_state_dict(tensors, strict=False)
    wanted = torch.load(args["ranks"], weights_only=True)["model"]
    found = model.state_dict()
    return [
        n
        for n, v in wanted.items()
        if torch.is_tensor(v) and (n not in found or not torch.equal(v, found[n]))
    ]


def main(wheel: str) -> None:
    prepare(wheel, engine=True)
    take_channels()
    torch.serialization.add_safe_globals([Namespace])
    with suppress(ImportError):  # older releases have none
        delta: Any = import_module("megatron.core.ssm.gated_delta_net")
        delta.HAVE_FLA = True
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1
        )
        import_module("megatron.core.parallel_state").initialize_model_parallel(1, 1)
        found: dict[str, Any] = {}
        for name, args in json.load(sys.stdin).items():
            try:
                found[name] = asked(args)
            except (Exception, CheckpointException) as error:  # noqa: BLE001 -- one model that it refuses hides no other
                found[name] = {"error": f"{type(error).__name__}: {error}"}
        torch.distributed.destroy_process_group()
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
