"""Which faults are planted, and how many are reported as they are.

The counts are of the cases that `test_diagnose` runs, each of which must be right: the class, the
layers, the ranks and the experts, and no other fault. `python -m tests.support.faults_table`
writes the table of the guide's page.
"""

from __future__ import annotations

import re
import sys
from collections import Counter

from ckptdiff.fault_classes import FAULT_CLASSES
from tests.support.corpus import REPOSITORY
from tests.support.fault_cases import CASES, CLEAN, MISSED
from tests.support.fault_cases_real import REAL
from tests.support.fault_cases_two import CHANGED, TWO

PAGE = REPOSITORY / "ckptdiff/guide/faults.md"
TABLE = re.compile(r"(?<=<!-- faults -->\n).*?(?=<!-- end of faults -->)", re.DOTALL)
# Not of numbers: planted and checked in tests of their own.
NOT_PLANTED = {"CONFIG", "SHAPE", "EXTRA", "INCOMPLETE", "NAMES", "PART", "DAMAGED"}
SOUND = 94  # checkpoints of NVIDIA's that equal their sources


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
        f"| `{kind}` | {row.what} | {planted[kind]} | {reported[kind]} | {mended[kind] or ''} |"
        for kind, row in FAULT_CLASSES.items()
        if kind not in NOT_PLANTED
    ]
    return "\n".join(rows) + (
        f"\n\nNo fault is named in {len(CLEAN)} checkpoints without one, nor in {SOUND} that "
        "NVIDIA's code wrote.\n\nThese are not planted there, and have tests of their own:\n\n"
        "| class | what went wrong |\n| --- | --- |\n"
        + "".join(
            f"| `{kind}` | {row.what} |\n"
            for kind, row in FAULT_CLASSES.items()
            if kind in NOT_PLANTED
        )
    )


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(lambda _: fault_table(), PAGE.read_text()))
    sys.stdout.write(fault_table())
