"""The tensor under the list's cursor, in a narrow column: where it is stored, how it differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.containers import VerticalScroll

from ckptdiff.assembly.shard_map import boundaries
from ckptdiff.assembly.views import matrix_shape
from ckptdiff.comparison.inspect import Glance
from ckptdiff.text import printable
from ckptdiff.tui.model.comparison import GLYPHS, WORDS
from ckptdiff.tui.model.inventory import Layer, Unmapped
from ckptdiff.tui.text.figures import (
    flow,
    meaning,
    norms_agree,
    number_items,
    remarks,
    summary_items,
    wrapped,
)
from ckptdiff.tui.text.layer import layer_lines
from ckptdiff.tui.text.lines import line
from ckptdiff.tui.text.list import empty_words, unmapped_words
from ckptdiff.tui.text.storage import sides_of
from ckptdiff.tui.widgets.first_values import first_lines
from ckptdiff.tui.widgets.heat_map import Heat, HeatMap
from ckptdiff.tui.widgets.histogram import Histogram, ulp_bins, value_bins
from ckptdiff.tui.widgets.painted import Words
from ckptdiff.tui.widgets.shard_map import ShardMap
from ckptdiff.tui.widgets.tensor_reader import TensorReader, is_large

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from ckptdiff.results import Numbers
    from ckptdiff.tui.model.session import Row, Session
    from ckptdiff.tui.text.lines import Line
    from ckptdiff.tui.text.storage import StoredSide

DEBOUNCE_SECONDS = 0.05  # while a cursor key is held down, only the last tensor is drawn
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
        Histogram.-values { height: 10; }
        HeatMap { height: 1fr; min-height: 6; max-height: 20; }
        .-hidden { display: none; }
    }
    """

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.reader = TensorReader(session)
        self._row: Row | None = None
        self._shown: tuple[object, ...] = ()
        self._pending = False

    def compose(self) -> ComposeResult:
        yield self.reader
        yield Words(id="pane-head")
        yield ShardMap(most=8, hint="; enter shows all")
        yield Words(id="pane-figures")
        yield Histogram()
        yield HeatMap(cursor=False)
        yield Words(id="pane-first")

    def show(self, row: Row | None) -> None:
        """Show a row of the list; without one, why there is none. Called at every key press."""
        self._row = row
        name = row if isinstance(row, str) and self.session.browsing else None
        self.reader.look(name)
        if not self._pending:
            self._pending = True
            self.set_timer(DEBOUNCE_SECONDS, self._draw)

    def can_read(self, row: Row | None) -> bool:
        """Return whether a row is a tensor so large that only a key reads it."""
        return self.session.browsing and isinstance(row, str) and is_large(self.session, row)

    def on_tensor_reader_changed(self, message: TensorReader.Changed) -> None:
        message.stop()
        self._draw()

    def _draw(self) -> None:
        self._pending = False
        row, session = self._row, self.session
        key: tuple[object, ...] = row, empty_words(session)
        if isinstance(row, str):
            seen = session.glances.get(row), self.reader.reading == row
            key = row, session.result(row), session.status(row), *seen
        elif isinstance(row, Layer):
            key = row, tuple(row.counts.items())
        if key == self._shown or not self.is_attached:
            return
        is_other = key[0] != (self._shown or (None,))[0]
        self._shown = key
        with self.app.batch_update():
            self._show(row)
        if is_other:
            self.scroll_home(animate=False)
        if session.browsing:
            self.screen.refresh_bindings()  # a key reads large tensors, and no others

    def _show(self, row: Row | None) -> None:
        name = row if isinstance(row, str) else None
        result = None if name is None else self.session.result(name)
        numbers = None if result is None else result.numbers
        found = None if name is None else self.session.glances.get(name)
        values = isinstance(found, Glance) and self.session.browsing
        differs = numbers is not None and bool(numbers.grid)
        alone = name is not None and self.session.browsing
        for selector, wanted in (
            ("ShardMap", name is not None),
            ("#pane-figures", numbers is not None or alone),
            ("Histogram", differs or values),
            ("HeatMap", differs),
            ("#pane-first", values),
        ):
            self.query_one(selector).set_class(not wanted, "-hidden")
        if name is None:
            self.query_one("#pane-head", Words).show(lambda width: self._words(row, width))
        else:
            self._show_tensor(name, numbers)

    def _words(self, row: Row | None, width: int) -> list[Line]:
        """Return what a row says that is no tensor."""
        if isinstance(row, Layer):
            return layer_lines(self.session, row, width)
        if isinstance(row, Unmapped):
            head = wrapped(printable(row.name), width, "strong")
            return [*head, *wrapped(unmapped_words(row), width)]
        return wrapped(empty_words(self.session), width, "dim")

    def _show_tensor(self, name: str, numbers: Numbers | None) -> None:
        session, ascii_only = self.session, self.session.ascii_only
        sides = sides_of(session, name)
        self.query_one("#pane-head", Words).show(
            lambda width: [
                *wrapped(printable(name), width, "strong"),
                *verdict_lines(session, name, width),
            ]
        )
        self.query_one(ShardMap).show(sides, ascii_only=ascii_only)
        figures, histogram = self.query_one("#pane-figures", Words), self.query_one(Histogram)
        histogram.set_class(numbers is None, "-values")
        if numbers is not None:
            figures.show(lambda width: flow(number_items(numbers), width, gap=2))
            histogram.show(ulp_bins(numbers.histogram, numbers.numel), ascii_only=ascii_only)
            self.query_one(HeatMap).show(heat_of(numbers, sides), ascii_only=ascii_only)
        elif session.browsing:
            found, assembly = session.glances.get(name), session.only_assembly(name)
            if not isinstance(found, Glance) or assembly is None:
                figures.show(lambda width: wrapped(self.reader.words(name), width, "dim"))
                return
            figures.show(lambda width: flow(summary_items(found.summary), width, gap=2))
            histogram.show(value_bins(found.summary), ascii_only=ascii_only)
            first = self.query_one("#pane-first", Words)
            first.show(lambda width: first_lines(found, assembly, width))
