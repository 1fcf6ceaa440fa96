"""`ckptdiff convert` as a script sees it: output, JSON, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from tests.support.oracle_hf import make_hf
from tests.support.program import ckptdiff, document

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_there_and_back(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf", vocab=61)
    done = ckptdiff("convert", "hf", "mid", "--to", "megatron", "--tp", 2, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "from  hf (hf, llama)"
    assert lines[1].startswith("to    mid (megatron, ")
    assert "      padded vocabulary 61 -> 256: 195 rows, copies of the last" in lines
    assert lines[-4:-1] == [
        "verified: 21 of 21 tensors are the same, every byte compared",
        "",
        "start Megatron-LM 0.16, for one step on made-up data, with:",
    ]
    assert f" pretrain_gpt.py --load {tmp_path}/mid --use-checkpoint-args " in lines[-1]
    done = ckptdiff("convert", "mid", "back", "--to", "hf", "--like", "hf", cwd=tmp_path)
    assert done.returncode == 0
    done = ckptdiff("diff", "hf", "back", cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "verdict: same")


def test_json_is_the_only_output(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf", dtype=torch.float32)
    done = ckptdiff(
        "convert", "hf", "out", "--to", "megatron", "--tp", 2, "--dtype", "bf16", "--json", "-",
        cwd=tmp_path,
    )  # fmt: skip
    found = document(done)
    assert found["schema"] == "ckptdiff.convert/1"
    assert found["parallelism"] == {"tp": 2, "pp": 1, "vpp": 1, "ep": 1, "etp": 2}
    assert (found["files"], found["tensors"], found["verified"]) == (2, 21, True)
    assert found["left_out"] == []
    assert sum(loss["rounded"] for loss in found["losses"]) > 1000
    size = sum(file.stat().st_size for file in tmp_path.glob("out/**/*.pt"))
    assert found["bytes"] == size


@pytest.mark.slow
def test_a_loss_beyond_rounding_is_named(tmp_path: Path) -> None:
    weights = make_hf(tmp_path / "hf", single=True, dtype=torch.float32)
    weights["model.norm.weight"][:3] = torch.tensor([1e6, 1e-9, 1.0])
    save_file(weights, tmp_path / "hf/model.safetensors")
    done = ckptdiff("convert", "hf", "out", "--to", "hf", "--dtype", "fp16", cwd=tmp_path)
    assert done.returncode == 0
    wanted = "lost  model.norm.weight: 1 values became infinite, 1 became zero"
    assert wanted in done.stdout.splitlines()


@pytest.mark.mostly_slow(one_in=12)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "hf", "--like", "nowhere"], "nowhere: there is no such file or folder"),
        (["--to", "hf", "--max-shard-size", "none"], "invalid size such as 5GB or 800MB"),
        (["--to", "megatron", "--tp", "0"], "invalid positive number value: '0'"),
        (["--to", "megatron", "--tp", "3"], "TP 3: 4 attention heads are not divisible by it"),
        (["--to", "megatron", "--ep", "2"], "has no routed experts"),
        (["--to", "onnx"], "invalid choice: 'onnx'"),
        ([], "--to"),
    ],
)
def test_what_makes_no_sense_is_one_error(tmp_path: Path, options: list[str], words: str) -> None:
    make_hf(tmp_path / "hf")
    done = ckptdiff("convert", "hf", "out", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.slow
def test_torch_is_not_imported(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf")
    script = (
        "import sys; from ckptdiff.cli.main import main; "
        "code = main(['convert', 'hf', 'out', '--to', 'megatron', '--json', 'out.json']); "
        "print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 False"
    assert json.loads((tmp_path / "out.json").read_text())["same"] == 21
