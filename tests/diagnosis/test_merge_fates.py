"""What is said of an adapter in weights that differ is true of them, and no more is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from ckptdiff.diagnosis import merges
from tests.assembly.test_adapter_folders import MODULE, adapter, merged_by_hand
from tests.assembly.test_wrapped_names import stored
from tests.support.pairs import compare_and_diagnose

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest
    from torch import Tensor

    Make = Callable[..., Path]

NAME = f"{MODULE}.weight"


def titles(folder: Path, base: Path, change: Callable[[dict[str, Tensor]], None]) -> list[str]:
    """Return the findings of base and adapter against the merged model, changed."""
    peft = adapter(folder / "adapter", base, ())
    merged = merged_by_hand(folder / "merged", base, peft)
    file = merged / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})
    compared, findings = compare_and_diagnose(base, merged, adapter=peft)
    assert compared.statuses.get(NAME) == "differ"
    return [f"{finding.title}; {finding.cause}" for finding in findings]


def test_a_merge_with_another_change_is_no_merge_with_another_alpha(
    tiny_hf: Make, tmp_path: Path
) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[NAME][3, 4] += 0.5

    found = titles(tmp_path, tiny_hf(dtype=torch.float32), change)
    assert not any("alpha" in title or "x the adapter" in title for title in found)


def test_a_base_that_was_cast_is_the_base_without_the_adapter(
    tiny_hf: Make, tmp_path: Path
) -> None:
    base = tiny_hf(dtype=torch.float32)

    def change(tensors: dict[str, Tensor]) -> None:
        plain = stored(base)
        tensors |= {name: plain[name].bfloat16() for name in tensors}

    (title,) = titles(tmp_path, base, change)
    assert title.startswith("the adapter was not merged into 1 of the 1 weights")


def test_of_a_large_weight_is_said_that_some_rows_were_looked_at(
    tiny_hf: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merges, "SAMPLE", 64)
    base = tiny_hf(dtype=torch.float32)

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[NAME][:8] = stored(base)[NAME][:8]

    (title,) = titles(tmp_path, base, change)
    assert "B holds the base's values in all rows looked at" in title
