"""Settings that differ without a known meaning: weights are the same, and that is not all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.pairs import with_args, with_config
from tests.support.program import ckptdiff, document

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[..., Path]

OF_A_FORK = {"of_a_fork": 2, "gain": 0.5}
NOTE = "?  differs, meaning not known to ckptdiff"
# What says who wrote a file, how it is run, or names what is compared elsewhere.
HARMLESS: dict[str, Any] = {
    "transformers_version": "4.40.0", "torch_dtype": "float32", "_name_or_path": "there",
    "architectures": ["AnotherForCausalLM"], "use_cache": False, "initializer_range": 0.5,
    "attention_dropout": 0.1, "_commit_hash": "abc", "temperature": 0.6, "torchscript": False,
    "_attn_implementation_autoset": True, "pretraining_tp": 2,
}  # fmt: skip


def copied(folder: Path, to: Path, **settings: Any) -> Path:
    return with_config(Path(shutil.copytree(folder, to)), **settings)


def test_two_folders_are_not_called_the_same(tiny_hf: Make, tmp_path: Path) -> None:
    a = copied(tiny_hf(), tmp_path / "a", model_type="of_a_fork")
    b = copied(a, tmp_path / "b", **OF_A_FORK)
    done = ckptdiff("diff", a, b)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert NOTE in lines
    assert lines[-1] == (
        "verdict: differ (weights: same, 2 settings differ whose meaning is not known)"
    )
    found = document(ckptdiff("diff", a, b, "--json", "-"))
    assert (found["verdict"], found["weights"]) == ("differ", "same")
    assert (found["config_status"], found["findings"]) == ("unknown", [])
    alone = ckptdiff("diff", a, b, "--ignore-config")
    assert (alone.returncode, alone.stdout.splitlines()[-1]) == (0, "verdict: same")


def test_two_sets_of_args_are_not_called_the_same(tiny_megatron: Make, copy_of: Any) -> None:
    a = tiny_megatron(tp=1)
    done = ckptdiff("diff", a, with_args(copy_of(a), of_a_fork=2))
    assert done.returncode == 1
    assert "1 setting differs whose meaning is not known" in done.stdout.splitlines()[-1]


def test_what_a_config_json_cannot_say_is_counted(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Any
) -> None:
    done = ckptdiff("diff", tiny_hf(), with_args(copy_of(tiny_megatron(tp=1)), of_a_fork=2))
    assert done.returncode == 0
    last = done.stdout.splitlines()[-1]
    assert last == "verdict: same; 1 setting differs whose meaning is not known"


@pytest.mark.parametrize("kind", ["llama", "of_a_fork"])
def test_what_cannot_matter_is_no_alarm(kind: str, tiny_hf: Make, tmp_path: Path) -> None:
    a = copied(tiny_hf(), tmp_path / "a", model_type=kind)
    done = ckptdiff("diff", a, copied(a, tmp_path / "b", **HARMLESS))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "verdict: same")
