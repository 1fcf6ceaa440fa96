"""Run a module of `support` as the program that it is, where what it imports is there already.

Run by `oracle_server`.
"""

from __future__ import annotations

import json
import runpy
import sys
from contextlib import redirect_stdout
from io import StringIO


def compare(*, rank: int, meeting: str, program: str, question: object) -> object:
    """Return what the program says in its last line; nobody is met for it."""
    sys.stdin, said = StringIO(json.dumps(question)), StringIO()
    with redirect_stdout(said):
        runpy.run_module(f"tests.support.{program}", run_name="__main__")
    found: object = json.loads(said.getvalue().splitlines()[-1])
    return found
