"""Which linear layers have a bias: what transformers' classes read, and what Megatron's args say.

Sources: the modeling and configuration files of transformers 5; of megatron.core.transformer
attention.py, multi_latent_attention.py, mlp.py and, of megatron.core.ssm, mamba_mixer.py. In
Megatron `add_bias_linear` gives a bias to all linear layers, `add_qkv_bias` to the QKV projection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ckptdiff.config.fields import moves
from ckptdiff.config.fields.base import (
    MEGATRON,
    TRANSFORMERS,
    ConfigField,
    ConfigSide,
    Stated,
    default,
    first,
    from_tensors,
    only,
    switch,
)
from ckptdiff.config.fields.hybrid import NEMOTRON_H, is_mamba
from ckptdiff.config.fields.shape import is_latent
from ckptdiff.config.fixes import FlagFix
from ckptdiff.config.megatron_flags import flag_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptdiff.config.fields.base import Reader, Settings

Part = Literal["qkv", "output", "mlp"]  # of a layer; experts count as its MLP

_ALWAYS, _NEVER = "always", "never"


class _Switches(NamedTuple):
    """For each part, the field of config.json, or that every model has its biases, or none."""

    qkv: str
    output: str
    mlp: str


_ATTENTION = "attention_bias"
_WHOLE_ATTENTION = _Switches(_ATTENTION, _ATTENTION, _NEVER)
_FIELDS: Mapping[str, _Switches] = {
    **dict.fromkeys(
        (
            *("qwen3", "qwen3_moe", "qwen3_vl_moe", "qwen3_next", "qwen3_5", "qwen3_5_moe"),
            *("deepseek", "gemma", "gemma2", "gemma3", "olmo2", "olmoe"),
        ),
        _WHOLE_ATTENTION,
    ),
    **dict.fromkeys(
        ("mistral", "mixtral", "phi3", "exaone4", "minimax_m2"), _Switches(_NEVER, _NEVER, _NEVER)
    ),
    **dict.fromkeys(("llama", "nemotron", "smollm3"), _WHOLE_ATTENTION._replace(mlp="mlp_bias")),
    **dict.fromkeys(("gpt_neox", "gpt_oss"), _WHOLE_ATTENTION._replace(mlp=_ALWAYS)),
    "gpt2": _Switches(_ALWAYS, _ALWAYS, _ALWAYS),
    "qwen2": _Switches(_ALWAYS, _NEVER, _NEVER),
    "qwen2_moe": _Switches("qkv_bias", _NEVER, _NEVER),
    "ernie4_5": _Switches("use_bias", "use_bias", "use_bias"),
    "seed_oss": _Switches(_ATTENTION, "attention_out_bias", "mlp_bias"),
    "glm4_moe": _Switches(_ATTENTION, _NEVER, _NEVER),
    "nemotron_h": _Switches(_NEVER, _NEVER, "mlp_bias"),
}
_OUTPUTS = ("o_proj.bias", "attn.c_proj.bias", "attention.dense.bias")
# How names of biases end in Hugging Face's format, where a config.json may have none.
_ENDS: Mapping[Part, tuple[str, ...]] = {
    "qkv": ("q_proj.bias", "qkv_proj.bias", "attn.c_attn.bias"),
    "output": _OUTPUTS,
    "mlp": ("up_proj.bias", "mlp.c_fc.bias"),
}
_ON_BY_DEFAULT = {  # fields, by family
    **dict.fromkeys(("gpt_neox", "gpt_oss", "seed_oss"), _ATTENTION),
    "qwen2_moe": "qkv_bias",
}
# Of a family that there are no rules for, and of what its class reads nothing is known.
_USUAL: Mapping[Part, tuple[str, ...]] = {
    "qkv": ("qkv_bias", "attention_bias"),
    "output": ("attention_bias", "use_bias"),
    "mlp": ("mlp_bias", "use_bias"),
}


def _field(part: Part, side: ConfigSide) -> str | None:
    """Return the field that transformers' class reads, or always or never; None: not known."""
    if part == "mlp" and side.get("model_type") == "deepseek_v2":
        return "mlp_bias"
    known = _FIELDS.get(side.family or "")
    found: str | None = None if known is None else getattr(known, part)
    return found


def _read(part: Part) -> Reader:
    def read(side: ConfigSide) -> Stated | None:
        field = _field(part, side)
        if field in (_ALWAYS, _NEVER):
            on = field == _ALWAYS
            return Stated(on, None, on, f"every {side.family} model")
        names = _USUAL[part] if field is None else (field,)
        return default(
            switch(*names), _ON_BY_DEFAULT.get(side.family or "") in names, TRANSFORMERS
        )(side)

    return read


def has_biases(fields: Mapping[str, Any], family: str | None, part: Part) -> bool:
    """Return whether transformers gives this part of a layer biases, by a config.json's fields."""
    found = _read(part)(ConfigSide("hf", fields, family, frozenset()))
    return found is not None and bool(found.value)


def unsaid_biases(side: ConfigSide, written: ConfigSide) -> list[Part]:
    """Return the parts whose biases are among a side's tensors, and not in a config.json of it."""
    return [
        part
        for part, ends in _ENDS.items()
        if any(name.endswith(ends) for name in side.tensors)
        and not has_biases(written.fields, written.family, part)
    ]


def _entries(part: Part) -> Any:
    def entries(on: Any, side: ConfigSide) -> Settings:
        field = _field(part, side)
        if field in (_ALWAYS, _NEVER):
            return {}
        return {_USUAL[part][-1] if field is None else field: on}

    return entries


def _linear_args(on: Any, side: ConfigSide) -> Settings:
    """Switch all biases on only where the whole layer has them: Megatron has no switch between."""
    if side.kind == "hf":
        on = on and all(has_biases(side.fields, side.family, part) for part in ("qkv", "output"))
    return {"add_bias_linear": bool(on)}


def _qkv_megatron(side: ConfigSide) -> Stated | None:
    if is_latent(side):
        return Stated(False, None, False, "latent attention has none")
    # Either of the two gives the projection a bias.
    found = next((n for n in ("add_qkv_bias", "add_bias_linear") if side.get(n)), None)
    if found is not None:
        return Stated(True, found, side.get(found))
    tensors = from_tensors(("q_proj.bias", "c_attn.bias"), "QKV bias")
    if side.has("add_bias_linear"):
        return default(switch("add_qkv_bias"), False, MEGATRON)(side)
    return first(switch("add_qkv_bias"), tensors)(side)


def _qkv_args(on: Any, side: ConfigSide) -> Settings | None:
    return None if on and is_latent(side) else {"add_qkv_bias": bool(on)}


def _linear_fix(on: Any, side: ConfigSide) -> FlagFix | None:
    """Return the flag, unless it would promise a bias behind attention that the side lacks."""
    lacks_output = side.tensors and not any(name.endswith(_OUTPUTS) for name in side.tensors)
    if on and lacks_output:
        return None
    flag = flag_of("add_bias_linear")
    return FlagFix(left_out=(flag,)) if on else FlagFix(((flag,),))


def _of_mamba(name: str, field: str, *, megatron: bool) -> ConfigField:
    """Return the line of a bias in Mamba layers, which transformers can switch."""
    return ConfigField(
        name,
        default(switch(field), megatron, TRANSFORMERS),
        lambda _: Stated(megatron, None, megatron, "MambaMixer hard-codes it"),
        "One side adds a bias in Mamba layers that the other does not have.",
        lambda on, _: {} if bool(on) is megatron else None,
        only(NEMOTRON_H, field),
        applies=is_mamba,
        off=megatron,
        cannot="Megatron's args have no flag for it.",
        moves=moves.MAMBA,
    )


BIASES: tuple[ConfigField, ...] = (
    ConfigField(
        "Linear biases",
        _read("mlp"),
        first(
            switch("add_bias_linear"),
            from_tensors(("mlp.c_fc.bias", "up_proj.bias", "o_proj.bias"), "linear bias"),
        ),
        "One side adds biases that the other does not have.",
        _linear_args,
        _entries("mlp"),
        cannot="Megatron adds biases in all linear layers or in none.",
        fix=_linear_fix,
        moves=moves.ATTENTION_OUT | moves.MLP,
    ),
    ConfigField(
        "Attention output bias",
        _read("output"),
        default(switch("add_bias_linear"), False, MEGATRON),
        "One side adds a bias to the attention output that the other does not have.",
        lambda _on, _side: {},
        lambda _on, _side: {},
        off=False,
        cannot="Megatron adds it together with the biases of the MLP.",
        moves=moves.ATTENTION_OUT,
    ),
    ConfigField(
        "QKV bias",
        _read("qkv"),
        _qkv_megatron,
        "One side adds a bias to queries, keys and values that the other does not have.",
        _qkv_args,
        _entries("qkv"),
        cannot="Megatron's latent attention has none.",
        moves=moves.PROJECTED,
    ),
    _of_mamba("Mamba projection bias", "use_bias", megatron=False),
    _of_mamba("Mamba convolution bias", "use_conv_bias", megatron=True),
)
