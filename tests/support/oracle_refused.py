"""Ask transformers and megatron-core whether they take a setting. Run by `oracle_server`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tests.support.oracle_core import meet

if TYPE_CHECKING:
    from collections.abc import Callable

VOCABULARY, POSITIONS = 16, 12


def compare(*, task: str, meeting: str, rank: int, **arguments: Any) -> dict[str, Any]:
    if task == "megatron":
        meet(meeting, rank, 1)
        return _by_megatron(**arguments)
    if task == "floats":
        return _floats(**arguments)
    return _by_classes(**arguments) if task == "switches" else _by_transformers(**arguments)


def _by_classes(names: list[str], model_types: list[str]) -> dict[str, Any]:
    """Return for each model type what its class refuses: names, with 0, 1 or null."""
    mapping = import_module("transformers").CONFIG_MAPPING
    return {
        kind: [
            [name, value]
            for name in names
            for value in (0, 1, None)
            if _why(mapping[kind], **{name: value}) is not None
        ]
        for kind in model_types
    }


def _floats(model_types: list[str]) -> dict[str, Any]:
    """Return for each model type the keys for which its class takes 1.0 and not 1."""
    mapping = import_module("transformers").CONFIG_MAPPING
    return {
        kind: [
            name
            for name in mapping[kind].__dataclass_fields__
            if _why(mapping[kind], **{name: 1}) is not None
            and _why(mapping[kind], **{name: 1.0}) is None
        ]
        for kind in model_types
    }


def _by_transformers(folder: str) -> dict[str, Any]:
    """Return why transformers loads no model from a folder; None if it does."""
    load = import_module("transformers").AutoModelForCausalLM.from_pretrained
    return {"why": _why(load, folder)}


def _by_megatron(settings: dict[str, Any], positions: int) -> dict[str, Any]:
    """Return why a GPTModel with these settings does not take the weights of one without them."""
    state = _network({}, POSITIONS).state_dict()
    return {"why": _why(_network(settings, positions).load_state_dict, state)}


def _network(settings: dict[str, Any], positions: int) -> Any:
    base = {"num_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "add_bias_linear": False}
    specs = import_module("megatron.core.models.gpt.gpt_layer_specs")
    config = import_module("megatron.core.transformer").TransformerConfig(**base | settings)
    return import_module("megatron.core.models.gpt").GPTModel(
        config, specs.get_gpt_layer_local_spec(), VOCABULARY, positions
    )


def _why(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str | None:
    try:
        call(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - whichever: the setting is refused
        return f"{type(error).__name__}: {error}"
    return None
