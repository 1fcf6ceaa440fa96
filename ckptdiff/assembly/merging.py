"""Have a model's weights read with an adapter added to them, as if it were merged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ckptdiff.arch.fused import canonical
from ckptdiff.arch.order import put_in_model_order
from ckptdiff.arch.templates import split_name
from ckptdiff.assembly.compose import cut_out, renamed, rows_of, transpose
from ckptdiff.assembly.lora import as_stored, lora_of
from ckptdiff.assembly.recipe import Assembly, Piece, whole_box
from ckptdiff.checkpoint import Chunk, LowRank, Rank, TensorRef, contiguous
from ckptdiff.errors import UnsupportedLayout
from ckptdiff.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.arch.base import Architecture
    from ckptdiff.assembly.lora import Lora, LoraPair
    from ckptdiff.assembly.recipe import Assembled

DTYPES = ("BF16", "F16", "F32")  # of weights that an adapter is added to
_FRONTS = ("", "model.", "transformer.")  # of a model with a head, before names of one without
# What transformers calls parts of multimodal models in memory, as PEFT does too, and what it calls
# them in files, written by its version 5 as well.
_IN_MEMORY = {
    "model.language_model.": ("model.", "language_model.model."),
    "model.visual.": ("visual.",),
    "model.vision_tower.": ("vision_tower.", "vision_tower.vision_model."),
    "model.multi_modal_projector.": ("multi_modal_projector.",),
    "lm_head.": ("language_model.lm_head.",),
}


@dataclass(frozen=True, slots=True)
class Merging:
    """The adapter that is added to a side's weights while they are read."""

    root: Path
    words: str  # what it is
    pairs: dict[str, LoraPair]  # by the canonical name of each weight that it changes
    replaced: tuple[str, ...]  # canonical names of tensors that it holds in place of the base's
    files: tuple[Path, ...]

    @property
    def factors(self) -> tuple[float, ...]:
        """What each product is multiplied by, in the order of `pairs`."""
        return tuple(pair.factor for pair in self.pairs.values())


def with_merged(base: Assembled, adapter: Assembled) -> Assembled:
    """Return a side whose weights are read with an adapter added to them. No data is read.

    Raises UnsupportedLayout or CorruptFile, in a sentence that says why, if the adapter is not one
    that is added to these weights.
    """
    lora = lora_of(adapter)
    held = base.adapter
    is_alone = held is not None and not any(host in base.tensors for host in held.hosts)
    if held is not None and (is_alone or base.checkpoint.root != adapter.checkpoint.root):
        raise UnsupportedLayout(
            f"{base.checkpoint.root}: {'is' if is_alone else 'holds'} {held.words} itself: "
            "give the plain model, and the adapter beside it"
        )
    own = set(held.names) if held is not None else set()
    tensors = {name: tensor for name, tensor in base.tensors.items() if name not in own}
    replaced = dict(_replaced(base, lora))
    tensors |= replaced
    pairs: dict[str, LoraPair] = {}
    for pair in lora.pairs:
        for name, tensor in _changed(base, lora, pair, tensors):
            if name in pairs and not name.endswith(".bias"):
                raise UnsupportedLayout(
                    f"{lora.root}: {shown(pair.module)} and {shown(pairs[name].module)} change one "
                    "weight, since the model ties them; merge it with PEFT"
                )
            pairs[name], tensors[name] = pair, tensor
    _retie(base, tensors)
    checkpoint = base.checkpoint
    stamps = {**adapter.checkpoint.stamps, **checkpoint.stamps}
    more = f", and {len(replaced)} whole tensors of its own" if replaced else ""
    files = adapter.checkpoint.files
    return replace(
        base,
        checkpoint=replace(checkpoint, stamps=stamps),
        tensors=put_in_model_order(tensors, base.architecture),
        notes=(*base.notes, f"with the adapter {lora.root} added: {lora.words}{more}"),
        adapter=None,
        merging=Merging(lora.root, lora.words, pairs, tuple(replaced), files),
    )


def _retie(base: Assembled, tensors: dict[str, Assembly]) -> None:
    """Make a head anew that was made of the embedding, since the config ties them."""
    rules = base.architecture
    head = tensors.get(rules.head_name()) if rules is not None else None
    if rules is None or head is None or not head.pieces:
        return
    embedding = rules.embedding().hf[0]
    if head.pieces[0].part_of == embedding and embedding in tensors:
        tensors[head.name] = renamed(tensors[embedding], head.name)


def _replaced(base: Assembled, lora: Lora) -> Iterator[tuple[str, Assembly]]:
    """Yield the tensors that the adapter's folder holds in place of the base's."""
    _refuse_untied(base, lora)
    for stored, tensor in lora.whole.items():
        (piece,) = tensor.pieces
        for name, ref in _parts(base, stored, piece.ref, lora):
            there = base.tensors[name]
            if there.shape != ref.shape:
                raise UnsupportedLayout(
                    f"{lora.root}: {shown(stored)} has the shape {list(ref.shape)}, in "
                    f"{base.checkpoint.root} {list(there.shape)}: it is an adapter of another "
                    "base, or of this one with tokens added; merge it with PEFT"
                )
            whole = whole_box(ref)
            yield name, Assembly(name, ref.shape, ref.dtype, (Piece(ref, Rank(), whole, whole),))


def _refuse_untied(base: Assembled, lora: Lora) -> None:
    """Raise UnsupportedLayout if a head that is the embedding becomes a matrix of its own.

    PEFT gives a module that is saved whole a matrix of its own, unless it is told to tie them.
    """
    rules, config, settings = base.architecture, base.config, lora.settings
    if rules is None or config is None or not config.tied_embeddings or settings.keeps_ties:
        return
    ends = {name.split(".")[-2] for name in (rules.embedding().hf[0], rules.head_name())}
    for stored in lora.whole:
        module = stored.removesuffix(".weight")
        is_saved = any(f".{module}".endswith(f".{saved}") for saved in settings.saved)
        if is_saved and module.rpartition(".")[2] in ends:
            raise UnsupportedLayout(
                f"{lora.root}: holds {shown(stored)} whole, which {base.checkpoint.root} ties to "
                "another: whether the two are one in the merged model is up to PEFT's version; "
                "merge it with PEFT"
            )


def _changed(
    base: Assembled, lora: Lora, pair: LoraPair, tensors: dict[str, Assembly]
) -> Iterator[tuple[str, Assembly]]:
    """Yield the canonical tensors that a pair changes, to be read with what it adds."""
    stored = f"{pair.module}.weight"
    transposed = pair.is_embedding or _is_transposed(base, lora, pair)
    up, down = as_stored(pair, transposed=transposed)
    shape = (up.shape[0], down.shape[1])
    stand_in = TensorRef(stored, shape, "U8", Path(), 0, contiguous(shape))
    for name, part in _parts(base, stored, stand_in, lora):
        tensor = tensors[name]
        if tensor.shape != part.shape:
            raise UnsupportedLayout(
                f"{lora.root}: its product for {shown(pair.module)} is {_size(part.shape)}, the "
                f"weight in {base.checkpoint.root} {_size(tensor.shape)}: it is an adapter of "
                "another base"
            )
        if tensor.dtype not in DTYPES or tensor.is_scaled:
            raise UnsupportedLayout(
                f"{base.checkpoint.root}: {shown(name)} is {tensor.dtype}"
                f"{' with factors' if tensor.is_scaled else ''}: an adapter is added to "
                "weights of bf16, fp16 and fp32 alone"
            )
        row, column = divmod(part.offset, shape[1])
        rows, columns = part.shape
        if part.stride == (1, shape[1]) and shape[1] != 1:  # a transpose
            ends = transpose(down), transpose(up)
            row, column = column, row
        elif rows > 1 and part.stride[0] != shape[1]:
            raise UnsupportedLayout(
                f"{lora.root}: {shown(pair.module)} is stored as alternating rows of two weights; "
                "merge it with PEFT"
            )
        else:
            ends = up, down
        yield (
            name,
            _added(
                tensor,
                rows_of(ends[0], row, row + rows),
                cut_out(ends[1], ((0, pair.rank), (column, column + columns))),
                pair,
            ),
        )
    if pair.bias is not None:
        yield from _changed_bias(base, lora, pair, tensors)


def _changed_bias(
    base: Assembled, lora: Lora, pair: LoraPair, tensors: dict[str, Assembly]
) -> Iterator[tuple[str, Assembly]]:
    assert pair.bias is not None
    size = pair.bias.shape[0]
    stand_in = TensorRef(f"{pair.module}.bias", (size,), "U8", Path(), 0, (1,))
    if not _found(base, stand_in.name, stand_in):
        raise UnsupportedLayout(
            f"{lora.root}: has a bias for {shown(pair.module)}, to which {base.checkpoint.root} "
            "has none that it could be added to; PEFT does not merge it either"
        )
    for name, part in _parts(base, stand_in.name, stand_in, lora):
        bias = rows_of(pair.bias, part.offset, part.offset + part.shape[0])
        yield name, _added(tensors[name], bias, None, pair)


def _is_transposed(base: Assembled, lora: Lora, pair: LoraPair) -> bool:
    """Return whether a weight is stored (in, out), by the family or else by the adapter's config.

    PEFT corrects a config that says otherwise than the class of the module.
    """
    if base.architecture is None:
        return lora.settings.fan_in_fan_out
    shape = (pair.up.shape[0], pair.down.shape[1])
    ref = TensorRef(f"{pair.module}.weight", shape, "U8", Path(), 0, contiguous(shape))
    names = [name for name, _ in _parts(base, ref.name, ref, lora)]
    return any(base.architecture.stores_transposed(split_name(name)[0]) for name in names)


def _parts(base: Assembled, stored: str, ref: TensorRef, lora: Lora) -> list[tuple[str, TensorRef]]:
    """Return the canonical tensors of the base that a stored name stands for, as views of `ref`.

    A head that is tied is the embedding. Raises UnsupportedLayout if the base has none of them.
    """
    if found := _found(base, stored, ref):
        return found
    if any(name in base.packed for name in (stored, *(f"{f}{stored}" for f in _FRONTS))):
        raise UnsupportedLayout(
            f"{base.checkpoint.root}: {shown(stored)} is packed in few bits: an adapter is added "
            "to weights of bf16, fp16 and fp32 alone"
        )
    raise UnsupportedLayout(
        f"{lora.root}: changes {shown(stored)}, which {base.checkpoint.root} does not have: it is "
        "an adapter of another base, or transformers loads this one under other names; merge it "
        "with PEFT"
    )


def _found(base: Assembled, stored: str, ref: TensorRef) -> list[tuple[str, TensorRef]]:
    """Return what `_parts` does; nothing if the base has none of them."""
    rules, config = base.architecture, base.config
    is_head = rules is not None and stored.endswith(rules.head_name())
    if rules is not None and is_head and config is not None and config.tied_embeddings:
        return [(rules.embedding().hf[0], ref)]
    for name in _stored_names(stored):
        found = _canonical(name, ref, base.architecture)
        if found and all(name in base.tensors for name in found):
            return list(found.items())
    return []


def _stored_names(name: str) -> Iterator[str]:
    """Yield the names that a file may have for a module's name in memory, likely ones first."""
    for front in _FRONTS:
        yield f"{front}{name}"
    for front, others in _IN_MEMORY.items():
        if name.startswith(front):
            for other in others:
                yield other + name.removeprefix(front)


def _canonical(
    stored: str, ref: TensorRef, architecture: Architecture | None
) -> dict[str, TensorRef]:
    if architecture is None:
        return {stored: ref}
    return canonical({stored: ref}, architecture)[0]


def _added(tensor: Assembly, up: Assembly, down: Assembly | None, pair: LoraPair) -> Assembly:
    """Return a tensor to be read with a product added; without `down` that is `up` itself."""
    return replace(
        tensor, pieces=tuple(_piece_added(piece, up, down, pair) for piece in tensor.pieces)
    )


def _piece_added(piece: Piece, up: Assembly, down: Assembly | None, pair: LoraPair) -> Piece:
    rows, *columns = piece.box
    across = columns[-1] if columns else (0, 1)
    if down is None:
        ups = tuple(
            Chunk(replace(c.ref, shape=(*c.ref.shape, 1), stride=(*c.ref.stride, 1)),
                  (*c.box, (0, 1)))
            for c in _chunks(rows_of(up, *rows))
        )  # fmt: skip
        downs: tuple[Chunk, ...] = ()
        rank = 1
    else:
        rank = down.shape[0]
        ups = _chunks(rows_of(up, *rows))
        downs = _chunks(cut_out(down, ((0, rank), across)))

    def with_product(ref: TensorRef) -> TensorRef:
        steps = ref.stride[-2:] if columns else (ref.stride[-1], 1)
        added = LowRank(
            ups,
            downs,
            (rows[1] - rows[0], across[1] - across[0]),
            rank,
            pair.factor,
            ref.offset_of(tuple(start for start, _ in piece.of)),
            (steps[0], steps[1]),
            pair.is_embedding,
        )
        return replace(ref, added=added)

    copies = tuple(replace(copy, ref=with_product(copy.ref)) for copy in piece.copies)
    return replace(piece, ref=with_product(piece.ref), copies=copies)


def _chunks(matrix: Assembly) -> tuple[Chunk, ...]:
    """Return where the parts of an adapter's matrix lie, each ref cut to what it fills."""
    return tuple(
        Chunk(
            replace(
                piece.ref,
                shape=tuple(stop - start for start, stop in piece.of),
                offset=piece.ref.offset_of(tuple(start for start, _ in piece.of)),
            ),
            piece.box,
        )
        for piece in matrix.pieces
    )


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
