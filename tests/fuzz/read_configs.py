"""What reads configs, and compares and writes what they state."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save_file
from torch import ones

from ckptdiff.assembly.assemble import assemble, assemble_pair
from ckptdiff.assembly.merging import with_merged
from ckptdiff.config.compare import compare_configs, field_text
from ckptdiff.config.huggingface_config import huggingface_config
from ckptdiff.config.megatron_args import megatron_args
from ckptdiff.formats import hf, megatron, meta, open_checkpoint
from ckptdiff.formats.json_files import read_object
from ckptdiff.formats.run_config import read_run_config
from ckptdiff.formats.token_files import POST_PROCESSOR, TOKENIZER, read_token_files
from ckptdiff.formats.unpickle import load
from ckptdiff.report.ls import listing_lines

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembled
    from tests.fuzz.harnesses import Read


def config(bases: Path, folder: Path) -> Read:
    whole = {f: hf.open(bases / f) for f in ("llama", "qwen3", "mixtral")}
    other = open_checkpoint(bases / "megatron")
    file = folder / "config.json"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        config = read_object(file)
        family = config.get("model_type")
        base = whole.get(family if isinstance(family, str) else "", whole["llama"])
        a, b = assemble_pair(replace(base, config=config), other)
        _compared(a, b)
        megatron_args(
            a,
            other.parallelism,
            names="mcore",
            dtype="BF16",
            ckpt_format="torch",
            padded_vocab_size=64,
        )

    return read


def args(bases: Path, folder: Path) -> Read:
    whole = hf.open(bases / "llama")
    base = open_checkpoint(bases / "megatron")

    def read(data: bytes) -> None:
        args = megatron.plain_args(load(data), Path("args"))
        json.dumps(args)  # plain_args promises values that JSON has
        a, b = assemble_pair(replace(base, config=args or None), whole)
        _compared(a, b)
        huggingface_config(a, dtype="BF16")

    return read


def params(bases: Path, folder: Path) -> Read:
    base, other = meta.open(bases / "meta"), hf.open(bases / "llama")
    file = folder / "params.json"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        _compared(*assemble_pair(replace(base, config=read_object(file)), other))

    return read


def yaml(bases: Path, folder: Path) -> Read:
    other, base = hf.open(bases / "llama"), open_checkpoint(bases / "megatron")
    file = folder / "run_config.yaml"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        config = read_run_config(file)
        a, b = assemble_pair(replace(base, config=config or None, config_file=file), other)
        _compared(a, b)

    return read


def token_files(bases: Path, folder: Path) -> Read:
    whole = hf.open(bases / "llama")
    pair = assemble(whole), assemble(whole)

    def read(data: bytes) -> None:
        for name in (TOKENIZER, "generation_config.json", POST_PROCESSOR, "chat_template.jinja"):
            (folder / name).write_bytes(data)
        found = read_token_files(folder, [])
        compare_configs(replace(pair[0], checkpoint=replace(whole, token_files=found)), pair[1])

    return read


def adapter(bases: Path, folder: Path) -> Read:
    base = assemble(hf.open(bases / "llama"))
    file = folder / "adapter_config.json"
    front = "base_model.model.model.layers.0.self_attn.q_proj"
    rows, columns = base.tensors["model.layers.0.self_attn.q_proj.weight"].shape
    held = {f"{front}.lora_A.weight": ones(8, columns), f"{front}.lora_B.weight": ones(rows, 8)}
    save_file(held, folder / "adapter_model.safetensors")

    def read(data: bytes) -> None:
        file.write_bytes(data)
        one = assemble(open_checkpoint(folder))
        _compared(one, replace(one, checkpoint=replace(one.checkpoint, adapter_config={"r": 4})))
        with_merged(base, one)

    return read


def _compared(a: Assembled, b: Assembled) -> None:
    """Take a pair as far as `ckptdiff diff` and `ckptdiff ls` do without its tensors' values."""
    for line in compare_configs(a, b):
        field_text(line, "A")
        field_text(line, "B")
    for _ in listing_lines(a, lambda name: "norm" in name):
        pass
