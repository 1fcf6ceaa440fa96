"""What a comparison of logits says: the answer first, 80 columns, and the JSON of the contract."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.formats import open_checkpoint
from ckptdiff.report.logits import MAX_TOKENS, logit_document, logit_lines
from ckptdiff.results import Next, Tap
from tests.support.logit_results import METRICS, K, attributed, candidates, clean, faulty, with_taps
from tests.support.program import parse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.results import LogitDiff

    Make = Callable[..., Path]
    Said = Callable[[LogitDiff], list[str]]
    Document = Callable[[LogitDiff], dict[str, Any]]

# The contract's own example.
CONTRACT = """
{"schema": "ckptdiff.logits/1", "ids": [1, 2, 3], "device": "cpu", "verdict": "arithmetic",
 "first_divergence": {"layer": 2, "tap": "mlp_out", "rel": 0.78} , "floor": 3.4e-7,
 "threshold": 6.8e-6, "taps": [{"layer": 0, "tap": "q", "rel": 1e-7}],
 "metrics": {"max_abs": 0.0, "mean_abs": 0.0, "rel_rms": 0.0, "cosine_min": 1.0, "kl_mean": 0.0,
             "kl_max": 0.0, "top1_agree": 1.0, "flips": 0, "flips_unexplained": 0,
             "top5_overlap": 1.0, "top10_overlap": 1.0, "nll_a": 0.0, "nll_b": 0.0},
 "top": [{"position": 2, "a": [[310, " Paris", 0.81]], "b": [[310, " Paris", 0.81]]}],
 "attribution": [{"cause": "norm rounding", "share": 0.065}]}
"""


@pytest.fixture(scope="module")
def sides(tiny_hf: Make, tiny_megatron: Make) -> tuple[Assembled, Assembled]:
    return assemble_pair(open_checkpoint(tiny_hf()), open_checkpoint(tiny_megatron(tp=2)))


@pytest.fixture
def said(sides: tuple[Assembled, Assembled]) -> Callable[[LogitDiff], list[str]]:
    """Return a function that gives the lines, those of A and B left out."""

    def lines(found: LogitDiff) -> list[str]:
        return [
            s for s in logit_lines(*sides, found, seconds=1.23) if not s.startswith(("A ", "B "))
        ]

    return lines


@pytest.fixture
def document(sides: tuple[Assembled, Assembled]) -> Callable[[LogitDiff], dict[str, Any]]:
    """Return a function that gives the document as strict JSON has it."""
    return lambda found: parse(json.dumps(logit_document(*sides, found), allow_nan=False))


# Words


def test_the_verdict_comes_first_and_last(said: Said) -> None:
    lines = said(clean())
    assert lines[0] == "=  Only arithmetic: no step differs by more than 3.0e-07."
    assert lines[-2:] == ["14 steps of one prompt in fp32 on cpu in 1.2 s", "verdict: arithmetic"]
    assert said(faulty())[0].startswith("✗  Weights or config differ: ")
    assert said(faulty())[-1] == "verdict: weights-or-config"
    assert said(clean(verdict="small"))[0].startswith("~  ")


def test_the_first_step_comes_with_what_it_reads(said: Said) -> None:
    assert said(faulty())[1:5] == [
        "   rounding explains a relative difference of at most 6.0e-06",
        "     the same values in another order",
        f"     it reads {K}",
        "",
    ]


def test_a_clean_comparison_lists_no_step(said: Said) -> None:
    text = "\n".join(said(clean()))
    assert "by layer" not in text
    assert "rounding explains" not in text


def test_steps_above_the_threshold_are_listed_by_layer(said: Said) -> None:
    lines = said(faulty())
    at = lines.index("   relative differences above 6.0e-06, by layer")
    # Layers with the same steps share a line, which has the largest of each.
    assert lines[at + 1 : at + 3] == ["   1, 3  k inf", ""]
    lines = said(
        with_taps(
            *(Tap(layer, "q", 0.25 * (layer + 1)) for layer in range(3)),
            Tap(3, "norm1", 0.5), Tap(3, "q", 0.25), Tap(None, "logits", 0.5),
        )
    )  # fmt: skip
    at = lines.index("   relative differences above 6.0e-06, by layer")
    assert lines[at + 1 : at + 5] == [
        "   0-2  q 7.5e-01",
        "   3    norm1 5.0e-01  q 2.5e-01",
        "   -    logits 5.0e-01",
        "",
    ]


def test_many_layers_with_gaps_have_a_short_name(said: Said) -> None:
    taps = tuple(Tap(layer, "q", 0.5 + layer / 1000) for layer in range(1, 80, 2))
    lines = said(clean(taps=taps, verdict="weights-or-config", first=taps[0]))
    assert "   40 of 1-79  q 5.8e-01" in lines


def test_a_step_that_a_cast_explains_is_marked(said: Said) -> None:
    lines = said(with_taps(Tap(1, "k", 1e-3, rest=2e-7), verdict="small"))
    assert "     2.0e-07 with the wider weights cast to the other dtype" in lines
    assert "   1  k 1.0e-03 (cast)" in lines


def test_the_metrics_have_their_words(said: Said) -> None:
    lines = said(clean())
    at = lines.index("   logits in bf16, each side on its own values")
    assert lines[at + 1 : at + 8] == [
        "   max|d| 2.5e-01 (position 1, token 7), mean|d| 1.3e-02, rel rms 2.0e-02",
        "   smallest cosine 0.999, KL 2.2e-03 nats, at most 4.0e-03",
        "   likeliest token the same at 1 of 3 positions",
        "   of the others, 1 can come of differences of this size, 1 cannot",
        "   of the 5 likeliest 84.0% are in both, of the 10 likeliest 90.0%",
        "   loss of the prompt: 3.2500 nats a token in A, 3.5000 in B",
        "   R 0.93: rounding that is independent gives 0.8 to 1.1",
    ]
    quiet = replace(METRICS, flips=0, flips_unexplained=0, nll_a=None, nll_b=None)
    lines = said(clean(metrics=quiet, ratio=None))
    assert "   likeliest token the same at 3 of 3 positions" in lines
    assert not [
        line for line in lines if "loss" in line or line.startswith(("   R ", "   of the o"))
    ]


def test_the_five_likeliest_tokens_after_the_last_position_are_shown(said: Said) -> None:
    lines = said(clean())
    at = lines.index("   what comes after position 2, the likeliest first")
    assert lines[at + 2].split() == ["1", "9", "'", "t9'", "50.0%", "9", "'", "t9'", "50.0%"]
    assert lines[at + 3].split() == ["2", "8", "'", "t8'", "25.0%", "7", "'", "t7'", "25.0%"]
    assert lines[at + 7] == ""


def test_columns_stand_below_each_other_whatever_the_script(said: Said) -> None:
    wide = tuple(replace(one, text="東京") for one in candidates(9, 8))
    lines = said(clean(top=(Next(2, wide, candidates(9, 8)),)))
    row = next(line for line in lines if "東京" in line)
    assert row.index("9 ' t9'") + 2 == next(line for line in lines if " A " in line).index("B")


def test_tokens_without_a_tokenizer_are_their_ids(said: Said) -> None:
    bare = tuple(replace(one, text=None) for one in candidates(9, 8))
    lines = said(clean(texts=(), top=(Next(2, bare, bare),)))
    assert lines[lines.index("   prompt, 3 tokens:") + 1] == "     1, 5, 7"
    assert any(line.split() == ["1", "9", "50.0%", "9", "50.0%"] for line in lines)


def test_the_final_ids_are_shown(said: Said) -> None:
    lines = said(clean())
    assert lines[lines.index("   prompt, 3 tokens:") + 1] == "     1 '<s>', 5 'The', 7 ' cat'"
    lines = said(clean(ids=tuple(range(100)), texts=tuple(f" t{n}" for n in range(100))))
    text = "\n".join(lines)
    assert f"{MAX_TOKENS - 1} ' t{MAX_TOKENS - 1}'" in text
    assert f"… and {100 - MAX_TOKENS} more; --json FILE lists all" in text
    assert f"' t{MAX_TOKENS}'" not in text


def test_shared_noise_comes_first_and_a_cause_of_zero_says_so(said: Said) -> None:
    lines = said(attributed())
    at = lines.index("   what rounding makes of the difference, by cause; shares of its square:")
    assert lines[at + 1 : at + 4] == [
        "       77.0%  shared rounding",
        "        6.5%  norm rounding",
        "   exactly 0  fused QKV (the same products in the same order)",
    ]


def test_notes_are_said(said: Said) -> None:
    assert "   the CPU it is" in said(clean(notes=("the CPU it is",)))


def test_lines_have_80_columns_and_nothing_steers_the_terminal(said: Said) -> None:
    long = "words of a note " * 20
    found = replace(
        with_taps(
            *(Tap(layer, name, 0.5) for layer in range(4) for name in ("norm1", "q", "k")),
            sentence=long,
        ),
        notes=(long, "\x1b[31mred"),
        ids=tuple(range(40)),
        texts=("\x1b[31m\n",) * 40,
        attribution=(replace(attributed().attribution[1], note=long),),
        metrics=replace(METRICS, max_abs=math.nan, flips=999, flips_unexplained=999),
    )
    for line in said(found):
        assert len(line) <= 80, line
        assert line.isprintable()


# JSON


def assert_like(found: Any, example: Any) -> None:
    """Every promised field is there, of its kind; more may be."""
    if isinstance(example, dict):
        for name, value in example.items():
            assert name in found
            assert_like(found[name], value)
    elif isinstance(example, list) and example:
        assert isinstance(found, list)
        assert found
        kinds = example if len(set(map(type, example))) > 1 else None
        for place, one in enumerate(found):
            assert_like(one, kinds[place] if kinds else example[0])
    else:
        kind = (int, float) if isinstance(example, float) else type(example)
        assert isinstance(found, kind), (found, example)


def test_the_document_has_every_field_of_the_contract(document: Document) -> None:
    example = json.loads(CONTRACT)
    found = document(
        replace(faulty(), attribution=attributed().attribution, taps=faulty().taps[:6])
    )
    without_embed = {**found, "taps": [tap for tap in found["taps"] if tap["layer"] is not None]}
    assert_like(without_embed, example)
    assert (found["taps"][0]["layer"], found["taps"][0]["tap"]) == (None, "embed")
    assert found["first_divergence"] == {
        "layer": 1, "tap": "k", "rel": 1.25, "floor": 1e-7, "rest": None, "reads": [K],
        "hint": "the same values in another order",
    }  # fmt: skip
    assert found["top"][1]["a"][0] == [9, " t9", 0.5]
    assert found["texts"] == ["<s>", "The", " cat"]
    assert found["a"]["format"] == "hf"
    assert found["b"]["parallelism"]["tp"] == 2


def test_what_does_not_apply_is_null(document: Document) -> None:
    bare = replace(METRICS, nll_a=None, nll_b=None)
    found = document(clean(metrics=bare, ratio=None, texts=()))
    assert found["first_divergence"] is None
    assert found["ratio"] is None
    assert found["metrics"]["nll_a"] is None
    assert (found["texts"], found["attribution"], found["notes"]) == ([], [], [])


def test_numbers_that_are_not_finite_are_text(document: Document) -> None:
    found = document(replace(faulty(), metrics=replace(METRICS, kl_max=math.nan)))
    assert found["metrics"]["kl_max"] == "nan"
    assert [tap["rel"] for tap in found["taps"] if tap["layer"] == 3][-1] == "inf"
