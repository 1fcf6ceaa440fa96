"""Every family and its odd configs, to Megatron and back without a folder to be like.

    python -m tests.support.ways_back [--oracle PYTHON] [MODEL …]

prints what transformers computes of each that came back, and the fractions that the guide states.
Ends with 1 if a model came back as another one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdiff.assembly.assemble import assemble
from ckptdiff.config.carried import NAME as CARRIED
from ckptdiff.conversion.plan import Conversion, Target, plan_conversion
from ckptdiff.conversion.run import convert
from ckptdiff.errors import CkptDiffError
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from tests.support.corpus import REPOSITORY
from tests.support.families import MODELS
from tests.support.odd_configs import ODD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ckptdiff.checkpoint import Checkpoint

    Ask = Callable[[str, object], dict[str, Any]]

# The norm behind their DeltaNet is kept less one by Megatron: they do not go there.
NOT_TO_MEGATRON = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")
CLOSE = 1e-5  # of the logits' spread: another order of the same sums
OWN, BARE = "args as ckptdiff writes them", "args as Megatron writes them"
RIGHT, SAME_SUMS, REFUSED = "right", "right but for the order of sums", "refused"
AS_ARGS, WRONG = "what the args say, which Megatron cannot hold", "wrong"
NOT_WRITTEN = "not written as Megatron"


@dataclass(frozen=True, slots=True)
class Way:
    """How one model came back."""

    model: str  # `type`, or `type: oddity`
    args: str  # OWN or BARE
    outcome: str
    words: str = ""


def all_models() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (name, model type, what differs) of each tiny model."""
    for model_type in MODELS:
        if model_type not in NOT_TO_MEGATRON:
            yield model_type, model_type, {}
            for oddity, differing in ODD[model_type].items():
                yield f"{model_type}: {oddity}", model_type, differing


def ways_back(
    folder: Path, models: Iterable[tuple[str, str, dict[str, Any]]], ask: Ask
) -> list[Way]:
    """Return how each model comes back, with our own args and with those that Megatron would save.

    Raises AssertionError if transformers cannot make one.
    """
    models = list(models)
    places = {name: folder / str(number) for number, (name, _, _) in enumerate(models)}
    jobs = [[str(places[name] / "hf"), kind, differing] for name, kind, differing in models]
    failed = {name: why for name, why in ask("oracle_ways_back", {"make": jobs}).items() if why}
    assert failed == {}
    ways: list[Way] = []
    waiting: dict[str, tuple[str, str, bool, str]] = {}
    for name, place in places.items():
        try:
            plan = _converted(open_checkpoint(place / "hf"), place / "megatron", "megatron")
        except CkptDiffError as error:
            ways += [Way(name, args, NOT_WRITTEN, str(error)) for args in (OWN, BARE)]
            continue
        for args, back in ((OWN, place / "own"), (BARE, place / "bare")):
            opened = open_checkpoint(place / "megatron")
            assert opened.config is not None
            if args == BARE:
                kept = {n: value for n, value in opened.config.items() if n != CARRIED}
                opened = replace(opened, config=kept)
            try:
                family = _converted(opened, back, "hf").source.family
            except CkptDiffError as error:
                ways.append(Way(name, args, REFUSED, str(error).replace(str(place), "")))
                continue
            waiting[str(back)] = name, args, bool(plan.cannot), str(family)
    pairs = [[str(places[name] / "hf"), back] for back, (name, *_) in waiting.items()]
    for came_back, found in ask("oracle_ways_back", {"compare": pairs}).items():
        name, args, lost, family = waiting[came_back]
        ways.append(Way(name, args, _outcome(found, lost=lost), f"{family} {json.dumps(found)}"))
    return ways


def _converted(source: Checkpoint, out: Path, to: Any) -> Conversion:
    target = Target(to, vocab_divisible_by=24)
    plan = plan_conversion(assemble(source), out, target)
    for _ in convert(plan, InlineExecutor(), verify=True):
        pass
    return plan


def _outcome(found: dict[str, Any], *, lost: bool) -> str:
    """Return the outcome; `lost`: it was said that Megatron cannot compute the model."""
    if "error" in found or found["loose"]:
        return WRONG
    if found["max_abs"] == 0:
        return RIGHT
    if found["max_abs"] < CLOSE * found["spread"]:
        return SAME_SUMS
    return AS_ARGS if lost else WRONG


def fractions(ways: Iterable[Way]) -> Iterator[str]:
    """Yield a line for each kind of args: how many came back how."""
    ways = list(ways)
    for args in (OWN, BARE):
        counts = Counter(way.outcome for way in ways if way.args == args)
        words = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
        yield f"{args}: of {counts.total()} models {words}; {counts[WRONG]} wrong"


def asker(python: str) -> Ask:
    """Return what asks a module of `support` in that Python."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}

    def ask(module: str, question: object) -> dict[str, Any]:
        done = subprocess.run(
            [python, "-m", f"tests.support.{module}"],
            input=json.dumps(question),
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return ask


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.ways_back")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="types; all of them by default")
    parser.add_argument("--oracle", default=sys.executable, help="a Python that has transformers")
    options = parser.parse_args()
    wanted = [m for m in all_models() if not options.models or m[1] in options.models]
    with tempfile.TemporaryDirectory(prefix="ckptdiff-ways-back-") as folder:
        ways = ways_back(Path(folder), wanted, asker(options.oracle))
    for way in ways:
        if way.outcome != RIGHT:
            sys.stdout.write(f"{way.model} ({way.args}): {way.outcome}: {way.words}\n")
    sys.stdout.writelines(f"{line}\n" for line in fractions(ways))
    return int(any(way.outcome == WRONG for way in ways))


if __name__ == "__main__":
    sys.exit(main())
