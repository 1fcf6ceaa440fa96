"""Values of a config that no model can have: each reader of them leaves them out, or says so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.config import model
from ckptdiff.config.fields.base import guarded
from ckptdiff.config.fields.shape import MAX_LAYERS
from ckptdiff.errors import UnknownConfig
from tests.support.conversions import converted
from tests.support.oracle_hf import make_hf
from tests.support.pairs import compare

if TYPE_CHECKING:
    from pathlib import Path

PARAMS = {"dim": 8, "n_layers": 1, "n_heads": 2}


@pytest.mark.parametrize("theta", ["10000", -1.0, 10**400, float("nan"), float("inf"), [1], True])
def test_a_rotary_base_that_makes_no_angles_is_not_known(theta: Any) -> None:
    config = model.from_meta({**PARAMS, "rope_theta": theta}, ffn=8, vocabulary=8, tied=False)
    assert config.rotary_base is None


@pytest.mark.parametrize("heads", ["x" * 5000, 10**300, [[]] * 9, {"a": 1}, 1 << 50, 0, -1, 1.5])
def test_a_count_that_is_none_is_told_in_few_words(heads: Any) -> None:
    with pytest.raises(UnknownConfig, match="a positive integer is needed") as caught:
        model.from_meta({**PARAMS, "n_heads": heads}, ffn=8, vocabulary=8, tied=False)
    assert len(str(caught.value)) < 200


def test_a_reader_of_a_field_that_finds_nothing_in_it_states_nothing() -> None:
    def parts() -> Any:
        yield next(iter([]))

    assert guarded(lambda: next(iter([]))) is None
    assert guarded(list, parts()) is None


@pytest.mark.slow
def test_a_config_with_two_rotary_bases_is_converted_with_a_sentence(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf", single=True)
    file = tmp_path / "hf" / "config.json"
    config = json.loads(file.read_text())
    config |= {
        "rope_theta": 10000.0,
        "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"},
    }
    file.write_text(json.dumps(config))
    plan, _ = converted(tmp_path / "hf", tmp_path / "out", "megatron")
    assert (tmp_path / "out").is_dir()
    assert plan.notes


@pytest.mark.slow
@pytest.mark.parametrize("layers", [MAX_LAYERS + 1, 10**12])
def test_more_layers_than_any_model_has_are_not_listed(tmp_path: Path, layers: int) -> None:
    for side in "ab":
        make_hf(tmp_path / side, "qwen3", single=True)
    file = tmp_path / "b" / "config.json"
    config = json.loads(file.read_text())
    config |= {"num_hidden_layers": layers, "use_sliding_window": True, "max_window_layers": 1}
    file.write_text(json.dumps(config))
    assert compare(tmp_path / "a", tmp_path / "b").summary.verdict
