"""The screen of one tensor: where it is stored, and where and by how much it differs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll

from ckptdiff.assembly.views import matrix_at
from ckptdiff.comparison.inspect import Glance, python_source
from ckptdiff.dtypes import has_numbers
from ckptdiff.text import pasted_name, printable
from ckptdiff.tui.keymap import key
from ckptdiff.tui.model.comparison import GLYPHS, WORDS
from ckptdiff.tui.screens import finding_keys
from ckptdiff.tui.screens.base import BaseScreen
from ckptdiff.tui.text.figures import flow, number_items, summary_items, wrapped
from ckptdiff.tui.text.lines import line
from ckptdiff.tui.text.list import no_further
from ckptdiff.tui.text.storage import sides_of
from ckptdiff.tui.widgets.detail_pane import ROLES, heat_of, verdict_lines
from ckptdiff.tui.widgets.first_values import first_lines
from ckptdiff.tui.widgets.heat_map import HeatMap
from ckptdiff.tui.widgets.histogram import Histogram, ulp_bins, value_bins
from ckptdiff.tui.widgets.painted import Words
from ckptdiff.tui.widgets.shard_map import ShardMap
from ckptdiff.tui.widgets.tensor_reader import TensorReader, is_large
from ckptdiff.tui.words import shorten

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from ckptdiff.results import Finding, TensorDiff
    from ckptdiff.tui.model.diagnosis import Diagnosis
    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.text.lines import Line
    from ckptdiff.tui.text.storage import StoredSide

POLL_SECONDS = 0.25  # between two checks for a result


class Pane(VerticalScroll, can_focus=True):
    """A box that scrolls and can be maximised."""

    ALLOW_MAXIMIZE = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "scroll_down", "Down", show=False, id="pane.down", tooltip="scroll down"),
        Binding("k,up", "scroll_up", "Up", show=False, id="pane.up", tooltip="scroll up"),
        Binding(
            "ctrl+d,pagedown",
            "page_down",
            "Page down",
            show=False,
            id="pane.page_down",
            tooltip="scroll a page down",
        ),
        Binding(
            "ctrl+u,pageup",
            "page_up",
            "Page up",
            show=False,
            id="pane.page_up",
            tooltip="scroll a page up",
        ),
    ]


class DetailScreen(BaseScreen[None]):
    """Shows one tensor, and its result as soon as there is one. `n` shows the next difference."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *finding_keys.finding_keys("detail"),
        Binding(
            "n",
            "difference(1)",
            "Next",
            id="detail.next",
            tooltip="next difference; of one checkpoint the next tensor",
        ),
        Binding(
            "N",
            "difference(-1)",
            "Previous diff",
            show=False,
            id="detail.previous",
            tooltip="previous difference",
        ),
        Binding(
            "v",
            "values",
            "Values",
            id="detail.values",
            tooltip="show the values around the largest difference",
        ),
        Binding(
            "i",
            "statistics",
            "Statistics",
            id="detail.statistics",
            tooltip="read the whole tensor for its distribution",
        ),
        Binding(
            "m,plus",
            "maximise",
            "Maximise",
            key_display="m",
            id="detail.maximise",
            tooltip="give the pane in focus all the room, or give it back; tab changes the focus",
        ),
        Binding("y", "copy_name", "Copy name", id="detail.copy", tooltip="copy the name"),
        Binding(
            "Y",
            "copy_python",
            "Copy Python",
            id="detail.copy_python",
            tooltip="copy Python that reads this tensor from its files",
        ),
    ]
    DEFAULT_CSS = """
    DetailScreen {
        #detail-title { height: 1; padding: 0 1; }
        #where, #verdict { height: auto; padding: 0 1; scrollbar-size-vertical: 1; }
        #where { max-height: 10; }
        #where.-alone { height: 1fr; max-height: 100%; }
        #verdict { max-height: 8; }
        #pictures { height: 1fr; min-height: 8; }
        Histogram { width: 2fr; padding: 0 1; }
        HeatMap { width: 3fr; padding: 0 1; }
        #where, #verdict, Histogram, HeatMap {
            border: solid $foreground 40%;
            border-title-style: bold;
            &:focus { border: solid $primary; }
        }
        #where.-maximized, #verdict.-maximized { height: 1fr; max-height: 100%; }
        Histogram.-maximized, HeatMap.-maximized { width: 100%; height: 1fr; }
        #detail-first { width: 3fr; height: 1fr; padding: 0 1; border: solid $foreground 40%; }
        #pictures.-one HeatMap, #pictures #detail-first { display: none; }
        #pictures.-one #detail-first { display: block; }
        #pictures.-none { display: none; }
        &.-wide #where { max-height: 14; }
        &.-wide #where.-alone { max-height: 100%; }
        &.-ascii {
            #where, #verdict, Histogram, HeatMap, #detail-first { border: ascii $foreground 60%; }
            #where:focus, #verdict:focus, Histogram:focus, HeatMap:focus {
                border: ascii $primary;
            }
        }
    }
    """

    def __init__(self, session: Session, name: str) -> None:
        super().__init__()
        self.session = session
        self.tensor = name
        self._seen: tuple[TensorDiff | None, str, Diagnosis] | None = None
        self._reader = TensorReader(session)
        self.set_class(session.ascii_only, "-ascii")

    def compose_body(self) -> ComposeResult:
        yield self._reader
        yield Words(id="detail-title")
        with Pane(id="where") as where:
            where.border_title = "Where it lives"
            yield ShardMap(hint=f"; {key('detail.maximise', 'm')} shows all")
        with Horizontal(id="pictures"):
            histogram = Histogram()
            histogram.can_focus = True
            yield histogram
            yield HeatMap()
            yield Words(id="detail-first")
        with Pane(id="verdict") as verdict:
            verdict.border_title = "Numbers"
            yield Words(id="detail-figures")

    def on_mount(self) -> None:
        self.show(self.tensor)
        self.set_interval(POLL_SECONDS, self._poll)
        self.watch(self, "maximized", self._size_shard_map, init=False)

    # ── drawing ──────────────────────────────────────────────────────────────────────────────

    def show(self, name: str) -> None:
        """Show another tensor."""
        self.tensor = name
        self._show()
        self._reader.look(name if self._is_alone() else None)
        heat = self.query_one(HeatMap)
        pictures = self.query_one("#pictures")
        (heat if pictures.display and heat.display else self.query_one("#where")).focus()

    def _poll(self) -> None:
        """Show the result if it has changed."""
        if self._seen != self._to_see():
            self._show()

    def _to_see(self) -> tuple[TensorDiff | None, str, Diagnosis]:
        session, name = self.session, self.tensor
        return session.result(name), session.status(name), session.diagnosis

    def _show(self) -> None:
        session, name, ascii_only = self.session, self.tensor, self.session.ascii_only
        result = session.result(name)
        self._seen = self._to_see()
        sides = sides_of(session, name)
        with self.app.batch_update():
            self.query_one("#detail-title", Words).show(self._title)
            self.query_one(ShardMap).show(sides, ascii_only=ascii_only)
            self.query_one("#detail-figures", Words).show(self._figures)
            self._show_pictures(result, sides)
            self._size_shard_map()
        self.refresh_bindings()

    def _show_pictures(self, result: TensorDiff | None, sides: list[StoredSide]) -> None:
        """Show histogram and heat map, or the first values; hide them if nothing differs."""
        ascii_only = self.session.ascii_only
        found, assembly = self._glance(), self.session.only_assembly(self.tensor)
        numbers = None if result is None else result.numbers
        differs = numbers is not None and bool(numbers.grid)
        histogram, heat = self.query_one(Histogram), self.query_one(HeatMap)
        pictures = self.query_one("#pictures")
        pictures.set_class(found is not None, "-one")
        pictures.set_class(found is None and not differs, "-none")
        histogram.border_title = "Values" if found is not None else "How far apart"
        heat.border_title = "Where: largest |A-B|"
        if found is not None and assembly is not None:
            histogram.show(value_bins(found.summary), ascii_only=ascii_only)
            first = self.query_one("#detail-first", Words)
            first.show(lambda width: first_lines(found, assembly, width))
        elif differs and numbers is not None and result is not None:
            histogram.show(ulp_bins(numbers.histogram, numbers.numel), ascii_only=ascii_only)
            at = matrix_at(numbers.max_at, result.shape_a or ()) if numbers.max_at else (0, 0)
            heat.show(heat_of(numbers, sides), at=at, ascii_only=ascii_only)

    def _title(self, width: int) -> list[Line]:
        session, name = self.session, self.tensor
        position, count = session.tensors.position(name), len(session.tensors.order)
        ending = f"{position}/{count}" if position else ""
        status = session.status(name)
        if not session.browsing:
            ending = f"{GLYPHS[status]} {WORDS[status]}    {ending}"
        room = max(0, width - len(ending) - 2)
        shown = shorten(printable(name), room, ascii_only=session.ascii_only)
        role = "" if session.browsing else ROLES.get(status, status)
        return [line((f"{shown:<{room}}", "strong"), "  ", (ending, role))]

    def _figures(self, width: int) -> list[Line]:
        session, name = self.session, self.tensor
        result = session.result(name)
        lines = verdict_lines(session, name, width)[0 if session.browsing else 1 :]
        trouble = session.layout_error(name)
        if trouble and (result is None or result.error is None):
            lines += wrapped(printable(trouble), width, "error")
        found = self._glance()
        if found is not None:
            lines += flow(summary_items(found.summary), width)
        elif result is not None and result.numbers is not None:
            lines += flow(number_items(result.numbers), width)
        elif self._is_alone():
            lines += wrapped(self._reader.words(name), width, "dim")
        return lines

    def _is_alone(self) -> bool:
        """Whether one side alone has the tensor, so that its figures are of its values."""
        return self.session.only_assembly(self.tensor) is not None

    def _glance(self) -> Glance | None:
        found = self.session.glances.get(self.tensor)
        return found if isinstance(found, Glance) and self._is_alone() else None

    # ── keys ─────────────────────────────────────────────────────────────────────────────────

    @property
    def covering(self) -> list[tuple[int, Finding]]:
        """The findings about this tensor, each with its number from 1."""
        return self.session.diagnosis.of(self.tensor)

    def why_not(self, action: str) -> str | None:
        session = self.session
        a, b = session.assemblies(self.tensor)
        steps_to_any = session.browsing or session.filter
        if action == "difference" and not session.differences and not steps_to_any:
            done = session.phase == "done"
            return "There is no difference." if done else "No difference is known yet."
        if action in ("values", "copy_python") and a is None and b is None:
            return "No file is known to hold this tensor."
        if action in ("values", "statistics"):
            without = [x.dtype for x in (a, b) if x is not None and not has_numbers(x.dtype)]
            return f"The numbers of {without[0]} are not computed." if without else None
        return finding_keys.why_no_finding(
            self.app, self.session, self.covering, action, what="this tensor"
        )

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "statistics" and not is_large(self.session, self.tensor):
            return False  # read without a key, or it has the figures of its comparison
        if action == "mend" and not finding_keys.mends(self.session, self.covering):
            return False
        return super().check_action(action, parameters)

    def action_finding(self) -> None:
        finding_keys.open_finding(self.app, self.session, self.covering)

    def action_mend(self) -> None:
        finding_keys.mend(self.app, self.session, self.covering)

    def action_difference(self, step: Literal[1, -1]) -> None:
        name = self.session.tensors.next_difference(self.tensor, step)
        if name is None or name == self.tensor:
            self.notify(no_further(self.session))
        else:
            self.show(name)

    def action_values(self) -> None:
        self._open_values(None)

    def on_heat_map_opened(self, message: HeatMap.Opened) -> None:
        message.stop()
        self._open_values((message.rows, message.columns))

    def _open_values(self, block: tuple[range, range] | None) -> None:
        from ckptdiff.tui.screens.values import ValuesScreen

        self.app.push_screen(ValuesScreen(self.session, self.tensor, block=block))

    def _size_shard_map(self) -> None:
        """Have the shard map describe every rank if it is maximised or alone."""
        maximised = self.maximized is not None and self.maximized.id == "where"
        alone = self.query_one("#pictures").has_class("-none")
        self.query_one(ShardMap).set_whole(maximised or alone)
        self.query_one("#where").set_class(alone, "-alone")

    def action_copy_name(self) -> None:
        self.app.copy(pasted_name(self.tensor))

    def action_copy_python(self) -> None:
        a, b = self.session.assemblies(self.tensor)
        if self.session.browsing or a is None or b is None:
            assembly = a or b
            text = "" if assembly is None else python_source(assembly)
        else:
            text = f"{python_source(a, 'a')}\n{python_source(b, 'b')}"
        self.app.copy(text)

    # ── statistics ───────────────────────────────────────────────────────────────────────────

    def action_statistics(self) -> None:
        self._reader.read(self.tensor)

    def on_tensor_reader_changed(self, message: TensorReader.Changed) -> None:
        message.stop()
        if message.name == self.tensor:
            self._show()
