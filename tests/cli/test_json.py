"""The JSON documents that scripts are written against: every field, of its kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from tests.support.pairs import edit_rank, noise, pair, rank_file
from tests.support.program import ckptdiff, document

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[..., Path]

pytestmark = pytest.mark.mostly_slow(one_in=4)
OPTIONAL_INT = (int, type(None))
TEXT = (str, type(None))
NUMBER = (int, float, str, type(None))

TOP = {
    "schema": str, "a": dict, "b": dict, "verdict": str, "weights": str, "config_status": str,
    "config_why": TEXT, "diagnosis_error": TEXT,
    "filter": TEXT, "counts": dict, "tensors": list, "unmapped": dict, "config": list,
    "findings": list,
}  # fmt: skip
SIDE = {
    "path": str, "format": str, "family": TEXT, "parallelism": dict, "tensors": int, "bytes": int,
}  # fmt: skip
TENSOR = {
    "name": str, "status": str, "why": TEXT, "error": TEXT, "padding_rows": int, "dtype_a": TEXT,
    "dtype_b": TEXT, "shape_a": (list, type(None)), "shape_b": (list, type(None)),
    "numel": OPTIONAL_INT, "differing": OPTIONAL_INT, "max_abs": NUMBER,
    "max_at": (list, type(None)), "mean_abs": NUMBER, "rms": NUMBER, "rel_l2": NUMBER,
    "cosine": NUMBER, "max_ulp": OPTIONAL_INT, "nan_a": OPTIONAL_INT, "nan_b": OPTIONAL_INT,
    "inf_a": OPTIONAL_INT, "inf_b": OPTIONAL_INT,
}  # fmt: skip
NUMBERS = list(TENSOR)[9:]
LISTING = {
    "schema": str, "path": str, "format": str, "family": TEXT, "iteration": (int, str, type(None)),
    "parallelism": dict, "bytes": int, "tensors": list, "unmapped": list, "other": list,
}  # fmt: skip
LISTED = {"name": str, "dtype": str, "shape": list, "bytes": int, "pieces": list}
PIECE = {"file": str, "key": str, "box": list, "of": list}
SIZES = {"tp": 2, "pp": 2, "vpp": 1, "ep": 1, "etp": 1}


def assert_fields(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Every promised field is there, of its kind; more may be."""
    for name, kind in wanted.items():
        assert name in found, name
        assert isinstance(found[name], kind), (name, found[name])
        assert type(found[name]) is not bool, name


@pytest.fixture(scope="module")
def drifting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a pair of plain folders in which every status but an error occurs."""
    nan = torch.ones(4, 4)
    nan[1, 2] = float("nan")
    a = {
        "same": noise(3, 3), "close": noise(4, 4), "differ": noise(5, 5), "shape": noise(6),
        "lost": noise(2), "nan": torch.ones(4, 4), "zeros": torch.zeros(3),
    }  # fmt: skip
    b = {
        "same": noise(3, 3), "close": noise(4, 4).bfloat16(), "differ": -noise(5, 5),
        "shape": noise(7), "new": noise(2), "nan": nan, "zeros": torch.ones(3),
    }  # fmt: skip
    return pair(tmp_path_factory.mktemp("drifting"), a, b)


@pytest.fixture(scope="module")
def found(drifting: tuple[Path, Path]) -> dict[str, Any]:
    done = ckptdiff("diff", *drifting, "--json", "-")
    assert done.returncode == 1
    return document(done)


@pytest.mark.slow
def test_a_comparison_has_every_field_of_its_kind(
    found: dict[str, Any], drifting: tuple[Path, Path]
) -> None:
    assert_fields(found, TOP)
    assert found["schema"] == "ckptdiff.diff/1"
    for side, path in zip("ab", drifting, strict=True):
        assert_fields(found[side], SIDE)
        assert found[side]["path"] == str(path)
        assert found[side]["format"] == "hf"
        assert found[side]["parallelism"] == dict.fromkeys(SIZES, 1)
        assert found[side]["tensors"] == 7
    assert found["filter"] is None
    assert found["unmapped"] == {"a": [], "b": []}
    assert found["verdict"] == found["weights"] == "differ"
    for tensor in found["tensors"]:
        assert_fields(tensor, TENSOR)


def test_counts_are_those_of_the_rows(found: dict[str, Any]) -> None:
    assert found["counts"] == {
        "same": 1, "close": 1, "matched": 0, "packed": 0, "differ": 3, "shape": 1, "only_a": 1,
        "only_b": 1, "error": 0,
    }  # fmt: skip
    statuses = {tensor["name"]: tensor["status"] for tensor in found["tensors"]}
    assert statuses == {
        "same": "same", "close": "close", "differ": "differ", "shape": "shape", "lost": "only_a",
        "new": "only_b", "nan": "differ", "zeros": "differ",
    }  # fmt: skip


def row(found: dict[str, Any], name: str) -> dict[str, Any]:
    (tensor,) = [tensor for tensor in found["tensors"] if tensor["name"] == name]
    return dict(tensor)


def test_a_row_of_equal_tensors_is_all_zeros_and_a_cosine_of_one(found: dict[str, Any]) -> None:
    same = row(found, "same")
    assert (same["numel"], same["differing"], same["cosine"], same["max_at"]) == (9, 0, 1.0, None)
    assert same["max_abs"] == same["mean_abs"] == same["rms"] == same["rel_l2"] == 0.0
    assert (same["dtype_a"], same["shape_b"], same["why"]) == ("F32", [3, 3], None)


def test_a_row_says_why_it_is_close(found: dict[str, Any]) -> None:
    close = row(found, "close")
    assert (close["why"], close["dtype_a"], close["dtype_b"]) == ("cast", "F32", "BF16")
    assert (close["differing"], close["max_ulp"]) == (0, 0)
    assert close["max_abs"] > 0


def test_a_place_is_an_index_of_the_tensor(found: dict[str, Any]) -> None:
    differ = row(found, "differ")
    size = noise(5, 5).abs()
    at = divmod(int(size.argmax()), 5)
    assert differ["max_at"] == list(at)
    assert differ["max_abs"] == pytest.approx(2 * float(size.max()))
    assert differ["cosine"] == pytest.approx(-1)


@pytest.mark.parametrize("name", ["shape", "lost", "new"])
def test_numbers_that_do_not_apply_are_null(found: dict[str, Any], name: str) -> None:
    tensor = row(found, name)
    assert [tensor[field] for field in NUMBERS] == [None] * len(NUMBERS)
    assert (tensor["shape_a"] is None) is (name == "new")
    assert (tensor["shape_b"] is None) is (name == "lost")


def test_numbers_that_are_not_finite_are_text(found: dict[str, Any]) -> None:
    zeros = row(found, "zeros")
    assert (zeros["cosine"], zeros["rel_l2"], zeros["max_abs"]) == ("nan", "inf", 1.0)
    assert (row(found, "nan")["nan_a"], row(found, "nan")["nan_b"]) == (0, 1)


def test_a_megatron_side_says_how_it_is_cut(tiny_hf: Make, tiny_megatron: Make) -> None:
    done = ckptdiff("diff", tiny_hf(), tiny_megatron(tp=2, pp=2), "--json", "-", "--jobs", 1)
    found = document(done)
    assert found["b"]["parallelism"] == SIZES
    assert found["b"]["format"] == "megatron"
    assert found["a"]["family"] == found["b"]["family"] == "llama"
    assert found["a"]["bytes"] == found["b"]["bytes"]
    padded = {t["name"]: t["padding_rows"] for t in found["tensors"] if t["padding_rows"]}
    assert padded == {"model.embed_tokens.weight": 3, "lm_head.weight": 3}


@pytest.mark.slow
def test_an_error_row_and_an_unmapped_name_are_in_the_document(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Make
) -> None:
    folder = copy_of(tiny_megatron(tp=2))

    def spoil(state: dict[str, Any]) -> None:
        del state["model"]["decoder.layers.0.mlp.linear_fc2.weight"]
        state["model"]["decoder.layers.0.mlp.router.weight"] = torch.ones(2)

    edit_rank(rank_file(folder, "01"), spoil)
    done = ckptdiff("diff", tiny_hf(), folder, "--json", "-")
    found = document(done)
    assert done.returncode == 2
    assert found["weights"] == "differ"
    assert found["counts"]["error"] == 1
    assert found["unmapped"] == {"a": [], "b": ["decoder.layers.0.mlp.router.weight"]}
    error = row(found, "model.layers.0.mlp.down_proj.weight")
    assert_fields(error, TENSOR)
    assert (error["status"], error["numel"]) == ("error", None)
    assert "TP rank 1 of 2" in error["error"]


@pytest.mark.slow
@pytest.mark.parametrize("side", ["a", "b"])
def test_an_unmapped_name_is_listed_on_its_side(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Make, side: str
) -> None:
    folder = copy_of(tiny_megatron())
    native = "decoder.layers.0.mlp.router.weight"
    edit_rank(rank_file(folder, "00"), lambda s: s["model"].update({native: torch.ones(2)}))
    pair = (folder, tiny_hf()) if side == "a" else (tiny_hf(), folder)
    done = ckptdiff("diff", *pair, "--json", "-")
    assert done.returncode == 1
    assert document(done)["unmapped"] == {"a": [], "b": [], side: [native]}


@pytest.mark.slow
def test_a_filter_is_in_the_document(drifting: tuple[Path, Path]) -> None:
    done = ckptdiff("diff", *drifting, "--json", "-", "--filter", "re:^(same|close)$")
    found = document(done)
    assert (done.returncode, found["filter"], found["weights"]) == (0, "re:^(same|close)$", "close")
    assert {tensor["name"] for tensor in found["tensors"]} == {"same", "close"}
    assert sum(found["counts"].values()) == 2


@pytest.mark.slow
def test_rows_are_in_the_order_of_the_model(tiny_hf: Make, tiny_megatron: Make) -> None:
    model = {"layers": 11}
    done = ckptdiff("diff", tiny_hf(**model), tiny_megatron(model=model), "--json", "-")
    names = [tensor["name"] for tensor in document(done)["tensors"]]
    assert names[0] == "model.embed_tokens.weight"
    assert names[-1] == "lm_head.weight"
    norms = [name for name in names if name.endswith("input_layernorm.weight")]
    assert norms == [f"model.layers.{i}.input_layernorm.weight" for i in range(11)]


@pytest.mark.mostly_slow(one_in=6)
@pytest.mark.parametrize("option", ["--ignore-config", "--no-diagnose"])
def test_options_that_leave_something_out_are_taken(
    drifting: tuple[Path, Path], option: str
) -> None:
    found = document(ckptdiff("diff", *drifting, "--json", "-", option))
    if option == "--ignore-config":
        assert found["config_status"] == "ignored"
    else:
        assert found["findings"] == []


# Listings


def test_a_listing_has_every_field_of_its_kind(tiny_megatron: Make) -> None:
    folder = tiny_megatron(tp=2, pp=2)
    done = ckptdiff("ls", folder, "--json")
    assert done.returncode == 0
    found = document(done)
    assert_fields(found, LISTING)
    assert found["schema"] == "ckptdiff.ls/1"
    assert found["path"] == str(folder / "iter_0000001")
    assert (found["format"], found["family"], found["iteration"]) == ("megatron", "llama", 1)
    assert found["parallelism"] == SIZES
    for tensor in found["tensors"]:
        assert_fields(tensor, LISTED)
        for piece in tensor["pieces"]:
            assert_fields(piece, PIECE)
    assert found["bytes"] == sum(tensor["bytes"] for tensor in found["tensors"])
    assert {entry["kind"] for entry in found["other"]} <= {"tensor", "value", "opaque", "derived"}
    assert {"name": "args.num_layers", "kind": "value"}.items() <= next(
        entry for entry in found["other"] if entry["name"] == "args.num_layers"
    ).items()


def test_pieces_of_a_listing_name_file_key_and_boxes(tiny_megatron: Make) -> None:
    found = document(ckptdiff("ls", tiny_megatron(tp=2, pp=2), "--json", "--filter", "1 k_proj"))
    (tensor,) = found["tensors"]
    assert (tensor["dtype"], tensor["shape"], tensor["bytes"]) == ("BF16", [16, 32], 1024)
    key = "decoder.layers.0.self_attention.linear_qkv.weight"
    assert [{field: piece[field] for field in PIECE} for piece in tensor["pieces"]] == [
        {
            "file": f"mp_rank_0{rank}_001/model_optim_rng.pt",
            "key": key,
            "box": [[8 * rank, 8 * rank + 8], [0, 32]],
            "of": [[16, 24], [0, 32]],
        }
        for rank in (0, 1)
    ]


def test_a_listing_of_a_huggingface_folder_has_one_piece_a_tensor(tiny_hf: Make) -> None:
    found = document(ckptdiff("ls", tiny_hf(), "--json"))
    assert (found["format"], found["family"], found["iteration"]) == ("hf", "llama", None)
    assert len(found["tensors"]) == 21
    for tensor in found["tensors"]:
        (piece,) = tensor["pieces"]
        assert piece["key"] == tensor["name"]
        assert piece["box"] == piece["of"] == [[0, size] for size in tensor["shape"]]


def test_a_raw_listing_has_offsets_at_which_the_bytes_lie(tmp_path: Path) -> None:
    weight = noise(3, 4)
    save_file({"other": noise(7), "w": weight}, tmp_path / "model.safetensors")
    (file,) = document(ckptdiff("ls", tmp_path, "--raw", "--json"))["files"]
    assert file["file"] == "model.safetensors"
    (entry,) = [entry for entry in file["tensors"] if entry["name"] == "w"]
    assert (entry["dtype"], entry["shape"], entry["bytes"]) == ("F32", [3, 4], 48)
    content = (tmp_path / "model.safetensors").read_bytes()
    start = entry["offset"]
    assert content[start : start + 48] == weight.numpy().tobytes()


def test_optimizer_and_extra_states_are_listed_as_other(tiny_megatron: Make) -> None:
    folder = tiny_megatron(tp=2, names="te", extra_state="bytesio", optimizer=True)
    found = document(ckptdiff("ls", folder, "--json"))
    kinds = {entry["name"]: entry["kind"] for entry in found["other"]}
    assert kinds["optimizer.optimizer.state.0.exp_avg"] == "tensor"
    assert kinds["mp_rank_01/rng_state.0.torch_rng_state"] == "tensor"
    assert any(n.endswith("linear_fc1._extra_state") and k == "opaque" for n, k in kinds.items())
    assert found["unmapped"] == []
