"""Small assembled checkpoints written by hand: no file is read."""

from __future__ import annotations

from pathlib import Path

from ckptdiff.assemble import Assembled, Assembly, Copy, Piece
from ckptdiff.tensors import Checkpoint, Parallelism, Rank, TensorRef, contiguous

LAYER = "model.layers.0."
Q, K, V = (f"{LAYER}self_attn.{p}_proj.weight" for p in "qkv")
O_PROJ = f"{LAYER}self_attn.o_proj.weight"
NORM = f"{LAYER}input_layernorm.weight"
EMBED = "model.embed_tokens.weight"
HIDDEN, HEAD_DIM, HEADS, GROUPS, VOCAB, PADDED = 32, 8, 8, 2, 90, 96


def _ref(name: str, shape: tuple[int, ...], file: str, offset: int) -> TensorRef:
    return TensorRef(name, shape, "BF16", Path("/ckpt") / file, offset, contiguous(shape))


def _whole(name: str, shape: tuple[int, ...], offset: int) -> Assembly:
    ref = _ref(name, shape, "hf/model.safetensors", offset)
    box = tuple((0, size) for size in shape)
    return Assembly(name, shape, "BF16", (Piece(ref, Rank(), box, box),))


def huggingface() -> Assembled:
    shapes = {
        EMBED: (VOCAB, HIDDEN),
        Q: (HEADS * HEAD_DIM, HIDDEN),
        K: (GROUPS * HEAD_DIM, HIDDEN),
        V: (GROUPS * HEAD_DIM, HIDDEN),
        O_PROJ: (HIDDEN, HEADS * HEAD_DIM),
        NORM: (HIDDEN,),
    }
    tensors = {}
    offset = 1000
    for name, shape in shapes.items():
        tensors[name] = _whole(name, shape, offset)
        offset += 2 * HIDDEN * (shape[0] if len(shape) == 2 else 1)
    root = Path("/ckpt/hf")
    checkpoint = Checkpoint(root, "hf", {}, Parallelism(), (), (root / "model.safetensors",))
    return Assembled(checkpoint, None, None, tensors, (), {})


def megatron() -> Assembled:
    """TP 2: one query group with four query heads on each rank; vocabulary padded to 96."""
    files = [f"mg/mp_rank_{r:02}/model_optim_rng.pt" for r in (0, 1)]
    prefix = "decoder.layers.0.self_attention."
    rows = (HEADS + 2 * GROUPS) * HEAD_DIM // 2  # 48
    qkv = [_ref(f"{prefix}linear_qkv.weight", (rows, HIDDEN), f, 5000) for f in files]
    proj = [_ref(f"{prefix}linear_proj.weight", (HIDDEN, 32), f, 20000) for f in files]
    norm = [_ref("decoder.layers.0.input_layernorm.weight", (HIDDEN,), f, 64) for f in files]
    embed = [
        _ref("embedding.word_embeddings.weight", (PADDED // 2, HIDDEN), f, 30000) for f in files
    ]
    columns = (0, HIDDEN)

    def part(
        name: str, shape: tuple[int, ...], of: tuple[int, int], size: int
    ) -> Assembly:  # the same rows of each rank's QKV
        pieces = tuple(
            Piece(ref, Rank(tp), (of, columns), ((tp * size, (tp + 1) * size), columns))
            for tp, ref in enumerate(qkv)
        )
        return Assembly(name, shape, "BF16", pieces)

    tensors = {
        EMBED: Assembly(
            EMBED,
            (VOCAB, HIDDEN),
            "BF16",
            (
                Piece(embed[0], Rank(0), ((0, 48), columns), ((0, 48), columns)),
                Piece(embed[1], Rank(1), ((0, 42), columns), ((48, 90), columns)),
            ),
            padding=(Piece(embed[1], Rank(1), ((42, 48), columns), ((90, 96), columns)),),
        ),
        Q: part(Q, (64, HIDDEN), (0, 32), 32),
        K: part(K, (16, HIDDEN), (32, 40), 8),
        V: part(V, (16, HIDDEN), (40, 48), 8),
        O_PROJ: Assembly(
            O_PROJ,
            (HIDDEN, 64),
            "BF16",
            tuple(
                Piece(ref, Rank(tp), (columns, (0, 32)), (columns, (tp * 32, tp * 32 + 32)))
                for tp, ref in enumerate(proj)
            ),
        ),
        NORM: Assembly(
            NORM,
            (HIDDEN,),
            "BF16",
            (Piece(norm[0], Rank(0), (columns,), (columns,), (Copy(norm[1], Rank(1)),)),),
        ),
    }
    root = Path("/ckpt/mg")
    checkpoint = Checkpoint(root, "megatron", {}, Parallelism(tp=2), (), ())
    return Assembled(checkpoint, None, None, tensors, (), {})
