"""The config of a program that writes YAML instead of args, in the words of Megatron's args.

Megatron-Bridge writes `run_config.yaml` into the folder of an iteration, NeMo 2 writes
`context/model.yaml` beside its folder `weights`. Both name the fields of megatron-core's
TransformerConfig and of the class that builds the model from it; Megatron-LM's args have other
names for some.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ckptdiff.formats import tree
from ckptdiff.formats.plain_yaml import TARGET, read_yaml
from ckptdiff.formats.token_files import TOKENIZERS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

BRIDGE = "run_config.yaml"
NEMO = "model.yaml"
# What beside TARGET names a class: of an object inside the config, and of NeMo's model.
TRANSFORMER, MODEL = "transformer", "model"
NEMO_FOLDER, NEMO_WEIGHTS = "context", "weights"
BRIDGE_TOKENIZER = "tokenizer"

# Source: core_transformer_config_from_args of Megatron-LM, and what it gives to GPTModel.
_IN_ARGS = {
    "num_moe_experts": "num_experts",
    "layernorm_epsilon": "norm_epsilon",
    "layernorm_zero_centered_gamma": "apply_layernorm_1p",
    "seq_len_interpolation_factor": "rotary_seq_len_interpolation_factor",
    "rope_scaling": "use_rope_scaling",
    "scale_factor": "rope_scaling_factor",  # of the classes for Llama 3.1 and later
    "bias_activation_fusion": "bias_gelu_fusion",
    "num_layers_in_first_pipeline_stage": "decoder_first_pipeline_num_layers",
    "num_layers_in_last_pipeline_stage": "decoder_last_pipeline_num_layers",
    "seq_length": "max_position_embeddings",  # as the models are built
}
TIED, UNTIED = "share_embeddings_and_output_weights", "untie_embeddings_and_output_weights"
# The other way round: how these files spell an arg.
SPELLED = {args: name for name, args in _IN_ARGS.items() if name != "scale_factor"}
_TANH = frozenset({"openai_gelu", "fast_gelu", "gelu_new", "gelu_tanh", "gelu_pytorch_tanh"})


def find_run_config(root: Path) -> Path | None:
    """Return the file of YAML that states the config of the weights in `root`, if there is one."""
    places = (
        root / BRIDGE,
        root / NEMO_FOLDER / NEMO,
        *((root.parent / NEMO_FOLDER / NEMO,) if root.name == NEMO_WEIGHTS else ()),
        root.parent / BRIDGE,
    )
    return next((place for place in places if place.is_file()), None)


def find_tokenizer(root: Path) -> Path | None:
    """Return the folder with the tokenizer of the weights in `root`, in Hugging Face's files.

    Megatron-Bridge saves it beside the weights, NeMo 2 among the files of its `context`.
    """
    contexts = [root, root.parent] if root.name == NEMO_WEIGHTS else [root]
    with suppress(OSError):
        for context in (folder / NEMO_FOLDER for folder in contexts):
            found = [child for child in context.glob("*") if _has_tokenizer(child)]
            if len(found) == 1:
                return found[0]
    return root / BRIDGE_TOKENIZER if _has_tokenizer(root / BRIDGE_TOKENIZER) else None


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZERS)


def read_run_config(file: Path) -> dict[str, Any]:
    """Return the model's config in the words of args; empty if the file states none.

    What the file leaves out is left out. Raises CorruptFile or UnreadableFile.
    """
    document = _mapping(read_yaml(file))
    model = _mapping(document.get("config" if file.name == NEMO else "model"))
    # Newer releases hold the fields of TransformerConfig in an object of their own.
    inner = _mapping(model.get(TRANSFORMER))
    own = {TARGET: model.get(TARGET), TRANSFORMER: inner.get(TARGET)}
    if file.name == NEMO:
        own[MODEL] = document.get(TARGET)
    return _args({**model, **inner, **own})


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _args(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of a model's classes by the names that Megatron-LM's args have for them."""
    plain = tree.plain_values({n: _value(v) for n, v in fields.items() if isinstance(n, str)})
    for name in (TARGET, TRANSFORMER, MODEL):
        if plain.get(name) is None:
            plain.pop(name, None)
    # A field that has the very name of an arg goes before another that is called so in args.
    args = {_IN_ARGS[name]: value for name, value in plain.items() if name in _IN_ARGS} | {
        name: value for name, value in plain.items() if name not in _IN_ARGS
    }
    if isinstance(tied := args.get(TIED), bool):
        args[UNTIED] = not tied
    if "num_query_groups" in args:
        args["group_query_attention"] = args["num_query_groups"] is not None
    if fields.get("scale_factor") is not None:
        args["use_rope_scaling"] = True
    if fields.get("kv_lora_rank") is not None:
        args.setdefault("multi_latent_attention", True)
    return args | _activation(args)


def _activation(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the switches that args have for an activation function, if there are any for it."""
    name, gated = args.get("activation_func"), args.get("gated_linear_unit")
    if not isinstance(name, str) or not isinstance(gated, bool):
        return {}
    name = name.rpartition(".")[2]
    return {
        "activation_func": "gelu_tanh" if name in _TANH else name,
        "swiglu": gated and name == "silu",
        "quick_geglu": gated and name == "quick_gelu",
        "squared_relu": not gated and name == "squared_relu",
        "openai_gelu": not gated and name in _TANH,
    }


def _value(value: Any) -> Any:
    """Return a value as args have it; of a class, a function or an enum's member its name."""
    if isinstance(value, dict) and isinstance(target := value.get(TARGET), str):
        if isinstance(name := value.get("_name_"), str):
            return name
        is_named = value.get("_call_") is False or value.get("_partial_") is True
        return target if is_named else tree.text_of(value)
    return value
