"""Hold our logits against transformers' for every key of config.json that changes them.

Run in the oracle's Python, by `oracle_server`. `python -m tests.support.oracle_keys_computed
[MODEL_TYPE ...]` tries every value of every key, and prints what is not right.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.config.keys_read import KEYS
from ckptdiff.errors import CkptDiffError
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.forward.hf_config import FAMILIES
from ckptdiff.logits import run as engine
from tests.support.logit_runs import run_freely
from tests.support.oracle_keys import IDS, Probe, candidates, probes, values

if TYPE_CHECKING:
    from collections.abc import Iterator

TOLERANCE = 2e-5  # of logits, relative to the largest
# A head that is stored beside a tied embedding, and is another, stays one of its own in
# from_pretrained: it is not tied by the config alone, as it is here.
_NOT_TRIED = ("tie_word_embeddings",)


def ours(folder: Path) -> tuple[Any, tuple[str, ...]]:
    """Return the logits of a folder, and what is not computed of it. Raises a CkptDiffError."""
    pair = assemble_pair(open_checkpoint(folder), open_checkpoint(folder))
    run = engine._LogitComparison(*pair, tuple(IDS), InlineExecutor(), "hf")
    return run_freely(run, "fp32")[0], run.sides[0].model.not_computed


def outcome(probe: Probe, key: str, value: Any, folder: Path) -> str:
    """Return `right`, `refused: …`, `not computed: …`, `fails` (in transformers) or `wrong: …`."""
    effect, theirs = probe.run({key: value})
    if theirs is None:
        return "fails"
    (folder / "config.json").write_text(json.dumps(probe.changed({key: value})))
    try:
        found, not_computed = ours(folder)
    except CkptDiffError as error:
        return f"refused: {error}"
    if not_computed:
        return f"not computed: {'; '.join(not_computed)}"
    far = float((found - theirs).abs().max() / theirs.abs().max())
    return "right" if far <= TOLERANCE else f"wrong: {far:.2g} apart, its effect is {effect or 0}"


def outcomes(model_type: str, *, every: bool) -> Iterator[tuple[str, str]]:
    """Yield each key with its value, and the outcome; one value of the listed keys, or `every`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for probe in probes(model_type):
            probe.save(folder)
            for key in candidates(probe):
                if key in _NOT_TRIED or not (every or key.partition(".")[0] in KEYS[model_type]):
                    continue
                for value in islice(values(probe, key), None if every else 1):
                    yield f"{key} {value}", outcome(probe, key, value, folder)


def compare(*, rank: int, meeting: str, model_types: list[str]) -> dict[str, Any]:
    """Return by model type the keys whose logits are wrong, and how many outcomes there were."""
    assert rank == 0
    assert meeting
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for model_type in model_types:
        all_of = list(outcomes(model_type, every=False))
        wrong = {key: words for key, words in all_of if words.startswith("wrong")}
        counts = Counter(words.partition(":")[0] for _, words in all_of)
        found[model_type] = {"wrong": wrong, "counts": dict(counts)}
    return found


if __name__ == "__main__":
    import_module("transformers").logging.set_verbosity_error()
    for model_type in sys.argv[1:] or list(FAMILIES):
        counts: Counter[str] = Counter()
        for key, words in outcomes(model_type, every=True):
            counts[words.partition(":")[0]] += 1
            if words not in ("right", "fails"):
                sys.stdout.write(f"{model_type}: {key}: {words[:150]}\n")
        sys.stdout.write(f"{model_type}: {dict(counts)}\n")
        sys.stdout.flush()
