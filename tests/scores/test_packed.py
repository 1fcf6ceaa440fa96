"""Sequences end to end give what each gives alone; a fault shows where a sequence touches it."""

from __future__ import annotations

import json
import random
from collections import Counter
from math import prod
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptdiff.errors import UnsupportedLayout, WorkerDied
from ckptdiff.forward import compute, plan, steps
from ckptdiff.forward.kept import forget
from ckptdiff.forward.packed import take_packed_section
from ckptdiff.forward.reading import Reader
from tests.support.logit_runs import compare_logits, free_run
from tests.support.oracle_state import load, save
from tests.support.packed_runs import packed, run_batch, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

    from ckptdiff.forward.holdings import HeldTensor

    Make = Callable[..., Path]

VOCABULARY = 61  # of the tiny models
CHOSEN = random.Random(3)
SEQUENCES = [[CHOSEN.randrange(VOCABULARY) for _ in range(n)] for n in (9, 2, 17, 12, 17, 5)]
ROLLING = [whole(ids) for ids in SEQUENCES]
LARGE = ("project", "attend", "attention_out", "activate", "mlp_out")
EXPERTS = ("activate_experts", "experts_out")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have several chunks in a batch, one of more than one sequence."""
    monkeypatch.setitem(plan.CHUNK_TOKENS, "cpu", 16)


def loglik(logits: Tensor, first: int, tokens: list[int]) -> float:
    rows = torch.log_softmax(logits[first : first + len(tokens)].double(), -1)
    return float(rows.gather(1, torch.tensor(tokens)[:, None]).sum())


def changed(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """Change the weights of a Hugging Face folder of one file."""
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})
    return folder


def configured(folder: Path, **settings: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return folder


# ── what a sequence gives alone ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", ["fp32", "fp64", "bf16"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "mixtral"])
@pytest.mark.usefixtures("short_chunks")
def test_sequences_end_to_end_give_what_each_gives_alone(
    family: str, dtype: str, tiny_hf: Make, tiny_megatron: Make, copy_of: Any
) -> None:
    hf = copy_of(tiny_hf(family=family, single=True))
    if family == "mistral":
        configured(hf, sliding_window=4)
    sides = hf, tiny_megatron({"family": family}, tp=2)
    found = run_batch(*sides, ROLLING, dtype)
    # Products of other numbers of rows are summed up in other orders.
    most = {"fp32": 1e-5, "fp64": 1e-12, "bf16": 0.3}[dtype]
    for ids, (answers,) in zip(SEQUENCES, found.answers, strict=True):
        for answer, logits in zip(
            (answers.a, answers.b), free_run(*sides, ids, dtype), strict=True
        ):
            assert answer.loglik == pytest.approx(loglik(logits, 0, ids[1:]), abs=most)
            best = logits[:-1].argmax(-1).tolist()
            assert answer.is_greedy == (best == ids[1:])


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_distances_are_those_of_the_rows_of_logits(
    dtype: str, tiny_hf: Make, tiny_megatron: Make
) -> None:
    sides = tiny_hf(), tiny_megatron(tp=2)
    found = run_batch(*sides, [whole(SEQUENCES[2])], dtype)
    a, b = free_run(*sides, SEQUENCES[2], dtype)
    rows = (a.double() - b.double()).norm(dim=1) / a.double().norm(dim=1)
    ((answers,),) = found.answers
    assert answers.apart == pytest.approx(float(rows[:-1].max()), rel=0.5)
    assert answers.floor_apart == answers.apart > 0
    assert answers.weights_apart == 0
    assert answers.floor == answers.b


def test_a_span_is_the_sum_over_its_tokens_and_greedy_if_each_is_the_likeliest(
    tiny_hf: Make,
) -> None:
    hf, ids = tiny_hf(), SEQUENCES[2]
    logits, _ = free_run(hf, hf, ids, "fp32")
    likeliest = logits.argmax(-1).tolist()
    spans = [(3, likeliest[3:5]), (3, [likeliest[3], 1 + likeliest[4] % 7]), (16, [7]), (0, [])]
    ((*found,),) = run_batch(hf, hf, [packed(ids, *spans)]).answers
    for (first, tokens), answers in zip(spans, found, strict=True):
        assert answers.a == answers.b
        assert answers.a.loglik == pytest.approx(loglik(logits, first, tokens), abs=1e-5)
    assert [answers.a.is_greedy for answers in found] == [True, False, likeliest[16] == 7, True]
    assert all(answers.apart == 0 for answers in found)


def test_a_batch_without_wanted_spans_has_no_answers(tiny_hf: Make) -> None:
    hf = tiny_hf()
    assert run_batch(hf, hf, [packed(SEQUENCES[0])]).answers == ((),)


# ── what it costs ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the rows that each method of a layer computes."""
    rows: Counter[str] = Counter()
    take: Any = steps.take

    def counted(step: Any, side: Any, values: Any, *rest: Any) -> Any:
        rows[step.method] += len(values[step.takes[0]])
        return take(step, side, values, *rest)

    monkeypatch.setattr(compute, "take", counted)
    return rows


@pytest.mark.parametrize(
    ("family", "dtype"), [("llama", "fp32"), ("llama", "bf16"), ("mixtral", "fp32")]
)
def test_two_right_sides_cost_two_passes(
    family: str, dtype: str, tiny_hf: Make, tiny_megatron: Make, computed: Counter[str]
) -> None:
    count = 40
    many = [[CHOSEN.randrange(VOCABULARY) for _ in range(50)] for _ in range(count)]
    found = run_batch(
        tiny_hf(family=family),
        tiny_megatron({"family": family}, tp=2),
        [packed(ids, (48, ids[49:])) for ids in many],
        dtype,
    )
    assert found.large == []
    assert all(answers.weights_apart == 0 for (answers,) in found.answers)
    passes = {method: computed[method] / (2 * 50 * count) for method in computed}  # of two layers
    large = [method for method in (*LARGE, "activate_experts") if method in computed]
    assert len(large) == (5 if family == "llama" else 4)
    assert all(2 <= passes[method] < 2.1 for method in large), passes


@pytest.mark.usefixtures("short_chunks")
def test_of_a_long_sequence_only_attention_is_computed_as_a_whole(
    tiny_hf: Make, tiny_megatron: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = tiny_hf(), tiny_megatron(tp=2)
    ids = [CHOSEN.randrange(VOCABULARY) for _ in range(40)]
    monkeypatch.setitem(plan.SOME_LOGITS, "cpu", 3 * VOCABULARY)
    most: Counter[str] = Counter()
    take: Any = steps.take

    def noted(step: Any, side: Any, values: Any, *rest: Any) -> Any:
        most[step.method] = max(most[step.method], len(values[step.takes[0]]))
        return take(step, side, values, *rest)

    monkeypatch.setattr(compute, "take", noted)
    ((found,),) = run_batch(*sides, [whole(ids)]).answers
    assert most.pop("attend") == most.pop("rotate") == len(ids)
    assert most.pop("final_norm") == len(ids) - 1
    assert most.pop("some_logits") <= 16
    assert set(most.values()) == {16}
    assert found.weights_apart == 0
    logits, _ = free_run(*sides, ids, "fp32")
    assert found.a.loglik == pytest.approx(loglik(logits, 0, ids[1:]), abs=1e-5 * len(ids))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[HeldTensor]:
    """Count how many elements of a stored tensor are converted."""
    found: Counter[HeldTensor] = Counter()
    converted = Reader._converted

    def counted(self: Reader, stored: Any, held: HeldTensor, *rest: Any) -> Any:
        found[held] += stored.numel()
        return converted(self, stored, held, *rest)

    monkeypatch.setattr(Reader, "_converted", counted)
    return found


@pytest.mark.parametrize("family", ["llama", "mixtral"])
@pytest.mark.usefixtures("short_chunks")
def test_weights_are_read_once_for_all_sequences(
    family: str, tiny_hf: Make, tiny_megatron: Make, read: Counter[HeldTensor]
) -> None:
    run_batch(tiny_hf(family=family), tiny_megatron({"family": family}, tp=2), ROLLING)
    others = {held: count for held, count in read.items() if "embed" not in held.name}
    assert len(others) > 20
    assert {held.name for held, count in others.items() if count > prod(held.shape)} == set()


@pytest.mark.parametrize("family", ["llama", "mixtral"])
@pytest.mark.parametrize("by", [run_batch, compare_logits])
def test_what_both_sides_store_alike_is_converted_once(
    by: Any, family: str, tiny_hf: Make, copy_of: Any, read: Counter[HeldTensor]
) -> None:
    a = tiny_hf(family=family, single=True)
    other = "model.layers.1.self_attn.v_proj.weight"
    b = changed(copy_of(a), lambda w: w[other].view(torch.int16)[0, 0].bitwise_xor_(1))
    by(a, b, ROLLING if by is run_batch else SEQUENCES[0])
    layers = {held: count for held, count in read.items() if ".layers." in held.name}
    of_b = {held.name for held in layers if held.chunks[0].ref.file.is_relative_to(b)}
    assert of_b == {other}
    assert len(layers) > 18
    if by is run_batch:
        assert all(count == prod(held.shape) for held, count in layers.items())
        assert {held.chunks[0].ref.file.parent for held in read if "lm_head" in held.name} == {a}


# ── faults ───────────────────────────────────────────────────────────────────────────────────────


def exchanged(one: str, other: str) -> Callable[[dict[str, Tensor]], None]:
    def change(weights: dict[str, Tensor]) -> None:
        for name in [name for name in weights if name.startswith("model.layers.1.")]:
            if one in name:
                theirs = name.replace(one, other)
                weights[name], weights[theirs] = weights[theirs].clone(), weights[name].clone()

    return change


@pytest.mark.parametrize(
    ("one", "other", "places"),
    [
        ("k_proj", "v_proj", [(1, "k"), (1, "v")]),
        ("gate_proj", "up_proj", [(1, "act")]),
    ],
)
@pytest.mark.usefixtures("short_chunks")
def test_weights_that_are_exchanged_are_apart_in_their_step_alone(
    one: str,
    other: str,
    places: list[tuple[int | None, str]],
    tiny_hf: Make,
    tiny_megatron: Make,
    copy_of: Any,
) -> None:
    hf = changed(copy_of(tiny_hf(single=True)), exchanged(one, other))
    found = run_batch(hf, tiny_megatron(tp=2), ROLLING)
    assert found.places == places
    assert all(step.rel > 0.1 for step in found.large)
    assert any(one in name for name in found.large[0].reads)
    assert all(answers.weights_apart > 1e-3 for (answers,) in found.answers)
    assert all(answers.floor_apart < 1e-5 for (answers,) in found.answers)
    assert all(answers.floor.loglik == pytest.approx(answers.a.loglik, abs=1e-4)
               for (answers,) in found.answers)  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "where"),
    [({"rope_theta": 5000.0}, (0, "q_rope")), ({"rms_norm_eps": 1e-2}, (0, "norm1"))],
)
def test_a_setting_is_apart_in_the_first_step_that_it_counts_in(
    setting: dict[str, Any],
    where: tuple[int, str],
    tiny_hf: Make,
    tiny_megatron: Make,
    copy_of: Any,
) -> None:
    hf = configured(copy_of(tiny_hf(single=True)), **setting)
    found = run_batch(hf, tiny_megatron(tp=2), ROLLING)
    assert found.places[0] == where
    assert found.large[0].reads == () or "norm" in found.large[0].reads[0]
    # At the first position nothing is rotated.
    alone = run_batch(hf, tiny_megatron(tp=2), [packed([5], (0, [7]))])
    assert (alone.places == []) == ("rope_theta" in setting)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.usefixtures("short_chunks")
def test_a_bit_of_an_embedding_row_is_apart_in_the_sequence_that_has_the_token(
    dtype: str, tiny_hf: Make, tiny_megatron: Make, copy_of: Any
) -> None:
    counts = Counter(token for ids in SEQUENCES for token in set(ids))
    token = next(t for t in SEQUENCES[3] if counts[t] == 1)

    def change(weights: dict[str, Tensor]) -> None:
        weights["model.embed_tokens.weight"].view(torch.int16)[token, 3].bitwise_xor_(1 << 7)

    hf = changed(copy_of(tiny_hf(single=True)), change)
    found = run_batch(hf, tiny_megatron(tp=2), ROLLING, dtype)
    assert found.places == [(None, "embed")]
    assert found.large[0].sequence == 3
    assert [n for n, (answers,) in enumerate(found.answers) if answers.weights_apart] == [3]
    rest = [one for number, one in enumerate(ROLLING) if number != 3]
    assert run_batch(hf, tiny_megatron(tp=2), rest, dtype).large == []


def times(name: str, factor: float) -> Callable[[dict[str, Tensor]], object]:
    return lambda weights: weights[name][5].mul_(factor)


def test_a_row_of_an_expert_is_apart_where_the_expert_is_chosen(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Any
) -> None:
    hf = copy_of(tiny_hf(family="mixtral", single=True))
    megatron, places = tiny_megatron({"family": "mixtral"}, tp=2), []
    for expert in range(4):
        name = f"model.layers.1.block_sparse_moe.experts.{expert}.w2.weight"
        changed(hf, times(name, 2))
        places.append(run_batch(hf, megatron, [packed([9], (0, [1]))]).places)
        everywhere = run_batch(hf, megatron, ROLLING)
        assert everywhere.places == [(1, "mlp_out")]
        assert name in everywhere.large[0].reads
        changed(hf, times(name, 0.5))
    # Two of four are chosen for one token.
    assert sorted(places) == [[], [], [(1, "mlp_out")], [(1, "mlp_out")]]


def test_a_copy_that_drifted_on_another_rank_is_apart(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Any
) -> None:
    megatron = copy_of(tiny_megatron(tp=2))
    (file,) = megatron.rglob("mp_rank_01/*.pt")
    stored = load(file)
    stored["model"]["decoder.layers.1.input_layernorm.weight"] *= 2
    save(stored, file)
    assert run_batch(tiny_hf(), megatron, ROLLING).places == [(1, "norm1")]


def test_what_rounding_alone_moves_is_told_and_goes_on_as_one(tiny_hf: Make, copy_of: Any) -> None:
    """A weight of the norm that is one step of float32 off."""
    hf = tiny_hf(single=True, dtype=torch.float32)
    name = "model.layers.0.input_layernorm.weight"
    moved = changed(copy_of(hf), lambda w: w[name].copy_(torch.nextafter(w[name], 2 * w[name])))
    found = run_batch(hf, moved, ROLLING)
    assert found.large == []
    assert (0, "norm1") in [(step.layer, step.name) for step in found.apart]
    assert all(answers.floor == answers.b for (answers,) in found.answers)


def test_numbers_that_are_none_are_apart(tiny_hf: Make, tiny_megatron: Make, copy_of: Any) -> None:
    def change(weights: dict[str, Tensor]) -> None:
        weights["model.layers.1.mlp.down_proj.weight"][2].fill_(float("nan"))

    hf = changed(copy_of(tiny_hf(single=True)), change)
    found = run_batch(hf, tiny_megatron(tp=2), ROLLING)
    assert found.places == [(1, "mlp_out")]
    assert found.large[0].rel == float("inf")
    assert all(answers.weights_apart == float("inf") for (answers,) in found.answers)


# ── on a GPU ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_a_gpu_gives_what_the_cpu_does(family: str, tiny_hf: Make, tiny_megatron: Make) -> None:
    sides = tiny_hf(family=family), tiny_megatron({"family": family}, tp=2)
    alike = zip(
        run_batch(*sides, ROLLING, device="cuda").answers, run_batch(*sides, ROLLING).answers,
        strict=True,
    )  # fmt: skip
    for (one,), (other,) in alike:
        assert one.a.loglik == pytest.approx(other.a.loglik, abs=1e-4)
        assert one.b.loglik == pytest.approx(other.b.loglik, abs=1e-4)


# ── what is refused ──────────────────────────────────────────────────────────────────────────────


def test_another_shape_is_refused(tiny_hf: Make, tiny_megatron: Make, copy_of: Any) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    hf = changed(copy_of(tiny_hf(single=True)), lambda w: w.update({name: w[name][:, :-1].clone()}))
    with pytest.raises(UnsupportedLayout, match="A, layer 1, mlp_out: cannot be computed"):
        run_batch(hf, tiny_megatron(tp=2), ROLLING)


def test_values_of_another_process_are_said_to_be_gone(tiny_hf: Make) -> None:
    forget("nothing")
    run: Any = type("Run", (), {"comparison": "nothing"})()
    section: Any = None
    with pytest.raises(WorkerDied):
        take_packed_section(run, section)
