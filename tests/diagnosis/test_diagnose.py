"""What was planted is what is said: the class, the layers, the ranks, the experts, no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckptdiff.diagnosis import run as diagnosing
from ckptdiff.executor import InlineExecutor
from ckptdiff.fault_classes import FAULT_CLASSES
from tests.support.conversions import converted
from tests.support.corpus import CORPUS, FAULTS, NO_CORPUS, benchmark, from_corpus, reference
from tests.support.fault_cases import CASES, CLEAN, Case, Real
from tests.support.fault_cases_real import REAL
from tests.support.fault_cases_two import CHANGED, TWO
from tests.support.fault_check import Maker, check, diagnosis
from tests.support.faults_table import NOT_PLANTED, SOUND
from tests.support.pairs import compare, compare_and_diagnose
from tests.support.small_models import write_model

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.results import Finding

# What differs from its source by design: trained on, rounded, or with fewer rows.
DIFFERENT = ("trained2steps", "qwen2-widevocab", "deepseek-v3/megatron-tp1-pp1-ep2-torch")
ALL = (*CASES, *TWO, *CHANGED, *REAL)


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(tmp_path_factory.mktemp("faults"))


def runs() -> list[Any]:
    """Return every case in its first format, and some in the others: they are read alike."""
    others = pytest.mark.sampled(one_in=5)
    return [
        pytest.param(case, written, id=f"{case.name} [{written}]", marks=[others] if number else [])
        for case in ALL
        for number, written in enumerate(case.formats)
    ]


@pytest.mark.mostly_slow(one_in=30)
@pytest.mark.parametrize(("case", "written"), runs())
def test_what_was_planted_is_said_and_nothing_else(maker: Maker, case: Case, written: str) -> None:
    if isinstance(case.source, Real) and not CORPUS.is_dir():
        pytest.skip(NO_CORPUS)
    assert check(maker, case, written) == []


def test_there_are_enough_cases_and_every_class_is_planted() -> None:
    planted = {kind for case in ALL for kind, _ in case.plants if kind}
    assert planted == FAULT_CLASSES.keys() - NOT_PLANTED
    assert sum(bool(case.plants[0][0]) for case in CASES) >= 60
    assert len(CLEAN) >= 15
    assert len({case.name for case in ALL}) == len(ALL)


def sound_pairs() -> list[str]:
    folders = (f"{f.parent.name}/{f.name}" for f in CORPUS.glob("*/megatron-*"))
    return sorted(f for f in folders if not any(word in f for word in DIFFERENT))


def test_the_table_counts_the_sound_checkpoints(corpus: Path) -> None:
    assert len(sound_pairs()) == SOUND


@pytest.mark.mostly_slow(one_in=12)
@pytest.mark.parametrize("case", from_corpus(sound_pairs()))
def test_nothing_is_said_of_what_nvidia_wrote(case: str) -> None:
    found = diagnosis(CORPUS / case.partition("/")[0] / "hf", CORPUS / case)
    assert [x for x in found if x.kind != "CONFIG"] == []


@pytest.mark.slow
@pytest.mark.parametrize("written", ["torch", "torch_dist"])
def test_training_is_no_fault(corpus: Path, written: str) -> None:
    for family, name in (
        ("llama2", "megatron-tp2-dp2-trained2steps-distopt"),
        ("deepseek-trained", "megatron-tp1-pp1-ep2-dp2-trained2steps-distopt"),
    ):
        found = diagnosis(corpus / family / "hf", corpus / family / f"{name}-{written}")
        weights = [(x.kind, x.severity) for x in found if x.kind != "CONFIG"]
        assert weights == [("STALE", "info")]


@pytest.mark.slow
def test_experts_that_a_converter_filled_with_garbage_were_never_loaded(corpus: Path) -> None:
    broken = "broken/mixtral-tp1-ep2-core_r0.12-converter-bug-expert-weights-garbage"
    (found,) = [x for x in diagnosis(corpus / "mixtral/hf", corpus / broken) if x.kind != "CONFIG"]
    assert (found.kind, found.layers) == ("NOT-LOADED", (0, 1, 2, 3))


def test_what_can_be_undone_is_known() -> None:
    mended = {kind for case in ALL if case.mends for kind, _ in case.plants if kind}
    assert {kind for kind, row in FAULT_CLASSES.items() if row.can_be_undone} == mended


@pytest.mark.mostly_slow(one_in=8)
@pytest.mark.parametrize("row", benchmark())
def test_the_public_benchmark_is_right(row: dict[str, Any]) -> None:
    found = diagnosis(reference(row), FAULTS / row["id"] / "ckpt")
    faults = [x for x in found if x.severity == "fault"]
    for want in row["expect"]:
        assert any(_meets(x, want) for x in faults), (want, faults)
    known = {c for want in row["expect"] for c in want["class"].split("|")}
    assert {x.kind for x in faults} <= known | set(row["allow"]) | {"CONFIG"}


def _meets(found: Finding, want: dict[str, Any]) -> bool:
    tp = sorted({rank.tp for rank in found.ranks})
    return (
        found.kind in want["class"].split("|")
        and (want.get("layers") is None or sorted(found.layers) == want["layers"])
        and (want.get("tp") is None or tp == sorted(want["tp"]))
        and all(name in found.evidence for name in want.get("config") or ())
    )


@pytest.mark.mostly_slow(one_in=4)
@pytest.mark.parametrize("name", ["kv_swap all", "tp_rotate", "expert_swap", "gamma_minus1"])
def test_a_finding_holds_what_its_fields_say(maker: Maker, name: str) -> None:
    (case,) = [case for case in CASES if case.name == name]
    hf, faulty, _ = maker.plant(case)
    comparison = compare(hf, faulty)
    (found,) = [x for x in diagnosis(hf, faulty) if x.kind != "CONFIG"]
    assert found.kind in FAULT_CLASSES
    assert set(found.tensors) <= {n for n, s in comparison.statuses.items() if s == "differ"}
    assert list(found.layers) == sorted(set(found.layers))
    assert list(found.ranks) == sorted(set(found.ranks))
    assert 0 < found.cause_confidence <= found.confidence <= 1
    assert (found.cause_confidence < 1) == bool(found.also_explained_by)
    assert (found.undo is not None) == (found.fix is not None)
    assert found.undo is None or found.undo.kind == found.kind


def test_causes_that_leave_the_same_bytes_are_all_named(maker: Maker) -> None:
    (case,) = [case for case in CASES if case.name == "qkv_flat_per_rank"]
    hf, faulty, _ = maker.plant(case)
    (found,) = [x for x in diagnosis(hf, faulty) if x.kind != "CONFIG"]
    assert any("2 query groups" in words for words in found.also_explained_by)
    assert found.cause_confidence < 1 == found.confidence


def test_a_diagnosis_that_fails_breaks_no_comparison(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    (case,) = [case for case in CASES if case.name == "kv_swap all"]
    hf, faulty, _ = maker.plant(case)
    found = compare(hf, faulty)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(diagnosing, "diagnose", broken)
    said, trouble = diagnosing.diagnosed(
        found.a, found.b, list(found.results.values()), [], InlineExecutor()
    )
    assert said == ()
    assert "on purpose" in (trouble or "")


@pytest.mark.parametrize("pp", [1, 2])
def test_a_head_that_only_the_args_tie_is_no_exchange(pp: int, tmp_path: Path) -> None:
    write_model(tmp_path / "hf", "llama")
    converted(tmp_path / "hf", tmp_path / "out", "megatron", pp=pp)
    for file in (tmp_path / "out").rglob("model_optim_rng.pt"):
        state = torch.load(file, weights_only=False)
        state["args"].untie_embeddings_and_output_weights = False
        torch.save(state, file)
    _, findings = compare_and_diagnose(tmp_path / "hf", tmp_path / "out")
    assert [(one.kind, one.undo) for one in findings] == [("CONFIG", None), ("TIED", None)]
    assert "a matrix of its own" in findings[-1].title
