"""The screen of what a checkpoint holds beside weights: args, optimizer, random states."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.content import Content
from textual.worker import Worker, WorkerState

from ckptdiff.errors import BadArgument
from ckptdiff.name_filter import matcher
from ckptdiff.text import pasted_name, printable
from ckptdiff.tui.keymap import key
from ckptdiff.tui.screens.base import BaseScreen
from ckptdiff.tui.text.figures import wrapped
from ckptdiff.tui.text.lines import line
from ckptdiff.tui.widgets.entry_list import EntryList
from ckptdiff.tui.widgets.filter_line import FilterLine
from ckptdiff.tui.widgets.painted import Words
from ckptdiff.tui.words import shorten

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.widgets import Input

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import Entry
    from ckptdiff.tui.model.comparison import Side
    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.text.lines import Line
    from ckptdiff.tui.widgets.cursor_list import CursorList

DETAIL_LINES = 5  # below the list, about the entry under the cursor


class EntriesScreen(BaseScreen[None]):
    """Lists the entries of one side, with the text of the one under the cursor below."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "slash",
            "filter",
            "Filter",
            key_display="/",
            id="entries.filter",
            tooltip="show only entries whose name or value matches: words, or re:PATTERN",
        ),
        Binding("s", "side", "Other side", id="entries.side", tooltip="show the other checkpoint"),
        Binding("y", "copy_name", "Copy name", id="entries.copy", tooltip="copy the name"),
        Binding(
            "Y", "copy_text", "Copy value", id="entries.copy_text", tooltip="copy name and value"
        ),
    ]
    DEFAULT_CSS = """
    EntriesScreen {
        #entries-title { height: 1; padding: 0 1; }
        #entry { height: 5; padding: 0 1; }
        #filter { height: auto; }
        &.-ascii EntryList, &.-ascii EntryList:focus { border: ascii $foreground 60%; }
    }
    """

    def __init__(self, session: Session, side: Side = "a") -> None:
        super().__init__()
        self.session = session
        self.side: Side = side
        self.filter = ""
        self._read: dict[Side, list[Entry]] = {}
        self.set_class(session.ascii_only, "-ascii")

    def compose_body(self) -> ComposeResult:
        yield Words(id="entries-title")
        yield EntryList(ascii_only=self.session.ascii_only)
        yield Container(id="filter")
        yield Words(id="entry")

    def on_mount(self) -> None:
        self.query_one("#entries-title", Words).show(self._title)
        self.query_one("#entry", Words).show(self._entry)
        self.query_one(EntryList).focus()
        self._show()

    # ── drawing ──────────────────────────────────────────────────────────────────────────────

    def _entries(self) -> list[Entry] | None:
        """Return the side's entries; None while they are being read."""
        assembled = self.session.a if self.side == "a" else self.session.b
        if assembled is None:
            return []
        if self.side not in self._read:
            self._load(self.side, assembled)
            return None
        return self._read[self.side]

    @work(thread=True, exit_on_error=False, group="entries")
    def _load(self, side: Side, assembled: Assembled) -> tuple[Side, list[Entry]]:
        found = self.session.read_entries(assembled.checkpoint)
        return side, [*found, *assembled.derived]

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.worker.group != "entries":
            return
        if event.state is WorkerState.SUCCESS and event.worker.result is not None:
            side, entries = event.worker.result
            self._read[side] = entries
            self._show()
        elif event.state is WorkerState.ERROR:
            rows = self.query_one(EntryList)
            rows.show([], f"They cannot be read: {printable(str(event.worker.error))}")

    def _show(self) -> None:
        found = self._entries()
        entries = found or []
        total = len(entries)
        rows = self.query_one(EntryList)
        empty = f"{self.side.upper()} holds nothing but weights."
        if found is None:
            empty = "Reading what is beside the weights …"
        elif self.filter:
            inverted = self.filter.startswith("!")
            matches = matcher(self.filter.removeprefix("!").strip())
            entries = [e for e in entries if matches(f"{e.name} {e.text}") is not inverted]
            clear = key("filter.clear", "Esc")
            empty = f"No entry matches '{printable(self.filter)}'. {clear} clears the filter."
        rows.border_title = Content(
            f"Entries  / {printable(self.filter)}" if self.filter else "Entries"
        )
        count = "1 entry" if total == 1 else f"{total:,} entries"
        shown = f"{len(entries):,} of {count}" if self.filter else count
        rows.border_subtitle = Content(shown)
        rows.show(entries, empty)
        self.query_one("#entries-title", Words).changed()
        self.refresh_bindings()

    def _title(self, width: int) -> list[Line]:
        path = str(self.session.paths[0 if self.side == "a" else 1])
        letter = "" if self.session.browsing else f"{self.side.upper()}  "
        words = "beside the weights"
        room = max(0, width - len(letter) - len(words) - 2)
        path = shorten(printable(path), room, ascii_only=self.session.ascii_only)
        return [line((f"{letter}{path:<{room}}", "strong"), f"  {words}")]

    def _entry(self, width: int) -> list[Line]:
        entry = self.query_one(EntryList).row
        if entry is None:
            return []
        text = printable(entry.text) or f"{entry.kind}, of which nothing more is shown"
        lines = wrapped(printable(entry.name), width, "strong") + wrapped(text, width)
        if len(lines) > DETAIL_LINES:
            lines = [
                *lines[: DETAIL_LINES - 1],
                line((f"{key('entries.copy_text', 'Y')} copies all of it.", "dim")),
            ]
        return lines

    def on_cursor_list_cursor_moved(self, message: CursorList.CursorMoved) -> None:
        message.stop()
        self.query_one("#entry", Words).changed()

    # ── keys ─────────────────────────────────────────────────────────────────────────────────

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "side" and self.session.browsing:
            return False
        return super().check_action(action, parameters)

    def why_not(self, action: str) -> str | None:
        if action == "side" and self.session.b is None:
            return "The other side is not open yet."
        if action in ("copy_name", "copy_text") and self.is_mounted:
            return None if self.query_one(EntryList).rows else "There is no entry to copy."
        return None

    def action_side(self) -> None:
        self.side = "b" if self.side == "a" else "a"
        self._show()

    def action_copy_name(self) -> None:
        entry = self.query_one(EntryList).row
        if entry is not None:
            self.app.copy(pasted_name(entry.name))

    def action_copy_text(self) -> None:
        entry = self.query_one(EntryList).row
        if entry is not None:
            self.app.copy(f"{entry.name} = {entry.text}")

    def action_escape(self) -> None:
        if self.filter:
            self.set_filter("")
        else:
            super().action_escape()

    # ── the filter ───────────────────────────────────────────────────────────────────────────

    def action_filter(self) -> None:
        slot = self.query_one("#filter")
        if slot.children:
            slot.children[0].focus()
            return
        field = FilterLine(self.filter)
        slot.mount(field)
        field.focus()

    def set_filter(self, text: str) -> None:
        """Filter the entries. An invalid expression is reported and changes nothing."""
        try:
            matches = matcher(text.strip().removeprefix("!").strip())
            for entry in self._entries() or ():  # some expressions take too long on a text
                matches(f"{entry.name} {entry.text}")
        except BadArgument as error:
            self.query_one("#filter").border_subtitle = Content(printable(str(error)))
            return
        self.filter = text.strip()
        self._show()

    def on_input_changed(self, message: Input.Changed) -> None:
        message.stop()
        self.set_filter(message.value)

    def on_filter_line_closed(self, message: FilterLine.Closed) -> None:
        message.stop()
        if message.cleared:
            self.set_filter("")
        self.query_one("#filter").remove_children()
        self.query_one(EntryList).focus()
