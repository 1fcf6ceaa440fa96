"""The plain summary and the numbers in it, as words."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
import torch

from ckptdiff.assembly.recipe import Assembled, Assembly, LayoutError, Piece
from ckptdiff.checkpoint import Checkpoint, Entry, Parallelism, Rank, TensorRef, contiguous
from ckptdiff.comparison.verdict import summarise
from ckptdiff.config.compare import ConfigDiff
from ckptdiff.config.other_keys import NOT_KNOWN
from ckptdiff.report.diff import diff_document, diff_lines
from ckptdiff.report.ls import listing_lines
from ckptdiff.report.markdown_page import markdown_page
from ckptdiff.report.statuses import GLYPH, WORD
from ckptdiff.report.tensor_table import MAX_LINES
from ckptdiff.results import Numbers, Status, TensorDiff
from ckptdiff.text import format_bytes, format_cosine, format_number, format_shape, printable
from tests.support.pairs import compare, open_pair, pair, write_plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Make = Callable[..., Path]

ROOT = Path("/models/run7")


def side(
    *,
    tensors: int = 0,
    unmapped: tuple[str, ...] = (),
    errors: dict[str, str] | None = None,
    kind: str = "megatron",
    **of_checkpoint: Any,
) -> Assembled:
    checkpoint = Checkpoint(
        **{"root": ROOT, "format": kind, "convention": kind, "config": None, "shards": (),
           "files": (), "parallelism": Parallelism(tp=2, pp=4), **of_checkpoint}
    )  # fmt: skip
    whole = {f"w{n}": assembly(f"w{n}", (10, 10)) for n in range(tensors)}
    wrong = {name: LayoutError(text) for name, text in (errors or {}).items()}
    return Assembled(checkpoint, None, None, whole, unmapped, wrong)


def assembly(name: str, shape: tuple[int, ...], files: int = 1) -> Assembly:
    box = tuple((0, size) for size in shape)
    pieces = []
    for n in range(files):
        ref = TensorRef(name, shape, "BF16", ROOT / f"rank{n}", 0, contiguous(shape))
        pieces.append(Piece(ref, Rank(n), box, box))
    return Assembly(name, shape, "BF16", tuple(pieces))


def figures(**changes: Any) -> Numbers:
    usual: dict[str, Any] = {
        "numel": 100, "differing": 1, "max_abs": 0.125, "max_at": (3, 4), "mean_abs": 0.01,
        "rms": 0.1, "rel_l2": 0.0314, "cosine": 0.98765, "max_ulp": 3, "nan_a": 0, "nan_b": 0,
        "inf_a": 0, "inf_b": 0, "norm_a": 1.0, "norm_b": 1.0, "histogram": (99, 1), "grid": b"",
        "grid_shape": (0, 0),
    }  # fmt: skip
    return Numbers(**(usual | changes))


def full(value: float) -> Tensor:
    return torch.full((3,), value)


def lines(*results: TensorDiff, a: Assembled | None = None, b: Assembled | None = None,
          **options: Any) -> list[str]:  # fmt: skip
    one, other = a or side(), b or side()
    return list(diff_lines(one, other, results, summarise(results, one, other), **options))


def result(name: str, status: Status, **fields: Any) -> TensorDiff:
    return TensorDiff(
        name, status, **{"dtype_a": "BF16", "dtype_b": "BF16", "shape_a": (10, 10),
                         "shape_b": (10, 10), **fields}
    )  # fmt: skip


# The summary


def test_every_status_has_a_glyph_and_a_word_of_its_own() -> None:
    statuses = set(get_args(Status))
    assert set(GLYPH) == set(WORD) == statuses
    assert len(set(GLYPH.values())) == len(set(WORD.values())) == len(statuses)
    assert all(len(glyph) == 1 and glyph.isascii() for glyph in GLYPH.values())


def test_both_sides_are_named_with_their_layout_and_size() -> None:
    b = side(tensors=3, iteration=1000, parallelism=Parallelism(tp=2, pp=4, vpp=3, ep=8),
             notes=("one rank's file",))  # fmt: skip
    first, second, *_ = lines(a=side(tensors=1, kind="hf", parallelism=Parallelism()), b=b)
    assert first == f"A  {ROOT}  hf  1 tensor  200 B"
    assert second == (
        f"B  {ROOT}  megatron  TP 2 PP 4  VPP 3  EP 8  iteration 1000  3 tensors  600 B"
        "  (one rank's file)"
    )


def test_a_family_without_rules_is_named() -> None:
    a = side(kind="hf", config={"model_type": "gemma9"})
    assert "no rules for gemma9" in lines(a=a)[0]


@pytest.mark.parametrize("name", ["w", "model.layers.0.self_attn.q_proj.weight"])
def test_a_row_has_glyph_name_shape_and_figures_below_their_titles(name: str) -> None:
    found = lines(result(name, "differ", numbers=figures()))
    (header,) = [line for line in found if "max|d|" in line]
    (row,) = [line for line in found if line.startswith("!")]
    assert row.split() == ["!", name, "10x10", "1.2e-01", "3.1e-02", "0.988"]
    for title, value in (("max|d|", "1.2e-01"), ("rel", "3.1e-02"), ("cos", "0.988")):
        assert header.index(title) + len(title) == row.index(value) + len(value)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (result("w", "only_a", dtype_b=None, shape_b=None), "<  w  10x10  only in A"),
        (result("w", "only_b", dtype_a=None, shape_a=None), ">  w  10x10  only in B"),
        (result("w", "shape", shape_b=(12, 10)), "#  w  10x10 | 12x10"),
        (result("w", "close", why="cast", dtype_b="F32", numbers=figures()), "cast BF16 F32"),
        (result("w", "close", why="bits", numbers=figures()), "bits"),
        (result("w", "error", error="the file is cut off"), "     the file is cut off"),
        (result("w", "differ", note="replica drift in B", numbers=figures()),
         "     replica drift in B"),
    ],
    ids=lambda x: x.status if isinstance(x, TensorDiff) else "",
)  # fmt: skip
def test_a_row_says_what_there_is_to_say(found: TensorDiff, words: str) -> None:
    said = [" ".join(line.split()) for line in lines(found)]
    assert any(" ".join(words.split()) in line for line in said)
    assert any(line.startswith(GLYPH[found.status]) for line in lines(found))


def test_tensors_that_are_the_same_have_no_row() -> None:
    found = lines(result("quiet", "same", numbers=figures()), result("loud", "only_a"))
    assert not any("quiet" in line for line in found)
    assert any("loud" in line for line in found)


def test_what_padding_holds_is_said_once_for_tensors_that_are_the_same() -> None:
    notes = [result(f"w{n}", "same", note="3 padding rows in B: zeros") for n in range(3)]
    assert [line for line in lines(*notes) if "padding" in line] == [
        "   3 padding rows in B: zeros (3 tensors)"
    ]


def test_the_end_counts_everything_and_gives_the_verdict() -> None:
    found = lines(
        result("a", "same"), result("b", "same"), result("c", "close"), result("d", "only_b"),
        seconds=1.26,
    )  # fmt: skip
    assert found[-2] == "4 tensors: 2 same, 1 close, 1 only in B in 1.3 s"
    assert found[-1].startswith("verdict: differ")
    assert lines()[-2] == "0 tensors: nothing to compare"


def test_what_differs_is_listed_before_what_is_close() -> None:
    found = lines(
        result("a", "close", why="cast", dtype_b="F32", numbers=figures()),
        result("b", "differ", numbers=figures()),
    )  # fmt: skip
    assert [line[0] for line in found if line[:1] in "!~" and line] == ["!", "~"]


def test_many_casts_are_one_line_with_their_worst_figures() -> None:
    casts = [
        result(f"w{n}", "close", why="cast", dtype_b="F32", numbers=figures(max_abs=0.1 * n))
        for n in range(9)
    ]
    other = [result("x", "close", why="bits", numbers=figures())]
    rows = [line for line in lines(*casts, *other) if line.startswith("~")]
    assert [" ".join(row.split()) for row in rows] == [
        "~ 9 tensors 8.0e-01 3.1e-02 0.988 cast BF16 F32", "~ x 10x10 1.2e-01 3.1e-02 0.988 bits"
    ]  # fmt: skip
    assert len([line for line in lines(*casts[:8]) if line.startswith("~")]) == 8


def test_notes_on_tensors_in_one_line_are_kept() -> None:
    casts = [
        result(f"w{n}", "close", why="cast", dtype_b="F32", numbers=figures(), note="B is F8")
        for n in range(9)
    ]
    assert "   B is F8 (9 tensors)" in lines(*casts)


def test_a_long_reason_is_not_repeated_below_each_row() -> None:
    why = "B: rank 1 of 2 is missing: copy its file beside the others"
    rows = [result(f"w{n}", "error", error=why, note="fp8") for n in range(3)]
    other = result("other", "shape", note="B: of another size than its config says, by 3 rows")
    found = lines(*rows, other, result("last", "error", error=why), result("x", "same"))
    start = next(n for n, line in enumerate(found) if line.startswith("x  w0"))
    shown = [line.split("  ")[1] if line[:1] in ("x", "#") else line for line in found[start:]]
    assert shown[:12] == [
        "w0", f"     {why} (and so 2 rows below)", "     fp8", "w1", "     fp8", "w2", "     fp8",
        "other", f"     {other.note}", "last", "     as above", "",
    ]  # fmt: skip


def test_the_last_line_says_what_was_not_compared() -> None:
    found = lines(result("a", "same"), result("b", "error", error="cut off"))
    assert found[-1].startswith("verdict: differ; ")
    assert found[-1].endswith("; not compared: 1 tensor that could not be read")


def test_settings_that_differ_without_a_known_meaning_are_lines_with_both_values() -> None:
    config = (
        ConfigDiff("of_a_fork", "unknown", None, None, "of_a_fork", [1.0, True], note=NOT_KNOWN),
        ConfigDiff("gain", "unknown", "gain", 2.0, "gain", None, note=NOT_KNOWN),
        ConfigDiff("Norm epsilon", "unknown", "eps", 1e-6, None, None, note="B does not say"),
    )
    summary = replace(summarise([], side(), side()), config=config, config_status="unknown")
    found = list(diff_lines(side(), side(), [], summary))
    start = found.index("?  differs, meaning not known to ckptdiff")
    assert found[start + 1 : start + 4] == [
        "     of_a_fork: not stated in A, [1, true] in B",
        "     gain: 2 in A, null in B",
        "?  not in B's config, so not compared: Norm epsilon",
    ]


def test_a_diagnosis_that_stopped_is_part_of_the_result() -> None:
    differing = result("a", "differ", numbers=figures())
    summary = replace(summarise([differing], side(), side()), diagnosis_error="KeyError: 'x'")
    words = "the diagnosis stopped: KeyError: 'x'"
    assert words in list(diff_lines(side(), side(), [differing], summary))[-1]
    document = diff_document(side(), side(), [differing], summary)
    assert document["diagnosis_error"] == "KeyError: 'x'"
    assert words in markdown_page(side(), side(), [differing], summary, None)


def test_many_names_of_one_module_that_no_rule_knows_are_one_line() -> None:
    names = tuple(f"tower.layers.{n}.weight" for n in range(9))
    found = lines(b=side(unmapped=names))
    assert [line for line in found if line.startswith("?")] == [
        "?  9 names of tower.*: no rule of any family knows them (in B)"
    ]
    document = diff_document(side(), side(unmapped=names), [], summarise([], side(), side()))
    assert document["unmapped"]["b"] == list(names)


def test_where_nothing_could_be_read_nothing_is_said_to_differ() -> None:
    broken = result("b", "error", error="the file is cut off")
    summary = summarise([broken], side(), side())
    assert (summary.verdict, summary.has_errors) == ("trouble", True)
    assert lines(broken)[-1] == (
        "verdict: trouble: no tensor could be read, so nothing is known of the weights. Each line "
        "above says why; mend that and compare again"
    )
    document = diff_document(side(), side(), [broken], summary)
    assert (document["verdict"], document["weights"]) == ("trouble", "trouble")


def test_what_matched_means_is_said() -> None:
    found = lines(result("a", "matched", numbers=figures()))
    assert [line for line in found if line.startswith("@  1 tensor matched: the bytes are there")]
    assert found[-1].startswith("verdict: matched;")


def test_a_pattern_is_named() -> None:
    assert any("only names that match 'q_proj' were compared" in x for x in lines(pattern="q_proj"))
    assert not any("only names" in line for line in lines())


def test_a_long_list_is_cut_and_says_so() -> None:
    found = lines(*(result(f"w{n}", "only_a") for n in range(MAX_LINES + 5)))
    assert sum(line.startswith("<") for line in found) == MAX_LINES
    assert any("… and 5 more; --json FILE lists all" in line for line in found)


@pytest.mark.parametrize("which", ["a", "b"])
def test_names_that_no_rule_knows_are_listed_with_their_side(which: str) -> None:
    names = tuple(f"x{n:03d}" for n in range(MAX_LINES + 2))
    found = lines(**{which: side(unmapped=names)})
    listed = [line for line in found if line.startswith("?")]
    assert len(listed) == MAX_LINES + 1
    assert listed[0] == f"?  x000: no rule of any family knows it (in {which.upper()})"
    assert f"2 more unmapped names in {which.upper()}" in listed[-1]
    assert found[-1].startswith("verdict: differ")


EVIL = "evil\x1b]0;owned\x07\r\nname\u202e"


def test_nothing_of_a_file_can_steer_the_terminal() -> None:
    results = [
        result(EVIL, "differ", numbers=figures(), note=EVIL),
        result(EVIL, "error", error=EVIL),
        result("same", "same", note=EVIL),
    ]
    evil = side(root=Path(EVIL), unmapped=(EVIL,), notes=(EVIL,), config={"model_type": EVIL},
                kind="hf", errors={EVIL: EVIL})  # fmt: skip
    texts = [*lines(*results, a=evil, b=evil, pattern=EVIL), *listing_lines(evil, lambda _: True)]
    for text in texts:
        assert text.isprintable(), text


# The listing


def test_a_listing_names_dtype_shape_size_and_files() -> None:
    whole = {"one": assembly("one", (10, 10)), "three": assembly("three", (2, 5), files=3)}
    listed = list(
        listing_lines(Assembled(side(kind="hf").checkpoint, None, None, whole, (), {}), bool)
    )
    (one,) = [line for line in listed if line.startswith("one")]
    (three,) = [line for line in listed if line.startswith("three")]
    assert one.split() == ["one", "BF16", "10x10", "200", "B"]
    assert three.split() == ["three", "BF16", "2x5", "20", "B", "3", "files"]


def test_a_listing_tells_what_is_wrong_and_what_else_there_is() -> None:
    odd = side(
        kind="hf", unmapped=("mystery",), errors={"broken": "TP rank 1 of 2 has no shard of it"}
    )
    listed = "\n".join(listing_lines(odd, lambda _: True))
    assert "mystery  no rule of any family knows it" in listed
    assert "broken  TP rank 1 of 2 has no shard of it" in listed


def test_buffers_of_the_config_are_counted_in_a_listing() -> None:
    entry = Entry("rotary_emb.inv_freq", "derived", "F32 4")
    buffers = Assembled(side(kind="hf").checkpoint, None, None, {}, (), {}, derived=(entry, entry))
    assert "2 buffers that follow from the config" in list(listing_lines(buffers, bool))


def test_a_document_is_strict_json_in_one_line(tmp_path: Path) -> None:
    a = write_plain(tmp_path / "a", {"w": full(0.0)})
    comparison = compare(a, write_plain(tmp_path / "b", {"w": full(1.0)}))
    document = diff_document(
        comparison.a, comparison.b, comparison.results.values(), comparison.summary
    )
    text = json.dumps(document, allow_nan=False)
    assert json.loads(text)["tensors"][0]["rel_l2"] == "inf"


def test_paths_of_a_listing_start_at_the_checkpoint(tiny_hf: Make, tiny_megatron: Make) -> None:
    _, b = open_pair(tiny_hf(), tiny_megatron(tp=2))
    files = {b.checkpoint.relative(file) for file in b.checkpoint.files}
    assert files == {f"mp_rank_0{n}/model_optim_rng.pt" for n in (0, 1)}


def test_a_single_file_is_called_by_its_name(tmp_path: Path) -> None:
    a, b = (folder / "model.safetensors" for folder in pair(tmp_path, *[{"w": full(1)}] * 2))
    assembled, _ = open_pair(a, b)
    assert assembled.checkpoint.relative(a) == "model.safetensors"


# Numbers as text


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (1, "1 B"), (999, "999 B"), (1000, "1 kB"), (1234, "1.23 kB"), (12_345, "12.3 kB"),
     (99_940, "99.9 kB"), (99_960, "100 kB"), (999_400, "999 kB"), (999_600, "1 MB"),
     (16_060_522_496, "16.1 GB"), (2.5e12, "2.5 TB"), (1.5e15, "1500 TB")],
)  # fmt: skip
def test_sizes_have_three_digits_in_powers_of_1000(nbytes: float, text: str) -> None:
    assert format_bytes(nbytes) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-0.0, "0"), (1.0, "1.0e+00"), (1.25e-7, "1.2e-07"), (5e-324, "4.9e-324"),
     (math.inf, "inf"), (math.nan, "nan")],
)  # fmt: skip
def test_only_exactly_zero_is_written_as_zero(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1"), (math.nextafter(1, 0), "1.000"), (0.9996, "1.000"), (0.5, "0.500"),
     (-1.0, "-1.000"), (math.nan, "nan")],
)  # fmt: skip
def test_only_exactly_one_is_written_as_one(value: float, text: str) -> None:
    assert format_cosine(value) == text


@pytest.mark.parametrize(
    ("shape", "text"), [(None, ""), ((), "scalar"), ((5,), "5"), ((2, 3, 4), "2x3x4"), ((0,), "0")]
)
def test_shapes_are_written_with_an_x(shape: tuple[int, ...] | None, text: str) -> None:
    assert format_shape(shape) == text


@pytest.mark.parametrize(
    ("text", "safe"),
    [("model.layers.0", "model.layers.0"), ("é 漢字 ok", "é 漢字 ok"), ("\x1b[31m", "\\x1b[31m"),
     ("a\nb\tc", "a\\nb\\tc"), ("\u202e", "\\u202e"), ("\ud800", "\\ud800"), ("", "")],
)  # fmt: skip
def test_text_from_a_file_cannot_steer_a_terminal(text: str, safe: str) -> None:
    assert printable(text) == safe
