"""Random odd configs of every family: is the verdict of `logits` what the real programs compute?

`python -m tests.support.campaign --oracle PYTHON --count 500 --seed 1`: a Hugging Face folder and
one whose config.json differs in one key, or a folder and its conversion whose args differ in one
field. The weights are the same. What each side computes is told by transformers, by its own config,
and by megatron-core, built from the args as Megatron-LM does.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from ckptdiff.config.compare import compare_configs
from ckptdiff.errors import CkptDiffError
from tests.support import campaign_changes, odd_configs
from tests.support.conversions import converted
from tests.support.families import MODELS, SIZES
from tests.support.logit_runs import compare_logits, tokens
from tests.support.oracle_client import Oracle
from tests.support.pairs import edit_rank, open_pair

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.campaign_changes import Change

IDS = tokens(40, SIZES["vocab_size"])
APART = 1e-3  # of logits, |A-B| / |A|: no arithmetic in fp32 makes that of two equal models
EQUAL = 1e-6  # two equal models are closer
RIGHT, CANNOT_TELL, WRONG, NO_TRUTH = "right", "cannot tell", "wrong", "no truth"
IN_BATCH = 25


@dataclass(frozen=True)
class Case:
    """One change of one model."""

    seed: int
    number: int
    family: str
    variant: str
    kind: str  # "config" or "args"
    change: Change | None  # None: a conversion as it is
    a: Path
    b: Path

    @property
    def name(self) -> str:
        what = "no change" if self.change is None else f"{self.change[0]} = {self.change[1]!r}"
        return f"{self.seed}/{self.number} {self.family} ({self.variant}), {self.kind}: {what}"


@dataclass(frozen=True)
class Outcome:
    """What ckptdiff said, what is true, and whether that is right."""

    case: Case
    judged: str  # RIGHT, CANNOT_TELL, WRONG or NO_TRUTH
    verdict: str
    sentence: str
    rel: float | None  # of the real logits
    is_silent: bool  # `diff` shows no line of what makes the models differ

    def __str__(self) -> str:
        rel = "no truth" if self.rel is None else f"{self.rel:.2g} apart"
        return f"{self.case.name}: {self.verdict} ({self.sentence[:160]}); truth: {rel}"


class Campaign:
    """Makes models and cases in a folder, and judges what is said of them."""

    def __init__(self, oracle: Oracle, folder: Path, seed: int) -> None:
        self.oracle = oracle
        self.folder = folder
        self.seed = seed
        self._models: dict[tuple[str, str], tuple[Path, dict[str, Any]] | None] = {}
        self._conversions: dict[Path, Path | None] = {}
        self._fields: dict[str, Any] | None = None

    def outcomes(
        self, count: int, families: Sequence[str], kinds: Sequence[str] = ("config", "args")
    ) -> Iterator[Outcome]:
        """Yield what comes of `count` cases, of the families in turn."""
        batch: list[Case] = []
        for number in range(count):
            case = self._case(number, families[number % len(families)], kinds)
            if case is not None:
                batch.append(case)
            if len(batch) == IN_BATCH or number == count - 1:
                yield from self._judged(batch)
                batch = []

    def _case(self, number: int, family: str, kinds: Sequence[str]) -> Case | None:
        random = Random(f"{self.seed}/{number}")
        variant = random.choice(["usual", *odd_configs.ODD.get(family, {})])
        made = self._model(family, variant)
        if made is None:
            return None
        base, config = made
        kind = random.choice(list(kinds))
        target = self.folder / f"case-{number}"
        if kind == "config":
            change = campaign_changes.of_config(config, random)
            _linked(base, target)
            found = json.loads((base / "config.json").read_text())
            found = campaign_changes.changed(found, change)
            (target / "config.json").unlink()
            (target / "config.json").write_text(json.dumps(found))
            return Case(self.seed, number, family, variant, kind, change, base, target)
        whole = self._conversion(base)
        if whole is None:
            return self._case(number, family, ("config",)) if "config" in kinds else None
        shutil.copytree(whole, target)
        if random.random() < 0.1:
            return Case(self.seed, number, family, variant, kind, None, base, target)
        args = _args(target)
        change = campaign_changes.of_args(args, self.fields, random)
        name, value = change
        edit_rank(_rank_file(target), lambda state: setattr(state["args"], name, value))
        return Case(self.seed, number, family, variant, kind, change, base, target)

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of megatron-core's configuration, and their defaults."""
        if self._fields is None:
            self._fields = self.oracle.compare("oracle_campaign", ranks=1, task="fields")
        return self._fields

    def _model(self, family: str, variant: str) -> tuple[Path, dict[str, Any]] | None:
        if (family, variant) not in self._models:
            folder = self.folder / f"{family}-{variant}"
            made = self.oracle.compare(
                "oracle_campaign",
                ranks=1,
                task="make",
                model=family,
                changes=odd_configs.ODD.get(family, {}).get(variant, {}),
                folder=str(folder),
                seed=self.seed,
            )
            found = None if "refused" in made else (folder, made["config"])
            self._models[family, variant] = found
        return self._models[family, variant]

    def _conversion(self, base: Path) -> Path | None:
        """Return a model as Megatron has it; None if it is refused, by us or by megatron-core."""
        if base not in self._conversions:
            target = base.with_name(f"{base.name}-megatron")
            self._conversions[base] = None
            try:
                converted(base, target, "megatron", verify=False)
            except CkptDiffError:
                return None
            (truth,) = self._truths("megatron", base, [target], [""])
            if "refused" not in truth:
                self._conversions[base] = target
        return self._conversions[base]

    def _truths(
        self, task: str, base: Path, others: Sequence[Path], changed: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Return how far each folder's real logits are from those of the base, or why not."""
        found: list[dict[str, Any]] = self.oracle.compare(
            "oracle_campaign",
            ranks=1,
            task=task,
            base=str(base),
            others=[*map(str, others)],
            changed=changed,
            ids=IDS,
        )["found"]
        return found

    def _judged(self, cases: Sequence[Case]) -> Iterator[Outcome]:
        truths: dict[int, dict[str, Any]] = {}
        groups: dict[tuple[str, Path], list[Case]] = defaultdict(list)
        for case in cases:
            groups[case.kind, case.a].append(case)
        for (kind, base), group in groups.items():
            found = self._truths(
                "huggingface" if kind == "config" else "megatron",
                base,
                [case.b for case in group],
                [case.change[0] if case.change else "" for case in group],
            )
            truths |= {case.number: truth for case, truth in zip(group, found, strict=True)}
        for case in cases:
            yield judge(case, truths[case.number])
            shutil.rmtree(case.b)


def judge(case: Case, truth: dict[str, Any]) -> Outcome:
    """Return what ckptdiff says of a case, judged by the real distance."""
    is_silent = False
    try:
        found = compare_logits(case.a, case.b, IDS)
        verdict, sentence = str(found.verdict), found.sentence
        lines = compare_configs(*open_pair(case.a, case.b))
        is_silent = case.kind == "config" and all(line.a == line.b for line in lines)
    except CkptDiffError as error:
        verdict, sentence = "refused", str(error)
    except Exception as error:  # noqa: BLE001 -- a crash is an outcome
        verdict, sentence = "crash", f"{type(error).__name__}: {error}"
    if "refused" in truth:
        judged = WRONG if verdict == "crash" else NO_TRUTH
        return Outcome(
            case, judged, verdict, truth["refused"] if judged == NO_TRUTH else sentence, None, False
        )
    rel = float(truth["rel"])
    judged = RIGHT
    if verdict in ("refused", "undecided"):
        judged = CANNOT_TELL
    elif verdict == "crash":
        judged = WRONG
    elif verdict == "arithmetic" and not rel <= APART:
        judged = CANNOT_TELL if "if both are run with the same" in sentence else WRONG
    elif verdict in ("small", "weights-or-config") and rel <= EQUAL:
        judged = WRONG
    return Outcome(case, judged, verdict, sentence, rel, is_silent and not rel <= APART)


def _linked(base: Path, target: Path) -> None:
    """Make a folder of links to the files of another."""
    target.mkdir()
    for file in base.iterdir():
        if file.suffix == ".json":  # a link out of the folder is not followed
            shutil.copy(file, target)
        else:
            (target / file.name).symlink_to(file)


def _rank_file(folder: Path) -> Path:
    (file,) = folder.rglob("model_optim_rng.pt")
    return file


def _args(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    edit_rank(_rank_file(folder), lambda state: found.update(vars(state["args"])))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--oracle", required=True, help="a Python with transformers and megatron")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--family", action="append", choices=MODELS)
    parser.add_argument("--kind", action="append", choices=("config", "args"))
    parser.add_argument("--all", action="store_true", help="print each case")
    options = parser.parse_args()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    silent = 0
    say = sys.stdout.write
    with tempfile.TemporaryDirectory() as folder:
        oracle = Oracle(options.oracle, Path(folder) / "stderr")
        campaign = Campaign(oracle, Path(folder), options.seed)
        try:
            families = options.family or list(MODELS)
            kinds = options.kind or ("config", "args")
            for outcome in campaign.outcomes(options.count, families, kinds):
                counts[f"{outcome.case.family}, {outcome.case.kind}"][outcome.judged] += 1
                silent += outcome.is_silent
                if outcome.judged == WRONG or options.all:
                    say(f"{outcome.judged}: {outcome}\n")
                elif outcome.is_silent:
                    say(f"silent: {outcome}\n")
                sys.stdout.flush()
        finally:
            oracle.stop()
    kinds = (RIGHT, CANNOT_TELL, WRONG, NO_TRUTH)
    for name, found in sorted(counts.items()):
        say(f"{name:28} " + "  ".join(f"{kind} {found[kind]:3}" for kind in kinds) + "\n")
    total = sum(counts.values(), Counter[str]())
    say(f"all: {', '.join(f'{kind} {total[kind]}' for kind in kinds)}; diff silent {silent}\n")


if __name__ == "__main__":
    main()
