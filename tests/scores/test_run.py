"""A comparison of scores: batch by batch, stopped and taken up again, within free memory."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.errors import BadArgument, OutOfMemory, UnreadableFile
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.results import StepApart
from ckptdiff.scores.results import ScoreDiff, ScoreProgress
from ckptdiff.scores.run import ScoreComparison
from ckptdiff.scores.tasks import TaskSpec
from tests.support.score_stand_ins import Worker
from tests.support.tokenizers_made import tokenizer_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[..., Path]

VOCAB = 320
SECTIONS = 4  # two layers, what is before and behind


@pytest.fixture
def hf(tiny_hf: Make, copy_of: Callable[[Path], Path]) -> Path:
    """Return a tiny model with a tokenizer."""
    folder = copy_of(tiny_hf(vocab=VOCAB, single=True))
    (folder / "tokenizer.json").write_text(tokenizer_json())
    return folder


@pytest.fixture
def megatron(tiny_megatron: Make) -> Path:
    return tiny_megatron(model={"vocab": VOCAB, "single": True}, tp=2)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    """Return what answers two tasks, of four and of six documents of nine tokens each."""
    found = Worker({"one": 4, "two": 6})
    found.install(monkeypatch)
    return found


def comparison(a: Path, b: Path, **options: Any) -> ScoreComparison:
    pair = assemble_pair(open_checkpoint(a), open_checkpoint(b))
    return ScoreComparison(*pair, TaskSpec(("one", "two")), InlineExecutor(), **options)


def followed(compared: ScoreComparison) -> tuple[list[ScoreProgress], ScoreDiff]:
    *steps, found = compared.results()
    assert isinstance(found, ScoreDiff)
    return [one for one in steps if isinstance(one, ScoreProgress)], found


def test_all_questions_are_answered_batch_by_batch(
    hf: Path, megatron: Path, worker: Worker
) -> None:
    steps, found = followed(comparison(hf, megatron, batch_tokens=36))
    assert (found.verdict, found.complete, found.device) == ("arithmetic", True, "cpu")
    assert [len(batch) for batch in worker.run] == [4, 4, 2]
    assert worker.sections == ["first 0", "layer 0", "layer 1", "last 0"] * 3
    assert len(found.items) == 10
    # A group's row is none of a task.
    assert [(row.task, row.group, row.items) for row in found.tasks] == [
        ("one", "other", 4), ("two", "other", 6),
    ]  # fmt: skip
    assert "of the harness" in found.notes
    at = [(one.batch, one.section, one.done) for one in steps if one.batch]
    assert at[:5] == [(1, 1, 0), (1, 2, 0), (1, 3, 0), (1, 4, 8), (2, 1, 8)]
    assert {(one.batches, one.sections, one.total) for one in steps if one.batch} == {(3, 4, 20)}


def test_what_it_takes_is_said_before_and_how_long_once_a_layer_is_measured(
    hf: Path, megatron: Path, worker: Worker
) -> None:
    steps, _ = followed(comparison(hf, megatron, batch_tokens=36))
    notes = [(number, one.note) for number, one in enumerate(steps) if one.note]
    (first, plan), (second, estimate) = notes
    assert steps[first].batch == 0
    assert re.fullmatch(
        r"20 questions, 10 sequences of 90 tokens in all; 3 batches, for each \d+(\.\d+)? kB of "
        r"weights are read; at most \d+ MB of memory",
        plan,
    )
    assert (steps[second].batch, steps[second].section) == (1, 3)
    assert re.fullmatch(r"about .* for what is left, by the layers measured so far", estimate)
    assert [one.left is None for one in steps if one.batch] == [True, *[False] * 11]
    last = steps[-2]
    assert (last.left, last.section) == (0, SECTIONS)
    assert last.rate is not None
    assert last.rate > 0
    assert steps[second].doing == "one: layer 1"
    assert "one and 1 more: embedding" not in [one.doing for one in steps]


def test_rows_come_as_soon_as_their_task_is_done(hf: Path, megatron: Path, worker: Worker) -> None:
    steps, _ = followed(comparison(hf, megatron, batch_tokens=36))
    shown = [[row.task for row in one.tasks] for one in steps if one.batch]
    assert shown == [[]] * 3 + [["one"]] * 9
    assert worker.scored == 2


def test_a_stop_leaves_what_was_answered(hf: Path, megatron: Path, worker: Worker) -> None:
    worker.stops_at = 6
    compared = comparison(hf, megatron, batch_tokens=36)
    with pytest.raises(KeyboardInterrupt):
        list(compared.results())
    found = compared.so_far()
    assert found is not None
    assert (found.complete, len(found.items)) == (False, 4)
    assert [row.task for row in found.tasks] == ["one"]


def test_a_failure_leaves_what_was_answered_and_guesses_at_no_tensor_that_is_gone(
    hf: Path, megatron: Path, worker: Worker, tmp_path: Path
) -> None:
    name = "model.layers.1.self_attn.k_proj.weight"
    worker.steps["layer", 1] = StepApart(1, "k", 0.5, 2, (name,))
    worker.stops_at, worker.stop = 6, UnreadableFile("gone")
    compared = comparison(hf, megatron, batch_tokens=36, folder=tmp_path)
    assert (compared.answered, compared.keeps) == ((0, 0), False)
    with pytest.raises(UnreadableFile, match="gone"):
        list(compared.results())
    assert (compared.answered, compared.keeps) == ((8, 20), True)
    (hf / "model.safetensors").unlink()
    found = compared.so_far()
    assert found is not None
    assert (found.complete, found.verdict, len(found.items)) == (False, "weights-or-config", 4)
    assert "Which tensors differ is not known: " in found.sentence
    assert "model.safetensors" in found.sentence
    assert f"{name} differs" not in found.sentence


def test_a_stop_before_anything_is_answered_leaves_nothing(
    hf: Path, megatron: Path, worker: Worker
) -> None:
    compared = comparison(hf, megatron)
    assert compared.so_far() is None
    with closing(compared.results()) as steps:
        next(steps)
        next(steps)
    assert compared.so_far() is None
    assert worker.run == []


def test_a_run_that_was_stopped_goes_on(
    hf: Path, megatron: Path, worker: Worker, tmp_path: Path
) -> None:
    options = {"batch_tokens": 36, "folder": tmp_path}
    _, fresh = followed(comparison(hf, megatron, batch_tokens=36))
    worker.run.clear()
    worker.stops_at = len(worker.sections) + 6
    with pytest.raises(KeyboardInterrupt):
        list(comparison(hf, megatron, **options).results())
    assert len(worker.run) == 2
    worker.run.clear()
    worker.stops_at = None
    steps, found = followed(comparison(hf, megatron, **options))
    assert [len(batch) for batch in worker.run] == [4, 2]
    assert found == fresh
    notes = [one.note for one in steps if one.note]
    assert notes[0].startswith("8 of 20 questions are kept from before; 12 are asked, 6 sequences")
    worker.run.clear()
    steps, found = followed(comparison(hf, megatron, **options))
    assert (worker.run, found) == ([], fresh)
    assert [one.note for one in steps if one.note] == ["20 of 20 questions are kept from before"]


def test_answers_of_a_changed_checkpoint_or_another_dtype_are_not_taken(
    hf: Path, megatron: Path, worker: Worker, tmp_path: Path
) -> None:
    followed(comparison(hf, megatron, folder=tmp_path))
    for options in ({"dtype": "fp64"}, {"reference": "meta"}):
        worker.run.clear()
        followed(comparison(hf, megatron, folder=tmp_path, **options))
        assert worker.run
    worker.run.clear()
    followed(comparison(hf, megatron, folder=tmp_path))
    assert not worker.run
    content = (hf / "model.safetensors").read_bytes()
    (hf / "model.safetensors").write_bytes(content)
    followed(comparison(hf, megatron, folder=tmp_path))
    assert worker.run


def test_a_step_that_differs_is_kept_with_its_batch(
    hf: Path, megatron: Path, worker: Worker, tmp_path: Path
) -> None:
    step = StepApart(1, "k", 0.5, 2, ("model.layers.1.self_attn.k_proj.weight",))
    worker.steps["layer", 1] = step
    worker.stops_at = 6
    with pytest.raises(KeyboardInterrupt):
        list(comparison(hf, megatron, batch_tokens=36, folder=tmp_path).results())
    worker.steps.clear()
    worker.stops_at = None
    _, found = followed(comparison(hf, megatron, batch_tokens=36, folder=tmp_path))
    assert (found.verdict, found.step) == ("weights-or-config", step)
    worker.tasks = {"two": 6}  # its questions were in no batch that showed it
    _, other = followed(comparison(hf, megatron, batch_tokens=36, folder=tmp_path))
    assert other.step is None


def test_of_steps_the_first_of_the_model_is_told_where_it_is_farthest_apart(
    hf: Path, megatron: Path, worker: Worker
) -> None:
    late, early = (StepApart(n, "k", 0.25, 0) for n in (1, 0))
    worker.steps = {("layer", 1): late}
    compared = comparison(hf, megatron, batch_tokens=36)
    for event in compared.results():
        if isinstance(event, ScoreProgress) and event.done:
            worker.steps = {("layer", 0): early, ("layer", 1): replace(late, rel=0.75)}
    assert compared.questions is not None
    assert compared.questions.in_order() == [early, replace(late, rel=0.75)]


def test_too_little_memory_is_one_sentence_with_what_fits(
    hf: Path, megatron: Path, worker: Worker
) -> None:
    worker.tasks = {"one": 100}
    probe = comparison(hf, megatron)
    worker.free = int(probe.cost.memory(500, 9) / 0.8) + 1
    with pytest.raises(OutOfMemory) as caught:
        followed(comparison(hf, megatron, batch_tokens=800))
    said = re.fullmatch(
        r"a batch of 800 tokens takes [\d.]+ [MG]B of free memory, [\d.]+ [MG]B are free; (\d+) "
        r"tokens fit",
        str(caught.value),
    )
    assert said is not None
    assert caught.value.hint == "batch-tokens"
    assert 480 < int(said[1]) < 510
    worker.run.clear()
    followed(comparison(hf, megatron, batch_tokens=int(said[1])))
    assert len(worker.run) == 2
    worker.run.clear()
    followed(comparison(hf, megatron))  # of its own accord it takes what fits
    assert len(worker.run) == 2


def test_where_not_even_one_question_fits_no_number_is_told(
    hf: Path, megatron: Path, worker: Worker
) -> None:
    worker.free = 1 << 20
    with pytest.raises(OutOfMemory, match=r"the longest question, of 9 tokens, takes .* of free"):
        followed(comparison(hf, megatron))


def test_where_free_memory_is_not_known_nothing_is_refused(
    hf: Path, megatron: Path, worker: Worker
) -> None:
    worker.free = None
    followed(comparison(hf, megatron, batch_tokens=10**6))
    assert len(worker.run) == 1


def test_a_token_that_the_models_lack_is_refused(hf: Path, megatron: Path, worker: Worker) -> None:
    worker.length = VOCAB + 4
    with pytest.raises(
        BadArgument,
        match="gives token 320, and the vocabulary that both sides have ends at 320 tokens",
    ):
        followed(comparison(hf, megatron))


def test_tasks_that_ask_nothing_are_refused(hf: Path, megatron: Path, worker: Worker) -> None:
    worker.tasks = {}
    with pytest.raises(BadArgument, match="ask nothing"):
        followed(comparison(hf, megatron))


def test_a_pair_without_a_tokenizer_is_refused(hf: Path, megatron: Path) -> None:
    (hf / "tokenizer.json").unlink()
    with pytest.raises(BadArgument, match="have no tokenizer"):
        comparison(hf, megatron)


def test_the_tokenizer_is_that_of_a_or_else_of_b(
    hf: Path, megatron: Path, copy_of: Callable[[Path], Path]
) -> None:
    assert comparison(hf, megatron).facts.tokenizer == hf / "tokenizer.json"
    turned = comparison(megatron, hf)
    assert turned.facts.tokenizer == hf / "tokenizer.json"
    assert turned.facts.max_length == 8192
    assert all("tokenizers" not in note for note in turned._notes)


def test_two_tokenizers_that_differ_are_told(
    hf: Path, megatron: Path, copy_of: Callable[[Path], Path], worker: Worker
) -> None:
    folder = copy_of(megatron)
    tokenizer = open_checkpoint(folder).root / "tokenizer.json"
    tokenizer.write_text(tokenizer_json())
    _, found = followed(comparison(hf, folder))
    told = (
        "the files of the tokenizers differ: both sides are asked by A's, so what B's makes of "
        "the texts is not seen here"
    )
    assert told not in found.notes
    tokenizer.write_text(tokenizer_json(bos=False))
    _, found = followed(comparison(hf, folder))
    assert told in found.notes
