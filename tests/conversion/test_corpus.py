"""What is converted is what NVIDIA's own converter wrote with the same settings, byte by byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.arch.naming import split_native
from ckptdiff.formats import open_checkpoint
from ckptdiff.kernels.memory import matrix
from ckptdiff.kernels.views import Source
from tests.support.conversions import converted, different, hf_tensors, same_bits
from tests.support.corpus import CORPUS, from_corpus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckptdiff.checkpoint import Checkpoint, TensorRef

# Trained, or cut by the converter: not what its source holds.
OTHER = ("trained2steps", "qwen2-widevocab", "broken/")
CASES = sorted(
    f"{folder.parent.name}/{folder.name}"
    for folder in CORPUS.glob("*/megatron-*")
    if not any(word in str(folder) for word in OTHER)
)
TORCH = [case for case in CASES if "torch_dist" not in case and "groupedmlp" not in case]
# Layers by (chunk, stage), where Megatron was told to cut them so.
FIRST_AND_LAST = {
    "llama-5l/megatron-tp1-pp3-first1-last2-torch": {"first_layers": 1, "last_layers": 2},
    "llama-5l/megatron-tp2-pp2-first2-torch": {"first_layers": 2},
    "llama-5l/megatron-tp1-pp3-layout-r0.14-torch": {"first_layers": 3},
    "llama-6l/megatron-tp1-pp4-acct-embed-loss-torch": {"first_layers": 1, "last_layers": 1},
}
BY_LAYOUT = ("llama-5l/megatron-tp1-pp2-vpp3-layout-r0.14-torch",
             "llama-6l/megatron-tp1-pp2-vpp2-acct-torch")  # fmt: skip
# Megatron before 0.14 cut these with Transformer Engine too; since then each rank holds them whole.
DUPLICATED = ("linear_q_down_proj.weight", "linear_kv_down_proj.weight")
PADDED = ("word_embeddings.weight", "output_layer.weight")


@pytest.mark.mostly_slow(one_in=30)
@pytest.mark.parametrize("case", from_corpus(case for case in TORCH if case not in BY_LAYOUT))
def test_shards_equal_nvidias(corpus: Path, tmp_path: Path, case: str) -> None:
    theirs = open_checkpoint(corpus / case)
    args = dict(theirs.config or {})
    names = {name for shard in theirs.shards for name in shard.tensors}
    size = theirs.parallelism
    options: dict[str, Any] = {
        "names": "legacy" if args.get("use_legacy_models") else _naming(names),
        "moe_grouped_gemm": any(".experts.linear_fc1.weight0" in name for name in names),
        "vocab_divisible_by": args["make_vocab_size_divisible_by"],
        **FIRST_AND_LAST.get(case, {}),
    }
    converted(
        corpus / case.partition("/")[0] / "hf", tmp_path / "out", "megatron",
        tp=size.tp, pp=size.pp, vpp=size.vpp, ep=size.ep, etp=size.etp, **options,
    )  # fmt: skip
    ours = dict(_tensors(open_checkpoint(tmp_path / "out")))
    checked = 0
    for key, ref in _tensors(theirs):
        other = ours.pop(key)
        if key.endswith(DUPLICATED) and other.shape != ref.shape:
            assert "r0.14" not in case
            continue
        if key.endswith("expert_bias") and ref.dtype == "BF16":
            continue  # that run rounded it; the source has float32
        assert (other.shape, other.dtype) == (ref.shape, ref.dtype), key
        one, two = _content(ref), _content(other)
        if key.endswith(PADDED) and one != two:
            # Not every writer fills the padding with the last row.
            one, two = (_real_rows(part, ref, key, theirs, corpus / case) for part in (one, two))
        assert one == two, key
        checked += 1
    assert ours == {}
    assert checked > 10


def test_folders_are_named_and_grouped_as_nvidias(corpus: Path, tmp_path: Path) -> None:
    case = corpus / "mixtral/megatron-tp2-pp2-ep2-core-transformer_engine-te2"
    converted(case.parent / "hf", tmp_path / "out", "megatron", tp=2, pp=2, ep=2, names="te")
    wanted = sorted(str(p.relative_to(case)) for p in case.rglob("*") if p.is_file())
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in tmp_path.rglob("*") if p.is_file())
    assert found == [name for name in wanted if name != "recipe.json"]
    tracker = "latest_checkpointed_iteration.txt"
    assert (tmp_path / "out" / tracker).read_text() == (case / tracker).read_text()


@pytest.mark.mostly_slow(one_in=12)
@pytest.mark.sampled(one_in=3)
@pytest.mark.parametrize("case", from_corpus(CASES))
def test_every_format_gives_the_hugging_face_tensors_back(
    corpus: Path, tmp_path: Path, case: str
) -> None:
    source = corpus / case.partition("/")[0] / "hf"
    wanted = hf_tensors(source)
    converted(corpus / case, tmp_path / "like", "hf", like=source)
    changed = different(hf_tensors(tmp_path / "like"), wanted)
    # Without that folder, what the args say of the vocabulary is believed, or padding is kept.
    conversion, _ = converted(corpus / case, tmp_path / "out", "hf")
    found = hf_tensors(tmp_path / "out")
    for name in different(found, wanted):
        if name not in changed:
            assert any(note.startswith("vocabulary: all") for note in conversion.notes)
            rows = len(wanted[name])
            assert len(found[name]) > rows
            assert same_bits(found[name][:rows], wanted[name])
    if case == "deepseek-v3/megatron-tp1-pp1-ep2-torch":
        assert all(name.endswith("e_score_correction_bias") for name in changed)
    else:
        assert changed == []


def _naming(names: set[str]) -> str:
    return "te" if any("layer_norm_weight" in name for name in names) else "mcore"


def _tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, TensorRef]]:
    for shard in checkpoint.shards:
        for name, ref in shard.tensors.items():
            if not name.endswith("_extra_state"):
                yield f"{shard.rank} {shard.chunk} {name}", ref


def _content(ref: TensorRef) -> bytes:
    source = Source(str(ref.file), ref.offset, ref.shape, ref.stride, ref.dtype, (), "")
    return matrix(source).tobytes()


def _real_rows(
    content: bytes, ref: TensorRef, key: str, checkpoint: Checkpoint, case: Path
) -> bytes:
    """Return the bytes of the rows that a token has."""
    total = len(hf_tensors(case.parent / "hf")["model.embed_tokens.weight"])
    rank = next(s.rank.tp for s in checkpoint.shards if key.startswith(f"{s.rank} "))
    kept = max(0, min(ref.shape[0], total - rank * ref.shape[0]))
    assert split_native(key.rpartition(" ")[2])[0].endswith(PADDED)
    return content[: kept * len(content) // ref.shape[0]]
