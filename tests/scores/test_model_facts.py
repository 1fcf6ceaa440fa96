"""What a pair says of its tokenizer and its length."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.errors import BadArgument
from ckptdiff.formats import open_checkpoint
from ckptdiff.scores.model_facts import model_facts
from tests.support.tokenizers_made import tokenizer_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled


def pair(a: Path, b: Path) -> tuple[Assembled, Assembled]:
    return assemble_pair(open_checkpoint(a), open_checkpoint(b))


@pytest.fixture
def hf(tiny_hf: Callable[..., Path], copy_of: Callable[[Path], Path]) -> Path:
    folder = copy_of(tiny_hf(vocab=320))
    file = folder / "config.json"
    more = {"max_position_embeddings": 77, "bos_token_id": 5, "eos_token_id": [6, 7]}
    file.write_text(json.dumps(json.loads(file.read_text()) | more))
    return folder


@pytest.fixture
def megatron(tiny_megatron: Callable[..., Path], copy_of: Callable[[Path], Path]) -> Path:
    return copy_of(tiny_megatron(model={"vocab": 320}, tp=2))


def test_the_config_of_the_tokenizers_side_is_used(hf: Path, megatron: Path) -> None:
    (hf / "tokenizer.json").write_text(tokenizer_json())
    facts, notes = model_facts(*pair(hf, megatron))
    assert (facts.tokenizer, facts.max_length) == (hf / "tokenizer.json", 77)
    assert (facts.bos, facts.eos, facts.family) == (5, None, "llama")
    assert notes == ()
    turned, notes = model_facts(*pair(megatron, hf))
    assert turned == facts
    assert notes == ("the ids are by B's tokenizer: A has none",)


def test_two_megatron_sides_have_their_args(
    tiny_megatron: Callable[..., Path], megatron: Path
) -> None:
    other = tiny_megatron(model={"vocab": 320}, tp=1)
    (open_checkpoint(megatron).root / "tokenizer.json").write_text(tokenizer_json())
    facts, _ = model_facts(*pair(megatron, other))
    assert facts.max_length is not None
    assert facts.max_length > 0
    assert (facts.bos, facts.family) == (None, "")


def test_without_a_tokenizer_there_is_one_sentence(hf: Path, megatron: Path) -> None:
    with pytest.raises(BadArgument, match=r"put the model's tokenizer\.json into"):
        model_facts(*pair(hf, megatron))
