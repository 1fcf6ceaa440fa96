"""A tensor whose rows are nowhere, and which is there all the same, is not called missing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from ckptdiff.report.finding import has_remedy
from tests.support.pairs import compare_and_diagnose, noise, write_plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from ckptdiff.results import Finding

    Tensors = dict[str, Tensor]

Q, K = noise(16, 12, seed=1), noise(8, 12, seed=2)
GATE, UP = noise(10, 12, seed=3), noise(10, 12, seed=4)
NORM = noise(8, seed=5) + 1


def findings(tmp_path: Path, a: Tensors, b: Tensors) -> list[Finding]:
    kept = {"kept.weight": noise(6, 4, seed=9)}
    for name, tensors in (("a", a), ("b", b)):
        folder = write_plain(
            tmp_path / name, {n: t.contiguous().clone() for n, t in {**kept, **tensors}.items()}
        )
        (folder / "config.json").write_text(json.dumps({"model_type": "nobody-knows"}))
    return compare_and_diagnose(tmp_path / "a", tmp_path / "b")[1]


@pytest.mark.parametrize(
    ("a", "b", "form", "told"),
    [
        ({"q": Q}, {"x": Q.T}, "transposed", "`q` is B's `x`, transposed"),
        ({"q": Q}, {"x": Q.T.double()}, "transposed", "`q` is B's `x`, transposed"),
        ({"q": Q}, {"x": Q[:, :6], "y": Q[:, 6:]}, "columns", "by columns B's `x`, B's `y`"),
        ({"q": Q}, {"x.0": Q[:, :3], "x.1": Q[:, 3:7], "x.2": Q[:, 7:]}, "columns",
         "by columns B's `x.0`, B's `x.1`, B's `x.2`"),
        ({"q": Q}, {"x": Q.T[:, :9], "y": Q.T[:, 9:]}, "transposed", "B's `x`, B's `y`"),
        ({"g": GATE, "u": UP}, {"x": torch.cat([GATE, UP], 1)}, "columns",
         "`u` is columns 12 to 23 of B's `x`"),
        ({"g": GATE, "u": UP}, {"x": torch.cat([GATE.T, UP.T], 1)}, "transposed",
         "`u` is columns 10 to 19 of B's `x`, transposed"),
        ({"q": Q, "k": K}, {"x": torch.cat([Q, K]).T}, "transposed", "`k` is columns 16 to 23"),
        ({"g": GATE, "u": UP}, {"x": torch.stack([GATE.T, UP.T])}, "transposed",
         "`u` is B's `x[1]`, transposed"),
        ({"g": GATE, "u": UP},
         {"x": torch.stack([torch.cat([GATE.T, UP.T], 1), torch.cat([UP.T, GATE.T], 1)])},
         "transposed", "of B's `x[0]`, transposed"),
        ({"x": torch.stack([GATE, UP])}, {"g": GATE.T, "u": UP.T}, "transposed",
         "B's `g`, B's `u`"),
        ({"q": Q}, {"x": Q.reshape(-1)}, "another shape", "B's `x`, which is 192"),
        ({"q": Q}, {"x": Q.flip(1)}, "columns", "`q` is column 11 of B's `x`"),
        ({"n": NORM}, {"x": NORM[:4], "y": NORM[4:]}, "parts", "B's `x`, B's `y`"),
    ],
)  # fmt: skip
def test_another_form_is_no_missing_tensor(
    tmp_path: Path, a: Tensors, b: Tensors, form: str, told: str
) -> None:
    (found,) = findings(tmp_path, a, b)
    assert (found.kind, set(found.tensors)) == ("NAMES", set(a))
    assert form in found.title
    assert told in found.evidence
    assert not has_remedy(found)


@pytest.mark.parametrize(
    "change",
    [lambda t: t - 1, lambda t: 2 * t.T, lambda t: t.flatten() + 3, lambda t: -t[:, :6]],
)
def test_what_could_be_it_is_left_to_the_eye(
    tmp_path: Path, change: Callable[[Tensor], Tensor]
) -> None:
    absent, extra = findings(tmp_path, {"q": Q}, {"x": change(Q), "y": change(Q) + 1})
    assert (absent.kind, extra.kind) == ("MISSING", "EXTRA")
    assert absent.evidence == (
        "not found by content among the 2 unpaired tensors of B; compare those by hand, since B "
        "may have them in another form"
    )
    assert not has_remedy(absent)


def test_a_tensor_is_lost_where_nothing_could_be_it(tmp_path: Path) -> None:
    """B's other tensors are found to be others of A, or too small."""
    a = {"q": Q, "same.size": Q + 1}
    (renamed, absent) = findings(tmp_path / "1", a, {"x": Q + 1})
    assert (renamed.kind, renamed.tensors) == ("NAMES", ("same.size",))
    assert (absent.kind, absent.evidence) == ("MISSING", "it is in nothing of B that is read")
    assert has_remedy(absent)
    absent, _ = findings(tmp_path / "2", {"q": Q}, {"x": noise(16), "y": noise(5, 7)})
    assert absent.evidence == "it is in nothing of B that is read"
    assert has_remedy(absent)


@pytest.mark.parametrize(
    ("other", "words", "lost"),
    [
        (Q.T, "B's is the transpose of A's: it has the same values", False),
        (Q.reshape(-1), "the same values in another shape", False),
        (Q[None], "the same values in another shape", False),
        (Q.flip(0)[None], "B's rows are all in A's, in another order", False),
        (Q[3:11], "B's rows are rows 3 to 10 of A's, which has 16", True),
        (noise(4, 4, 12, seed=8), "that the other lacks; compare them by hand", False),
        (noise(7, 5), "each side has rows that the other lacks", True),
    ],
)  # fmt: skip
def test_another_shape_of_the_same_values_needs_no_new_conversion(
    tmp_path: Path, other: Tensor, words: str, lost: bool
) -> None:
    (found,) = findings(tmp_path, {"q": Q}, {"q": other})
    assert found.kind == "SHAPE"
    assert found.evidence.endswith(words)
    assert has_remedy(found) is lost
