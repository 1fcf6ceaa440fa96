"""What a stored tensor fills, in few words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.text import printable
from ckptdiff.tui.text.storage import box_text, rank_text
from ckptdiff.tui.words import plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.tui.model.inventory import Layer
    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.model.stored import HeldFile, StoredRow

MOST = 4  # tensors of a layer that are named; more are counted
USES = {
    "unmapped": "no rule",
    "derived": "follows from the config",
    "scale": "block factors",
    "": "fills no tensor",
}


def fills_words(session: Session, row: StoredRow) -> str:
    """Return what a stored tensor fills, and whether it holds padding or repeats another."""
    words = [filled(row.fills, session) if row.fills else USES[row.use]]
    if row.padding:
        words.append(f"+{plural(row.padding, 'padding row')}")
    if row.copy_of is not None:
        here = row.copy_of.file == row.ref.file
        again = printable(row.copy_of.name)
        same_name = row.copy_of.name == row.ref.name
        words.append("copy" if same_name else f"copy of {again}{' here' if here else ''}")
    if row.box is not None:
        words.append(box_text(row.box, row.whole))
    if row.chunk is not None:
        words.append(f"chunk {row.chunk}")
    return ", ".join(words)


def filled(names: Sequence[str], session: Session) -> str:
    """Return canonical names in short, such as `q k v of layer 2`."""
    by_layer: dict[str, list[str]] = {}
    for name in names:
        layer: Layer | None = session.layer_of(name)
        by_layer.setdefault("" if layer is None else layer.title, []).append(name)
    if len(by_layer) > 2:
        return f"{plural(len(names), 'tensor')} of {plural(len(by_layer), 'layer')}"
    return "; ".join(_of_layer(title, inside) for title, inside in by_layer.items())


def _of_layer(title: str, names: Sequence[str]) -> str:
    words, owner = _short([name.removeprefix(f"{title}.") for name in names])
    if not title:
        return words
    return f"{words} of {owner}layer {title.rpartition('.')[2]}"


def _short(names: Sequence[str]) -> tuple[str, str]:
    """Return the parts in which names differ, and the expert that they all belong to, if any."""
    parts = [printable(name).removesuffix(".weight").split(".") for name in names]
    shared = 0
    shortest = min(map(len, parts))
    while shared < shortest - 1 and len({part[shared] for part in parts}) == 1:
        shared += 1
    front = parts[0][:shared]
    owner = f"expert {front[-1]}, " if front and front[-1].isdigit() else ""
    if len(names) > MOST:
        return plural(len(names), "tensor"), owner
    ends = [".".join(part[shared:]) for part in parts]
    if len(ends) > 1 and all(end.endswith("_proj") for end in ends):
        ends = [end.removesuffix("_proj") for end in ends]
    return " ".join(ends), owner


def ranks_words(held: HeldFile, checkpoint: Checkpoint) -> str:
    """Return whose tensors a file holds: `tp 1 pp 0`, or "" in a format without ranks."""
    return "; ".join(rank_text(rank, checkpoint) for rank in held.ranks)


def in_all(files: Iterable[HeldFile]) -> int:
    """Return the number of tensors in files."""
    return sum(len(held.tensors) for held in files)
