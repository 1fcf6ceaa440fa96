"""The end of a run says which tests were not run, what they want and how to come by it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.corpus import REPOSITORY
from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_what_is_wanted_is_said_by_the_controller_of_workers(tmp_path: Path) -> None:
    files = (
        "config/test_model",
        "logits/test_corpus",
        "e2e/test_tmux",
        "arch/test_oracle_families",
    )
    nowhere = tmp_path / "corpus"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "1", "-p", "no:cacheprovider", "--oracle", ""]
        + [f"tests/{file}.py" for file in files],
        cwd=REPOSITORY,
        env={**os.environ, "CKPTDIFF_CORPUS": str(nowhere), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("Not run")]
    assert len(said) == 3, done.stdout + done.stderr
    corpus, oracle, tmux = said
    # One of the sizes of both sides, two of tf5, two of logits: no test is gone without a word.
    assert corpus == (
        f"Not run, 5 of the tests: needs the corpus: {nowhere} is not there; "
        "set CKPTDIFF_CORPUS to its folder."
    )
    assert re.match(r"Not run, \d+ of the tests: needs megatron-core and transformers; .+", oracle)
    assert re.match(r"Not run, \d+ of the tests: needs tmux; .+", tmux)
    assert done.returncode == 0
