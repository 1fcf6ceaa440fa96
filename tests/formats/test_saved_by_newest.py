"""What megatron-core 0.19.2 saved is read wherever there is no megatron-core."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ckptdiff.assembly.assemble import assemble
from ckptdiff.config.compare import compare_configs
from ckptdiff.formats import open_checkpoint
from tests.support.pairs import compare
from tests.support.program import ckptdiff, document
from tests.support.saved_by_newest import unpack

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_a_hybrid_is_listed_the_same_as_its_source_and_converted_alone(tmp_path: Path) -> None:
    source, saved = unpack(tmp_path)
    listed = document(ckptdiff("ls", saved, "--json"))
    assert (listed["family"], listed["iteration"]) == ("nemotron_h", 1)
    args = {entry["name"] for entry in listed["other"]}
    assert {"args.hybrid_layer_pattern", "iteration", "checkpoint_version"} <= args

    found = compare(source, saved)
    assert len(found.results) == len(listed["tensors"]) == 33
    assert (found.statuses, found.summary.verdict) == ({}, "same")
    kinds = next(line for line in found.summary.config if line.meaning == "Kinds of layers")
    assert (kinds.status, kinds.name_b, kinds.b) == ("same", "hybrid_layer_pattern", "M*|-E")

    # Behind a slash are the layers of each prediction, which the other side states by itself.
    opened = open_checkpoint(saved)
    more = {**(opened.config or {}), "hybrid_layer_pattern": "M*|-E/*E/*E"}
    sides = assemble(open_checkpoint(source)), assemble(replace(opened, config=more))
    (kinds,) = [x for x in compare_configs(*sides) if x.meaning == "Kinds of layers"]
    assert (kinds.status, kinds.a) == ("same", "M*-E")

    done = ckptdiff("convert", saved, tmp_path / "out", "--to", "hf")
    assert done.returncode == 0, done.stderr
    again = compare(source, tmp_path / "out")
    assert (again.statuses, again.summary.verdict) == ({}, "same")
