"""Master weights and moments: named, put together like the weights, compared when asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptdiff.assembly.optimizer_pair import with_optimizer
from ckptdiff.comparison.run import diff
from ckptdiff.errors import BadArgument
from ckptdiff.executor import InlineExecutor
from tests.support.oracle_state import load, save
from tests.support.pairs import bits, open_pair, rank_file, write_plain
from tests.support.program import ckptdiff, document

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembly
    from ckptdiff.results import TensorDiff

    Make = Callable[..., Path]

pytestmark = pytest.mark.mostly_slow(one_in=4)
LLAMA, DEEPSEEK = "llama2/megatron-tp2-dp2", "deepseek-trained/megatron-tp1-pp1-ep2-dp2"
# Two saves of one run, how many weights there are, and how many of them are trained.
TWINS = [
    (f"{LLAMA}-trained2steps-distopt-torch_dist", f"{LLAMA}-trained2steps-distopt-torch", 39, 39),
    (f"{LLAMA}-trainrun-lr0-distopt-torch_dist", f"{LLAMA}-trainrun-lr0-distopt-torch", 39, 39),
    # One with a distributed optimizer, one without, over other ranks.
    (f"{LLAMA}-trainrun-lr0-distopt-torch", "llama2/megatron-tp2-pp2-trainrun-lr0-torch", 39, 39),
    # The balancing biases of the experts have no state.
    (
        f"{DEEPSEEK}-trained2steps-distopt-torch_dist",
        f"{DEEPSEEK}-trained2steps-distopt-torch",
        71,
        69,
    ),
]
TRAINED = [
    folder
    for one, other, *_ in TWINS
    for folder in (one, other)
    if "torch_dist" in folder or "pp2" in folder or folder.endswith("distopt-torch")
]


def compare(a: Path, b: Path) -> dict[str, TensorDiff]:
    sides = with_optimizer(*open_pair(a, b))
    assert not sides[0].unmapped
    assert not sides[1].unmapped
    return {result.name: result for result in diff(*sides, InlineExecutor())}


@pytest.mark.mostly_slow(one_in=4)
@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize(("one", "other", "weights", "trained"), TWINS)
def test_twins_have_equal_states(
    corpus: Path, one: str, other: str, weights: int, trained: int, exchanged: bool
) -> None:
    pair = (corpus / other, corpus / one) if exchanged else (corpus / one, corpus / other)
    results = compare(*pair)
    assert {result.status for result in results.values()} == {"same"}
    assert len(results) == weights + 3 * trained
    for name, result in results.items():
        weight = results[name.split(".", 2)[2]] if name.startswith("optimizer.") else result
        assert result.shape_a == weight.shape_a


@pytest.mark.mostly_slow(one_in=4)
@pytest.mark.parametrize("folder", sorted(set(TRAINED)))
def test_master_weights_rounded_to_bf16_are_the_weights(corpus: Path, folder: str) -> None:
    """What proves the names: a state under another weight's name would not round to it."""
    plain, other = open_pair(corpus / folder, corpus / folder)
    side, _ = with_optimizer(plain, other)
    prefix = "optimizer.fp32_param."
    masters = {
        name.removeprefix(prefix): replace(tensor, name=name.removeprefix(prefix))
        for name, tensor in side.tensors.items()
        if name.startswith(prefix)
    }
    results = list(
        diff(replace(plain, tensors=masters), plain, InlineExecutor(), names=masters.keys())
    )
    assert len(results) >= 39
    assert {(result.status, result.why) for result in results} == {("close", "cast")}


@pytest.mark.parametrize("optimizer", [True, "distributed"])
@pytest.mark.parametrize("layout", [{"tp": 1}, {"tp": 2, "pp": 2}, {"pp": 2, "vpp": 2}])
def test_states_of_any_layout_are_those_of_one_rank(
    tiny_megatron: Make, optimizer: bool | str, layout: dict[str, int]
) -> None:
    model = {"layers": 4}
    if layout.get("vpp") and optimizer == "distributed":
        pytest.skip("the writer of the tests has one buffer for all virtual stages")
    one = tiny_megatron(model=model, optimizer=True)
    other = tiny_megatron(model=model, optimizer=optimizer, **layout)
    results = compare(one, other)
    odd = {name: r.status for name, r in results.items() if r.status != "same"}
    assert not odd
    assert "optimizer.exp_avg_sq.model.layers.3.mlp.up_proj.weight" in results
    assert "optimizer.fp32_param.lm_head.weight" in results


def test_one_changed_moment_is_found_under_its_weight(
    tiny_megatron: Make, copy_of: Callable[[Path], Path]
) -> None:
    source = tiny_megatron(optimizer=True)
    changed = copy_of(source)

    state = load(rank_file(changed, "00"))
    moments = state["optimizer"]["optimizer"]["state"]
    # Group 0 are the norms: two a layer and the last one. Then comes the embedding.
    bits(moments[6]["exp_avg"])[3, 5] ^= 1
    save(state, rank_file(changed, "00"))
    results = compare(source, changed)
    odd = {name: r for name, r in results.items() if r.status != "same"}
    (name,) = odd
    assert name.startswith("optimizer.exp_avg.model.layers.0.")
    numbers = odd[name].numbers
    assert numbers is not None
    assert numbers.differing == 1


@pytest.mark.slow
def test_what_cannot_be_named_is_said(tiny_megatron: Make, copy_of: Callable[[Path], Path]) -> None:
    changed = copy_of(tiny_megatron(optimizer=True))

    state = load(rank_file(changed, "00"))
    state["optimizer"]["optimizer"]["param_groups"][0]["params"].pop()
    save(state, rank_file(changed, "00"))
    _, b = with_optimizer(*open_pair(tiny_megatron(optimizer=True), changed))
    assert b.unmapped == ("mp_rank_00: the order of its parameters cannot be told",)
    assert not any(name.startswith("optimizer") for name in b.tensors)
    done = ckptdiff("diff", tiny_megatron(optimizer=True), changed, "--optimizer")
    assert done.returncode == 1
    assert "the order of its parameters cannot be told" in done.stdout


@pytest.mark.slow
def test_without_the_option_nothing_of_it_is_read(
    tiny_megatron: Make, copy_of: Callable[[Path], Path]
) -> None:
    source = tiny_megatron(optimizer="distributed", tp=2)
    broken = copy_of(source)
    for file in broken.glob("*/*/distrib_optim.pt"):
        file.write_bytes(b"no zip")
    assert ckptdiff("diff", source, broken, "--ignore-config").returncode == 0
    done = ckptdiff("diff", source, broken, "--optimizer")
    assert done.returncode == 2
    assert "distrib_optim.pt" in done.stderr


@pytest.mark.slow
def test_the_program_compares_states_when_asked(tiny_megatron: Make) -> None:
    pair = tiny_megatron(optimizer=True), tiny_megatron(optimizer=True, tp=2)
    plain = document(ckptdiff("diff", *pair, "--json", "-"))
    whole = document(ckptdiff("diff", *pair, "--optimizer", "--json", "-"))
    assert len(whole["tensors"]) == 4 * len(plain["tensors"])
    assert whole["counts"]["same"] == len(whole["tensors"])


@pytest.mark.slow
def test_two_sides_without_an_optimizer_are_refused(tiny_hf: Make, tiny_megatron: Make) -> None:
    for pair in ((tiny_hf(), tiny_megatron()), (tiny_megatron(), tiny_megatron(tp=2))):
        done = ckptdiff("diff", *pair, "--optimizer")
        assert done.returncode == 2
        assert f"neither {pair[0]}" in done.stderr
        assert "holds an optimizer state" in done.stderr


@pytest.mark.mostly_slow(one_in=4)
@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize(
    "folder", [f"{LLAMA}-trainrun-lr0-distopt-torch", f"{LLAMA}-trainrun-lr0-distopt-torch_dist"]
)
def test_a_side_without_an_optimizer_stands_against_the_master_weights_of_the_other(
    corpus: Path, folder: str, exchanged: bool
) -> None:
    """Trained with a learning rate of zero, the masters are the weights it began with."""
    pair = corpus / "llama2/hf", corpus / folder
    sides = with_optimizer(*open_pair(*(pair[::-1] if exchanged else pair)))
    results = {r.name: r for r in diff(*sides, InlineExecutor())}
    assert len(results) == 2 * 39
    for name, result in results.items():
        master = name.startswith("optimizer.fp32_param.")
        assert (result.status, result.why) == (("close", "cast") if master else ("same", None))
    trained, other = sides if exchanged else sides[::-1]
    letter = "B" if exchanged else "A"
    assert f"its fp32 master weights stand against the weights of {letter}" in trained.notes
    assert not other.notes


def whole(tensor: Assembly) -> torch.Tensor:
    """Read a tensor of float32 piece by piece."""
    values = np.empty(tensor.shape, np.float32)
    for piece in tensor.pieces:
        ref = piece.ref
        data, steps = ref.file.read_bytes(), [4 * step for step in ref.stride]
        stored = np.ndarray(ref.shape, "<f4", data, ref.offset, steps)
        values[tuple(slice(*b) for b in piece.box)] = stored[tuple(slice(*b) for b in piece.of)]
    return torch.from_numpy(values)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["torch", "torch_dist"])
def test_a_model_taken_from_the_master_weights_equals_them(
    corpus: Path, tmp_path: Path, ending: str
) -> None:
    """What was trained is known to more digits than the narrow weights tell."""
    trained = corpus / f"{LLAMA}-trained2steps-distopt-{ending}"
    side, _ = with_optimizer(*open_pair(trained, trained))
    prefix = "optimizer.fp32_param."
    masters = {n.removeprefix(prefix): t for n, t in side.tensors.items() if n.startswith(prefix)}
    exported = write_plain(tmp_path, {name: whole(tensor) for name, tensor in masters.items()})
    (exported / "config.json").write_bytes((corpus / "llama2/hf/config.json").read_bytes())
    found = document(ckptdiff("diff", exported, trained, "--optimizer", "--json", "-"))
    statuses = {tensor["name"]: tensor["status"] for tensor in found["tensors"]}
    assert {statuses[name] for name in masters} == {"close"}
    assert {statuses[prefix + name] for name in masters} == {"same"}


def test_master_weights_that_cannot_be_named_are_refused(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Callable[[Path], Path]
) -> None:
    odd = copy_of(tiny_megatron(optimizer=True))
    state = load(rank_file(odd, "00"))
    state["optimizer"]["optimizer"]["param_groups"][0]["params"].pop()
    save(state, rank_file(odd, "00"))
    with pytest.raises(BadArgument, match="the order of its parameters cannot be told"):
        with_optimizer(*open_pair(tiny_hf(), odd))


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "exchanged"), [(True, False), ("distributed", True)])
def test_where_weights_differ_the_master_weights_are_offered(
    tiny_hf: Make,
    tiny_megatron: Make,
    copy_of: Callable[[Path], Path],
    optimizer: bool | str,
    exchanged: bool,
) -> None:
    trained, odd = tiny_megatron(optimizer=optimizer), copy_of(tiny_hf())
    file, *_ = odd.glob("*.safetensors")
    weights = load_file(file)
    bits(next(iter(weights.values()))).view(-1)[3] ^= 1
    save_file(weights, file)
    pair = (trained, odd) if exchanged else (odd, trained)
    offer = f"{'A' if exchanged else 'B'} holds fp32 master weights: --optimizer compares those too"
    assert offer in ckptdiff("diff", *pair).stdout
    assert document(ckptdiff("diff", *pair, "--json", "-"))["hints"] == [offer]
    done = ckptdiff("diff", *pair, "--optimizer")
    assert "--optimizer" not in done.stdout
    assert "fp32 master weights: " in done.stdout
    assert "master" not in ckptdiff("diff", tiny_hf(), trained).stdout
    assert "master" not in ckptdiff("diff", odd, tiny_megatron()).stdout
