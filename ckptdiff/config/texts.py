"""Numbers and switches of a config.json that are written as text, which transformers 5 refuses.

`"False"` would be true, and `"10000.0"` no base of any power.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint import as_of_text
from ckptdiff.config.keys_read import KEYS, ROPE_KEYS
from ckptdiff.config.rope_holder import NEW, OLD
from ckptdiff.errors import UnknownConfig
from ckptdiff.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Keys whose values are text, or objects and lists.
_NAMES = frozenset(
    {
        *("hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act"),
        *("mamba_hidden_act", "topk_method", "rope_type", "layer_types", "layers_block_type"),
        *("mlp_layer_types", "mlp_only_layers", OLD, NEW),
    }
)


def check_texts(config: Mapping[str, Any], where: str) -> None:
    """Raise UnknownConfig if a number or a switch that the model's class reads is text."""
    for name, value in _read(as_of_text(config)):
        raise UnknownConfig(
            f"{where}: {name} is {shown(value)}, a text, where a number, true or false is needed: "
            "transformers 5 refuses it. Write it without quotes"
        )


def _read(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the names and values of such texts; those of rotary objects, in each of them."""
    names = KEYS.get(str(config.get("model_type")), frozenset())
    yield from _texts(config, names)
    for holder in names & {OLD, NEW}:
        outer = config.get(holder)
        if isinstance(outer, dict):
            for inside in (outer, *(one for one in outer.values() if isinstance(one, dict))):
                yield from _texts(inside, ROPE_KEYS)


def _texts(values: Mapping[str, Any], names: frozenset[str]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if name in names - _NAMES and isinstance(value, str):
            yield name, value
