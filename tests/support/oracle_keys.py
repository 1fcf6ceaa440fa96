"""Find which keys of config.json change the logits of transformers' classes, by running them.

A tiny model of `families.MODELS` is built from a config.json, and from the same with one key
changed and the same weights. A key counts if for some value the logits, or the names or shapes of
the parameters, are others, or the class fails. What keys there are is what the class holds, what
its modelling code names, and what code for all classes names (masks, rotary positions). Run by
`oracle_server`.

`python -m tests.support.oracle_keys [MODEL_TYPE ...]` prints for each model type what the table of
`ckptdiff.config.keys_read` lacks or has without need, and which values show it.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from functools import cache
from importlib import import_module
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from ckptdiff.config.keys_read import KEYS, ROPE_KEYS, SAYS_NOTHING
from tests.support.families import MODELS, SIZES, WITHOUT_CLASS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

IDS = [(i * 37 + 5) % 61 for i in range(24)]
CLOSE = 1e-6  # of logits: the same products in another order
# Code that all classes share.
_SHARED = ("transformers.masking_utils", "transformers.modeling_rope_utils")
_NAMED = re.compile(
    r"config\.(?:get_text_config\(\)\.)?([a-z]\w*)\b(?!\()"
    r"|getattr\(\s*(?:self\.)?config,\s*\"([a-z]\w*)\""
)
# Keys that name the class or the dtype, one that makes the class return something else, and what
# classes hold for themselves.
_OTHERWISE = {"model_type", "dtype", "torch_dtype", "architectures", "auto_map", "return_dict"}
_OTHERWISE |= {"default_theta"}

# What a model needs beyond `families.MODELS` to be run.
_LATENT = {"num_key_value_heads": 4, "head_dim": 4}
_NEEDED: dict[str, dict[str, Any]] = {
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "glm4_moe_lite": _LATENT,
    "gpt_neox": {"rotary_pct": 0.5},
}
# Other names of what a class calls otherwise; they would count more.
_ALIASES: dict[str, tuple[str, ...]] = {
    "gpt2": (
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"),
    ),
    "glm4_moe_lite": ("head_dim",),
}

# Keys without an effect unless another is set: models with these as well.
_GROUPS = {"n_group": 2, "topk_group": 1}
_WINDOW = {"sliding_window": 8}
_TURNS: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"], **_WINDOW}
_UNTIED = {"tie_word_embeddings": False}
_MIXED = {"mlp_only_layers": [0]}
_QWEN = {"use_sliding_window": True, "max_window_layers": 1, **_WINDOW}
_MORE: dict[str, tuple[dict[str, Any], ...]] = {
    **dict.fromkeys(("qwen2", "qwen3"), (_QWEN,)),
    **dict.fromkeys(("qwen2_moe", "qwen3_moe"), (_QWEN, _MIXED)),
    "smollm3": (
        _UNTIED,
        {**_TURNS, "use_sliding_window": True},
        {**_WINDOW, "no_rope_layers": [1, 0]},
    ),
    "qwen3_next": (_MIXED,),
    "deepseek_v2": ({"topk_method": "group_limited_greedy", **_GROUPS},),
    **dict.fromkeys(("deepseek_v3", "glm4_moe", "glm4_moe_lite", "nemotron_h"), (_GROUPS,)),
    **dict.fromkeys(("gemma", "gpt2", "ernie4_5"), (_UNTIED,)),
    "gemma2": (_UNTIED, _TURNS),
    "gemma3_text": ({**_UNTIED, **_TURNS},),
    **dict.fromkeys(("olmo3", "exaone4", "gpt_oss"), (_TURNS,)),
    **dict.fromkeys(("mistral", "mixtral", "phi3"), (_WINDOW,)),
}
_SHORT: dict[str, Any] = {"max_position_embeddings": 16}  # the text is longer
_ROPE: dict[str, dict[str, Any]] = {
    "yarn": {
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "mscale": 0.7,
        "mscale_all_dim": 0.4,
        "beta_fast": 2.0,
        "beta_slow": 0.5,
    },
    "longrope": {"original_max_position_embeddings": 8},
    "dynamic": {"factor": 4.0},
    "linear": {"factor": 4.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}
_OF_ROPE = (
    *("max_position_embeddings", "original_max_position_embeddings", "head_dim", "rope_theta"),
    *("partial_rotary_factor", "rotary_pct", "rotary_emb_base"),
)


class Probe:
    """A tiny model and its logits."""

    def __init__(self, model_type: str, base: Mapping[str, Any]) -> None:
        first = {**SIZES, **MODELS[model_type][1], **_NEEDED.get(model_type, {}), **base}
        self.base = {**first, "model_type": model_type}
        for name in _ALIASES.get(model_type, ()):
            self.base.pop(name, None)
        self.config = _config(self.base)
        torch.manual_seed(0)
        model = _built(self.config)
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                norm = "norm" in name and name.endswith("weight")
                value.normal_(mean=1.0 if norm else 0.0, std=0.3)
        self.weights = {name: value.clone() for name, value in model.state_dict().items()}
        self.logits = _run(model)
        assert bool(self.logits.isfinite().all()), model_type

    def save(self, folder: Path) -> None:
        """Write the weights as transformers does."""
        model = _built(self.config)
        model.load_state_dict(self.weights)
        model.save_pretrained(folder)

    def changed(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config.json with these keys set; `a.b` is a key inside an object."""
        found = dict(self.base)
        for key, value in changes.items():
            outer, *inner = key.split(".")
            held = found.get(outer) or self.config.to_dict().get(outer)
            found[outer] = _with(held, inner, value)
        plain: dict[str, Any] = json.loads(json.dumps(found))
        return plain

    def run(self, changes: Mapping[str, Any]) -> tuple[str, Any]:
        """Return what becomes of the model with other keys, and its logits if it has the weights.

        The first is nothing if the model is the same, `illegal` if the config cannot be.
        """
        try:
            config = _config(self.changed(changes))
        except Exception:  # noqa: BLE001 -- whatever the class raises
            return "illegal", None
        try:
            model = _built(config)
            shapes = {name: value.shape for name, value in model.state_dict().items()}
            if not shapes.keys() <= self.weights.keys():
                return "names", None
            if any(shape != self.weights[name].shape for name, shape in shapes.items()):
                return "shapes", None
            model.load_state_dict({name: self.weights[name] for name in shapes})
            logits = _run(model)
        except Exception as error:  # noqa: BLE001 -- whatever the class raises
            return f"fails: {type(error).__name__}: {error}", None
        if logits.shape != self.logits.shape:
            return "shapes", None
        far = float((logits - self.logits).abs().max() / self.logits.abs().max())
        names = "names" if shapes.keys() != self.weights.keys() else ""
        return (names if far < CLOSE else f"{far:.2g}"), logits

    def reads(self, key: str, value: Any) -> bool:
        """Return whether the class reads a key, as one value shows.

        A key that the class does not hold is not read because its code fails on an odd value.
        """
        effect, _ = self.run({key: value})
        if effect.startswith("fails"):
            return "." in key or key in _OF_ROPE or hasattr(self.config, key)
        return effect not in ("", "illegal")

    def read_among(self, changes: Mapping[str, Any]) -> list[str]:
        """Return which of these keys the class reads; all are changed at once if none is."""
        if self.run(changes)[0] == "":
            return []
        if len(changes) == 1:
            return [key for key, value in changes.items() if self.reads(key, value)]
        halves = list(changes)[: len(changes) // 2], list(changes)[len(changes) // 2 :]
        return [key for half in halves for key in self.read_among({k: changes[k] for k in half})]


def _with(held: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    inside = held if isinstance(held, dict) else {}
    return {**inside, path[0]: _with(inside.get(path[0]), path[1:], value)}


def _config(fields: Mapping[str, Any]) -> Any:
    """Return the config as it is read from a file, whose entries may ask for another class."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(fields))
        return import_module("transformers").AutoConfig.from_pretrained(folder)


def _built(config: Any) -> Any:
    transformers = import_module("transformers")
    return transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def _run(model: Any) -> Any:
    with torch.inference_mode():
        return model(torch.tensor([IDS])).logits[0]


def probes(model_type: str) -> Iterator[Probe]:
    """Yield the models whose keys are changed: the plain one first, those with scaled RoPE last."""
    plain = Probe(model_type, {})
    yield plain
    for more in _MORE.get(model_type, ()):
        yield Probe(model_type, more)
    if not hasattr(plain.config, "rope_parameters"):
        return
    buffers = dict(_built(plain.config).named_buffers())
    pairs = next((len(value) for name, value in buffers.items() if name.endswith("inv_freq")), 0)
    factors = {"short_factor": [1.0 + n / 8 for n in range(pairs)]}
    factors["long_factor"] = [1.0 + n for n in range(pairs)]
    for kind, numbers in _ROPE.items():
        one = {"rope_type": kind, "rope_theta": 5000.0, **numbers}
        one |= factors if kind == "longrope" else {}
        both = {} if model_type != "phi3" else {"original_max_position_embeddings": 8}
        if _kinds(plain):
            base = {"rope_parameters": dict.fromkeys(_TURNS["layer_types"], one), **_TURNS}
        else:
            base = {"rope_parameters": one, **both}
        if model_type != "phi3" or kind == "longrope":  # its class takes no other
            yield Probe(model_type, {**base, **_SHORT})


def _kinds(probe: Probe) -> list[str]:
    """Return the kinds of layers that have rotary settings of their own."""
    held = probe.config.to_dict().get("rope_parameters") or {}
    return [kind for kind, one in held.items() if isinstance(one, dict)]


@cache
def _names_in(module: str) -> frozenset[str]:
    found = _NAMED.findall(inspect.getsource(import_module(module)))
    return frozenset(one or other for one, other in found)


def candidates(probe: Probe) -> list[str]:
    """Return the keys that the class might read."""
    if "rope_parameters" in probe.base:
        fronts = [f"rope_parameters.{kind}." for kind in _kinds(probe)] or ["rope_parameters."]
        return sorted({*_OF_ROPE, *(front + key for front in fronts for key in ROPE_KEYS)})
    modules = (type(_built(probe.config)).__module__, type(probe.config).__module__, *_SHARED)
    keys = {name for module in modules for name in _names_in(module)}
    keys = {name for name in keys if not callable(getattr(probe.config, name, None))}
    keys |= {*probe.config.to_dict(), *probe.base, *SAYS_NOTHING, *_OF_ROPE, "rope_scaling"}
    return sorted(keys - _OTHERWISE)


def values(probe: Probe, key: str) -> Iterator[Any]:
    """Yield values that a key might have, but for its own."""
    now: Any = probe.config.to_dict()
    for part in key.split("."):
        now = now.get(part) if isinstance(now, dict) else None
    layers = getattr(probe.config, "num_hidden_layers", 2)
    name = key.rpartition(".")[2]
    tried: list[Any]
    if name in ("rope_parameters", "rope_scaling"):
        tried = [{"rope_type": "linear", "factor": 4.0}, _longrope(probe)]
    elif name in ("rope_type", "type"):
        tried = ["linear", "default", "dynamic"]
    elif name in ("layer_types", "layers_block_type", "mlp_layer_types"):
        kinds = {"layers_block_type": ("mamba", "mlp"), "mlp_layer_types": ("dense", "sparse")}
        both = kinds.get(name, ("full_attention", "sliding_attention"))
        tried = [[both[0]] * layers, [both[1]] * layers]
    elif name in ("sliding_window", "attention_chunk_size"):
        tried = [3, 8]
    elif name == "max_window_layers":
        tried = [0, 1, 2]
    elif isinstance(now, bool):
        tried = [not now]
    elif isinstance(now, int):
        tried = [now * 2, now + 1, now // 2 or 1, 3]
    elif isinstance(now, float):
        tried = [now * 2 + 0.3, now / 2, 0.5]
    elif isinstance(now, str):
        tried = ["relu", "silu", "sigmoid", "group_limited_greedy"]
    elif isinstance(now, list):
        tried = [now[::-1], *([one] * len(now) for one in now)] if now else [[0]]
    elif isinstance(now, dict):
        tried = [{}]
    elif key != name or name in _OF_ROPE:
        tried = [0.25, 0.5, 3.0, 8]
    else:
        tried = [True, False, 0.5, 3.0, 3, 8, 1, [0], [1, 0] * (layers // 2)]
    yield from (value for value in tried if type(value) is not type(now) or value != now)


def _longrope(probe: Probe) -> dict[str, Any]:
    size = getattr(probe.config, "head_dim", None) or 8
    factors: list[float] = [1.0 + n for n in range(size // 2)]
    return {"rope_type": "longrope", "short_factor": factors, "long_factor": factors}


def missing(probe: Probe, known: Collection[str]) -> set[str]:
    """Return the keys that the class reads and that are not among the known ones."""
    unlisted = [key for key in candidates(probe) if key.partition(".")[0] not in known]
    found: set[str] = set()
    rounds = [list(values(probe, key)) for key in unlisted]
    for turn in range(max(map(len, rounds), default=0)):
        changes = {
            key: tried[turn] for key, tried in zip(unlisted, rounds, strict=True) if tried[turn:]
        }
        found |= set(probe.read_among({k: v for k, v in changes.items() if k not in found}))
    return found


def needless(model_type: str, known: Collection[str]) -> set[str]:
    """Return which of the known keys the class does not read."""
    left = set(known)
    for probe in probes(model_type):
        for key in sorted(left):
            if any(probe.reads(key, value) for value in values(probe, key)):
                left.discard(key)
        if not left:
            break
    return left


def compare(*, rank: int, meeting: str, model_types: list[str]) -> dict[str, Any]:
    """Return by model type the keys that `KEYS` lacks, and those that it has without need."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for model_type in model_types:
        known = KEYS[model_type]
        lacks = {key for probe in islice(probes(model_type), 3) for key in missing(probe, known)}
        found[model_type] = {
            "lacks": sorted(lacks),
            "needless": sorted(needless(model_type, known)),
        }
    return found


if __name__ == "__main__":
    import_module("transformers").logging.set_verbosity_error()
    for model_type in sys.argv[1:] or [name for name in MODELS if name not in WITHOUT_CLASS]:
        found = compare(rank=0, meeting="", model_types=[model_type])
        sys.stdout.write(f"{model_type}: {json.dumps(found[model_type])}\n")
        sys.stdout.flush()
