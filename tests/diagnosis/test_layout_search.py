"""The search for a known mistake leaves none out, and makes no more of a layout than it needs."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import pytest

from ckptdiff.arch import base
from ckptdiff.arch.llama import LLAMA
from ckptdiff.arch.mistakes import gates as mistaken_gates
from ckptdiff.arch.mistakes import heads as mistaken_heads
from ckptdiff.arch.mistakes import mistakes
from ckptdiff.config.model import from_huggingface
from ckptdiff.diagnosis.layout_search import MistakeSearch, recipe_by
from ckptdiff.diagnosis.origins import Origins
from ckptdiff.diagnosis.queries import ContentQueries
from ckptdiff.executor import InlineExecutor
from ckptdiff.resharding.shard_pairs import shard_grid
from tests.support.fault_cases import CASES
from tests.support.fault_check import Maker
from tests.support.pairs import compare

if TYPE_CHECKING:
    from ckptdiff.resharding.shard_pairs import ShardGrid, ShardPair

PLANTED = (
    "qkv_flat mha tp4", "qkv_flat_per_rank", "qkv_wrong_groups 2 of 4", "qkv_v1_layout qwen3",
    "kv_swap in weight and bias", "q_head_stride back", "proj_head_stride", "kv_replicate by 4",
    "rope_k_wrong_heads", "gate_up_swap", "expert_gate_up_swap of one", "fc1_global_chunk tp4",
    "fc1_merge_no_glu 8 to 2", "fc1_interleave rows", "fc2_reshape_axis of proj",
)  # fmt: skip
LARGE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
    "intermediate_size": 11008, "num_hidden_layers": 2, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(tmp_path_factory.mktemp("mistakes"))


@pytest.mark.mostly_slow(one_in=15)
@pytest.mark.parametrize("name", PLANTED)
def test_what_is_found_is_what_comparing_every_whole_layout_finds(maker: Maker, name: str) -> None:
    (case,) = [case for case in CASES if case.name == name]
    hf, faulty, _ = maker.plant(case)
    found = compare(hf, faulty)
    grid = shard_grid(found.a, found.b)
    assert grid is not None
    ask = ContentQueries(InlineExecutor())
    origins = Origins(grid, ask)
    origins.run({r.name for r in found.results.values() if r.status == "differ"})
    some = 0
    for tensor in dict.fromkeys(p.name for p in origins.wrong):
        group = [p for p in origins.firsts.values() if p.name == tensor and p.actual.pieces]
        search = MistakeSearch(grid, ask, origins.wrong, [(p, p) for p in group])
        wanted = _all_right(grid, ask, group)
        if wanted:
            assert [m.key for m in search.right(())] == wanted
            some += 1
    assert some


def _all_right(grid: ShardGrid, ask: ContentQueries, group: list[ShardPair]) -> list[str]:
    right = []
    rule = group[0].rule
    same = ask.have_same_elements([p.expected for p in group], [p.actual for p in group])
    poor = all(poor for _, poor in ask.digests([p.actual for p in group]))
    for mistake in mistakes(rule, grid.config, grid.size(rule)):
        made = [recipe_by(mistake, p, p, grid) for p in group]
        pairs = [(m, p.actual) for m, p in zip(made, group, strict=True) if m is not None]
        if len(pairs) == len(group) and all(ask.are_equal(pairs)) and mistake.permutes == same:
            right.append(mistake.key)
    return [] if poor else right


def test_the_first_rows_of_a_layout_are_known_without_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []

    class Counted(base.Slice):
        def __post_init__(self) -> None:
            made.append(self)

    for module in (base, mistaken_gates, mistaken_heads):
        monkeypatch.setattr(module, "Slice", Counted)
    config = from_huggingface(LARGE)
    seen = 0
    for mapping in LLAMA.mappings:
        if "linear_fc1.w" not in mapping.megatron and "linear_qkv.w" not in mapping.megatron:
            continue
        shapes = dict.fromkeys(mapping.hf, (11008, 4096))
        for mistake in mistakes(mapping, config, 2):
            made.clear()
            list(islice(mistake.pieces(mapping.hf, shapes, config, 2, 0), 8))
            assert len(made) < 600, mistake.key
            seen += 1
    assert seen > 60


@pytest.mark.parametrize(("heads", "groups", "size"), [(3, 1, 2), (71, 1, 64), (6, 2, 2)])
def test_a_model_with_more_heads_than_rows_of_keys_has_its_mistakes(
    heads: int, groups: int, size: int
) -> None:
    of = {"num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": size}
    config = from_huggingface({**LARGE, **of, "hidden_size": heads * size})
    (mapping,) = (m for m in LLAMA.mappings if "linear_qkv.w" in m.megatron)
    rows = {name: heads * size if "q_proj" in name else groups * size for name in mapping.hf}
    shapes = {name: (count, heads * size) for name, count in rows.items()}
    for mistake in mistakes(mapping, config, 1):
        for name, box, _ in mistake.pieces(mapping.hf, shapes, config, 1, 0):
            assert name is None or box[0][1] <= rows[name], mistake.key
