"""The names and shapes that a conversion writes are those that megatron-core's models ask for."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from tests.support.conversions import converted, torch_loads
from tests.support.corpus import REPOSITORY
from tests.support.skips import NO_NEWEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.oracle_client import Oracle

pytestmark = [pytest.mark.oracle, pytest.mark.slow]
WHEEL = os.environ.get("CKPTDIFF_MEGATRON", "")
SCHEMES: dict[str, dict[str, Any]] = {
    "local": {"names": "mcore"},
    "engine": {"names": "te"},
    "grouped": {"names": "te", "moe_grouped_gemm": True},
}
# What Megatron's args have no word of, by the model type: GeGLU, norms elsewhere and wider ones.
BEYOND_ARGS: dict[str, dict[str, Any]] = {
    "gemma": {"gated": True},
    "gemma2": {"gated": True, "norms": "behind"},
    "gemma3_text": {"gated": True, "norms": "behind"},
    "gpt_oss": {"gated": True},
    "minimax_m2": {"wide_qk_norm": True},
    "olmo2": {"norms": "behind alone", "wide_qk_norm": True},
    "olmo3": {"norms": "behind alone", "wide_qk_norm": True},
    "olmoe": {"wide_qk_norm": True},
    "exaone4": {"norms": "behind alone"},
}
# It asks for a norm that the model has not, and converting says that it cannot compute the model.
NOT_COMPUTED = {"0.19": {"deepseek_v2, queries whole"}}
# Their gated DeltaNet's norm cannot be converted yet.
NOT_CONVERTED = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")


@pytest.fixture(scope="session")
def models(
    ask_oracle: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Return a Hugging Face folder for every model, by name."""
    root, folders = tmp_path_factory.mktemp("models"), {}
    for name, model in ask_oracle("odd_models").items():
        assert "error" not in model, model["error"]
        if model["config"]["model_type"] not in NOT_CONVERTED:
            folders[name] = root / name
            folders[name].mkdir()
            (folders[name] / "config.json").write_text(json.dumps(model["config"]))
            weights = {n: torch.rand(size) for n, size in model["shapes"].items()}
            save_file(weights, folders[name] / "model.safetensors")
    return folders


def written(source: Path, out: Path, version: Any, scheme: dict[str, Any]) -> dict[str, Any]:
    """Convert to both formats; return names and shapes, names of states, and the args."""
    plan, _ = converted(source, out / "whole", "torch_dist", version=version, **scheme)
    iteration = out / "whole/iter_0000001"
    entries = FileSystemReader(iteration).read_metadata().state_dict_metadata
    whole = {n: list(e.size) for n, e in entries.items() if not isinstance(e, BytesStorageMetadata)}
    converted(source, out / "ranks", "megatron", version=version, **scheme)
    (file,) = (out / "ranks").glob("iter_*/mp_rank_00/model_optim_rng.pt")
    state = torch_loads(file)["model"]
    return {
        "torch_dist": whole,
        "states": sorted(entries.keys() - whole),
        "megatron": {n: list(v.shape) for n, v in state.items() if v is not None},
        "rank states": sorted(n for n, v in state.items() if v is None),
        "cannot": [clause for clause in plan.cannot if "queries that are not" in clause],
        "args": vars(torch_loads(iteration / "common.pt")["args"])
        | {"whole": str(iteration), "ranks": str(file)},
    }


def differences(wanted: dict[str, Any], found: dict[str, Any], *, local: bool) -> list[str]:
    """Return what a model asks for and is not written, or written and not asked for."""
    if "error" in wanted:
        return [wanted["error"]]
    lines = [f"loaded otherwise: {name}" for name in wanted["different"]]
    for part in ("torch_dist", "megatron"):
        lines += [
            f"{part}: {n}: asked for {wanted[part].get(n)}, written {found[part].get(n)}"
            for n in sorted(wanted[part].keys() | found[part].keys())
            if wanted[part].get(n) != found[part].get(n)
        ]
    # Distributed checkpoints have the states of both specs. In the other format the local spec's
    # norms have states where Transformer Engine is installed and chosen for them.
    lines += [f"not written: {n}" for n in sorted({*wanted["states"]} - {*found["states"]})]
    asked = {n for n in wanted["rank states"] if not (local and "norm._extra" in n)}
    lines += [f"rank state: {n}" for n in sorted(asked ^ {*found["rank states"]})]
    return lines


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("version", ["0.16", "0.19"])
def test_all_that_a_model_asks_for_is_written_and_nothing_else(
    version: str, scheme: str, models: dict[str, Path], oracle: Oracle, tmp_path: Path
) -> None:
    if version != "0.16" and not (Path(WHEEL) / "megatron/core").is_dir():
        pytest.skip(NO_NEWEST)
    found, jobs = {}, {}
    for name, folder in models.items():
        held = written(folder, tmp_path / name, version, SCHEMES[scheme])
        args = held["args"] | BEYOND_ARGS.get(name.partition(",")[0], {})
        if scheme != "grouped" or args["num_experts"]:
            found[name], jobs[name] = held, args
    asked = subprocess.run(
        [oracle.python, "-m", "tests.support.asked_names", WHEEL if version != "0.16" else ""],
        input=json.dumps(jobs, default=str),
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "GLOO_SOCKET_IFNAME": "lo"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr[-3000:]
    wanted = json.loads(asked.stdout.splitlines()[-1])
    local = scheme == "local"
    lines = {name: differences(wanted[name], found[name], local=local) for name in jobs}
    is_computed = {name for name, held in found.items() if not held["cannot"]}
    assert {name: lines[name] for name in is_computed if lines[name]} == {}
    assert {name for name in lines if lines[name]} == jobs.keys() - is_computed
    assert jobs.keys() - is_computed == NOT_COMPUTED.get(version, set()) & jobs.keys()
    assert len(jobs) > (18 if scheme == "grouped" else 40)
