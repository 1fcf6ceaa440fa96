"""The list of keys that classes of transformers read is what running them shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckptdiff.config.keys_read import KEYS
from ckptdiff.forward.hf_config import FAMILIES
from tests.support.families import MODELS, WITHOUT_CLASS

if TYPE_CHECKING:
    from tests.support.oracle_client import Oracle

pytestmark = [pytest.mark.oracle, pytest.mark.mostly_slow(one_in=12)]


def test_every_model_type_has_a_list() -> None:
    assert KEYS.keys() == MODELS.keys() - WITHOUT_CLASS


@pytest.mark.sampled(one_in=3)
@pytest.mark.mostly_slow(one_in=9)
@pytest.mark.parametrize("model_type", KEYS)
def test_the_listed_keys_are_those_that_change_logits(model_type: str, oracle: Oracle) -> None:
    found = oracle.compare("oracle_keys", ranks=1, model_types=[model_type])
    assert found[model_type] == {"lacks": [], "needless": []}


@pytest.mark.sampled(one_in=2)
@pytest.mark.mostly_slow(one_in=9)
@pytest.mark.parametrize("model_type", [name for name in FAMILIES if name in KEYS])
def test_each_key_is_computed_as_transformers_does_or_said(model_type: str, oracle: Oracle) -> None:
    found = oracle.compare("oracle_keys_computed", ranks=1, model_types=[model_type])
    assert found[model_type]["wrong"] == {}
    assert found[model_type]["counts"]["right"] > 5
