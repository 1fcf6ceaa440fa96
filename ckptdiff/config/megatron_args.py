"""A model's settings as Megatron's args."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from ckptdiff.config.carried import NAME as CARRIED
from ckptdiff.config.carried import carried_text
from ckptdiff.config.compare import compare_sides, is_computed
from ckptdiff.config.fields import FIELDS
from ckptdiff.config.fields.base import guarded
from ckptdiff.config.fields.hybrid import is_mamba
from ckptdiff.config.not_computed import class_notes, layer_notes, limits_of, unset_limit
from ckptdiff.config.programs import DEFAULT
from ckptdiff.config.restating import Restated, readable, settings_of, token_rows
from ckptdiff.config.unstated import left_out, shown_by_tensors
from ckptdiff.text import config_value_text

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import Parallelism
    from ckptdiff.config.fields import ConfigField, ConfigSide, Stated
    from ckptdiff.config.programs import Version

Names = Literal["mcore", "te", "legacy"]
SEQ_LENGTH = 4096  # as NVIDIA's converter sets it; a training run gives its own
# Args of the run that wrote a checkpoint, paths and sizes, which a copy elsewhere must not have.
RUN_ONLY = (
    *("load", "save", "iteration", "world_size", "data_parallel_size", "rank", "local_rank"),
    *("params_dtype", "account_for_embedding_in_pipeline_split"),
    "account_for_loss_in_pipeline_split",
)
# Args that Megatron-Bridge takes for granted (_transformer_config_from_args and _get_model of its
# mlm_compat), and Megatron-LM's defaults of them.
BRIDGE_ARGS: dict[str, Any] = {
    "heterogeneous_layers_config_path": None,
    "no_persist_layer_norm": False,
    "params_dtype": None,
    "overlap_p2p_comm": False,
    "num_experts": None,
    "fp8_param_gather": False,
    "bias_swiglu_fusion": True,
    "bias_gelu_fusion": True,
    "squared_relu": False,
    "swiglu": False,
    "init_method_xavier_uniform": False,
    "config_logger_dir": "",
    "cp_comm_type": ["p2p"],
    "is_hybrid_model": False,
    "kv_channels": None,
    "qk_layernorm": False,
    "qk_l2_norm": False,
    "mtp_num_layers": None,
    "fp16_lm_cross_entropy": False,
    "use_rope_scaling": False,
    "rotary_percent": 1.0,
    "rotary_base": 10000,
    "rotary_interleaved": False,
    "multi_latent_attention": False,
    "decoder_first_pipeline_num_layers": None,
    "decoder_last_pipeline_num_layers": None,
    "init_model_with_meta_device": False,
}
# It counts the rows of the vocabulary by the tokenizer of the args, and has to build one. This one
# has as many ids as it is told (before 0.19, which has the second arg, one more).
_NULL: dict[str, Any] = {"tokenizer_type": "NullTokenizer", "null_tokenizer_eod_id": None}
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
    version: Version = DEFAULT,
) -> Restated[argparse.Namespace]:
    """Return the args of a Megatron checkpoint of this model, for the program of that version.

    Only plain values: no class of Megatron's or torch's is needed to write or to read them. A
    Megatron source keeps its own. `dtype` is a stored dtype such as BF16. Raises UnknownConfig if
    the source has no family, no sizes or no config.
    """
    notes: list[str] = []
    unset: list[tuple[ConfigField, Stated]] = []
    origins: dict[str, ConfigField] = {}
    side = readable(source, notes)
    rows, assumed = token_rows(source)
    notes += assumed
    if side.kind == "megatron":
        settings = {n: v for n, v in side.fields.items() if n not in RUN_ONLY and _is_plain(v)}
        settings = {name: _with_tuple(name, value) for name, value in settings.items()}
        if source.checkpoint.config_file is not None:  # YAML has no args of Megatron-LM's own
            shown = dict(shown_by_tensors(side, notes))
            settings = _args_beside_fields(source, side) | shown | settings
    else:
        settings = _args_beside_fields(source, side) | dict(
            settings_of(side, "megatron", notes, unset, origins)
        )
        settings |= {"vocab_size": rows, "tokenizer_type": None, "tokenizer_model": None}
        longest = settings.get("max_position_embeddings") or SEQ_LENGTH
        settings["seq_length"] = min(SEQ_LENGTH, longest)
        settings.setdefault("max_position_embeddings", longest)
        if source.checkpoint.convention == "hf":
            text = carried_text(source.checkpoint.config or {})
            settings |= {} if text is None else {CARRIED: text}
    settings |= {
        "padded_vocab_size": padded_vocab_size,
        "make_vocab_size_divisible_by": make_vocab_size_divisible_by,
        "bf16": dtype == "BF16",
        "fp16": dtype == "F16",
        "ckpt_format": ckpt_format,
        "use_dist_ckpt": ckpt_format == "torch_dist",
        "transformer_impl": "transformer_engine" if names == "te" else "local",
        "use_legacy_models": names == "legacy",
        "moe_grouped_gemm": grouped_experts and bool(settings.get("num_experts")),
        "no_save_optim": True,
        "no_save_rng": True,
        **parallel_args(parallelism, settings, first_layers, last_layers, layout),
    }
    if version == "bridge":
        settings = {**BRIDGE_ARGS, **settings}
        if settings.get("tokenizer_type") in (None, "NullTokenizer"):
            settings |= {**_NULL, "vocab_size": rows}
    written = replace(side, kind="megatron", fields=settings, yaml=None)
    limits = limits_of(side, settings, origins, version)
    said = {name for limit in limits for name in limit.fields}
    limits += [unset_limit(*one, written) for one in unset if one[0].name not in said]
    said |= {name for limit in limits for name in limit.fields}
    cannot = [limit.clause for limit in limits]
    if side.kind == "hf":
        _read_otherwise(side, written, notes, cannot, said)
        assert source.architecture is not None
        cannot += (one.text for one in source.architecture.peculiarities)
        notes += guarded(list, class_notes(side, settings)) or ()
    else:
        notes += left_out(side, written)
    notes += layer_notes(settings)
    return Restated(argparse.Namespace(**settings), notes, cannot)


def _read_otherwise(
    side: ConfigSide,
    written: ConfigSide,
    notes: list[str],
    cannot: list[str],
    said: Collection[str],
) -> None:
    """Add what reads otherwise in the args written to `cannot`, what nothing says to `notes`.

    What either of them says already is left out, and so are the fields whose names were `said`.
    """
    noted = (*notes, *cannot)
    for line in compare_sides(side, written):
        start = f"{line.meaning} is "
        if line.meaning in said or any(note.startswith(start) for note in noted):
            continue
        if line.status == "conflict":
            # A line may be of several fields, or of none in this table: it has its own consequence.
            field = next((field for field in FIELDS if field.name == line.meaning), None)
            because = line.consequence or "" if field is None else field.cannot or field.consequence
            why = because.removesuffix(".") or "it is read otherwise"
            own, other = config_value_text(line.a), config_value_text(line.b)
            cannot.append(f"{start}{own} and would be {other}: {why}")
        elif line.status == "unknown" and line.b is None and is_computed(line):
            notes.append(
                f"{start}{config_value_text(line.a)} and nothing in Megatron's args says it"
            )


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
        **({"is_hybrid_model": True} if is_mamba(side) else {}),
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


def parallel_args(
    parallelism: Parallelism,
    settings: Mapping[str, Any],
    first: int | None,
    last: int | None,
    layout: str | None = None,
) -> dict[str, Any]:
    """Return the args that describe how the model is split over ranks and stages.

    `first` and `last` are the layers of the first and the last stage; None: Megatron's default.
    """
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
