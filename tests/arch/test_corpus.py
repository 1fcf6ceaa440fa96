"""Checkpoints that NVIDIA's own code wrote equal the Hugging Face folders they were made from."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest
from safetensors import safe_open

from ckptdiff.formats import open_checkpoint
from tests.support.corpus import CORPUS, from_corpus
from tests.support.pairs import Comparison, compare
from tests.support.program import ckptdiff, document

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.mostly_slow(one_in=4)
# Every case in Megatron's torch format, and how many tensors its Hugging Face folder has.
CASES = {
    "llama-5l/megatron-tp1-pp2-vpp3-layout-r0.14-torch": 48,
    "llama-5l/megatron-tp1-pp3-first1-last2-torch": 48,
    "llama-5l/megatron-tp1-pp3-layout-r0.14-torch": 48,
    "llama-5l/megatron-tp2-pp2-first2-torch": 48,
    "llama-6l/megatron-tp1-pp2-acct-embed-loss-torch": 57,
    "llama-6l/megatron-tp1-pp2-vpp2-acct-torch": 57,
    "llama-6l/megatron-tp1-pp4-acct-embed-loss-torch": 57,
    "llama2-8l/megatron-tp1-pp1-core-local": 75,
    "llama2-8l/megatron-tp1-pp2-vpp2-torch": 75,
    "llama2-8l/megatron-tp1-pp4-core-local": 75,
    "llama2-8l/megatron-tp2-pp2-core-local": 75,
    "llama2-8l/megatron-tp2-pp2-vpp4-torch": 75,
    "llama2/megatron-tp1-pp1-core-local": 39,
    "llama2/megatron-tp1-pp2-core-local": 39,
    "llama2/megatron-tp1-pp4-core-local": 39,
    "llama2/megatron-tp2-dp2-trained2steps-distopt-torch": 39,
    "llama2/megatron-tp2-dp2-trainrun-lr0-distopt-torch": 39,
    "llama2/megatron-tp2-pp1-core-local": 39,
    "llama2/megatron-tp2-pp1-core-local-div100": 39,
    "llama2/megatron-tp2-pp1-core-transformer_engine-te1": 39,
    "llama2/megatron-tp2-pp1-legacy": 39,
    "llama2/megatron-tp2-pp2-core-local": 39,
    "llama2/megatron-tp2-pp2-core-transformer_engine-te2": 39,
    "llama2/megatron-tp2-pp2-legacy": 39,
    "llama2/megatron-tp2-pp2-trainrun-lr0-torch": 39,
    "llama2/megatron-tp4-pp1-core-transformer_engine-te1": 39,
    "llama2/megatron-tp4-pp2-core-local": 39,
    "llama2/megatron-tp8-pp1-core-local": 39,
    "llama2/megatron-tp8-pp2-core-transformer_engine-te2": 39,
    "llama3-fp32/megatron-tp1-pp2-core-local-fp32": 21,
    "llama3-fp32/megatron-tp2-pp1-core-local-fp32": 21,
    "llama3/megatron-tp1-pp1-core-local-div16": 39,
    "llama3/megatron-tp2-pp1-core-local": 39,
    "llama3/megatron-tp2-pp2-core-local-div1": 39,
    "llama3/megatron-tp2-pp2-core-transformer_engine-te1": 39,
    "mistral/megatron-tp2-pp1-core-local": 39,
    "mistral/megatron-tp2-pp2-core-transformer_engine-te1-div8": 39,
    "mistral/megatron-tp4-pp1-core-local": 39,
    "qwen2-widevocab/megatron-tp2-pp1-core-local": 27,
    "qwen2/megatron-tp1-pp1-core-local": 50,
    "qwen2/megatron-tp1-pp2-core-transformer_engine-te2": 50,
    "qwen2/megatron-tp2-pp1-core-local": 50,
    "qwen2/megatron-tp2-pp2-core-local": 50,
    "qwen2/megatron-tp2-pp2-legacy": 50,
    "qwen3/megatron-tp1-pp1-torch": 46,
    "qwen3/megatron-tp2-pp2-torch": 46,
}
TRAINED = "llama2/megatron-tp2-dp2-trained2steps-distopt-torch"
WIDE = "qwen2-widevocab/megatron-tp2-pp1-core-local"
EXACT = sorted(set(CASES) - {TRAINED, WIDE})


def cases_on_disk() -> list[str]:
    families = sorted({case.partition("/")[0] for case in CASES})
    return sorted(
        f"{family}/{folder.name}"
        for family in families
        for folder in CORPUS.glob(f"{family}/megatron-*")
        if not any(folder.glob("iter_*/.metadata"))
    )


@cache
def names_and_sizes(folder: Path) -> dict[str, int]:
    """Return the elements of every tensor in a folder, as the safetensors library counts them."""
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 -- not a mapping
                size = 1
                for n in opened.get_slice(name).get_shape():
                    size *= n
                found[name] = size
    return found


def assert_same(comparison: Comparison, source: Path) -> None:
    """Every element of every tensor of the source was compared, and all of them are equal."""
    assert comparison.statuses == {}
    assert {n: comparison.numbers(n).numel for n in comparison.results} == names_and_sizes(source)
    assert comparison.summary.weights == "same"
    for side in (comparison.a, comparison.b):
        assert not side.unmapped
        assert not side.errors


def test_all_cases_that_are_known_are_on_disk(corpus: Path) -> None:
    assert cases_on_disk() == sorted(CASES)


@pytest.mark.mostly_slow(one_in=4)
@pytest.mark.parametrize("case", from_corpus(case for case in cases_on_disk() if case in EXACT))
def test_what_nvidia_wrote_equals_its_source(corpus: Path, case: str) -> None:
    source = corpus / case.partition("/")[0] / "hf"
    comparison = compare(source, corpus / case)
    assert_same(comparison, source)
    assert len(comparison.results) == CASES[case]
    assert comparison.b.nbytes == comparison.a.nbytes


@pytest.mark.parametrize(
    "case",
    [
        "llama2/megatron-tp2-pp2-legacy",
        "llama2/megatron-tp8-pp2-core-transformer_engine-te2",
        "llama3/megatron-tp2-pp1-core-local",
        "mistral/megatron-tp2-pp2-core-transformer_engine-te1-div8",
        "qwen2/megatron-tp2-pp2-core-local",
        "qwen3/megatron-tp2-pp2-torch",
    ],
)
def test_the_order_of_the_sides_makes_no_difference(corpus: Path, case: str) -> None:
    source = corpus / case.partition("/")[0] / "hf"
    assert_same(compare(corpus / case, source), source)


def test_a_vocabulary_that_the_converter_cut_is_named_with_its_lost_rows(corpus: Path) -> None:
    comparison = compare(corpus / "qwen2-widevocab/hf", corpus / WIDE)
    cut = {"model.embed_tokens.weight", "lm_head.weight"}
    assert comparison.statuses == dict.fromkeys(cut, "shape")
    for name in cut:
        assert comparison[name].shape_a == (640, 64)
        assert comparison[name].shape_b == (512, 64)
        assert comparison[name].note == "A has 128 rows more: values were not compared"
    assert comparison.summary.weights == "differ"


def test_training_two_steps_changed_all_but_six_tensors(corpus: Path) -> None:
    comparison = compare(corpus / "llama2/hf", corpus / TRAINED)
    assert comparison.summary.counts["differ"] == 33
    assert comparison.summary.counts["same"] == 6
    assert comparison.summary.weights == "differ"
    # Two steps of Adam at a rate of 1e-3 move a weight by no more than 2e-3 before rounding.
    for name in comparison.statuses:
        assert 0 < comparison.numbers(name).max_abs < 0.01


@pytest.mark.parametrize("kind", ["hf-bin", "hf-bin1"])
@pytest.mark.parametrize("exchanged", [False, True])
def test_the_kind_of_file_makes_no_difference(corpus: Path, kind: str, exchanged: bool) -> None:
    pair = (corpus / "llama2/hf", corpus / f"llama2/{kind}")
    assert_same(compare(*(reversed(pair) if exchanged else pair)), pair[0])


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("tp2-pp1-core-local", "tp8-pp1-core-local"),
        ("tp8-pp1-core-local", "tp2-pp1-core-local"),
        ("tp1-pp4-core-local", "tp8-pp2-core-transformer_engine-te2"),
        ("tp2-pp1-legacy", "tp2-pp1-core-local"),
        ("tp2-pp2-core-local", "tp2-pp2-legacy"),
        ("tp2-pp1-core-transformer_engine-te1", "tp2-pp1-core-local"),
        ("tp2-pp2-core-transformer_engine-te2", "tp2-pp1-core-transformer_engine-te1"),
        ("tp2-pp1-core-local-div100", "tp4-pp2-core-local"),
        ("tp2-pp1-core-local", "tp2-pp2-trainrun-lr0-torch"),
        ("tp2-dp2-trainrun-lr0-distopt-torch", "tp2-pp2-trainrun-lr0-torch"),
    ],
)
def test_two_layouts_of_one_model_are_equal(corpus: Path, a: str, b: str) -> None:
    folder = corpus / "llama2"
    assert_same(compare(folder / f"megatron-{a}", folder / f"megatron-{b}"), folder / "hf")


@pytest.mark.parametrize("other", ["tp1-pp1-core-local", "tp1-pp4-core-local"])
@pytest.mark.parametrize("virtual", ["tp1-pp2-vpp2-torch", "tp2-pp2-vpp4-torch"])
def test_virtual_stages_hold_the_layers_of_plain_ones(
    corpus: Path, virtual: str, other: str
) -> None:
    folder = corpus / "llama2-8l"
    pair = (folder / f"megatron-{virtual}", folder / f"megatron-{other}")
    assert_same(compare(*pair), folder / "hf")


def test_a_config_of_transformers_5_is_read_like_one_of_transformers_4(corpus: Path) -> None:
    source = corpus / "llama3/hf"
    comparison = compare(source, corpus / "tf5/llama3-hf-transformers5")
    assert_same(comparison, source)
    assert comparison.a.config == comparison.b.config


@pytest.mark.parametrize("case", [c for c in EXACT if c.startswith("llama3/")])
def test_what_nvidia_wrote_equals_what_transformers_5_wrote(corpus: Path, case: str) -> None:
    source = corpus / "tf5/llama3-hf-transformers5"
    assert_same(compare(source, corpus / case), source)


def test_an_iteration_is_found_from_the_folder_above_it(corpus: Path) -> None:
    folder = corpus / "llama2/megatron-tp2-dp2-trainrun-lr0-distopt-torch"
    above, itself = open_checkpoint(folder), open_checkpoint(folder / "iter_0000003")
    assert above == itself
    assert above.iteration == 3
    assert above.root == folder / "iter_0000003"


# The same once more through the real program.


def test_the_program_says_same_of_what_nvidia_wrote(corpus: Path) -> None:
    pair = (corpus / "qwen2/hf", corpus / "qwen2/megatron-tp2-pp2-core-local")
    done = ckptdiff("diff", *pair, "--ignore-config", "--json", "-")
    found = document(done)
    assert done.returncode == 0
    assert found["weights"] == found["verdict"] == "same"
    assert found["counts"]["same"] == len(found["tensors"]) == 50
    assert found["b"]["parallelism"] == {"tp": 2, "pp": 2, "vpp": 1, "ep": 1, "etp": 1}


@pytest.mark.slow
def test_the_program_says_differ_of_a_trained_model(corpus: Path) -> None:
    done = ckptdiff("diff", corpus / "llama2/hf", corpus / TRAINED, "--json", "-")
    found = document(done)
    assert done.returncode == 1
    assert found["weights"] == found["verdict"] == "differ"
    assert found["counts"] | {"same": 6, "differ": 33} == found["counts"]


def test_the_program_names_the_stage_that_was_never_written(corpus: Path) -> None:
    broken = corpus / "broken/llama3-tp2-pp6-legacy-missing-last-stage"
    done = ckptdiff("diff", corpus / "llama3/hf", broken)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "stage 5 of 6 is missing" in done.stderr
    assert str(broken) in done.stderr
    assert "Traceback" not in done.stderr
