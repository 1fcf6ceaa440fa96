"""What `--undo` says is read as it was written, by this release and by the first one."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptdiff.assembly.assemble import assemble
from ckptdiff.conversion.remap import MAX_RANGE, Remap, by_template
from ckptdiff.conversion.undo import undone
from ckptdiff.errors import BadArgument
from ckptdiff.fault_classes import FAULT_CLASSES, FaultClass
from ckptdiff.formats import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ATTENTION = "decoder.layers.#.self_attention."
# Printed by the first release, one for each thing that a text can say.
OLD = (
    'VOCAB-SHIFT:{"rows":[[508,1],[1,0]],"tensors":{"embedding.word_embeddings.weight":""}}',
    'ROPE-PERM:{"written":"meta-k-wrong-heads",'
    f'"tensors":{{"{ATTENTION}linear_qkv.weight":"0-3 5"}}}}',
    f'TP-ORDER:{{"ranks":[[1,2],[2,1]],"tensors":{{"{ATTENTION}linear_proj.weight":"3",'
    '"output_layer.weight":""}}',
    'EXPERT-ORDER:{"experts":[[0,3],[3,0]],"tensors":'
    '{"decoder.layers.#.mlp.experts.local_experts.#.linear_fc1.weight":"1.0 1.3"}}',
    'EMBED-HEAD:{"names":{"embedding.word_embeddings.weight":"output_layer.weight",'
    '"output_layer.weight":"embedding.word_embeddings.weight"},"tensors":'
    '{"embedding.word_embeddings.weight":"","output_layer.weight":""}}',
    'LAYER-ORDER:{"layers":[[0,2],[2,0]],"tensors":'
    '{"decoder.layers.#.input_layernorm.weight":"0 2"}}',
    f'TRANSPOSE:{{"turned":true,"tensors":{{"{ATTENTION}linear_proj.weight":"0"}}}}',
)


@pytest.mark.parametrize("text", OLD, ids=[text.partition(":")[0] for text in OLD])
def test_a_text_of_the_first_release_is_read_and_written_the_same(text: str) -> None:
    assert Remap.parse(text).text() == text


def test_a_text_says_which_places_hold_what() -> None:
    ranks, experts = Remap.parse(OLD[2]), Remap.parse(OLD[3])
    assert ranks.ranks == ((1, 2), (2, 1))
    assert ranks.split_names() == {
        (f"{ATTENTION}linear_proj.weight", (3,)), ("output_layer.weight", ())
    }  # fmt: skip
    assert {numbers for _, numbers in experts.split_names()} == {(1, 0), (1, 3)}
    assert Remap.parse(OLD[1]).written == "meta-k-wrong-heads"
    assert Remap.parse(OLD[6]).transposed


NUMBERS = st.integers(0, 200)
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=4).map(tuple)
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="#"), min_size=1, max_size=12)
NAMES = st.one_of(
    st.just("embedding.word_embeddings.weight"),
    st.builds("decoder.layers.{}.mlp.linear_fc1.weight".format, NUMBERS),
    st.builds("decoder.layers.{}.mlp.experts.local_experts.{}.linear_fc2.bias".format,
              NUMBERS, NUMBERS),
)  # fmt: skip
REMAPS = st.builds(
    Remap,
    kind=st.sampled_from(get_args(FaultClass)),
    tensors=st.sets(NAMES, min_size=1, max_size=30).map(by_template),
    written=st.none() | WORDS,
    ranks=PAIRS,
    layers=PAIRS,
    experts=PAIRS,
    names=st.dictionaries(WORDS, WORDS, max_size=3).map(lambda names: tuple(names.items())),
    rows=PAIRS,
    transposed=st.booleans(),
)


@given(REMAPS)
def test_what_is_written_is_read(remap: Remap) -> None:
    assert Remap.parse(remap.text()) == remap


@pytest.mark.parametrize(
    "text",
    [
        "",
        "QKV-SWAP",
        "QKV-SWAP:{}",
        "QKV-SWAP:[]",
        'QKV-SWAP:{"tensors":["decoder.layers.0.qkv"]}',
        'QKV-SWAP:{"tensors":{"decoder.layers.#.a":"x"}}',
        f'QKV-SWAP:{{"tensors":{{"decoder.layers.#.a":"0-{MAX_RANGE + 1}"}}}}',
        'TP-ORDER:{"ranks":{"0":1},"tensors":{"a":""}}',
        'TP-ORDER:{"ranks":[[0]],"tensors":{"a":""}}',
        'TP-ORDER:{"ranks":[[Infinity,1]],"tensors":{"a":""}}',
        'TRANSPOSE:{"transposed":true,"tensors":{"a":""}}',
        'NORM-SWAP:{"names":{"a.#":"b"},"tensors":{"a.#":"0"}}',
        'UNKNOWN:{"tensors":{"a":""}}',
        "QKV-SWAP:" + "[" * 100_000,
    ],
    ids=lambda text: text[:30],
)
def test_a_text_that_no_finding_has_is_refused(text: str) -> None:
    with pytest.raises(BadArgument, match="take the text `undo` of a finding as it is"):
        Remap.parse(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            'TRANSPOSE:{"turned":true,"tensors":{"decoder.layers.#.mlp.linear_fc1.weight":"1"}}',
            "is no square matrix",
        ),
        (
            'NORM-SWAP:{"names":{"decoder.layers.#.input_layernorm.weight":'
            '"decoder.layers.#.mlp.linear_fc2.weight"},'
            '"tensors":{"decoder.layers.#.input_layernorm.weight":"1"}}',
            "is 32, decoder.layers.1.mlp.linear_fc2.weight is 32x",
        ),
    ],
    ids=["transposed", "another shape"],
)
def test_what_no_shard_can_hold_is_refused(
    text: str, why: str, tiny_megatron: Callable[..., Path]
) -> None:
    side = assemble(open_checkpoint(tiny_megatron(tp=2)))
    with pytest.raises(BadArgument, match=why):
        undone(side, [Remap.parse(text)])


def test_every_class_of_faults_is_described_once() -> None:
    assert tuple(FAULT_CLASSES) == get_args(FaultClass)
    assert all(row.what and "." not in row.what[-1:] for row in FAULT_CLASSES.values())
    assert [kind for kind, row in FAULT_CLASSES.items() if not row.effect] == ["CONFIG"]
