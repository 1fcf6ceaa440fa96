"""What can be the id of a model, and which of its files are of use."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptdiff.formats.hub.lookup import Wanted, parse
from ckptdiff.formats.hub.wanted import wanted


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("gpt2", Wanted("gpt2", None)),
        ("meta-llama/Llama-3.1-8B", Wanted("meta-llama/Llama-3.1-8B", None)),
        ("a/b@refs/pr/3", Wanted("a/b", "refs/pr/3")),
        ("a/b@v1.0", Wanted("a/b", "v1.0")),
        ("a/b@../../c", None),
        ("a/b@", None),
        ("a/b/c", None),
        ("a/ü", None),
        ("a--b", None),
        ("..", None),
        ("~/b", None),
        ("models--a--b", None),
        ("hf/model.safetensors", None),
    ],
)
def test_what_can_be_an_id(text: str, model: Wanted | None) -> None:
    assert parse(Path(text)) == model


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (
            ["config.json", "model.safetensors", "pytorch_model.bin", "README.md", "onnx/m.json"],
            ["config.json", "model.safetensors"],
        ),
        (
            ["model.safetensors.index.json", "model-00001-of-00002.safetensors",
             "model-00002-of-00002.safetensors", "model.fp16-00001-of-00002.safetensors",
             "consolidated.safetensors", "pytorch_model.bin.index.json"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
             "model.safetensors.index.json"],
        ),
        (["pytorch_model.bin", "tf_model.h5", "merges.txt", "vocab.json"],
         ["merges.txt", "pytorch_model.bin", "vocab.json"]),
        (["params.json", "consolidated.00.pth", "consolidated.01.pth", "tokenizer.model"],
         ["consolidated.00.pth", "consolidated.01.pth", "params.json", "tokenizer.model"]),
        (["adapter_model.safetensors", "adapter_config.json", "optimizer.pt"],
         ["adapter_config.json", "adapter_model.safetensors"]),
        (["config.json", "training_args.bin", "optimizer.pt", "rng_state_0.pth"],
         ["config.json"]),
        (["README.md", "iter_1/.metadata", "iter_1/__0_0.distcp", "iter_1/run_config.yaml",
          "iter_1/common.pt", "iter_1/tokenizer/merges.txt", "a/b.png"],
         ["iter_1/.metadata", "iter_1/__0_0.distcp", "iter_1/common.pt", "iter_1/run_config.yaml",
          "iter_1/tokenizer/merges.txt"]),
        (["model.safetensors.index.json", "a.safetensors", "b.safetensors"],
         ["a.safetensors", "b.safetensors", "model.safetensors.index.json"]),
    ],
)  # fmt: skip
def test_which_files_of_a_model_are_of_use(names: list[str], taken: list[str]) -> None:
    assert wanted(names) == taken
