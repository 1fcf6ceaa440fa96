"""Which faults are planted, and how many are reported as they are.

The counts are of the cases that `test_diagnose` runs, each of which must be right: the class, the
layers, the ranks and the experts, and no other fault. `python -m tests.support.faults_table`
writes the table of the guide's page.
"""

from __future__ import annotations

import re
import sys
from collections import Counter

from tests.support.corpus import REPOSITORY
from tests.support.fault_cases import CASES, CLEAN, MISSED
from tests.support.fault_cases_real import REAL
from tests.support.fault_cases_two import CHANGED, TWO

PAGE = REPOSITORY / "ckptdiff/guide/faults.md"
TABLE = re.compile(r"(?<=<!-- faults -->\n).*?(?=<!-- end of faults -->)", re.DOTALL)
SOUND = 94  # checkpoints of NVIDIA's that equal their sources

WHAT = {
    "QKV-LAYOUT": "query, key and value rows flat, or grouped for another number of groups",
    "QKV-SWAP": "query, key and value exchanged",
    "QKV-HEADMAP": "heads assigned to the groups by stride",
    "QKV-BIAS": "its bias in another order, or never written",
    "KV-REPL": "key and value heads replicated, others lost",
    "ROPE-PERM": "rotary rows in the other order",
    "FC1-SWAP": "gate and up exchanged",
    "FC1-TPLAYOUT": "gate and up split or joined as one matrix",
    "FC1-INTERLEAVE": "gate and up alternate",
    "TRANSPOSE": "a square matrix as its transpose",
    "TP-ORDER": "shards of ranks in another order",
    "TP-DUP": "a rank's shard written twice, or never",
    "TP-AXIS": "split or joined along the other dimension",
    "REPLICA": "replicas that drifted apart",
    "BIAS-SCALE": "a row-parallel bias summed over the ranks",
    "LAYER-OFFSET": "layers numbered from another start",
    "LAYER-ORDER": "layers, stages or chunks exchanged",
    "LAYER-DUP": "a layer in the place of another",
    "MISSING": "tensors that are in no file",
    "VOCAB-PAD": "padding between the rows of the vocabulary",
    "VOCAB-SHIFT": "the vocabulary moved by some rows",
    "VOCAB-TRUNC": "its end lost",
    "TIED": "a tied head that is no copy, or an untied one that is",
    "EMBED-HEAD": "embedding and head exchanged",
    "GAMMA-OFFSET": "one added to a norm, or taken off",
    "NORM-SWAP": "norms under each other's names",
    "NOT-LOADED": "zeros, ones or fresh random numbers",
    "EXPERT-ORDER": "experts exchanged",
    "EXPERT-DUP": "experts by their local number",
    "EXPERT-LAYOUT": "grouped experts in another memory order",
    "ROUTER-ORDER": "rows of the router exchanged",
    "MTP-LAYOUT": "the halves of the prediction layer's projection exchanged",
    "DTYPE": "values through a narrower dtype",
    "BLOCK-SCALE": "block factors left out, or rounded",
    "STALE": "a file of another save",
    "LOW-RANK": "an adapter merged twice",
    "SCALE": "a factor, or the sign",
}


def fault_table() -> str:
    """Return a row for each class of faults that is planted."""
    planted: Counter[str] = Counter()
    reported: Counter[str] = Counter()
    mended: Counter[str] = Counter()
    for case in (*CASES, *TWO, *CHANGED, *REAL):
        for kind in {kind for kind, _ in case.plants if kind}:
            planted[kind] += len(case.formats)
            reported[kind] += len(case.formats) * (case.name not in MISSED)
            mended[kind] += len(case.formats) * case.mends
    rows = ["| class | what went wrong | planted | reported | mended by `--undo` |"]
    rows.append("| --- | --- | --- | --- | --- |")
    rows += [
        f"| `{kind}` | {what} | {planted[kind]} | {reported[kind]} | {mended[kind] or ''} |"
        for kind, what in WHAT.items()
    ]
    return "\n".join(rows) + (
        f"\n\nNo fault is named in {len(CLEAN)} checkpoints without one, nor in {SOUND} that "
        "NVIDIA's code wrote.\n"
    )


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(lambda _: fault_table(), PAGE.read_text()))
    sys.stdout.write(fault_table())
