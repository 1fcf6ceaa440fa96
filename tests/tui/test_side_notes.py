"""What the screen says of a side's files, and of tensors whose numbers are not computed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from ckptdiff.assembly.assemble import assemble
from ckptdiff.formats import open_checkpoint
from ckptdiff.tui.screens.detail import DetailScreen
from ckptdiff.tui.text.progress import side_notes
from tests.support.oracle_hf import make_hf

if TYPE_CHECKING:
    from pathlib import Path


def test_files_that_are_not_read_are_named_on_the_screen(tmp_path: Path) -> None:
    make_hf(tmp_path / "a", single=True)
    make_hf(tmp_path / "b", single=True)
    save_file({"w": torch.ones(1)}, tmp_path / "b" / "consolidated.safetensors")
    a, b = (assemble(open_checkpoint(tmp_path / name)) for name in "ab")
    session: Any = SimpleNamespace(a=a, b=b, browsing=False)
    (note,) = side_notes(session)
    assert note.startswith("B: ")
    assert "consolidated.safetensors" in note


def test_values_without_numbers_are_not_opened(tmp_path: Path) -> None:
    weights = {"w": torch.ones(3, dtype=torch.complex64)}
    save_file(weights, tmp_path / "model.safetensors")
    tensor = assemble(open_checkpoint(tmp_path)).tensors["w"]
    session: Any = SimpleNamespace(
        assemblies=lambda _: (tensor, None), browsing=True, filter="", differences=0
    )
    screen: Any = SimpleNamespace(session=session, tensor="w", app=None, covering=())
    for action in ("values", "statistics"):
        assert DetailScreen.why_not(screen, action) == "The numbers of C64 are not computed."
    assert DetailScreen.why_not(screen, "copy_python") is None
