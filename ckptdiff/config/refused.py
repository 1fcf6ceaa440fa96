"""Settings with which a side's program builds or loads no model, so that it computes no logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint import as_of_text
from ckptdiff.config.keys_read import KEYS
from ckptdiff.text import config_value_text, plural

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptdiff.assembly.recipe import Assembled

# Keys for which transformers 5 wants true or false, where the class of a model type reads them.
_SWITCHES = frozenset(
    {
        *("attention_bias", "attention_out_bias", "mlp_bias", "qkv_bias"),
        *("use_bias", "use_conv_bias", "use_qk_norm"),
        *("use_sliding_window", "use_bidirectional_attention", "norm_topk_prob"),
        *("rope_interleave", "scale_attn_weights", "scale_attn_by_inverse_layer_idx"),
        *("use_parallel_residual", "add_cross_attention"),
    }
)
_OF_EVERY_CLASS = frozenset({"use_cache", "tie_word_embeddings"})
# Those that may be null too, and for which model types.
_OR_NULL = {
    "norm_topk_prob": ("deepseek_v2", "deepseek_v3"),
    "rope_interleave": ("deepseek_v3",),
    "use_bidirectional_attention": ("gemma3_text",),
    **dict.fromkeys(("use_bias", "use_cache"), ("ernie4_5",)),
}
# Keys for which transformers 5 wants a number with a point, where the class of a model type has
# them: of those it computes with, and of others.
_FLOATS = frozenset(
    {
        *("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps"),
        *("attn_logit_softcapping", "final_logit_softcapping", "clip_qkv", "time_step_min"),
        *("routed_scaling_factor", "swiglu_alpha", "swiglu_limit"),
    }
)
_FLOAT_OF_EVERY_CLASS = "initializer_range"
_UNUSED_FLOATS = {
    "router_aux_loss_coef": (
        *("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "olmoe", "qwen3_next"),
        *("qwen3_5_moe_text", "minimax_m2"),
    ),
    "router_jitter_noise": ("mixtral", "minimax_m2"),
    "attention_dropout": ("deepseek_v2",),
    "attn_logit_softcapping": ("gemma3_text",),
    "time_step_floor": ("nemotron_h",),
    "time_step_max": ("nemotron_h",),
}
_OR_WHOLE = {"routed_scaling_factor": ("nemotron_h",)}  # takes whole numbers too
# Switches of Megatron-LM's args that it asserts to be off beside swiglu, and their releases.
# Source: core_transformer_config_from_args in megatron/training.
_BESIDE_SWIGLU = ("squared_relu", "quick_geglu")
_TABLES = ("transformer.wpe.weight", "wpe.weight")


def refused(side: Assembled) -> Iterator[str]:
    """Yield why the program of a side refuses its config or args, a clause each."""
    config = side.checkpoint.config or {}
    if side.checkpoint.convention == "hf":
        yield from _by_transformers(as_of_text(config))
        yield from _of_table(side, as_of_text(config), "transformers")
    if side.checkpoint.convention == "megatron":
        if side.checkpoint.config_file is None:  # classes of a YAML are built without args
            yield from _by_megatron_lm(config)
        yield from _of_table(side, config, "Megatron")
        yield from _of_biases(side)


def _by_transformers(config: Mapping[str, Any]) -> Iterator[str]:
    kind = str(config.get("model_type"))
    if kind not in KEYS:
        return
    for name in sorted((_SWITCHES & KEYS[kind]) | _OF_EVERY_CLASS):
        value = config.get(name, False)
        if isinstance(value, bool) or (value is None and kind in _OR_NULL.get(name, ())):
            continue
        yield (
            f"transformers 5 refuses {name} {config_value_text(value)}, "
            "where it wants true or false"
        )
    for name in _floats_of(kind):
        value = config.get(name)
        if type(value) is int:
            yield f"transformers 5 refuses {name} {value}, where it wants {value}.0"


def _floats_of(kind: str) -> Iterator[str]:
    """Yield the keys for which the class of a model type takes no whole number."""
    yield _FLOAT_OF_EVERY_CLASS
    yield from (n for n in sorted(_FLOATS & KEYS[kind]) if kind not in _OR_WHOLE.get(n, ()))
    yield from (name for name, kinds in _UNUSED_FLOATS.items() if kind in kinds)


def _by_megatron_lm(args: Mapping[str, Any]) -> Iterator[str]:
    if args.get("swiglu"):
        for name in _BESIDE_SWIGLU:
            if args.get(name):
                yield f"Megatron-LM refuses {name} beside swiglu"
    kind = args.get("rope_type")
    if kind not in (None, "rope") and not args.get("multi_latent_attention"):
        yield f"Megatron-LM refuses rope_type {kind} without multi_latent_attention"


def _of_table(side: Assembled, config: Mapping[str, Any], program: str) -> Iterator[str]:
    """Yield a clause if the table of learned positions has another length than stated."""
    held = next((side.tensors[name] for name in _TABLES if name in side.tensors), None)
    name = next((n for n in ("n_positions", "max_position_embeddings") if config.get(n)), None)
    if held is None or name is None or not held.shape or held.shape[0] == config[name]:
        return
    yield (
        f"{program} refuses a table of {plural(held.shape[0], 'position')} "
        f"beside {name} {config_value_text(config[name])}"
    )


def _of_biases(side: Assembled) -> Iterator[str]:
    """Yield a clause if biases that args switch on are in no file.

    transformers makes up zeros for them, as here.
    """
    lacking = [name for name in side.shortfall.lacking if name.endswith(".bias")]
    if not lacking:
        return
    more = f" and {len(lacking) - 1} more" if lacking[1:] else ""
    yield f"Megatron loads no model without {lacking[0]}{more}, which its args ask for"
