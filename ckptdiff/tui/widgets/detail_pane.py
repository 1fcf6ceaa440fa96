"""The tensor under the list's cursor, in a narrow column: where it is stored, how it differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.containers import VerticalScroll

from ckptdiff.assembly.shard_map import boundaries
from ckptdiff.assembly.views import matrix_shape
from ckptdiff.text import printable
from ckptdiff.tui.keymap import key
from ckptdiff.tui.model.comparison import GLYPHS, WORDS
from ckptdiff.tui.text.figures import flow, meaning, norms_agree, number_items, remarks, wrapped
from ckptdiff.tui.text.lines import line
from ckptdiff.tui.text.storage import sides_of
from ckptdiff.tui.widgets.heat_map import Heat, HeatMap
from ckptdiff.tui.widgets.histogram import Histogram, ulp_bins
from ckptdiff.tui.widgets.painted import Words
from ckptdiff.tui.widgets.shard_map import ShardMap

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from ckptdiff.results import Numbers, TensorDiff
    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.text.lines import Line
    from ckptdiff.tui.text.storage import StoredSide

DEBOUNCE_SECONDS = 0.05  # while a cursor key is held down, only the last tensor is drawn
NOTHING = "Move to a tensor to see where it lives and how it differs."
ROLES = {"only_a": "only", "only_b": "only", "to_do": "dim", "comparing": "strong", "undone": "dim"}


def heat_of(numbers: Numbers, sides: list[StoredSide]) -> Heat | None:
    """Return the heat map of a result; None if no value differs."""
    side = next((side for side in sides if side.assembly is not None), None)
    if not numbers.grid or side is None or side.assembly is None:
        return None
    known = [
        boundary
        for each in sides
        if each.assembly is not None
        for boundary in boundaries(each.assembled, each.assembly)
    ]
    # Both sides may have boundaries of one kind: those that split the tensor most are drawn.
    finest: dict[tuple[str, int], int] = {}
    for number, boundary in enumerate(known):
        key = boundary.word, boundary.axis
        if key not in finest or len(boundary.starts) > len(known[finest[key]].starts):
            finest[key] = number
    return Heat(
        shape=matrix_shape(side.assembly.shape),
        levels=numbers.grid,
        grid=numbers.grid_shape,
        top=numbers.max_abs,
        boundaries=tuple(known[number] for number in finest.values()),
    )


def verdict_lines(session: Session, name: str, width: int) -> list[Line]:
    """Return the status, its meaning, the findings and the notes of a tensor."""
    result, status = session.result(name), session.status(name)
    role = ROLES.get(status, status)
    if session.browsing:
        return []
    head = line((f"{GLYPHS[status]} {WORDS[status]}", role))
    lines = [head, *wrapped(meaning(result, status, session.tolerance), width)]
    if status == "undone" and session.error:
        lines += wrapped(printable(session.error), width, "error")
    for number, finding in session.diagnosis.of(name):
        words = f"Finding {number}, {finding.kind}: {printable(finding.title)}."
        lines += wrapped(words, width, "strong")
    for remark in remarks(result):
        lines += wrapped(remark, width, "strong")
    if result is not None and result.numbers is not None and norms_agree(result.numbers):
        lines += wrapped("The norms agree: the same values in another order?", width, "strong")
    return lines


class DetailPane(VerticalScroll, can_focus=False):
    """Follows the cursor. It formats results and reads no data, so that moving stays quick."""

    DEFAULT_CSS = """
    DetailPane {
        scrollbar-size-vertical: 1;
        padding: 0 1;
        Words, ShardMap { margin-bottom: 1; }
        Histogram { height: 7; margin-bottom: 1; }
        HeatMap { height: 1fr; min-height: 6; max-height: 20; }
        .-hidden { display: none; }
    }
    """

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self._tensor: str | None = None
        self._shown: tuple[str | None, TensorDiff | None, str] | None = None
        self._pending = False

    def compose(self) -> ComposeResult:
        yield Words(id="pane-head")
        yield ShardMap(most=8, hint=f"; {key('list.open', 'enter')} shows all")
        yield Words(id="pane-figures")
        yield Histogram()
        yield HeatMap(cursor=False)

    def show(self, name: str | None) -> None:
        """Show a tensor; without a name, how to choose one. Called at every key press."""
        self._tensor = name
        if not self._pending:
            self._pending = True
            self.set_timer(DEBOUNCE_SECONDS, self._draw)

    def _draw(self) -> None:
        self._pending = False
        name, session = self._tensor, self.session
        if name is None:
            key: tuple[str | None, TensorDiff | None, str] = None, None, ""
        else:
            key = name, session.result(name), session.status(name)
        if key == self._shown or not self.is_attached:
            return
        self._shown = key
        with self.app.batch_update():
            self._show(name)
        self.scroll_home(animate=False)

    def _show(self, name: str | None) -> None:
        session, ascii_only = self.session, self.session.ascii_only
        head, figures = self.query_one("#pane-head", Words), self.query_one("#pane-figures", Words)
        shards, histogram, heat = (
            self.query_one(ShardMap),
            self.query_one(Histogram),
            self.query_one(HeatMap),
        )
        result = None if name is None else session.result(name)
        numbers = None if result is None else result.numbers
        differs = numbers is not None and bool(numbers.grid)
        for widget, wanted in (
            (shards, name is not None),
            (figures, numbers is not None),
            (histogram, differs),
            (heat, differs),
        ):
            widget.set_class(not wanted, "-hidden")
        if name is None:
            head.show(lambda width: wrapped(NOTHING, width, "dim"))
            return
        sides = sides_of(session, name)
        head.show(
            lambda width: [
                *wrapped(printable(name), width, "strong"),
                *verdict_lines(session, name, width),
            ]
        )
        shards.show(sides, ascii_only=ascii_only)
        if numbers is not None:
            figures.show(lambda width: flow(number_items(numbers), width, gap=2))
            histogram.show(ulp_bins(numbers.histogram, numbers.numel), ascii_only=ascii_only)
            heat.show(heat_of(numbers, sides), ascii_only=ascii_only)
