"""Fields that may stand in a config.json though the model's class in transformers reads others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# By family. Source: modeling_gpt2 (n_inner, a group for each head) and modeling_gpt_neox.
_UNREAD: Mapping[str, frozenset[str]] = {
    "gpt2": frozenset({"intermediate_size", "head_dim", "num_key_value_heads"}),
    "gpt_neox": frozenset({"head_dim", "num_key_value_heads"}),
}


def as_read(fields: Mapping[str, Any], family: str | None) -> Mapping[str, Any]:
    """Return the fields of a config.json without those that the family's class does not read."""
    unread = _UNREAD.get(family or "")
    if unread is None or unread.isdisjoint(fields):
        return fields
    return {name: value for name, value in fields.items() if name not in unread}
