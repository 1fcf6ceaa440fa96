"""The rows of the table: one metric a task, in the groups of NVIDIA's page on Llama 2."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from ckptdiff.scores.results import TaskScore

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BIGBENCH, MULTILINGUAL, LM_EVAL, MMLU, OTHER = (
    "bigbench", "multilingual", "lm-eval", "MMLU", "other"
)  # fmt: skip
GROUPS = (BIGBENCH, MULTILINGUAL, LM_EVAL, MMLU, OTHER)  # in the order of the page
_LM_EVAL = ("boolq", "hellaswag", "piqa", "winogrande")
# The classes of the 57 subjects as the paper has them (Hendrycks et al., "Measuring Massive
# Multitask Language Understanding", 2021) and the page counts them. lm-evaluation-harness has
# anatomy with STEM.
SUBJECTS = {
    "stem": (
        "abstract_algebra", "astronomy", "college_biology", "college_chemistry",
        "college_computer_science", "college_mathematics", "college_physics", "computer_security",
        "conceptual_physics", "electrical_engineering", "elementary_mathematics",
        "high_school_biology", "high_school_chemistry", "high_school_computer_science",
        "high_school_mathematics", "high_school_physics", "high_school_statistics",
        "machine_learning",
    ),
    "humanities": (
        "formal_logic", "high_school_european_history", "high_school_us_history",
        "high_school_world_history", "international_law", "jurisprudence", "logical_fallacies",
        "moral_disputes", "moral_scenarios", "philosophy", "prehistory", "professional_law",
        "world_religions",
    ),
    "other": (
        "anatomy", "business_ethics", "clinical_knowledge", "college_medicine", "global_facts",
        "human_aging", "management", "marketing", "medical_genetics", "miscellaneous", "nutrition",
        "professional_accounting", "professional_medicine", "virology",
    ),
    "social sciences": (
        "econometrics", "high_school_geography", "high_school_government_and_politics",
        "high_school_macroeconomics", "high_school_microeconomics", "high_school_psychology",
        "human_sexuality", "professional_psychology", "public_relations", "security_studies",
        "sociology", "us_foreign_policy",
    ),
}  # fmt: skip
_PART = {subject: part for part, subjects in SUBJECTS.items() for subject in subjects}
# Shares of right answers: what the mean is over. A perplexity is shown, but is no such share.
_SHARES = ("acc", "acc_norm", "exact_match")
_MAIN = (*_SHARES, "word_perplexity", "byte_perplexity", "bits_per_byte", "perplexity")


@dataclass(frozen=True, slots=True)
class TableGroup:
    """A group of the table and its rows: tasks, or for MMLU the means of its classes."""

    name: str
    rows: tuple[TaskScore, ...]


def place_of(task: str) -> tuple[str, str]:
    """Return the group of a task and, of MMLU, the class of its subject; else no class."""
    if task.startswith("bigbench_"):
        return BIGBENCH, ""
    if task.startswith("xcopa"):
        return MULTILINGUAL, ""
    if task in _LM_EVAL:
        return LM_EVAL, ""
    subject = _subject(task)
    return (MMLU, _PART[subject]) if subject else (OTHER, "")


def _subject(task: str) -> str:
    """Return the subject of a task of MMLU, in whichever style it is asked, or nothing."""
    words = task.removeprefix("mmlu_")
    if words == task or words.startswith(("pro_", "prox_")):  # MMLU-Pro and MMLU-ProX are others
        return ""
    found = (
        subject
        for subject in _PART
        if words == subject or words.startswith(f"{subject}_") or words.endswith(f"_{subject}")
    )
    return next(found, "")


def main_rows(tasks: Iterable[TaskScore]) -> tuple[TaskScore, ...]:
    """Return one row a task, of its main metric, in the order in which the tasks come first."""
    by_task: dict[str, list[TaskScore]] = {}
    for row in tasks:
        by_task.setdefault(row.task, []).append(row)
    return tuple(min(rows, key=_preference) for rows in by_task.values())


def _preference(row: TaskScore) -> int:
    return _MAIN.index(row.metric) if row.metric in _MAIN else len(_MAIN)


def is_share(row: TaskScore) -> bool:
    """Return whether a row's metric is a share of right answers, of which the mean can be taken."""
    return row.metric in _SHARES


def relative_mean(tasks: Iterable[TaskScore]) -> float | None:
    """Return the mean of |A-B| / |A| over the tasks, each by its main metric; None without any.

    As on the page, where each of MMLU's 57 subjects counts as one of 80 tests. Metrics that are no
    share of right answers are left out, and tasks in which A has none right.
    """
    found = [row.relative for row in main_rows(tasks) if is_share(row)]
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if known else None


def table(tasks: Iterable[TaskScore]) -> tuple[TableGroup, ...]:
    """Return the table: groups in the order of the page, their rows in that of the tasks."""
    rows = main_rows(tasks)
    groups = (
        TableGroup(name, tuple(row for row in rows if row.group == name))
        for name in dict.fromkeys((*GROUPS, *(row.group for row in rows)))
    )
    return tuple(
        TableGroup(MMLU, class_rows(group.rows)) if group.name == MMLU else group
        for group in groups
        if group.rows
    )


def class_rows(rows: Sequence[TaskScore]) -> tuple[TaskScore, ...]:
    """Return a row for each class of MMLU's subjects: the means of both sides' scores.

    Each task counts alike, however many items it has.
    """
    order = [*SUBJECTS, ""]
    sorted_rows = sorted(rows, key=lambda row: (order.index(row.part), row.metric))
    return tuple(
        _mean_row(f"{part or 'other subjects'} [{len(members)}]", members)
        for (part, _), members in (
            (key, list(same))
            for key, same in groupby(sorted_rows, key=lambda row: (row.part, row.metric))
        )
    )


def _mean_row(name: str, rows: Sequence[TaskScore]) -> TaskScore:
    return TaskScore(
        task=name,
        group=rows[0].group,
        part=rows[0].part,
        metric=rows[0].metric,
        a=sum(row.a for row in rows) / len(rows),
        b=sum(row.b for row in rows) / len(rows),
        items=sum(row.items for row in rows),
    )
