"""A model's settings as a config.json."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptdiff.config.quantisation import without_quantisation
from ckptdiff.config.restating import Restated, readable, settings_of, token_rows
from ckptdiff.config.sayable import args_of_nobody, not_said, unset_clauses
from ckptdiff.config.unstated import left_out
from ckptdiff.dtypes import DTYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.fields import ConfigField, Stated

# Token ids are left out; one that a class takes then has to be a row of the vocabulary.
_PADDING = {"phi3": 32000, "smollm3": 128004}
CONVERTER_BASE = 10000  # the rotary_base that NVIDIA's converter writes


def huggingface_config(source: Assembled, *, dtype: str) -> Restated[dict[str, Any]]:
    """Return the config.json of this model.

    A Hugging Face source keeps its own, but for the dtype. Of Megatron's args it is that of the
    source's family, and `cannot` is empty if that says all that args and tensors say, and nothing
    else. Token ids are not in Megatron's args and are left out. `dtype` is a stored dtype such as
    BF16. Raises UnknownConfig if the family or a size is not known.
    """
    word = DTYPES[dtype].torch
    if source.checkpoint.convention == "hf":
        own, left = without_quantisation(source.checkpoint.config or {})
        said = [f"{key} is left out: the weights are plain numbers" for key in left]
        return Restated(_with_dtype(own, word), said, [])
    notes: list[str] = []
    unset: list[tuple[ConfigField, Stated]] = []
    side = readable(source, notes)
    rows, assumed = token_rows(source)
    notes += assumed
    if side.kind == "hf":  # params.json, in other words already
        kept = {key: value for key, value in side.fields.items() if value is not None}
        notes.append(
            "params.json does not say: max_position_embeddings, bos_token_id, eos_token_id"
        )
        return Restated({**kept, "vocab_size": rows, "torch_dtype": word}, notes, [])
    family = source.architecture
    assert family is not None
    config: dict[str, Any] = {
        "architectures": [family.architectures[0]],
        "model_type": family.model_types[0],
        **dict(settings_of(side, "hf", notes, unset)),
        "vocab_size": rows,
        "torch_dtype": word,
    }
    if _PADDING.get(family.name, 0) >= rows:
        config["pad_token_id"] = None
    cannot = list(unset_clauses(unset))
    written = family.written_class
    if written is not None and written.fits(config):
        config |= {"architectures": [written.architecture], "model_type": written.model_type}
    written_side = replace(side, kind="hf", fields=config, yaml=None, spelled={})
    cannot += left_out(side, written_side)
    cannot += not_said(side, written_side, cannot)
    cannot += (one.text for one in family.peculiarities if not one.is_shown)
    args = "Megatron's args name no family" if side.yaml is None else f"{side.yaml} names no family"
    notes.append(
        f"{args}: {family.name} is written, without bos_token_id and eos_token_id, which are not "
        "in there"
    )
    notes += (one.text for one in family.peculiarities if one.is_shown)
    notes += args_of_nobody(side)
    if side.get("rotary_base") == CONVERTER_BASE:
        notes.append(
            f"rotary_base is {CONVERTER_BASE}, which NVIDIA's converter writes whatever the model "
            "has: see that rope_theta is right"
        )
    return Restated(config, notes, cannot)


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
