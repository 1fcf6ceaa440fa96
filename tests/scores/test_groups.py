"""The table's groups are those of NVIDIA's page, and of lm-evaluation-harness where both agree."""

from __future__ import annotations

import math
import re
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import pytest

from ckptdiff.scores.groups import (
    SUBJECTS,
    class_rows,
    main_rows,
    place_of,
    relative_mean,
    table,
)
from ckptdiff.scores.published import NVIDIA_LLAMA2, PUBLISHED
from ckptdiff.scores.results import TaskScore
from tests.support.score_results import ROWS, row

# ── where a task belongs ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("task", "place"),
    [
        ("bigbench_riddle_sense_multiple_choice", ("bigbench", "")),
        ("xcopa_th", ("multilingual", "")),
        ("boolq", ("lm-eval", "")),
        ("winogrande", ("lm-eval", "")),
        ("mmlu_anatomy", ("MMLU", "other")),
        ("mmlu_prehistory_continuation", ("MMLU", "humanities")),
        ("mmlu_flan_n_shot_loglikelihood_sociology", ("MMLU", "social sciences")),
        ("mmlu_high_school_us_history", ("MMLU", "humanities")),
        ("mmlu_pro_philosophy", ("other", "")),
        ("mmlu", ("other", "")),
        ("mmlu_of_my_own", ("other", "")),
        ("wikitext", ("other", "")),
        ("my_boolq", ("other", "")),
    ],
)
def test_a_task_has_a_group(task: str, place: tuple[str, str]) -> None:
    assert place_of(task) == place


def test_the_classes_have_as_many_subjects_as_on_the_page() -> None:
    on_page = {row.task: row.tests for row in NVIDIA_LLAMA2.rows if row.group == "MMLU"}
    assert {part: len(subjects) for part, subjects in SUBJECTS.items()} == on_page
    assert len(set(chain.from_iterable(SUBJECTS.values()))) == 57


@pytest.mark.parametrize("part", SUBJECTS)
def test_no_subject_is_taken_for_another(part: str) -> None:
    for subject in SUBJECTS[part]:
        for task in (f"mmlu_{subject}", f"mmlu_{subject}_generative", f"mmlu_flan_{subject}"):
            assert place_of(task) == ("MMLU", part)


def test_subjects_are_those_of_lm_eval_but_for_anatomy() -> None:
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        pytest.skip("lm-evaluation-harness is not installed")
    classes: dict[str, set[str]] = {}
    for file in Path(spec.origin).parent.joinpath("tasks/mmlu/default").glob("mmlu_*.yaml"):
        (tag,) = re.findall(r'"?tag"?: "?mmlu_(\w+)_tasks', file.read_text())
        classes.setdefault(tag.replace("_", " "), set()).add(file.stem.removeprefix("mmlu_"))
    ours = {part: set(subjects) for part, subjects in SUBJECTS.items()}
    ours["other"].remove("anatomy")  # a subject of health in the paper
    ours["stem"].add("anatomy")
    assert classes == ours


# ── the rows ─────────────────────────────────────────────────────────────────────────────────────


def test_a_task_has_one_row_of_its_main_metric() -> None:
    rows = {row.task: row.metric for row in main_rows(ROWS)}
    assert rows["hellaswag"] == "acc"
    assert rows["wikitext"] == "word_perplexity"
    assert len(rows) == len({row.task for row in ROWS})
    assert main_rows([row("cb", 0.5, 0.5, "f1"), row("cb", 0.4, 0.4, "exact_match")])[0].a == 0.4
    assert main_rows([row("odd", 0.5, 0.5, "mcc")])[0].metric == "mcc"


def test_groups_are_in_the_order_of_the_page() -> None:
    names = [group.name for group in table(ROWS)]
    assert names == ["bigbench", "multilingual", "lm-eval", "MMLU", "other"]
    assert table([]) == ()


def test_a_group_that_is_not_known_is_shown_as_well() -> None:
    odd = TaskScore("task", "a new group", "", "acc", 0.5, 0.5, 1)
    assert [group.name for group in table([odd])] == ["a new group"]


def test_a_class_is_the_mean_of_its_subjects_scores() -> None:
    stem, other = class_rows([row for row in ROWS if row.group == "MMLU"])
    assert (stem.task, stem.items) == ("stem [1]", 152)
    assert (other.task, other.items) == ("other [2]", 301)
    assert (other.a, other.b) == pytest.approx((0.3, 0.305))


def test_the_mean_is_over_tasks_with_a_share_of_right_answers() -> None:
    rows = [
        row("boolq", 0.5, 0.51),
        row("piqa", 0.8, 0.8),
        row("wikitext", 20, 30, "word_perplexity"),
    ]
    assert relative_mean(rows) == pytest.approx(0.01)
    assert relative_mean([*rows, row("mmlu_anatomy", 0.0, 0.5)]) == pytest.approx(0.01)
    assert relative_mean(rows[2:]) is None
    assert relative_mean([]) is None
    broken = relative_mean([*rows, row("mmlu_virology", 0.5, math.nan)])
    assert broken is not None
    assert math.isnan(broken)  # never a mean of what is left


def test_each_subject_counts_as_one_task() -> None:
    rows = [row("mmlu_anatomy", 0.5, 0.6), row("mmlu_virology", 0.5, 0.4), row("boolq", 0.5, 0.5)]
    assert relative_mean(rows) == pytest.approx(0.4 / 3)
    (other,) = class_rows(rows[:2])
    assert other.relative == pytest.approx(0)  # of the means, in which the two cancel


# ── what was published ───────────────────────────────────────────────────────────────────────────


def test_the_published_rows_make_the_mean_that_is_stated() -> None:
    page = NVIDIA_LLAMA2
    assert sum(row.tests for row in page.rows) == 80
    means = [sum(row.tests * row.percent[n] for row in page.rows) / 80 for n in range(3)]
    assert round(sum(means) / 3, 2) == page.mean


def test_a_row_finds_what_was_published_of_it() -> None:
    page = NVIDIA_LLAMA2
    assert PUBLISHED[page.word] is page
    groups = {group.name: group.rows for group in table(ROWS)}
    stem, other = groups["MMLU"]
    assert page.beside(stem) is not None
    found = page.beside(other)
    assert found is not None
    assert found.percent == (0.08, 0.06, 0.12)
    (date,) = groups["bigbench"]
    found = page.beside(date)
    assert found is not None
    assert found.name == "date_understanding"
    assert page.beside(row("wikitext", 1, 1)) is None
    assert page.beside(row("piqa_of_my_own", 1, 1)) is None
    assert all(len(one.percent) == len(page.columns) for one in page.rows)


@pytest.mark.parametrize("group", ["bigbench", "multilingual", "lm-eval"])
def test_a_published_task_is_in_its_group(group: str) -> None:
    tasks = [one.task for one in NVIDIA_LLAMA2.rows if one.group == group]
    assert tasks
    assert {place_of(task) for task in tasks} == {(group, "")}
