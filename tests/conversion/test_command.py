"""A conversion as a command line: parsed, it asks for the same again."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace as Usage

import pytest

from ckptdiff.checkpoint import Checkpoint, Parallelism
from ckptdiff.cli.convert import _target
from ckptdiff.cli.main import _parse
from ckptdiff.conversion.command import command_of
from ckptdiff.conversion.destination import free_bytes, holds_anything, proposed_out
from ckptdiff.conversion.plan import Target

TARGETS = (
    Target("hf"),
    Target("hf", family="phi3", accept=True),
    Target("hf", dtype="bf16", max_shard_size=800_000_000, overwrite=True),
    Target("megatron", Parallelism(2, etp=2)),
    Target("megatron", Parallelism(8, 4, 2, 4, 1), names="te", moe_grouped_gemm=True),
    Target("megatron", Parallelism(1, 3), first_layers=5, last_layers=3, names="legacy"),
    Target("torch_dist", Parallelism(2, 2, 1, 2, 2), vocab_divisible_by=64, allow_unmapped=True),
)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("like", [None, Path("/ckpt/a model")])
def test_the_command_parses_back_to_what_it_was_made_from(
    target: Target, like: Path | None
) -> None:
    source, out = Path("/ckpt/it's here"), Path("out/$HOME")
    program, *words = shlex.split(shlex.join(command_of(source, out, target, like)))
    options = _parse(words)
    assert program == "ckptdiff"
    assert _target(options) == target
    assert (options.source, options.out, options.like) == (source, out, like)
    assert not options.no_verify


def test_what_is_a_default_is_not_said() -> None:
    words = command_of(Path("a"), Path("b"), Target("megatron", Parallelism(4, etp=4)))
    assert words == ["ckptdiff", "convert", "a", "b", "--to", "megatron", "--tp", "4"]


def test_a_path_that_looks_like_a_flag_is_not_taken_for_one() -> None:
    options = _parse(command_of(Path("-x"), Path("--to"), Target("hf"), Path("-like"))[1:])
    assert (options.source, options.out) == (Path("-x"), Path("--to"))
    assert options.like == Path("-like")


@pytest.mark.parametrize(
    ("root", "target", "name"),
    [
        ("run7/iter_0001000", Target("hf"), "run7-hf"),
        ("run7/release", Target("torch_dist"), "run7-dist"),
        ("llama-hf", Target("megatron", Parallelism(2, 4, 1, 1, 2)), "llama-hf-tp2-pp4"),
        ("llama/model.safetensors", Target("megatron"), "llama-tp1"),
    ],
)
def test_a_folder_is_proposed_beside_the_source_and_never_one_that_is_there(
    tmp_path: Path, root: str, target: Target, name: str
) -> None:
    path = tmp_path / root
    path.parent.mkdir(exist_ok=True)
    path.touch() if path.suffix else path.mkdir(parents=True)
    source = Checkpoint(path, "hf", "hf", None, Parallelism(), (), ())
    assert proposed_out(source, target) == tmp_path / name
    (tmp_path / name).mkdir()
    assert proposed_out(source, target) == tmp_path / f"{name}-2"


def test_what_an_unfinished_conversion_holds_counts_as_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage(free=1000 * folder.exists()))
    out = tmp_path / "not" / "there" / "yet"
    assert free_bytes(out) == 1000
    partial = out.with_name("yet.partial")
    partial.mkdir(parents=True)
    (partial / "half").write_bytes(b"x" * 100_000)
    assert 101_000 <= free_bytes(out) < 120_000
    assert not holds_anything(out)
    assert holds_anything(partial)
