"""What others have published of the same table: facts with their source, no part of a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdiff.scores.groups import BIGBENCH, LM_EVAL, MMLU, MULTILINGUAL

if TYPE_CHECKING:
    from ckptdiff.scores.results import TaskScore


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """A row of a published table: |A-B| / A in percent, in the order of its columns."""

    group: str
    name: str  # as it is printed there
    task: str  # lm-evaluation-harness's task, or the class of MMLU's subjects
    percent: tuple[float, ...]
    tests: int = 1  # that it stands for


@dataclass(frozen=True, slots=True)
class Published:
    """A published table."""

    word: str  # what `--beside` takes
    title: str
    source: str  # its address
    columns: tuple[str, ...]
    mean: float  # of all its tests and columns, as it is stated there, in percent
    rows: tuple[PublishedRow, ...]

    def beside(self, row: TaskScore) -> PublishedRow | None:
        """Return what was published of the test that a row of our table is of."""
        name = row.part if row.group == MMLU else row.task
        return next((one for one in self.rows if (one.group, one.task) == (row.group, name)), None)


def _bigbench(name: str, *percent: float) -> PublishedRow:
    task = f"bigbench_{name.removesuffix('_multiple_choice')}_multiple_choice"
    return PublishedRow(BIGBENCH, name, task, percent)


def _xcopa(language: str, *percent: float) -> PublishedRow:
    name = f"{language}-template-mGPT-remove-punctuation"
    return PublishedRow(MULTILINGUAL, name, f"xcopa_{language}", percent)


def _lm_eval(name: str, *percent: float) -> PublishedRow:
    return PublishedRow(LM_EVAL, name, name, percent)


def _mmlu(name: str, part: str, tests: int, *percent: float) -> PublishedRow:
    return PublishedRow(MMLU, f"{name} [{tests}]", part, percent, tests)


NVIDIA_LLAMA2 = Published(
    word="nvidia-llama2",
    title="Llama-2 by Meta's code against its conversion in Megatron, as NVIDIA gives it",
    source="https://github.com/NVIDIA/Megatron-LM/blob/main/docs/llama_mistral.md",
    columns=("7b", "13b", "70b"),
    mean=0.15,
    rows=(
        _bigbench("date_understanding", 0.29, 0.13, 0.12),
        _bigbench("general_knowledge", 0.0, 0.0, 0.0),
        _bigbench("human_organs_senses", 0.0, 0.0, 0.0),
        _bigbench("intent_recognition", 0.0, 0.11, 0.0),
        _bigbench("riddle_sense", 0.0, 0.0, 0.0),
        _bigbench("similarities_abstraction", 0.0, 0.58, 0.0),
        _bigbench("simple_arithmetic_json_multiple_choice", 0.0, 0.0, 0.0),
        _bigbench("undo_permutation", 0.19, 0.19, 0.18),
        _xcopa("en", 0.08, 0.0, 0.0),
        _xcopa("et", 0.0, 0.13, 0.25),
        _xcopa("ht", 0.26, 0.13, 0.26),
        _xcopa("id", 0.11, 0.0, 0.19),
        _xcopa("it", 0.0, 0.10, 0.09),
        _xcopa("qu", 0.0, 0.0, 0.27),
        _xcopa("sw", 0.14, 0.13, 0.13),
        _xcopa("th", 0.25, 0.13, 0.13),
        _xcopa("tr", 0.26, 0.0, 0.34),
        _xcopa("vi", 0.0, 0.11, 0.0),
        _xcopa("zh", 0.0, 0.10, 0.09),
        _lm_eval("boolq", 0.04, 0.04, 0.07),
        _lm_eval("hellaswag", 0.02, 0.03, 0.03),
        _lm_eval("piqa", 0.0, 0.0, 0.07),
        _lm_eval("winogrande", 0.0, 0.11, 0.20),
        _mmlu("stem", "stem", 18, 0.79, 0.05, 0.01),
        _mmlu("humanities", "humanities", 13, 0.19, 0.01, 0.02),
        _mmlu("other (business, health, misc.)", "other", 14, 0.08, 0.06, 0.12),
        _mmlu("social sciences", "social sciences", 12, 0.37, 0.21, 0.01),
    ),
)
PUBLISHED = {NVIDIA_LLAMA2.word: NVIDIA_LLAMA2}
