"""The sizes of a model in one set of names, from config.json, params.json or Megatron's args."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint import as_of_text
from ckptdiff.config.fields.biases import has_biases
from ckptdiff.config.fields.experts import SIGMOID
from ckptdiff.config.fields.unread import as_read
from ckptdiff.config.rope_holder import held
from ckptdiff.errors import UnknownConfig
from ckptdiff.formats.run_config import UNTIED
from ckptdiff.text import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SIZE = 1 << 40  # of a size or a count; nothing larger can be one
MAX_BASE = 1e30  # of rotary embeddings
# Args without which the layout of attention is not known.
SIZES = frozenset({"num_layers", "hidden_size", "num_attention_heads", "num_query_groups"})


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The sizes that a shard's layout depends on, by Megatron's names."""

    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    kv_channels: int  # Hugging Face's head_dim
    tied_embeddings: bool  # the head is the embedding
    vocab_size: int | None = None  # rows that are tokens; None: all rows
    padded_vocab_size: int | None = None  # rows over all ranks, padding included
    num_experts: int = 0  # routed ones; 0 without mixture of experts
    moe_ffn_hidden_size: int = 0
    moe_shared_expert_intermediate_size: int = 0
    # Rows of gate and up that take turns on a rank; 0: the one is above the other.
    moe_mlp_glu_interleave_size: int = 0
    moe_shared_expert_glu_interleave_size: int = 0
    q_lora_rank: int | None = None  # multi-latent attention; None: queries are not compressed
    kv_lora_rank: int = 0  # 0 without multi-latent attention
    qk_head_dim: int = 0
    qk_pos_emb_head_dim: int = 0
    v_head_dim: int = 0
    linear_num_key_heads: int = 0  # gated DeltaNet; 0 without
    linear_num_value_heads: int = 0
    linear_key_head_dim: int = 0
    linear_value_head_dim: int = 0
    mamba_num_heads: int = 0  # 0 without Mamba layers
    mamba_head_dim: int = 0
    mamba_num_groups: int = 0
    mamba_state_dim: int = 0
    mtp_num_layers: int = 0  # layers of multi-token prediction
    rotary_base: float | None = None
    rope_is_scaled: bool = False
    # Of tensors that some models of a family have: whether the config says that this one does.
    qkv_bias: bool = False
    proj_bias: bool = False
    mlp_bias: bool = False
    qk_layernorm: bool = False
    router_bias: bool = False

    @property
    def heads_per_group(self) -> int:
        return self.num_attention_heads // self.num_query_groups


def from_huggingface(
    config: Mapping[str, Any], *, family: str | None = None, tied_by_default: bool = False
) -> ModelConfig:
    """Read a config.json of transformers 4 or 5; a composed model's `text_config` goes first.

    `family` is the name of the Architecture: what its classes do not read does not count. Raises
    UnknownConfig if a size is missing or makes no sense.
    """
    config = as_read(as_of_text(config), family)
    heads = _count(config, "num_attention_heads", "n_head")
    hidden = _count(config, "hidden_size", "n_embd")
    scaling = held(config)
    theta = scaling.get("rope_theta", config.get("rope_theta"))
    groups = config.get("num_key_value_heads") or heads
    return _checked(
        ModelConfig(
            num_layers=_count(config, "num_hidden_layers", "n_layer", default=_listed(config)),
            hidden_size=hidden,
            ffn_hidden_size=_count(config, "intermediate_size", "n_inner", default=4 * hidden),
            num_attention_heads=heads,
            num_query_groups=groups,
            kv_channels=config.get("head_dim") or hidden // heads,
            tied_embeddings=bool(config.get("tie_word_embeddings", tied_by_default)),
            vocab_size=config.get("vocab_size"),
            num_experts=_size(config, "num_local_experts", "num_experts", "n_routed_experts"),
            moe_ffn_hidden_size=_size(config, "moe_intermediate_size", "intermediate_size"),
            moe_shared_expert_intermediate_size=_size(
                config, "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"
            )
            or _size(config, "n_shared_experts") * _size(config, "moe_intermediate_size"),
            q_lora_rank=config.get("q_lora_rank"),
            kv_lora_rank=_size(config, "kv_lora_rank"),
            qk_head_dim=_size(config, "qk_nope_head_dim"),
            qk_pos_emb_head_dim=_size(config, "qk_rope_head_dim"),
            v_head_dim=_size(config, "v_head_dim"),
            linear_num_key_heads=_size(config, "linear_num_key_heads"),
            linear_num_value_heads=_size(config, "linear_num_value_heads"),
            linear_key_head_dim=_size(config, "linear_key_head_dim"),
            linear_value_head_dim=_size(config, "linear_value_head_dim"),
            mamba_num_heads=_size(config, "mamba_num_heads"),
            mamba_head_dim=_size(config, "mamba_head_dim"),
            mamba_num_groups=_size(config, "n_groups"),
            mamba_state_dim=_size(config, "ssm_state_size"),
            mtp_num_layers=_size(config, "num_nextn_predict_layers", "mtp_num_hidden_layers"),
            rotary_base=_base(theta),
            rope_is_scaled=scaling.get("rope_type", scaling.get("type", "default")) != "default",
            qkv_bias=has_biases(config, family, "qkv"),
            proj_bias=has_biases(config, family, "output"),
            mlp_bias=has_biases(config, family, "mlp"),
            qk_layernorm=bool(config.get("use_qk_norm", config.get("kv_lora_rank"))),
            router_bias=config.get("topk_method", _topk_method(config)) == "noaux_tc",
        ),
        "config.json",
    )


def from_megatron(args: Mapping[str, Any]) -> ModelConfig:
    """Read Megatron's args.

    `num_query_groups` counts only if `group_query_attention` is set: it is 1 by default, also for
    multi-head attention. Raises UnknownConfig if a size is missing or makes no sense.
    """
    heads = _count(args, "num_attention_heads")
    hidden = _count(args, "hidden_size")
    latent = bool(args.get("multi_latent_attention"))
    mamba = _size(args, "mamba_head_dim")
    grouped = args.get("group_query_attention", "num_query_groups" in args)
    return _checked(
        ModelConfig(
            num_layers=_count(args, "num_layers"),
            hidden_size=hidden,
            ffn_hidden_size=_count(args, "ffn_hidden_size", default=4 * hidden),
            num_attention_heads=heads,
            num_query_groups=_count(args, "num_query_groups") if grouped else heads,
            kv_channels=args.get("kv_channels") or hidden // heads,
            tied_embeddings=not args.get(UNTIED, False),
            padded_vocab_size=args.get("padded_vocab_size"),
            num_experts=_size(args, "num_experts"),
            moe_ffn_hidden_size=_size(args, "moe_ffn_hidden_size", "ffn_hidden_size"),
            moe_shared_expert_intermediate_size=_size(args, "moe_shared_expert_intermediate_size"),
            moe_mlp_glu_interleave_size=_size(args, "moe_mlp_glu_interleave_size"),
            # Megatron reads it beside that switch alone.
            moe_shared_expert_glu_interleave_size=_size(
                args if args.get("use_grouped_gemm_for_shared_expert") else {},
                "moe_shared_expert_glu_interleave_size",
            ),
            q_lora_rank=args.get("q_lora_rank") if latent else None,
            kv_lora_rank=_size(args, "kv_lora_rank") if latent else 0,
            qk_head_dim=_size(args, "qk_head_dim") if latent else 0,
            qk_pos_emb_head_dim=_size(args, "qk_pos_emb_head_dim") if latent else 0,
            v_head_dim=_size(args, "v_head_dim") if latent else 0,
            linear_num_key_heads=_size(args, "linear_num_key_heads"),
            linear_num_value_heads=_size(args, "linear_num_value_heads"),
            linear_key_head_dim=_size(args, "linear_key_head_dim"),
            linear_value_head_dim=_size(args, "linear_value_head_dim"),
            # Without a number of heads, Megatron makes the inner size twice the hidden size.
            mamba_num_heads=_size(args, "mamba_num_heads") or (mamba and 2 * hidden // mamba),
            mamba_head_dim=mamba,
            mamba_num_groups=_size(args, "mamba_num_groups"),
            mamba_state_dim=_size(args, "mamba_state_dim"),
            mtp_num_layers=_size(args, "mtp_num_layers"),
            rotary_base=_base(args.get("rotary_base")),
            rope_is_scaled=bool(args.get("use_rope_scaling")),
            qkv_bias=bool(args.get("add_qkv_bias") or args.get("add_bias_linear")) and not latent,
            proj_bias=bool(args.get("add_bias_linear")),
            mlp_bias=bool(args.get("add_bias_linear")),
            qk_layernorm=bool(args.get("qk_layernorm")),
            router_bias=bool(args.get("moe_router_enable_expert_bias")),
        ),
        "args",
    )


def from_meta(params: Mapping[str, Any], *, ffn: int, vocabulary: int, tied: bool) -> ModelConfig:
    """Read params.json of Meta's own format, with the sizes that only the tensors show.

    `ffn` and `vocabulary` are rows of tensors; `tied`: there is no output matrix.

    Raises UnknownConfig if a size is missing or makes no sense.
    """
    heads = _count(params, "n_heads")
    hidden = _count(params, "dim")
    return _checked(
        ModelConfig(
            num_layers=_count(params, "n_layers"),
            hidden_size=hidden,
            ffn_hidden_size=ffn,
            num_attention_heads=heads,
            num_query_groups=params.get("n_kv_heads") or heads,
            kv_channels=params.get("head_dim") or hidden // heads,
            tied_embeddings=tied,
            vocab_size=vocabulary or None,
            # Meta's own code falls back to this base.
            rotary_base=_base(params.get("rope_theta") or 10000.0),
            rope_is_scaled=bool(params.get("use_scaled_rope")),
        ),
        "params.json",
    )


def _topk_method(config: Mapping[str, Any]) -> str | None:
    """Return the method that transformers hard-codes for a class without a field for it."""
    return "noaux_tc" if config.get("model_type") in SIGMOID else None


def _listed(config: Mapping[str, Any]) -> int | None:
    """Return how many layers a hybrid model's config lists; None if it lists none."""
    kinds = config.get("layers_block_type") or config.get("hybrid_override_pattern")
    return len(kinds) if isinstance(kinds, (list, str)) else None


def _base(value: object) -> float | None:
    """Return a rotary base; None if it is none that angles can be made of."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and 0 < value < MAX_BASE else None  # type: ignore[return-value, operator]


def _size(config: Mapping[str, Any], *names: str) -> int:
    """Return the first of these entries that is a positive integer, or 0."""
    values = (config.get(name) for name in names)
    return next((value for value in values if type(value) is int and 0 < value < MAX_SIZE), 0)


def _count(config: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    """Return the first of these entries that is there, or the default. Raises UnknownConfig."""
    value = next((config[name] for name in names if config.get(name) is not None), default)
    if type(value) is not int or not 0 < value < MAX_SIZE:
        raise UnknownConfig(f"{names[0]} is {shown(value)}; a positive integer is needed")
    return value


def _checked(config: ModelConfig, where: str) -> ModelConfig:
    """Return the config if heads form groups and have a size. Raises UnknownConfig."""
    groups, heads = config.num_query_groups, config.num_attention_heads
    if type(groups) is not int or groups < 1 or heads % groups:
        raise UnknownConfig(
            f"{where}: {heads} attention heads cannot form {shown(groups)} query groups"
        )
    if type(config.kv_channels) is not int or config.kv_channels < 1:
        raise UnknownConfig(f"{where}: the head dimension is {shown(config.kv_channels)}")
    return config
