"""The tensor under the list's cursor, in a narrow column: where it is stored, how it differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.containers import Vertical, VerticalScroll

from ckptdiff.assembly.shard_map import boundaries
from ckptdiff.assembly.views import matrix_shape
from ckptdiff.comparison.inspect import Glance
from ckptdiff.text import printable
from ckptdiff.tui.keymap import key
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
from ckptdiff.tui.text.finding import finding_summary, finding_words, short_finding
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
    from ckptdiff.tui.model.diagnosis import Diagnosis
    from ckptdiff.tui.model.listing import Row
    from ckptdiff.tui.model.session import Session
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


def verdict_lines(session: Session, name: str, width: int, *, but: int | None = None) -> list[Line]:
    """Return the status, its meaning, the findings and the notes of a tensor.

    `but` is the number of a finding that is said elsewhere.
    """
    result, status = session.result(name), session.status(name)
    role = ROLES.get(status, status)
    if session.browsing:
        return []
    head = line((f"{GLYPHS[status]} {WORDS[status]}", role))
    lines = [head, *wrapped(meaning(result, status, session.tolerance), width)]
    if status == "undone" and session.error:
        lines += wrapped(printable(session.error), width, "error")
    for found in session.diagnosis.of(name):
        if found[0] != but:
            lines += wrapped(finding_words(found), width, "strong")
    for remark in remarks(result):
        lines += wrapped(remark, width, "strong")
    if result is not None and result.numbers is not None and norms_agree(result.numbers):
        lines += wrapped("The norms agree: the same values in another order?", width, "strong")
    return lines


def joined(head: list[Line], rest: list[Line], width: int) -> list[Line]:
    """Return all lines; the first of both parts on one line where it has `width` cells for them."""
    if len(head) == 1 and rest:
        both = (*head[0], ("  ", ""), *rest[0])
        if sum(len(text) for text, _ in both) <= width:
            return [both, *rest[1:]]
    return [*head, *rest]


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
        #pane-words { height: auto; }
        #pane-pictures { height: 1fr; min-height: 20; }
        &.-low {
            layout: horizontal;
            #pane-words { width: 3fr; }
            #pane-words > *, #pane-pictures > * { margin-bottom: 0; }
            #pane-pictures { width: 2fr; height: auto; min-height: 7; padding: 0 0 0 2; }
            Histogram { height: 6; }
            HeatMap { display: none; }
        }
        .-hidden { display: none; }
    }
    """

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.reader = TensorReader(session)
        self._row: Row | None = None
        # The findings when it was told to show, and the number of the one above the tensor.
        self._diagnosis = session.diagnosis
        self._number: int | None = None
        self._shown: tuple[object, ...] = ()
        self._pending = False

    def compose(self) -> ComposeResult:
        yield self.reader
        with Vertical(id="pane-words"):
            yield Words(id="pane-finding")
            yield Words(id="pane-head")
            yield ShardMap(most=8, hint=f"; {key('list.open', 'enter')} shows all")
        with Vertical(id="pane-pictures"):
            yield Words(id="pane-figures")
            yield Histogram()
            yield HeatMap(cursor=False)
            yield Words(id="pane-first")

    def show(self, row: Row | None, number: int | None = None) -> None:
        """Show a finding and a row of the list; without a row, why there is none.

        Called at every key press, and when results or findings have come.
        """
        self._row = row
        self._diagnosis, self._number = self.session.diagnosis, number
        name = row if isinstance(row, str) and self.session.browsing else None
        self.reader.look(name)
        if not self._pending:
            self._pending = True
            self.set_timer(DEBOUNCE_SECONDS, self._draw)

    @property
    def _is_low(self) -> bool:
        """Whether it lies below the list, wide and with few lines."""
        return self.has_class("-low")

    def can_read(self, row: Row | None) -> bool:
        """Return whether a row is a tensor so large that only a key reads it."""
        return self.session.browsing and isinstance(row, str) and is_large(self.session, row)

    def on_tensor_reader_changed(self, message: TensorReader.Changed) -> None:
        message.stop()
        self._draw()

    def _draw(self) -> None:
        self._pending = False
        row, session = self._row, self.session
        number, diagnosis = self._number, self._diagnosis
        finding = None if number is None else diagnosis.findings[number - 1]
        key: tuple[object, ...] = row, finding, empty_words(session)
        if isinstance(row, str):
            seen = session.glances.get(row), self.reader.reading == row
            key = row, finding, session.result(row), session.status(row), *seen
        elif isinstance(row, Layer):
            key = row, finding, tuple(row.counts.items())
        key = *key, self._is_low
        if key == self._shown or not self.is_attached:
            return
        is_other = key[0] != (self._shown or (None,))[0]
        self._shown = key
        with self.app.batch_update():
            self._show_finding(diagnosis, number)
            self._show(row, number)
        if is_other:
            self.scroll_home(animate=False)
        if session.browsing:
            self.screen.refresh_bindings()  # a key reads large tensors, and no others

    def _show_finding(self, diagnosis: Diagnosis, number: int | None) -> None:
        words, ascii_only = self.query_one("#pane-finding", Words), self.session.ascii_only
        words.set_class(number is None, "-hidden")
        if number is not None:
            said = short_finding if self._is_low else finding_summary
            words.show(lambda width: said(diagnosis, number, width, ascii_only=ascii_only))

    def _show(self, row: Row | None, number: int | None) -> None:
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
            ("#pane-pictures", numbers is not None or alone),
            ("Histogram", differs or values),
            ("HeatMap", differs),
            ("#pane-first", values),
        ):
            self.query_one(selector).set_class(not wanted, "-hidden")
        if name is None:
            self.query_one("#pane-head", Words).show(lambda width: self._words(row, width))
        else:
            self._show_tensor(name, numbers, number)

    def _words(self, row: Row | None, width: int) -> list[Line]:
        """Return what a row says that is no tensor."""
        if isinstance(row, Layer):
            return layer_lines(self.session, row, width)
        if isinstance(row, Unmapped):
            head = wrapped(printable(row.name), width, "strong")
            return [*head, *wrapped(unmapped_words(row), width)]
        return wrapped(empty_words(self.session), width, "dim")

    def _show_tensor(self, name: str, numbers: Numbers | None, number: int | None) -> None:
        session, ascii_only = self.session, self.session.ascii_only
        sides = sides_of(session, name)
        self.query_one("#pane-head", Words).show(
            lambda width: joined(
                wrapped(printable(name), width, "strong"),
                verdict_lines(session, name, width, but=number),
                width if self._is_low else 0,
            )
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
