"""The command line as a contract: what goes where, which exit code, what is said of trouble."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckptdiff import __version__
from ckptdiff.cli.main import main
from tests.support.pairs import edit_rank, noise, rank_file, write_plain
from tests.support.program import ckptdiff, document, parse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.program import Done

    Make = Callable[..., Path]


pytestmark = pytest.mark.mostly_slow(one_in=4)


def assert_trouble(done: Done, *said: object) -> None:
    """Exit code 2 and one paragraph on stderr that says this; nothing on stdout."""
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("ckptdiff: ")
    assert done.stderr.count("\n") == 1
    for text in said:
        assert str(text) in done.stderr


@pytest.fixture
def damaged(tiny_megatron: Make, copy_of: Make) -> Path:
    """Return a checkpoint that is like `tiny_megatron(tp=2)` but for one element of a norm."""
    folder = copy_of(tiny_megatron(tp=2))
    for rank in ("00", "01"):
        edit_rank(
            rank_file(folder, rank),
            lambda s: s["model"]["decoder.final_layernorm.weight"][3].add_(1),
        )
    return folder


# Exit codes and streams


def test_equal_checkpoints_exit_with_0_and_say_so_on_stdout(
    tiny_hf: Make, tiny_megatron: Make
) -> None:
    done = ckptdiff("diff", tiny_hf(), tiny_megatron(tp=2))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"A  {tiny_hf()}")
    assert lines[1].startswith(f"B  {tiny_megatron(tp=2)}")
    assert "TP 2" in lines[1]
    assert "21 tensors: 21 same" in done.stdout
    assert lines[-1] == "verdict: same"


def test_different_checkpoints_exit_with_1_and_name_the_tensor(
    tiny_hf: Make, damaged: Path
) -> None:
    done = ckptdiff("diff", tiny_hf(), damaged)
    assert (done.returncode, done.stderr) == (1, "")
    assert "20 same, 1 differ" in done.stdout
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("!")]
    assert "model.norm.weight" in row
    assert done.stdout.endswith("verdict: differ\n")


@pytest.mark.slow
def test_close_checkpoints_exit_with_0(tmp_path: Path) -> None:
    a = write_plain(tmp_path / "a", {"w": noise(5, 5)})
    b = write_plain(tmp_path / "b", {"w": noise(5, 5).bfloat16()})
    done = ckptdiff("diff", a, b)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 close" in done.stdout
    assert "cast F32 BF16" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("verdict: close; the configs were not")
    assert ckptdiff("diff", a, b, "--tolerance", "exact").returncode == 1


def test_a_tensor_that_cannot_be_put_together_exits_with_2(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Make
) -> None:
    folder = copy_of(tiny_megatron(tp=2))
    edit_rank(
        rank_file(folder, "01"),
        lambda s: s["model"].pop("decoder.layers.0.mlp.linear_fc2.weight"),
    )
    done = ckptdiff("diff", tiny_hf(), folder)
    assert done.returncode == 2
    assert "20 same, 1 error" in done.stdout
    assert "TP rank 1 of 2" in done.stdout


@pytest.mark.slow
def test_a_name_that_no_rule_knows_exits_with_1_and_is_named(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Make
) -> None:
    folder = copy_of(tiny_megatron())
    native = "decoder.layers.0.mlp.router.weight"
    edit_rank(rank_file(folder, "00"), lambda s: s["model"].update({native: torch.ones(2)}))
    done = ckptdiff("diff", tiny_hf(), folder)
    assert done.returncode == 1
    assert native in done.stdout
    assert done.stdout.endswith("verdict: differ\n")


@pytest.mark.slow
@pytest.mark.parametrize("command", [("diff", "{a}", "{gone}"), ("diff", "{gone}", "{a}"),
                                     ("ls", "{gone}"), ("{a}", "{gone}"), ("{gone}",)])  # fmt: skip
def test_a_path_that_is_not_there_is_trouble(
    tiny_hf: Make, tmp_path: Path, command: tuple[str, ...]
) -> None:
    gone = tmp_path / "gone"
    done = ckptdiff(*(word.format(a=tiny_hf(), gone=gone) for word in command))
    assert_trouble(done, gone, "no such file or folder")


def test_what_is_no_checkpoint_is_trouble_with_a_way_out(tmp_path: Path, tiny_hf: Make) -> None:
    (tmp_path / "empty").mkdir()
    done = ckptdiff("diff", tiny_hf(), tmp_path / "empty")
    assert_trouble(done, tmp_path / "empty", "is no checkpoint", "safetensors", "mp_rank_00")


def test_a_rank_that_is_missing_is_trouble(tiny_megatron: Make, copy_of: Make) -> None:
    folder = copy_of(tiny_megatron(tp=2))
    shutil.rmtree(rank_file(folder, "01").parent)
    assert_trouble(ckptdiff("ls", folder), "mp_rank_01", "TP 2", folder)


@pytest.mark.mostly_slow(one_in=2)
@pytest.mark.parametrize("where", ["before", "behind"])
def test_v_shows_a_traceback_and_still_exits_with_2(tmp_path: Path, where: str) -> None:
    words = ["ls", tmp_path / "gone"]
    done = ckptdiff(*(["-v", *words] if where == "before" else [*words, "-v"]))
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"ckptdiff: {tmp_path / 'gone'}")
    assert "Traceback" not in ckptdiff(*words).stderr


# Arguments


@pytest.mark.mostly_slow(one_in=2)
@pytest.mark.parametrize("text", ["casts", "ulp:1.5"])
def test_a_tolerance_that_makes_no_sense_is_trouble(tiny_hf: Make, text: str) -> None:
    done = ckptdiff("diff", tiny_hf(), tiny_hf(), "--tolerance", text)
    assert_trouble(done, f"tolerance '{text}'", "exact, cast, ulp:N or rel:X")


@pytest.mark.mostly_slow(one_in=2)
@pytest.mark.parametrize("command", ["diff", "ls"])
def test_a_pattern_that_is_no_expression_is_trouble(tiny_hf: Make, command: str) -> None:
    paths = [tiny_hf()] * (2 if command == "diff" else 1)
    done = ckptdiff(command, *paths, "--filter", "re:layers.(")
    assert_trouble(done, "re:layers.(", "is not a regular expression")


# These end in the parser, before anything is imported: no process of their own is needed.


@pytest.mark.parametrize(
    "words",
    [("diff",), ("diff", "a"), ("diff", "a", "b", "c"), ("ls",), ("ls", "a", "b"),
     ("diff", "a", "b", "--jobs", "0"), ("diff", "a", "b", "--jobs", "x"),
     ("diff", "a", "b", "--nonsense"), ("--nonsense",)],
    ids=" ".join,
)  # fmt: skip
def test_arguments_that_make_no_sense_exit_with_2_and_show_the_usage(
    words: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: ckptdiff" in err


def test_three_paths_are_trouble(tiny_hf: Make) -> None:
    assert_trouble(ckptdiff(*[tiny_hf()] * 3), "3 paths")


def test_a_command_that_is_nearly_one_is_asked_about(tiny_hf: Make) -> None:
    folder = str(tiny_hf())
    assert_trouble(ckptdiff("dif", folder, folder), "dif: there is no such file", "`ckptdiff diff`")
    assert_trouble(ckptdiff("lss", folder), "lss: there is no such file", "`ckptdiff ls`")


def test_no_path_and_no_terminal_is_trouble() -> None:
    assert_trouble(ckptdiff(), "no terminal", "--help")


def test_the_version_is_the_packages() -> None:
    done = ckptdiff("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"ckptdiff {__version__}\n", "")


def test_help_names_every_command_and_shows_examples() -> None:
    done = ckptdiff("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for command in ("diff", "ls", "demo"):
        assert f"ckptdiff {command}" in done.stdout
    assert "examples:" in done.stdout
    assert "A is the reference" in done.stdout


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("diff", ["--json", "--report", "--tolerance", "--filter", "--jobs", "--no-diagnose",
                  "--ignore-config"]),
        ("ls", ["--json", "--raw", "--filter"]),
        ("demo", ["--fault", "--no-tui"]),
    ],
)  # fmt: skip
def test_help_of_a_command_names_its_options(
    command: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    for option in options:
        assert option in out


# Without a terminal


@pytest.mark.slow
def test_two_paths_without_a_terminal_are_compared(tiny_hf: Make, damaged: Path) -> None:
    done, wanted = ckptdiff(tiny_hf(), damaged), ckptdiff("diff", tiny_hf(), damaged)
    assert done.returncode == wanted.returncode == 1
    assert without_time(done.stdout) == without_time(wanted.stdout)


def without_time(text: str) -> list[str]:
    return [
        line.rpartition(" in ")[0] if line.endswith(" s") else line for line in text.split("\n")
    ]


def test_one_path_without_a_terminal_is_listed(tiny_megatron: Make) -> None:
    assert ckptdiff(tiny_megatron()).stdout == ckptdiff("ls", tiny_megatron()).stdout


# Filters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "count"),
    [("layers.1 self_attn", 4), ("re:layers\\.[01]\\.mlp", 6)],
)
def test_a_filter_compares_only_what_matches(
    tiny_hf: Make, tiny_megatron: Make, pattern: str, count: int
) -> None:
    done = ckptdiff("diff", tiny_hf(), tiny_megatron(tp=2), "--filter", pattern)
    assert done.returncode == 0
    assert f"{count} tensors: {count} same" in done.stdout
    assert f"only names that match '{pattern}' were compared" in done.stdout


@pytest.mark.slow
def test_what_does_not_match_the_filter_is_not_judged(tiny_hf: Make, damaged: Path) -> None:
    assert ckptdiff("diff", tiny_hf(), damaged, "--filter", "layers").returncode == 0
    assert ckptdiff("diff", tiny_hf(), damaged, "--filter", "model.norm").returncode == 1


@pytest.mark.slow
def test_an_unmapped_name_that_does_not_match_the_filter_is_not_judged(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Make
) -> None:
    folder = copy_of(tiny_megatron())
    native = "decoder.layers.0.mlp.router.weight"
    edit_rank(rank_file(folder, "00"), lambda s: s["model"].update({native: torch.ones(2)}))
    pair = (tiny_hf(), folder)
    done = ckptdiff("diff", *pair, "--filter", "self_attn", "--json", "-")
    assert (done.returncode, document(done)["weights"]) == (0, "same")
    matching = ckptdiff("diff", *pair, "--filter", "router", "--json", "-")
    assert (matching.returncode, document(matching)["weights"]) == (1, "differ")


# Listing


def test_a_listing_names_every_tensor_with_dtype_and_shape(tiny_megatron: Make) -> None:
    done = ckptdiff("ls", tiny_megatron(tp=2))
    assert (done.returncode, done.stderr) == (0, "")
    rows = done.stdout.splitlines()
    assert "TP 2" in rows[0]
    assert len([row for row in rows if " BF16 " in row]) == 21
    (row,) = [row for row in rows if row.startswith("model.layers.1.self_attn.k_proj.weight ")]
    assert row.split()[1:3] == ["BF16", "16x32"]


@pytest.mark.parametrize("options", [(), ("--raw",)], ids=["", "raw"])
def test_a_listing_needs_no_args(
    tiny_megatron: Make, copy_of: Make, options: tuple[str, ...]
) -> None:
    folder = copy_of(tiny_megatron())
    edit_rank(rank_file(folder, "00"), lambda state: state.pop("args"))
    done = ckptdiff("ls", folder, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert "embedding.word_embeddings.weight" in done.stdout


def test_a_raw_listing_has_native_names_file_by_file(tiny_megatron: Make) -> None:
    done = ckptdiff("ls", tiny_megatron(tp=2), "--raw")
    rows = done.stdout.splitlines()
    assert [row for row in rows if not row.startswith(" ")] == [
        "mp_rank_00/model_optim_rng.pt", "mp_rank_01/model_optim_rng.pt",
    ]  # fmt: skip
    assert sum("decoder.layers.1.self_attention.linear_qkv.weight" in row for row in rows) == 2


def test_a_filter_of_a_listing_looks_at_the_names_that_are_listed(tiny_megatron: Make) -> None:
    folder = tiny_megatron(tp=2)
    rows = ckptdiff("ls", folder, "--filter", "q_proj").stdout.splitlines()
    assert sum(" BF16 " in row for row in rows) == 2
    raw = ckptdiff("ls", folder, "--raw", "--filter", "linear_qkv 1").stdout.splitlines()
    assert sum(" BF16 " in row for row in raw) == 2


@pytest.mark.parametrize("path", ["", "iter_0000001", "iter_0000001/mp_rank_00/model_optim_rng.pt"])
def test_an_iteration_is_listed_from_above_from_inside_and_from_its_file(
    tiny_megatron: Make, path: str
) -> None:
    done = ckptdiff("ls", tiny_megatron() / path, "--json")
    assert done.returncode == 0
    assert document(done)["iteration"] == 1
    assert len(document(done)["tensors"]) == 21


def test_one_safetensors_file_is_listed(tmp_path: Path) -> None:
    file = write_plain(tmp_path, {"w": torch.ones(2, 3)}) / "model.safetensors"
    done = ckptdiff("ls", file)
    assert done.returncode == 0
    assert "2x3" in done.stdout


# Files that are written


@pytest.mark.slow
def test_a_document_in_a_file_is_the_one_on_the_output(
    tmp_path: Path, tiny_hf: Make, damaged: Path
) -> None:
    file = tmp_path / "result.json"
    done = ckptdiff("diff", tiny_hf(), damaged, "--json", file)
    assert done.returncode == 1
    assert "verdict: differ" in done.stdout
    printed = ckptdiff("diff", tiny_hf(), damaged, "--json", "-")
    assert parse(file.read_text()) == document(printed)
    assert [child.name for child in tmp_path.glob("result*")] == ["result.json"]


def test_a_document_that_cannot_be_written_is_trouble(tmp_path: Path, tiny_hf: Make) -> None:
    target = tmp_path / "nowhere/result.json"
    done = ckptdiff("diff", tiny_hf(), tiny_hf(), "--json", target)
    assert done.returncode == 2
    assert done.stderr.startswith("ckptdiff: ")
    assert str(target) in done.stderr


@pytest.mark.slow
def test_pages_name_what_differs(tmp_path: Path, tiny_hf: Make, damaged: Path) -> None:
    pages = [tmp_path / "page.md", tmp_path / "page.html"]
    done = ckptdiff("diff", tiny_hf(), damaged, "--report", pages[0], "--report", pages[1])
    assert done.returncode == 1
    assert all("model.norm.weight" in page.read_text() for page in pages)


def test_a_page_of_an_unknown_kind_is_refused(tmp_path: Path, tiny_hf: Make) -> None:
    done = ckptdiff("diff", tiny_hf(), tiny_hf(), "--report", tmp_path / "page.pdf")
    assert done.returncode == 2
    assert not (tmp_path / "page.pdf").exists()


def test_a_filter_that_matches_nothing_is_trouble_and_not_the_same(tiny_hf: Make) -> None:
    done = ckptdiff("diff", tiny_hf(), tiny_hf(), "--filter", "qproj", "--json", "-")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no tensor of either side matches" in done.stderr


def test_without_a_terminal_the_number_of_jobs_is_kept(tiny_hf: Make) -> None:
    done = ckptdiff(tiny_hf(), tiny_hf(), "--jobs", "1")
    assert done.returncode == 0
    assert "verdict: same" in done.stdout
