"""Tensors that a Hugging Face folder holds and its config.json switches off."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptdiff.config.fields import FIELDS
from ckptdiff.config.fields.biases import has_biases
from ckptdiff.text import plural

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptdiff.config.fields import ConfigSide
    from ckptdiff.config.fields.biases import Part

_BIASES: dict[Part, re.Pattern[str]] = {
    "qkv": re.compile(r"self_attn\.(q|k|v|qkv|q_a|kv_a)_proj(_with_mqa)?\.bias$"),
    "output": re.compile(r"self_attn\.o_proj\.bias$"),
    "mlp": re.compile(r"mlp\.(gate|up|down|gate_up)_proj\.bias$"),
}
_NORMS = re.compile(r"self_attn\.[qk]_norm\.weight$")
_QK_NORM = next(field for field in FIELDS if field.name == "Q/K norm")
_MOST = 4  # kinds of names that are listed


def unused_tensors(side: ConfigSide, names: Iterable[str]) -> str | None:
    """Return, in words, the tensors among these that the model of a config.json has not.

    transformers does not load them. None if there are none, or if the family is not known.
    """
    if side.kind != "hf" or side.family is None:
        return None
    off = [one for part, one in _BIASES.items() if not has_biases(side.fields, side.family, part)]
    norm = _QK_NORM.read(side)
    if norm is not None and norm.value is False:
        off.append(_NORMS)
    of_text = (name for name in names if "vision" not in name and "visual" not in name)
    found = [match[0] for name in of_text for one in off if (match := one.search(name))]
    if not found:
        return None
    kinds = list(dict.fromkeys(found))
    listed = ", ".join([*kinds[:_MOST], *(["…"] if kinds[_MOST:] else [])])
    return f"{plural(len(found), 'tensor')} that the config does not use: {listed}"
