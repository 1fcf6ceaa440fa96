"""Multi-latent attention and the extra prediction layers of DeepSeek."""

from __future__ import annotations

from ckptdiff.config.fields import moves
from ckptdiff.config.fields.base import (
    MEGATRON,
    TRANSFORMERS,
    ConfigField,
    ConfigSide,
    Stated,
    default,
    null_means,
    number,
    only,
    sets,
    sets_nothing,
)
from ckptdiff.config.fields.shape import SHAPES, is_latent

_SIZES = (
    ("Latent rank of keys and values", "kv_lora_rank", "kv_lora_rank"),
    ("Unrotated head dimension", "qk_nope_head_dim", "qk_head_dim"),
    ("Rotated head dimension", "qk_rope_head_dim", "qk_pos_emb_head_dim"),
    ("Value head dimension", "v_head_dim", "v_head_dim"),
)


def _latent_hf(side: ConfigSide) -> Stated | None:
    if is_latent(side):
        return Stated(True, "kv_lora_rank", side.get("kv_lora_rank"))
    return Stated(False, None, False, "there is no kv_lora_rank")


def _latent_megatron(side: ConfigSide) -> Stated | None:
    name = "multi_latent_attention"
    if side.has(name):
        return Stated(is_latent(side), name, side.get(name))
    return Stated(False, None, False, MEGATRON)


_NEXT = "num_nextn_predict_layers"


def _predictions_hf(side: ConfigSide) -> Stated | None:
    found: Stated | None = default(null_means((_NEXT,), number(_NEXT), 0), 0, TRANSFORMERS)(side)
    lacking = side.tensors and not any(name.endswith(_PROJECTIONS) for name in side.tensors)
    if found is not None and found.value and lacking:
        # transformers keeps the number in config.json, and drops the layers.
        return Stated(0, found.name, found.raw, "none of their tensors is there")
    return found


_PROJECTIONS = ("eh_proj.weight", "mtp.fc.weight")

LATENT: tuple[ConfigField, ...] = (
    ConfigField(
        "Latent attention",
        _latent_hf,
        _latent_megatron,
        SHAPES,
        sets("multi_latent_attention"),
        sets_nothing,
        off=False,
        moves=moves.ATTENTION,
    ),
    ConfigField(
        "Latent rank of queries",
        null_means(("q_lora_rank",), number("q_lora_rank"), None),
        null_means(("q_lora_rank",), number("q_lora_rank"), None),
        "Queries are compressed on one side only, or to another rank.",
        sets("q_lora_rank"),
        sets("q_lora_rank"),
        applies=is_latent,
        moves=moves.ATTENTION,
    ),
    *(
        ConfigField(
            name,
            number(hf),
            number(megatron),
            SHAPES,
            sets(megatron),
            sets(hf),
            applies=is_latent,
            moves=moves.ATTENTION,
        )
        for name, hf, megatron in _SIZES
    ),
    ConfigField(
        "Prediction layers",
        _predictions_hf,
        default(null_means(("mtp_num_layers",), number("mtp_num_layers"), 0), 0, MEGATRON),
        "One side predicts further tokens by layers that the other lacks.",
        sets("mtp_num_layers", lambda count: count or None),
        only(("deepseek", "glm4_moe", "nemotron_h"), "num_nextn_predict_layers"),
        off=0,
        moves=moves.NOTHING,
    ),
)
