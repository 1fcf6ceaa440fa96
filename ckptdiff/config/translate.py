"""Translate a model's settings into Megatron's args, or into a config.json."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from ckptdiff.config.compare import compare_sides, config_side, is_computed
from ckptdiff.config.fields import FIELDS, ConfigSide
from ckptdiff.config.fields.base import MEGATRON, flags
from ckptdiff.config.fields.params import assumed_factor
from ckptdiff.config.quantisation import without_quantisation
from ckptdiff.config.unstated import left_out, shown_by_tensors
from ckptdiff.dtypes import DTYPES
from ckptdiff.errors import UnknownConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import Parallelism
    from ckptdiff.config.fields import Kind

Names = Literal["mcore", "te", "legacy"]
CONVERTER_BASE = 10000  # the rotary_base that NVIDIA's converter writes
SEQ_LENGTH = 4096  # as NVIDIA's converter sets it; a training run gives its own
LATENT_ONLY = (
    *("q_lora_rank", "kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim", "v_head_dim"),
    *("rope_type", "rotary_scaling_factor", "mscale", "mscale_all_dim"),
)
# Args that Megatron-LM's load_args_from_checkpoint (megatron/training/checkpointing.py) leaves to
# the command line, and their default there; None if releases differ in it.
NOT_TAKEN_OVER: dict[str, Any] = {
    "norm_epsilon": 1e-5,
    "qk_layernorm": False,
    "quick_geglu": False,
    "softmax_scale": None,
    "softmax_type": None,
    "bias_gelu_fusion": True,
    "window_size": None,
    "window_attn_skip_freq": None,
    "use_rope_scaling": False,
    "rope_scaling_factor": None,
    "rotary_seq_len_interpolation_factor": None,
    "multi_latent_attention": False,
    **dict.fromkeys(LATENT_ONLY),
    "moe_shared_expert_gate": False,
    "moe_router_num_groups": None,
    "moe_router_group_topk": None,
    "experimental_attention_variant": None,
    "attention_output_gate": False,
    "linear_attention_freq": None,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "decoder_first_pipeline_num_layers": None,
    "decoder_last_pipeline_num_layers": None,
    "pipeline_model_parallel_layout": None,
    "make_vocab_size_divisible_by": 128,
    "bf16": False,
    "fp16": False,
}
# Args of the run that wrote a checkpoint, paths and sizes, which a copy elsewhere must not have.
RUN_ONLY = (
    *("load", "save", "iteration", "world_size", "data_parallel_size", "rank", "local_rank"),
    *("params_dtype", "account_for_embedding_in_pipeline_split"),
    "account_for_loss_in_pipeline_split",
)
# How the reader, which loads no class, spells an object that is no plain value.
_OBJECT = re.compile(
    r"(torch|megatron)\.[\w.]+$|[A-Za-z_][\w.]*\.\w+\(.*\)$|\w+ of \d+$|\d+ bytes$"
)


def megatron_args(
    source: Assembled,
    parallelism: Parallelism,
    *,
    names: Names,
    dtype: str,
    ckpt_format: Literal["torch", "torch_dist"],
    padded_vocab_size: int,
    make_vocab_size_divisible_by: int = 128,
    grouped_experts: bool = False,
    first_layers: int | None = None,
    last_layers: int | None = None,
    layout: str | None = None,
) -> tuple[argparse.Namespace, list[str]]:
    """Return the args of a Megatron checkpoint of this model, and notes of what they cannot hold.

    Only plain values: no class of Megatron's or torch's is needed to write or to read them. A
    Megatron source keeps its own. `dtype` is a stored dtype such as BF16. Raises UnknownConfig if
    the source has no family, no sizes or no config.
    """
    notes: list[str] = []
    side = _readable(source, notes)
    rows, assumed = token_rows(source)
    notes += assumed
    if side.kind == "megatron":
        settings = {n: v for n, v in side.fields.items() if n not in RUN_ONLY and _is_plain(v)}
        settings = {name: _with_tuple(name, value) for name, value in settings.items()}
        if source.checkpoint.config_file is not None:  # YAML has no args of Megatron-LM's own
            shown = dict(shown_by_tensors(side, notes))
            settings = _args_beside_fields(source, side) | shown | settings
    else:
        settings = _args_beside_fields(source, side) | dict(_settings(side, "megatron", notes))
        settings |= {"vocab_size": rows, "tokenizer_type": None, "tokenizer_model": None}
        longest = settings.get("max_position_embeddings") or SEQ_LENGTH
        settings["seq_length"] = min(SEQ_LENGTH, longest)
        settings.setdefault("max_position_embeddings", longest)
    settings |= {
        "padded_vocab_size": padded_vocab_size,
        "make_vocab_size_divisible_by": make_vocab_size_divisible_by,
        "bf16": dtype == "BF16",
        "fp16": dtype == "F16",
        "ckpt_format": ckpt_format,
        "use_dist_ckpt": ckpt_format == "torch_dist",
        "transformer_impl": "transformer_engine" if names == "te" else "local",
        "use_legacy_models": names == "legacy",
        "moe_grouped_gemm": grouped_experts,
        "no_save_optim": True,
        "no_save_rng": True,
        **_parallel_args(parallelism, settings, first_layers, last_layers, layout),
    }
    if side.kind == "hf":
        notes += _read_otherwise(side, replace(side, kind="megatron", fields=settings), notes)
        notes += source.architecture.peculiarities if source.architecture is not None else ()
    else:
        notes += left_out(side, replace(side, fields=settings, yaml=None))
    given_flags = flags_to_give(settings)
    if given_flags:
        notes.append(
            "Megatron-LM's --use-checkpoint-args does not take over everything from args; give "
            f"with it: {given_flags}"
        )
    return argparse.Namespace(**settings), notes


def huggingface_config(source: Assembled, *, dtype: str) -> tuple[dict[str, Any], list[str]]:
    """Return the config.json of this model, and notes of what was assumed or cannot be in it.

    A Hugging Face source keeps its own, but for the dtype. Token ids are not in Megatron's args
    and are left out. `dtype` is a stored dtype such as BF16. Raises UnknownConfig if the family or
    a size is not known.
    """
    word = DTYPES[dtype].torch
    if source.checkpoint.convention == "hf":
        own, left = without_quantisation(source.checkpoint.config or {})
        said = [f"{key} is left out: the weights are plain numbers" for key in left]
        return _with_dtype(own, word), said
    notes: list[str] = []
    side = _readable(source, notes)
    rows, assumed = token_rows(source)
    notes += assumed
    if side.kind == "hf":  # params.json, in other words already
        kept = {key: value for key, value in side.fields.items() if value is not None}
        notes.append(
            "params.json does not say: max_position_embeddings, bos_token_id, eos_token_id"
        )
        return {**kept, "vocab_size": rows, "torch_dtype": word}, notes
    family = source.architecture
    assert family is not None
    config: dict[str, Any] = {
        "architectures": [family.architectures[0]],
        "model_type": family.model_types[0],
        **dict(_settings(side, "hf", notes)),
        "vocab_size": rows,
        "torch_dtype": word,
    }
    written = family.written_class
    if written is not None and written.fits(config):
        config |= {"architectures": [written.architecture], "model_type": written.model_type}
    written_side = replace(side, kind="hf", fields=config, yaml=None, spelled={})
    notes += left_out(side, written_side)
    notes += _read_otherwise(side, written_side, notes)
    args = "Megatron's args name no family" if side.yaml is None else f"{side.yaml} names no family"
    notes.append(
        f"{args}; by its tensors it is {family.name}. Token ids are not in there: bos_token_id and "
        "eos_token_id are left out"
    )
    notes += family.peculiarities
    if side.get("rotary_base") == CONVERTER_BASE:
        notes.append(
            f"rotary_base is {CONVERTER_BASE}, which NVIDIA's converter writes whatever the model "
            "has: see that rope_theta is right"
        )
    return config, notes


def token_rows(source: Assembled) -> tuple[int, list[str]]:
    """Return how many rows of the vocabulary are tokens, and notes of what was assumed.

    Raises UnknownConfig if neither tensors nor args show it.
    """
    config, fields = source.config, source.checkpoint.config or {}
    if config is not None and config.vocab_size is not None:
        return config.vocab_size, []
    rule = None if source.architecture is None else source.architecture.embedding()
    table = None if rule is None else source.tensors.get(rule.hf[0])
    stored = None if table is None else table.shape[0] + table.padding_rows
    padded = stored or fields.get("padded_vocab_size")
    if type(padded) is not int:
        raise UnknownConfig(
            f"{source.checkpoint.root}: nothing tells how many rows the vocabulary has"
        )
    tokens = fields.get("vocab_size")
    if type(tokens) is not int or not 0 < tokens <= padded:
        words = "no vocab_size" if tokens is None else f"a vocab_size of {tokens}"
        file = source.checkpoint.config_file
        have = "args have" if file is None else f"{file.name} has"
        return padded, [
            f"{have} {words}: all {padded} rows of the vocabulary are taken as tokens, padding "
            "among them"
        ]
    if str(fields.get("tokenizer_type")).startswith("Null") and tokens < padded:
        # NullTokenizer has one id more than its vocab_size: the end of a document.
        return tokens + 1, []
    return tokens, []


def flags_to_give(args: Mapping[str, Any]) -> str | None:
    """Return the flags that Megatron-LM does not take over from args; None if defaults will do."""
    gated = args.get("swiglu") or args.get("squared_relu") or args.get("quick_geglu")
    latent = args.get("multi_latent_attention")
    given = {}
    for name, default in NOT_TAKEN_OVER.items():
        value = args.get(name, default)
        without_effect = (
            (name == "bias_gelu_fusion" and gated)
            or (name == "rope_scaling_factor" and not args.get("use_rope_scaling"))
            or (name in LATENT_ONLY and not latent)
        )
        if value != default and value is not None and not without_effect:
            given[name] = value
    return flags(given, ConfigSide("megatron", {}, None, frozenset()))


def _readable(source: Assembled, notes: list[str]) -> ConfigSide:
    """Return a source's side, and add a note of what was assumed.

    Raises UnknownConfig if its family, its sizes or its config are not known.
    """
    root = source.checkpoint.root
    if source.architecture is None or source.config is None:
        raise UnknownConfig(f"{root}: no rules are known for this model, so it cannot be restated")
    if not source.checkpoint.config:
        raise UnknownConfig(f"{root}: there is no config.json and there are no args to restate")
    side = config_side(source)
    scaling = side.get("rope_scaling")
    if source.checkpoint.convention != "meta" or not scaling or "factor" in scaling:
        return side
    factor = assumed_factor(source.config.hidden_size)
    notes.append(f"params.json does not say by what RoPE is scaled; {factor:g} is taken")
    scaled = {**side.fields, "rope_scaling": {**scaling, "factor": factor}}
    return replace(side, fields=scaled)


def _args_beside_fields(source: Assembled, side: ConfigSide) -> dict[str, Any]:
    """Return the args that Megatron requires and that no field of the table gives."""
    assert source.config is not None
    sizes = source.config
    attention = side.get("attention_dropout") or side.get("attn_pdrop") or 0.0
    return {
        "encoder_num_layers": sizes.num_layers,
        "ffn_hidden_size": sizes.ffn_hidden_size,
        "kv_channels": sizes.v_head_dim or sizes.kv_channels,
        "num_query_groups": 1,  # Megatron's default; it counts beside group_query_attention
        "add_position_embedding": True,
        "use_rotary_position_embeddings": False,
        "attention_dropout": attention,
        "hidden_dropout": side.get("resid_pdrop") or side.get("hidden_dropout") or 0.0,
        "attention_softmax_in_fp32": False,
        "apply_query_key_layer_scaling": False,
        "consumed_train_samples": 0,
        "consumed_valid_samples": 0,
        "data_parallel_random_init": False,
    }


def _settings(side: ConfigSide, kind: Kind, notes: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield the settings, (name, value), that give a side of the other kind each field's value.

    Adds notes of what cannot be set, and of what was assumed.
    """
    defaults = []
    for field in FIELDS:
        if not (field.always or field.has_effect(side)):
            continue
        reading = field.read(side)
        if reading is None:
            if side.yaml is None:  # else one note names all of them
                notes.append(f"{field.name}: the source does not say")
            continue
        settings = field.settings(reading.value, side, kind)
        if settings is None:
            shown = reading.raw if reading.raw is not None else reading.value
            notes.append(_IS_AND.format(field.name, shown, f"cannot be said in {_WHERE[kind]}"))
            continue
        if settings and reading.source == MEGATRON:
            defaults.append(f"{field.name} {reading.raw}")
        if settings and reading.weak:
            notes.append(f"{field.name} is taken as {reading.raw}: {reading.source}")
        yield from settings.items()
    if defaults:
        notes.append(f"args do not say these, so Megatron's defaults count: {', '.join(defaults)}")


_WHERE = {"megatron": "args", "hf": "config.json"}
_IS_AND = "{} is {} and {}"


def _read_otherwise(side: ConfigSide, written: ConfigSide, noted: list[str]) -> list[str]:
    """Return notes of fields that read otherwise in the settings written, unless noted already."""
    where = _WHERE[written.kind]
    notes = []
    for line in compare_sides(side, written):
        start = f"{line.meaning} is "
        if any(note.startswith(start) for note in noted):
            continue
        if line.status == "conflict":
            reads = f"reads as {line.b} in {where}: {line.consequence}"
            notes.append(_IS_AND.format(line.meaning, line.a, reads))
        elif line.status == "unknown" and line.b is None and is_computed(line):
            notes.append(_IS_AND.format(line.meaning, line.a, f"nothing in {where} says it"))
    return notes


def _parallel_args(
    parallelism: Parallelism,
    settings: Mapping[str, Any],
    first: int | None,
    last: int | None,
    layout: str | None,
) -> dict[str, Any]:
    """Return the args that describe how the model is split over ranks and stages."""
    tp, pp, vpp = parallelism.tp, parallelism.pp, parallelism.vpp
    chunk, rest = divmod(settings["num_layers"], pp * vpp)
    even = rest == 0 and first is None and last is None and layout is None
    interleaved = vpp > 1
    return {
        "tensor_model_parallel_size": tp,
        "pipeline_model_parallel_size": pp,
        "transformer_pipeline_model_parallel_size": pp,
        "virtual_pipeline_model_parallel_size": vpp if interleaved else None,
        # Megatron derives the number of chunks anew, from one of these or from the layout.
        "num_layers_per_virtual_pipeline_stage": chunk if interleaved and even else None,
        "num_virtual_stages_per_pipeline_rank": (
            vpp if interleaved and not even and layout is None else None
        ),
        "expert_model_parallel_size": parallelism.ep,
        "expert_tensor_parallel_size": parallelism.etp,
        "context_parallel_size": 1,
        # Megatron trains experts beside tensor parallelism in no other way.
        "sequence_parallel": bool(settings.get("num_experts")) and tp > 1,
        "decoder_first_pipeline_num_layers": first,
        "decoder_last_pipeline_num_layers": last,
        "pipeline_model_parallel_layout": layout,
        "account_for_embedding_in_pipeline_split": False,
        "account_for_loss_in_pipeline_split": False,
    }


def _is_plain(value: Any) -> bool:
    """Return whether a value of args was a plain one in the file, and not an object."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return not (isinstance(value, str) and _OBJECT.match(value))


def _with_tuple(name: str, value: Any) -> Any:
    """Return a pair as a tuple, as Megatron has it: our reader makes lists of tuples."""
    return tuple(value) if name == "window_size" and isinstance(value, list) else value


def _with_dtype(config: Mapping[str, Any], word: str) -> dict[str, Any]:
    """Return a config.json with this dtype, in the configs inside it as well."""
    changed = {
        key: _with_dtype(value, word) if key.endswith("_config") and isinstance(value, dict)
        and _has_dtype(value) else value
        for key, value in config.items()
    }  # fmt: skip
    spelled = "dtype" if "dtype" in config else "torch_dtype"
    return {**changed, spelled: word}


def _has_dtype(config: Mapping[str, Any]) -> bool:
    return "dtype" in config or "torch_dtype" in config
