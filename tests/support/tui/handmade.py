"""Small assembled checkpoints made by hand, and an app that shows one screen of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from textual.app import App

import ckptdiff.tui
from ckptdiff.assembly.recipe import Assembled, Assembly, Copy, Piece
from ckptdiff.checkpoint import (
    Checkpoint,
    Convention,
    Entry,
    Parallelism,
    Rank,
    TensorRef,
    contiguous,
)
from ckptdiff.comparison.run import diff
from ckptdiff.executor import InlineExecutor
from ckptdiff.tui.app import CkptDiffApp
from ckptdiff.tui.model.inventory import take_inventory
from ckptdiff.tui.model.session import Session
from ckptdiff.tui.theme import with_ours

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.pilot import Pilot

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
    checkpoint = Checkpoint(root, "hf", "hf", {}, Parallelism(), (), (root / "model.safetensors",))
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
    checkpoint = Checkpoint(root, "megatron", "megatron", {}, Parallelism(tp=2), (), ())
    return Assembled(checkpoint, None, None, tensors, (), {})


# ── a pair whose files exist ─────────────────────────────────────────────────────────────────────

EQUAL, CHANGED, TALL, LONE = "layers.0.a.weight", "layers.0.b.weight", "c.weight", "d.weight"
PEAK = (5, 7)  # where CHANGED differs most


# What stands beside the weights of a pair, by the root of each side.
ENTRIES: dict[Path, Sequence[Entry]] = {}


def written(folder: Path) -> tuple[Assembled, Assembled]:
    """Write a pair: A whole, B in two shards of columns. Two elements of CHANGED differ."""
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    values = np.arange(48, dtype=np.float32).reshape(6, 8)
    changed = values.copy()
    changed[2, 3] += 1
    changed[PEAK] -= 4
    a, b = {}, {}
    for name, one, other in (
        (EQUAL, values, values),
        (CHANGED, values, changed),
        (TALL, values, values[:4]),
        (LONE, values, None),
    ):
        a[name] = _stored(folder / "a" / f"{name}.bin", name, [one])
        if other is not None:
            b[name] = _stored(folder / "b" / f"{name}.bin", name, [other[:, :4], other[:, 4:]])
    entries = (
        Entry("args.num_layers", "value", "1"),
        Entry("args.[bold]tokenizer", "value", "[red]\x1b[2J"),
        Entry("optimizer.exp_avg", "tensor", "F32 48"),
    )
    sides = []
    for letter, tensors, sizes, others in (
        ("a", a, Parallelism(), ()),
        ("b", b, Parallelism(tp=2), entries),
    ):
        kind: Convention = "hf" if letter == "a" else "megatron"
        checkpoint = Checkpoint(folder / letter, kind, kind, {}, sizes, (), ())
        ENTRIES[checkpoint.root] = others
        sides.append(Assembled(checkpoint, None, None, tensors, (), {}))
    return sides[0], sides[1]


def _stored(file: Path, name: str, parts: Sequence[np.ndarray[Any, Any]]) -> Assembly:
    pieces = []
    rows, columns = parts[0].shape[0], sum(part.shape[1] for part in parts)
    at = 0
    for rank, part in enumerate(parts):
        place = file.with_suffix(f".{rank}")
        place.write_bytes(bytes(16) + part.tobytes())
        ref = TensorRef(name, part.shape, "F32", place, 16, contiguous(part.shape))
        width = part.shape[1]
        of = ((0, rows), (0, width))
        pieces.append(Piece(ref, Rank(rank), of, ((0, rows), (at, at + width))))
        at += width
    return Assembly(name, (rows, columns), "F32", tuple(pieces))


class HandmadeSession(Session):
    """Has no Megatron files to read entries from."""

    def read_entries(self, checkpoint: Checkpoint) -> Sequence[Entry]:
        return ENTRIES.get(checkpoint.root, ())


def session_of(*sides: Assembled, ascii_only: bool = False, compare: bool = True) -> Session:
    """Return a session of one side or two, compared."""
    paths = [side.checkpoint.root for side in sides]
    session = HandmadeSession(paths, make_executor=InlineExecutor, ascii_only=ascii_only)
    a, b = sides[0], sides[1] if len(sides) > 1 else None
    session.open(take_inventory(list(a.tensors), a, b), a, b)
    session.phase = "ready"
    if b is not None and compare:
        session.start(session.names)
        for result in diff(a, b, InlineExecutor()):
            session.add(result)
        session.finish("done")
    return session


class Host(App[None]):
    """Shows one screen in the program's own style, and keeps what is copied."""

    CSS_PATH = Path(ckptdiff.tui.__file__).with_name("app.tcss")

    def get_css_variables(self) -> dict[str, str]:
        return with_ours(super().get_css_variables())

    HORIZONTAL_BREAKPOINTS = CkptDiffApp.HORIZONTAL_BREAKPOINTS
    VERTICAL_BREAKPOINTS = CkptDiffApp.VERTICAL_BREAKPOINTS

    def __init__(self, screen: Any) -> None:
        super().__init__()
        self._shown = screen
        self.copied: list[str] = []
        self.conversion = None  # none runs

    async def on_mount(self) -> None:
        await self.push_screen(self._shown)

    def copy(self, text: str) -> None:
        self.copied.append(text)


async def settle(app: App[Any], pilot: Pilot[Any]) -> None:
    """Wait until workers are done and messages are drained."""
    await pilot.pause()
    await app.workers.wait_for_complete()
    await pilot.pause()
