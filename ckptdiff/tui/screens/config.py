"""The screen that compares config.json with the args, setting by setting."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content

from ckptdiff.config.compare import field_text
from ckptdiff.text import config_value_text, printable
from ckptdiff.tui.keymap import key
from ckptdiff.tui.screens import finding_keys
from ckptdiff.tui.screens.base import BaseScreen
from ckptdiff.tui.text.config import explanation, legend
from ckptdiff.tui.text.lines import line
from ckptdiff.tui.text.mending import setting_to_copy
from ckptdiff.tui.widgets.config_list import ConfigList
from ckptdiff.tui.widgets.painted import Words
from ckptdiff.tui.words import plural

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.results import Finding
    from ckptdiff.tui.model.comparison import Side
    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.text.lines import Line
    from ckptdiff.tui.widgets.cursor_list import CursorList

POLL_SECONDS = 0.5


class ConfigScreen(BaseScreen[None]):
    """Shows the config table, and below it an explanation of the line under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *finding_keys.finding_keys("config"),
        Binding(
            "d",
            "conflicts_only",
            "Conflicts only",
            id="config.conflicts",
            tooltip="show conflicts only, or every line again",
        ),
        Binding(
            "enter",
            "explain",
            "Explain",
            id="config.explain",
            tooltip="say the whole of a line: both values, what follows, how to mend it",
        ),
        Binding(
            "y",
            "copy_fix",
            "Copy",
            id="config.copy",
            tooltip="copy what mends a conflict, with where it belongs, or else the value",
        ),
        Binding(
            "Y",
            "copy_line",
            "Copy line",
            show=False,
            id="config.copy_line",
            tooltip="copy the whole line as text",
        ),
        Binding(
            "1", "back", "Tensors", show=False, id="config.tensors", tooltip="back to the tensors"
        ),
    ]
    DEFAULT_CSS = """
    ConfigScreen {
        #config-title, #config-legend { height: 1; padding: 0 1; }
        #meaning {
            height: auto;
            max-height: 8;
            padding: 0 1;
            border: solid $foreground 40%;
        }
        &.-ascii ConfigList, &.-ascii ConfigList:focus, &.-ascii #meaning {
            border: ascii $foreground 60%;
        }
    }
    """

    def __init__(self, session: Session, setting: str = "") -> None:
        """`setting` is the meaning of the line that the cursor begins on; "": the first."""
        super().__init__()
        self.session = session
        self._begins = setting
        self.conflicts_only = False
        self.set_class(session.ascii_only, "-ascii")

    def compose_body(self) -> ComposeResult:
        yield Words(id="config-title")
        yield ConfigList(ascii_only=self.session.ascii_only)
        yield Words(id="config-legend")
        yield Words(id="meaning")

    def on_mount(self) -> None:
        self.query_one("#config-title", Words).show(self._title)
        self.query_one("#config-legend", Words).show(legend)
        self.query_one("#meaning", Words).show(self._explanation)
        rows = self.query_one(ConfigList)
        rows.border_title = Content(f"{self._config_source('a')}  |  {self._config_source('b')}")
        rows.focus()
        self._show()
        meanings = [row.meaning for row in rows.rows]
        if self._begins in meanings:
            rows.cursor = meanings.index(self._begins)
        self.set_interval(POLL_SECONDS, self.refresh_bindings)  # the diagnosis may end

    @property
    def row(self) -> ConfigDiff | None:
        """The line under the cursor."""
        return self.query_one(ConfigList).row

    # ── drawing ──────────────────────────────────────────────────────────────────────────────

    def _config_source(self, side: Side) -> str:
        """Return the side's letter and where its config is stored."""
        assembled = self.session.a if side == "a" else self.session.b
        checkpoint = None if assembled is None else assembled.checkpoint
        if checkpoint is not None and checkpoint.config_file is not None:
            return f"{side.upper()} {printable(checkpoint.config_file.name)}"
        is_hf = checkpoint is not None and checkpoint.convention == "hf"
        return f"{side.upper()} {'config.json' if is_hf else 'args'}"

    def _show(self) -> None:
        # Conflicts first, then what is not known: the user has to check both.
        order = ("conflict", "unknown")
        lines = sorted(
            self.session.config,
            key=lambda each: order.index(each.status) if each.status in order else len(order),
        )
        if self.conflicts_only:
            lines = [each for each in lines if each.status == "conflict"]
        rows = self.query_one(ConfigList)
        rows.border_subtitle = Content("conflicts only" if self.conflicts_only else "")
        rows.show(lines, self._empty_words())
        self.query_one("#config-title", Words).changed()
        self.refresh_bindings()

    def _empty_words(self) -> str:
        if self.session.config:
            shows = f"{key('config.conflicts', 'd')} shows all."
            return f"No conflict in {plural(len(self.session.config), 'line')}. {shows}"
        without = [
            letter
            for letter, side in (("A", self.session.a), ("B", self.session.b))
            if side is not None and not side.checkpoint.config
        ]
        if without:
            return f"No config.json or args in {' and '.join(without)}: nothing to compare."
        if self.session.phase == "reading":
            return "The configs are not read yet."
        return "No setting of both configs is known: nothing to compare."

    def _title(self, width: int) -> list[Line]:
        counts = [
            (sum(each.status == status for each in self.session.config), status, words)
            for status, words in (
                ("conflict", "conflict"),
                ("unknown", "unknown"),
                ("implied", "implied"),
                ("same", "same"),
            )
        ]
        parts = [
            plural(count, words) if status == "conflict" else f"{count} {words}"
            for count, status, words in counts
            if count or status == "conflict"
        ]
        text = ", ".join(parts)
        role = "act" if counts[0][0] else ""
        return [line((f"{'Config':<{max(8, width - len(text))}}", "strong"), (text, role))]

    def _explanation(self, width: int) -> list[Line]:
        return [] if self.row is None else explanation(self.row, width)

    def on_cursor_list_cursor_moved(self, message: CursorList.CursorMoved) -> None:
        message.stop()
        self.query_one("#meaning", Words).changed()
        self.refresh_bindings()

    # ── keys ─────────────────────────────────────────────────────────────────────────────────

    @property
    def covering(self) -> list[tuple[int, Finding]]:
        """The findings about the line under the cursor, each with its number from 1."""
        row = self.row if self.is_mounted else None
        return [] if row is None else self.session.diagnosis.of_setting(row.meaning)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "mend" and not finding_keys.mends(self.session, self.covering):
            return False  # not in the key line; pressing the key shows why
        return super().check_action(action, parameters)

    def why_not(self, action: str) -> str | None:
        if action == "conflicts_only" and not self.session.config:
            return "There is no line to hide."
        if action in ("explain", "copy_fix", "copy_line") and self.is_mounted and self.row is None:
            return "There is no line here."
        return finding_keys.why_no_finding(
            self.app, self.session, self.covering, action, what="this setting"
        )

    def action_finding(self) -> None:
        finding_keys.open_finding(self.app, self.session, self.covering)

    def action_mend(self) -> None:
        finding_keys.mend(self.app, self.session, self.covering)

    def action_conflicts_only(self) -> None:
        self.conflicts_only = not self.conflicts_only
        self._show()

    def action_explain(self) -> None:
        row = self.row
        if row is not None:
            title = printable(row.meaning)
            words = [f"A: {field_text(row, 'A')}", f"B: {field_text(row, 'B')}"]
            if row.consequence:
                words.append(row.consequence)
            if row.fix:
                words.append(f"Mend it with {printable(row.fix)}")
            if row.note:
                words.append(printable(row.note))
            self.notify("\n".join(words), title=title, timeout=15, markup=False)

    def action_copy_fix(self) -> None:
        row = self.row
        if row is not None:
            value = config_value_text(row.b if row.name_b is not None else row.a)
            self.app.copy(setting_to_copy(self.session, row.mending) if row.mending else value)

    def action_copy_line(self) -> None:
        row = self.row
        if row is not None:
            words = f"{row.meaning}: {field_text(row, 'A')} in A, {field_text(row, 'B')} in B"
            self.app.copy(f"{words}; fix: {row.fix}" if row.fix else words)
