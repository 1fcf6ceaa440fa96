"""How each side stores the tensors in sight: under its own names, in which shape, on which ranks.

Looked up as rows are drawn, and kept: a list of 90,000 names is never walked.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

from ckptdiff.assembly.optimizer_pair import PREFIX
from ckptdiff.text import number_ranges
from ckptdiff.tui.model.inventory import Inventory, Layer, LayerRun, layer_title

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled, Assembly, Piece
    from ckptdiff.checkpoint import Rank
    from ckptdiff.tui.model.listing import Row
    from ckptdiff.tui.model.session import Session

Pane = Literal["a", "b"]

RANK_WORDS = ("tp", "pp", "ep")
SAMPLE = 300  # names whose length is measured


@dataclass(frozen=True, slots=True)
class OwnTensor:
    """One side of a canonical tensor, as stored."""

    name: str  # of the stored tensor, or of the first of several
    others: int  # stored names beside the first
    shape: tuple[int, ...]  # of one rank's
    ranks: tuple[str, ...]  # numbers for each of `OwnNames.rank_words`: 0-1
    places: frozenset[tuple[Path, str]]  # files and names of the stored tensors
    title: str  # of the canonical layer
    is_part: bool  # whether the stored tensor holds others too
    axis: int  # along which it does
    ranges: tuple[tuple[int, int], ...]  # of the first rank's rows; empty where not known
    padding: int  # rows
    tied: bool  # stored for another canonical tensor, which has the same values

    def shares_with(self, other: OwnTensor | None) -> bool:
        """Return whether both lie in the same stored tensor, side by side."""
        return (
            other is not None
            and self.is_part
            and other.is_part
            and self.name == other.name
            and self.title == other.title
            and not self.places.isdisjoint(other.places)
        )


class OwnNames:
    """The names of one side."""

    def __init__(self, side: Assembled, letter: str) -> None:
        self.side = side
        self.letter = letter
        sizes = side.checkpoint.parallelism
        # The parallel sizes above 1 of a format that has ranks, and each one's largest number.
        self.rank_words: dict[str, int] = {}
        if side.checkpoint.has_ranks:
            self.rank_words = {
                word: getattr(sizes, word) - 1 for word in RANK_WORDS if getattr(sizes, word) > 1
            }
        self._tensors: dict[str, OwnTensor | None] = {}
        self._headings: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._by_rank = {shard.rank: shard.tensors for shard in side.checkpoint.shards}

    @property
    def are_canonical(self) -> bool:
        """Whether this side stores its tensors under the names that all sides are shown by."""
        return self.side.checkpoint.convention == "hf"

    def tensor(self, name: str) -> OwnTensor | None:
        """Return how a canonical tensor is stored; None if it is not."""
        try:
            return self._tensors[name]
        except KeyError:
            assembly = self.side.tensors.get(name)
            own = self._own(name, assembly) if assembly and assembly.pieces else None
            self._tensors[name] = own
            return own

    def heading(self, layer: Layer) -> tuple[str, tuple[str, ...]]:
        """Return what the names of a layer begin with on this side, and on which ranks it is.

        Pipeline stages count their layers from 0, so that of a run can read `decoder.layers.0-1,
        0-1`.
        """
        found = self._headings.get(layer.title)
        if found is None:
            found = self._heading(layer)
            self._headings[layer.title] = found
        return found

    def label(self, name: str, layer: Layer | None) -> str:
        """Return the stored name of a tensor, without what its heading says."""
        own = self.tensor(name)
        if own is None:
            return ""
        prefix = self.heading(layer)[0] if layer is not None else ""
        return own.name.removeprefix(f"{prefix}.") if prefix else own.name

    def _heading(self, layer: Layer) -> tuple[str, tuple[str, ...]]:
        if isinstance(layer, LayerRun):
            return self._run_heading(layer)
        owns = [
            own
            for name in layer.names[:: max(1, len(layer.names) - 1)]
            if (own := self.tensor(name))
        ]
        if not owns:
            return "", ()
        title = layer_title(owns[0].name) or _common([own.name for own in owns])
        at = list(self.rank_words).index("pp") if "pp" in self.rank_words else None
        ranks = ["" for _ in self.rank_words]
        if at is not None:
            ranks[at] = owns[0].ranks[at]
        return title, tuple(ranks)

    def _run_heading(self, run: LayerRun) -> tuple[str, tuple[str, ...]]:
        headings = [self.heading(layer) for layer in run.layers]
        titles = [title for title, _ in headings if title]
        if not titles:
            return "", ()
        bases = {title.rpartition(".")[0] for title in titles}
        numbers = [title.rpartition(".")[2] for title in titles]
        base = bases.pop()
        if bases or not all(number.isdigit() for number in numbers):
            return titles[0] if len(set(titles)) == 1 else f"{titles[0]} .. {titles[-1]}", ()
        ranks = []
        for column in zip(*(ranks for _, ranks in headings if ranks), strict=False):
            known = [number for number in column if number.isdigit()]
            ranks.append(number_ranges(sorted({int(number) for number in known})))
        words = number_ranges([int(number) for number in numbers])
        return f"{base}.{words}" if base else words, tuple(ranks)

    def _own(self, name: str, assembly: Assembly) -> OwnTensor:
        pieces = (*assembly.pieces, *assembly.padding)
        first = assembly.pieces[0]
        places = {(piece.ref.file, piece.ref.name) for piece in pieces}
        ranks: set[Rank] = set()
        for piece in pieces:
            ranks.add(piece.rank)
            for copy in piece.copies:
                ranks.add(copy.rank)
                places.add((copy.ref.file, copy.ref.name))
        shape = self._stored_shape(first)
        here = [p for p in pieces if p.rank == first.rank and p.ref.name == first.ref.name]
        filled = sum(prod(stop - start for start, stop in piece.of) for piece in here)
        is_part = filled < prod(shape)
        axis, ranges = _ranges(here, shape) if is_part else (0, ())
        layer = layer_title(name)
        source = first.part_of
        return OwnTensor(
            name=self._kind(name, first.ref.name) + first.ref.name,
            others=len({piece.ref.name for piece in pieces}) - 1,
            shape=shape,
            ranks=tuple(
                number_ranges(sorted({getattr(rank, word) for rank in ranks}))
                for word in self.rank_words
            ),
            places=frozenset(places),
            title=layer,
            is_part=is_part,
            axis=axis,
            ranges=ranges,
            padding=assembly.padding_rows,
            tied=source not in ("", name) and source in self.side.tensors,
        )

    def _kind(self, name: str, stored: str) -> str:
        """Return what tells state from its weight, as `optimizer.exp_avg.`, where no name does."""
        is_state = name.startswith(PREFIX) and self.side.checkpoint.convention != "hf"
        if not is_state or stored.startswith(PREFIX):
            return ""
        kind = name.removeprefix(PREFIX).partition(".")[0]
        return f"{PREFIX}{kind}."

    def _stored_shape(self, piece: Piece) -> tuple[int, ...]:
        """Return the shape of a stored tensor of which the piece may know only a view."""
        held = self._by_rank.get(piece.rank, {}).get(piece.ref.name)
        return piece.ref.shape if held is None else held.shape


class PairNames:
    """The names of both panes. One checkpoint alone stands in B, beside its canonical names."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._of: Inventory | None = None
        self._sides: dict[Pane, OwnNames] = {}
        self._longest: dict[Pane, int] = {}

    def side(self, pane: Pane) -> OwnNames | None:
        """Return the names of a pane; None if they are canonical ones, or not read yet."""
        session = self.session
        if self._of is not session.inventory:  # other checkpoints, or more of them
            self._of = session.inventory
            self._sides.clear()
            self._longest.clear()
        if pane not in self._sides:
            if session.browsing:
                side = session.a if pane == "b" else None
            else:
                side = session.a if pane == "a" else session.b
            if side is None:
                return None
            self._sides[pane] = OwnNames(side, pane.upper())
        return self._sides[pane]

    @property
    def has_two(self) -> bool:
        """Whether there is something to show in a second pane."""
        if not self.session.browsing:
            return True
        own = self.side("b")
        return own is not None and not own.are_canonical

    def stored_name(self, pane: Pane, row: Row) -> str | None:
        """Return the name that a pane shows for a row; None if it has none."""
        own = self.side(pane)
        if isinstance(row, str):
            if own is None:
                return row
            tensor = own.tensor(row)
            return None if tensor is None else tensor.name
        if isinstance(row, Layer) and own is not None:
            return own.heading(row)[0] or None
        return row.name

    def longest(self, pane: Pane) -> int:
        """Return the cells of the longest name of a pane, measured on some of them."""
        if pane not in self._longest:
            own, inventory = self.side(pane), self.session.inventory
            some = inventory.names[:: len(inventory.names) // SAMPLE + 1]
            layers = {name: self.session.layer_of(name) for name in some}
            if own is None:
                labels = [
                    name[len(layer.title) :] if layer else name for name, layer in layers.items()
                ]
            else:
                labels = [own.label(name, layer) for name, layer in layers.items()]
            self._longest[pane] = max(map(len, labels), default=0)
        return self._longest[pane]


def _ranges(pieces: list[Piece], shape: tuple[int, ...]) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Return the axis along which pieces are parts of a stored tensor, and their ranges, joined."""
    if any(piece.ref.shape != shape or len(piece.of) != len(shape) for piece in pieces):
        return 0, ()
    for axis, size in enumerate(shape):
        bounds = sorted({piece.of[axis] for piece in pieces})
        if bounds != [(0, size)]:
            joined: list[tuple[int, int]] = []
            for start, stop in bounds:
                if joined and joined[-1][1] == start:
                    joined[-1] = joined[-1][0], stop
                else:
                    joined.append((start, stop))
            return axis, tuple(joined)
    return 0, ()


def _common(names: list[str]) -> str:
    """Return the components that names begin with, joined; of one name, all but its last two."""
    parts = [name.split(".") for name in names]
    if len(names) == 1:
        return ".".join(parts[0][:-2])
    common = []
    for column in zip(*(part[:-1] for part in parts), strict=False):
        if len(set(column)) > 1:
            break
        common.append(column[0])
    return ".".join(common)
