"""Write a small pair of Hugging Face and Megatron checkpoints, with one fault in the latter."""

from __future__ import annotations

import json
import random
import struct
from argparse import Namespace
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from ckptdiff.arch.llama import LLAMA
from ckptdiff.arch.scatter import scatter
from ckptdiff.config.model import from_huggingface
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.errors import BadArgument, UnreadableFile
from ckptdiff.formats.safetensors import lay_out
from ckptdiff.formats.torch_save import Data, save

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ckptdiff.checkpoint import Box

FAULTS = ("kv-swap", "tp-swap", "gate-up", "rope", "stale", "rope-base", "none")
TP = 2
VOCAB_DIVISIBLE_BY = 64  # rows; Megatron's --make-vocab-size-divisible-by
FAULTY_LAYER = 2  # of the faults that touch one layer
SEED = 20240229

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 500,
}


_CONFIG_TEXT = json.dumps(CONFIG, indent=2) + "\n"


def make_demo(folder: Path, *, fault: str = "kv-swap") -> tuple[Path, Path]:
    """Write `hf` and `megatron-tp2` into `folder` and return both paths.

    The weights are random and the same in every run. An older demo in the folder is replaced.
    Raises BadArgument for an unknown fault or a folder that holds anything else, UnreadableFile if
    it cannot be written.
    """
    if fault not in FAULTS:
        raise BadArgument(f"fault '{fault}': the demo knows {', '.join(FAULTS)}")
    hf, megatron = folder / "hf", folder / f"megatron-tp{TP}"
    if folder.exists() and not _is_demo(folder, hf):
        raise BadArgument(f"{folder}: is not empty and not a demo; give another folder")
    tensors = _weights()
    try:
        _write_hf(hf, tensors)
        _write_megatron(megatron, tensors, fault)
    except OSError as error:
        raise UnreadableFile(f"{folder}: cannot be written ({error.strerror})") from error
    return hf, megatron


def _is_demo(folder: Path, hf: Path) -> bool:
    """Return whether a folder is empty or holds a pair that `make_demo` wrote."""
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    config = hf / "config.json"
    return config.is_file() and config.read_text(errors="replace") == _CONFIG_TEXT


def _weights() -> dict[str, Data]:
    """Return the tensors of the model by Hugging Face name, drawn as at initialisation."""
    source = random.Random(SEED)  # noqa: S311 -- made-up weights, not secrets
    hidden, ffn = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    kv = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (CONFIG["vocab_size"], hidden)
    }
    for layer in range(CONFIG["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (hidden,),
            f"{prefix}self_attn.q_proj.weight": (hidden, hidden),
            f"{prefix}self_attn.k_proj.weight": (kv, hidden),
            f"{prefix}self_attn.v_proj.weight": (kv, hidden),
            f"{prefix}self_attn.o_proj.weight": (hidden, hidden),
            f"{prefix}post_attention_layernorm.weight": (hidden,),
            f"{prefix}mlp.gate_proj.weight": (ffn, hidden),
            f"{prefix}mlp.up_proj.weight": (ffn, hidden),
            f"{prefix}mlp.down_proj.weight": (hidden, ffn),
        }
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (CONFIG["vocab_size"], hidden)}
    return {name: _random(source, shape, norm="norm" in name) for name, shape in shapes.items()}


def _random(source: random.Random, shape: tuple[int, ...], *, norm: bool) -> Data:
    """Return a bfloat16 tensor: a norm is about one, anything else about zero."""
    count = prod(shape)
    centre, spread = (1.0, 0.05) if norm else (0.0, 0.02)
    values = [source.gauss(centre, spread) for _ in range(count)]
    # A bfloat16 is the upper half of a float32.
    content = b"".join(struct.pack("<f", value)[2:] for value in values)
    return Data("BF16", shape, content)


def _write_hf(folder: Path, tensors: Mapping[str, Data]) -> None:
    """Write a Hugging Face folder of one file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(_CONFIG_TEXT)
    layout = lay_out((name, data.dtype, data.shape) for name, data in tensors.items())
    with (folder / "model.safetensors").open("wb") as file:
        file.writelines(content for _, content in layout.fixed)
        file.writelines(data.content for data in tensors.values())


def _write_megatron(folder: Path, tensors: Mapping[str, Data], fault: str) -> None:
    """Write a checkpoint in Megatron's torch format, with the fault."""
    divisor = VOCAB_DIVISIBLE_BY * TP
    padded = -(-CONFIG["vocab_size"] // divisor) * divisor
    sources = _with_fault(tensors, fault)
    config = replace(from_huggingface(CONFIG), padded_vocab_size=padded)
    shapes = {name: data.shape for name, data in tensors.items()}
    models: list[dict[str, Data]] = [{} for _ in range(TP)]
    for rank_slice in scatter(LLAMA, config, shapes, TP):
        models[rank_slice.rank][rank_slice.name] = _filled_shard(sources, rank_slice.pieces)
    if fault == "tp-swap":
        models.reverse()
    if fault == "stale":
        source = random.Random(SEED + 1)  # noqa: S311
        models[1] = {name: _noisy(source, data) for name, data in models[1].items()}
    rotary_base = int(CONFIG["rope_theta"]) * (2 if fault == "rope-base" else 1)
    args = _args(padded, rotary_base)
    for rank, model in enumerate(models):
        target = folder / "iter_0000001" / f"mp_rank_{rank:02d}"
        target.mkdir(parents=True, exist_ok=True)
        tree = {"args": args, "checkpoint_version": 3.0, "iteration": 1, "model": model}
        save(tree, target / "model_optim_rng.pt")
    (folder / "latest_checkpointed_iteration.txt").write_text("1")


def _filled_shard(sources: Mapping[str, Data], pieces: list[tuple[str | None, Box, Box]]) -> Data:
    """Return the shard that the pieces of a `RankSlice` fill; padding repeats the row before it."""
    shape = tuple(max(box[d][1] for _, _, box in pieces) for d in range(len(pieces[0][2])))
    width = shape[-1] * ITEMSIZE["BF16"]
    rows = [bytearray(width) for _ in range(prod(shape[:-1]))]
    for source, of, box in pieces:
        first, last = box[0] if len(box) > 1 else (0, 1)
        for row in range(first, last):
            if source is None:
                rows[row][:] = rows[row - 1]
                continue
            data = sources[source]
            start = (of[0][0] + row - first) * data.shape[-1] if len(of) > 1 else 0
            content = slice(2 * (start + of[-1][0]), 2 * (start + of[-1][1]))
            rows[row][2 * box[-1][0] : 2 * box[-1][1]] = data.content[content]
    return Data("BF16", shape, b"".join(rows))


def _with_fault(tensors: Mapping[str, Data], fault: str) -> dict[str, Data]:
    """Return the tensors from which a converter with this fault fills the shards."""
    changed = dict(tensors)
    layer = f"model.layers.{FAULTY_LAYER}."
    if fault == "kv-swap":
        k, v = f"{layer}self_attn.k_proj.weight", f"{layer}self_attn.v_proj.weight"
        changed[k], changed[v] = tensors[v], tensors[k]
    elif fault == "gate-up":
        gate, up = f"{layer}mlp.gate_proj.weight", f"{layer}mlp.up_proj.weight"
        changed[gate], changed[up] = tensors[up], tensors[gate]
    elif fault == "rope":
        for name, data in tensors.items():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                changed[name] = _in_meta_order(data)
    return changed


def _in_meta_order(data: Data) -> Data:
    """Return query or key rows in Meta's rotary order: the halves of each head interleaved."""
    width = data.shape[1] * ITEMSIZE[data.dtype]
    d = CONFIG["head_dim"]
    order = [
        head + half * d // 2 + i
        for head in range(0, data.shape[0], d)
        for i in range(d // 2)
        for half in (0, 1)
    ]
    rows = (data.content[row * width : (row + 1) * width] for row in order)
    return Data(data.dtype, data.shape, b"".join(rows))


def _noisy(source: random.Random, data: Data) -> Data:
    """Return a tensor as of another save: each value off by a factor of 1 ± 0.01, one sigma."""
    values = (
        struct.unpack("<f", b"\0\0" + data.content[i : i + 2])[0]
        for i in range(0, len(data.content), 2)
    )
    moved = (struct.pack("<f", value * source.gauss(1, 0.01))[2:] for value in values)
    return Data(data.dtype, data.shape, b"".join(moved))


def _args(padded_vocab_size: int, rotary_base: int) -> Namespace:
    """Return the args that Megatron-LM would have saved, as far as they describe the model."""
    return Namespace(
        tensor_model_parallel_size=TP,
        pipeline_model_parallel_size=1,
        virtual_pipeline_model_parallel_size=None,
        num_layers=CONFIG["num_hidden_layers"],
        hidden_size=CONFIG["hidden_size"],
        ffn_hidden_size=CONFIG["intermediate_size"],
        num_attention_heads=CONFIG["num_attention_heads"],
        group_query_attention=True,
        num_query_groups=CONFIG["num_key_value_heads"],
        kv_channels=CONFIG["head_dim"],
        max_position_embeddings=CONFIG["max_position_embeddings"],
        normalization="RMSNorm",
        norm_epsilon=CONFIG["rms_norm_eps"],
        position_embedding_type="rope",
        rotary_base=rotary_base,
        rotary_percent=1.0,
        swiglu=True,
        add_bias_linear=False,
        add_qkv_bias=False,
        qk_layernorm=False,
        untie_embeddings_and_output_weights=True,
        vocab_size=CONFIG["vocab_size"],
        padded_vocab_size=padded_vocab_size,
        make_vocab_size_divisible_by=VOCAB_DIVISIBLE_BY,
        bf16=True,
        ckpt_format="torch",
        transformer_impl="local",
    )
