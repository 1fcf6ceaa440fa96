"""Where a tensor is stored: on both sides each file, stored name, byte and row, to scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd
from typing import TYPE_CHECKING

from ckptdiff.assembly.shard_map import letters, stored_parts
from ckptdiff.text import format_bytes, format_shape, printable
from ckptdiff.tui.text.figures import wrapped
from ckptdiff.tui.text.lines import line
from ckptdiff.tui.text.storage import axis_word, box_text, files_text, rank_text, relative
from ckptdiff.tui.widgets.painted import Painted
from ckptdiff.tui.words import shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.assembly.recipe import Assembly, Copy
    from ckptdiff.assembly.shard_map import OwnedRun, Owner, StoredPart
    from ckptdiff.checkpoint import Box, Checkpoint
    from ckptdiff.tui.text.lines import Line, StyledText
    from ckptdiff.tui.text.storage import StoredSide

INDENT = 3
SMALLEST_BAR = 8  # cells
PADDING, UNKNOWN = ".", "?"


@dataclass(frozen=True, slots=True)
class MapStyle:
    """How the map is drawn."""

    width: int
    whole: bool = False  # describe every rank; else draw the ranks in short
    most: int = 4  # lines of ranks on each side, in short
    hint: str = ""  # how to see the ranks that are left out
    ascii_only: bool = False


def stored_bar(
    stored: StoredPart,
    letter: dict[str, str],
    this: str,
    width: int,
    beside: Sequence[StoredPart] = (),
) -> list[StyledText]:
    """Draw a stored tensor to scale in at most `width` cells, with `|` at its ends and groups.

    `this` is the name of the tensor whose map it is; `letter` has the letter of each name. Bars
    of the tensors `beside` it have the same scale: ranks that hold as much are as long.
    """
    runs = stored.runs
    groups = _groups(runs)
    every = [[run.size for run in part.runs] for part in (stored, *beside)]
    unit = gcd(*(size for sizes in every for size in sizes)) or 1
    largest = max(map(sum, every))
    cells = largest // unit
    room = width - 2
    left_out = 0
    if cells + len(groups) - 1 <= room:
        times = max(1, -(-SMALLEST_BAR // max(cells, 1))) if len(groups) == 1 else 1
        times = times if cells * times <= room else 1
        sizes = [[run.size // unit * times for run in group] for group in groups]
    elif len(groups) > 1 and sum(run.size for run in groups[0]) // unit + 2 <= room:
        shown, used = 0, 1
        for group in groups:
            used += sum(run.size for run in group) // unit + 1
            if used > room:
                break
            shown += 1
        left_out = len(groups) - shown
        groups = groups[:shown]
        sizes = [[run.size // unit for run in group] for group in groups]
    else:
        groups = [list(runs)]
        share = max(1, room * sum(run.size for run in runs) // max(largest, 1))
        sizes = [_proportional([run.size for run in runs], share)]
    spans: list[StyledText] = [("|", "dim")]
    for group, counts in zip(groups, sizes, strict=True):
        for run, count in zip(group, counts, strict=True):
            spans.append(_run_cells(run, count, letter, this))
        spans.append(("|", "dim"))
    if left_out:
        spans.append(("~", "dim"))
    return [span for span in spans if span[0]]


def _run_cells(run: OwnedRun, count: int, letter: dict[str, str], this: str) -> StyledText:
    if run.owner == "this":
        return letter[this] * count, "this"
    if run.owner == "other":
        return letter[run.name] * count, "other"
    return (PADDING if run.owner == "padding" else UNKNOWN) * count, "dim"


def _groups(runs: Sequence[OwnedRun]) -> list[list[OwnedRun]]:
    """Split the runs where their order starts again, as in the query groups of a fused QKV."""
    groups: list[list[OwnedRun]] = []
    first = (runs[0].owner, runs[0].name)
    for run in runs:
        if not groups or ((run.owner, run.name) == first and len(groups[-1]) > 1):
            groups.append([])
        groups[-1].append(run)
    return groups


def _proportional(sizes: list[int], room: int) -> list[int]:
    """Divide `room` cells in proportion to the sizes; each gets one, if there are enough."""
    if len(sizes) > room:
        return [1] * room + [0] * (len(sizes) - room)
    total = sum(sizes) or 1
    counts = [max(1, size * room // total) for size in sizes]
    while sum(counts) > room:
        counts[counts.index(max(counts))] -= 1
    counts[counts.index(max(counts))] += room - sum(counts)
    return counts


def map_lines(sides: Sequence[StoredSide], style: MapStyle) -> list[Line]:
    """Draw the map of each side."""
    lines: list[Line] = []
    for side in sides:
        if style.whole and lines:
            lines.append(())
        lines += _side_lines(side, style)
    return lines


def _side_lines(side: StoredSide, style: MapStyle) -> list[Line]:
    head: StyledText = (f"{side.label}  ", "strong")
    assembly, checkpoint = side.assembly, side.assembled.checkpoint
    if assembly is None:
        texts = wrapped(side.why_absent, max(20, style.width - INDENT), "dim")
        return [line(" " * INDENT if n else head, *words) for n, words in enumerate(texts)]
    parts = stored_parts(assembly, side.neighbours)
    others = [run.name for part in parts for run in part.of("other")]
    letter = letters(assembly.name, others)
    lines = _flow(_items(parts, assembly, checkpoint, style), style, head)
    if _is_plain(parts):
        for copy in parts[0].copies if style.whole else ():
            lines.append(line(" " * INDENT, (_copy_text(copy, checkpoint), "dim")))
        return lines if style.whole else lines + _copies(parts, checkpoint, style)
    if style.whole:
        for part, label in zip(parts, _labels(parts, checkpoint), strict=True):
            lines += _part_lines(part, parts, label, assembly, checkpoint, letter, style)
    else:
        lines += _bars(parts, assembly, checkpoint, letter, style)
        lines += _copies(parts, checkpoint, style)
    used = {run.owner for part in parts for run in part.runs}
    lines += _legend(assembly.name, letter, used, style)
    if assembly.padding_rows:
        text = f"+{assembly.padding_rows} padding rows behind row {assembly.shape[0] - 1}"
        lines.append(line(" " * INDENT, (text, "dim")))
    return lines


def _is_plain(parts: Sequence[StoredPart]) -> bool:
    """Return whether one stored tensor is this tensor alone. It needs no map."""
    return len(parts) == 1 and len(parts[0].runs) == 1


def _items(
    parts: Sequence[StoredPart], assembly: Assembly, checkpoint: Checkpoint, style: MapStyle
) -> list[str]:
    """Return the file, the stored name, the byte offset, and dtype and shape."""
    first = parts[0].ref
    items = [files_text([relative(part.ref.file, checkpoint) for part in parts])]
    keys = {part.ref.name for part in parts}
    if keys != {assembly.name}:
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        items.append(printable(first.name) + more)
    if len(parts) == 1 and (not style.whole or _is_plain(parts)):
        items.append(f"@{first.offset}")
    kind = f"{first.dtype.lower()} {format_shape(first.shape)}"
    if parts[0].index:
        kind = f"{list(parts[0].index)} of {kind}"
    if len({(part.ref.dtype, part.ref.shape) for part in parts}) > 1:
        kind += " and other shapes"
    elif len(parts) > 1:
        kind += " each"
    items.append(kind)
    if len(parts) == 1:
        items.append(format_bytes(assembly.nbytes))
    return items


def _flow(
    items: Sequence[str], style: MapStyle, head: StyledText = (" " * INDENT, "")
) -> list[Line]:
    """Set items side by side, on as many lines as they need."""
    room = style.width - INDENT
    rows: list[str] = []
    for item in (shorten(item, room, ascii_only=style.ascii_only) for item in items):
        if rows and len(rows[-1]) + 2 + len(item) <= room:
            rows[-1] += "  " + item
        else:
            rows.append(item)
    return [line(" " * INDENT if i else head, row) for i, row in enumerate(rows)]


def _bars(
    parts: Sequence[StoredPart],
    assembly: Assembly,
    checkpoint: Checkpoint,
    letter: dict[str, str],
    style: MapStyle,
) -> list[Line]:
    """Draw a bar for each rank, as many side by side as fit."""
    labels = _labels(parts, checkpoint)
    label_width = max(map(len, labels))
    room = max(12, min(28, style.width // 2 - label_width - 20))
    cells: list[list[StyledText]] = []
    for part, label in zip(parts, labels, strict=True):
        own = part.of("this")
        holds = (
            box_text(_bounding_box([run.box for run in own]), assembly.shape) if own else "padding"
        )
        drawn = stored_bar(part, letter, assembly.name, room, parts)
        cells.append([(f"{label:<{label_width}} ", ""), *drawn, (f" {holds}", "")])
    size = max(sum(len(text) for text, _ in cell) for cell in cells)
    across = max(1, (style.width - INDENT + 3) // (size + 3))
    rows = [cells[i : i + across] for i in range(0, len(cells), across)]
    shown = rows if len(rows) <= style.most else rows[: style.most - 1]
    lines: list[Line] = []
    for row in shown:
        spans: list[StyledText] = [(" " * INDENT, "")]
        for cell in row:
            spans += [*cell, (" " * (size - sum(len(text) for text, _ in cell) + 3), "")]
        lines.append(tuple(spans))
    if len(shown) < len(rows):
        left = len(parts) - len(shown) * across
        lines.append(line(" " * INDENT, (f"and {left} more ranks{style.hint}", "dim")))
    return lines


def _labels(parts: Sequence[StoredPart], checkpoint: Checkpoint) -> list[str]:
    """Return the ranks of the parts, or their files if the format has no ranks."""
    words = [rank_text(part.rank, checkpoint) for part in parts]
    if len(set(words)) == 1 < len(parts):
        return [relative(part.ref.file, checkpoint) for part in parts]
    return words


def _bounding_box(boxes: Sequence[Box]) -> Box:
    """Return the smallest box that holds all boxes."""
    return tuple(
        (min(start for start, _ in bounds), max(stop for _, stop in bounds))
        for bounds in zip(*boxes, strict=True)
    )


def _part_lines(
    part: StoredPart,
    beside: Sequence[StoredPart],
    label: str,
    assembly: Assembly,
    checkpoint: Checkpoint,
    letter: dict[str, str],
    style: MapStyle,
) -> list[Line]:
    """Draw one stored tensor with its file, and list what each run of its rows holds."""
    room = replace(style, width=style.width - len(label) - 2)
    indent = " " * (INDENT + len(label) + 2)
    place = f"{relative(part.ref.file, checkpoint)}  @{part.ref.offset}"
    lines = _flow([place], room, (f"   {label}  ", ""))
    bar = stored_bar(part, letter, assembly.name, style.width - len(indent), beside)
    lines.append((*line(indent), *bar))
    extra = len(part.index)
    word = axis_word(part.axis - extra, len(part.ref.shape) - extra)
    for run in part.runs:
        where = f"{word} {run.start}:{run.stop}"
        if run.owner == "this":
            verb = "holds" if run.size == part.size else f"{where} hold"
            lines.append(line(indent, f"{verb} {box_text(run.box, assembly.shape)}"))
        elif run.owner == "padding":
            lines.append(line(indent, (f"{where} are padding", "dim")))
        elif run.owner == "unknown":
            lines.append(line(indent, (f"{where} are not mapped", "dim")))
    for copy in part.copies:
        lines.append(line(indent, (_copy_text(copy, checkpoint), "dim")))
    return lines


def _copy_text(copy: Copy, checkpoint: Checkpoint) -> str:
    file = relative(copy.ref.file, checkpoint)
    return f"copy on {rank_text(copy.rank, checkpoint)}  {file}  @{copy.ref.offset}"


def _copies(parts: Sequence[StoredPart], checkpoint: Checkpoint, style: MapStyle) -> list[Line]:
    ranks = sorted({copy.rank for part in parts for copy in part.copies})
    if not ranks:
        return []
    words = [rank_text(rank, checkpoint) for rank in ranks]
    if len(words) > 1 and all(word.startswith("rank ") for word in words):
        words = [word.removeprefix("rank ") for word in words]
        words[0] = f"ranks {words[0]}"
    text = f"copies on {', '.join(words)}"
    if len(text) > style.width - INDENT:
        text = f"copies on {len(ranks)} more ranks{style.hint}"
    return [line(" " * INDENT, (text, "dim"))]


def _legend(this: str, letter: dict[str, str], used: set[Owner], style: MapStyle) -> list[Line]:
    items = [f"{letter[this]} = this tensor"]
    names = [name for name in letter if name != this]
    if 0 < len(names) <= 6:
        items += [f"{letter[name]} = {_short(name, this)}" for name in names]
    elif names:
        items.append(f"lower case = {len(names)} others")
    if "padding" in used:
        items.append(f"{PADDING} = padding")
    if "unknown" in used:
        items.append(f"{UNKNOWN} = not mapped")
    return [tuple((text, "dim") for text, _ in spans) for spans in _flow(items, style)]


def _short(name: str, this: str) -> str:
    """Return a name without the components that it shares with `this`, and without `.weight`."""
    ours, theirs = this.split("."), name.split(".")
    start = 0
    while start < min(len(ours), len(theirs)) - 1 and ours[start] == theirs[start]:
        start += 1
    return printable(".".join(theirs[start:]).removesuffix(".weight"))


class ShardMap(Painted):
    """The shard map of one tensor."""

    def __init__(
        self,
        *,
        whole: bool = False,
        most: int = 4,
        hint: str = "",
        id: str | None = None,  # noqa: A002
    ) -> None:
        super().__init__(id=id)
        self.sides: tuple[StoredSide, ...] = ()
        self.map_style = MapStyle(0, whole, most, hint)

    def show(self, sides: Sequence[StoredSide], *, ascii_only: bool = False) -> None:
        self.sides = tuple(sides)
        self.map_style = replace(self.map_style, ascii_only=ascii_only)
        self.changed()

    def set_whole(self, whole: bool) -> None:  # noqa: FBT001
        if whole != self.map_style.whole:
            self.map_style = replace(self.map_style, whole=whole)
            self.changed()

    def lines(self, width: int, height: int) -> list[Line]:  # noqa: ARG002
        return map_lines(self.sides, replace(self.map_style, width=width))
