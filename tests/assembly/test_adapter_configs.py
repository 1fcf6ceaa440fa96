"""Where alpha and rank of an adapter are read, and what differs between two adapters' configs."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.formats import open_checkpoint
from tests.assembly.test_megatron_adapters import megatron_adapter, peft_adapter
from tests.support.pairs import compare

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[..., Path]

BRIDGE = """\
model:
  _target_: megatron.bridge.models.llama.llama_provider.LlamaModelProvider
peft:
  _target_: megatron.bridge.peft.{kind}
  target_modules: [linear_qkv, linear_proj]
  dim: 16
  alpha: 32
"""


@pytest.fixture
def peft(tiny_hf: Make, tmp_path: Path) -> Path:
    peft_adapter(tmp_path / "peft", tiny_hf(), shared=True)
    return tmp_path / "peft"


@pytest.mark.parametrize(
    ("kind", "read"), [("lora.LoRA", "LORA"), ("canonical_lora.CanonicalLoRA", "LORA"),
                       ("dora.DoRA", "DORA")],
)  # fmt: skip
def test_the_yaml_of_megatron_bridge_states_rank_and_alpha(
    kind: str, read: str, tiny_hf: Make, tmp_path: Path
) -> None:
    tensors = peft_adapter(tmp_path / "peft", tiny_hf(), shared=True)
    folder = megatron_adapter(tmp_path / "mg", tiny_hf(), tensors, kind="fused", alone=True)
    stated = open_checkpoint(folder).adapter_config
    assert stated is not None
    assert (stated["r"], stated["lora_alpha"]) == (4, 6)  # of the args
    (iteration,) = folder.glob("iter_*")
    (iteration / "run_config.yaml").write_text(BRIDGE.format(kind=kind))
    stated = open_checkpoint(folder).adapter_config
    assert stated is not None
    assert (stated["peft_type"], stated["r"], stated["lora_alpha"]) == (read, 16, 32)


def test_a_model_without_an_adapter_has_no_such_config(tiny_megatron: Make, tiny_hf: Make) -> None:
    assert open_checkpoint(tiny_megatron()).adapter_config is None
    assert open_checkpoint(tiny_hf()).adapter_config is None


@pytest.mark.parametrize(
    ("changed", "meaning"),
    [
        ({"lora_alpha": 12}, "adapter alpha"),
        ({"r": 8}, "adapter rank"),
        ({"use_rslora": True}, "rank-stabilised factor"),
        ({"target_modules": ["q_proj"]}, "adapter targets"),
        ({"alpha_pattern": {"q_proj": 1}}, "adapter alphas by module"),
    ],
)
def test_settings_of_two_adapters_are_lines_of_the_config(
    changed: dict[str, Any], meaning: str, peft: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(peft, other)
    file = other / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    compared = compare(peft, other)
    assert compared.summary.weights == "same"
    assert compared.summary.verdict == "differ"
    assert [line.meaning for line in compared.summary.conflicts] == [meaning]
    same = compare(peft, peft).summary
    assert (same.verdict, same.config_status) == ("same", "same")
