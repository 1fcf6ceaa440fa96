"""The screen of the findings."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from ckptdiff.report.finding import finding_lines as plain_lines
from ckptdiff.text import printable
from ckptdiff.tui.keymap import key
from ckptdiff.tui.screens.base import BaseScreen
from ckptdiff.tui.text.finding import finding_glyph, finding_page
from ckptdiff.tui.text.lines import line
from ckptdiff.tui.text.mending import fix_to_copy, why_no_command, why_no_conversion
from ckptdiff.tui.widgets.finding_line import place_words
from ckptdiff.tui.widgets.painted import Words
from ckptdiff.tui.words import plural, shorten

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.events import Resize

    from ckptdiff.results import Finding
    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.text.lines import Line

PLACES, COUNT = 24, 14  # cells of the layers, and of the number of tensors
NARROW = 58  # cells; a narrower row has glyph, number, class and layers alone


def finding_row(number: int, finding: Finding, width: int, *, ascii_only: bool) -> str:
    """Return glyph, number, fault class, layers, number of tensors, and title."""
    glyph = finding_glyph(finding, ascii_only=ascii_only)
    place = shorten(place_words(finding), PLACES, ascii_only=ascii_only)
    count = plural(len(finding.tensors), "tensor") if finding.tensors else "config"
    if width < NARROW:
        return f"{glyph} {number:>2}  {finding.kind} {place}"[:width]
    head = f"{glyph} {number:>2}  {finding.kind:<13} {place:<{PLACES}} {count:<{COUNT}}"
    room = width - len(head) - 1
    title = printable(finding.title) if room > 20 else ""
    if len(title) > room:
        dots = ".." if ascii_only else "…"
        title = title[: room - len(dots)].rstrip() + dots
    return f"{head} {title}".rstrip()


class FindingList(OptionList, inherit_bindings=False):
    """A line for each finding."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter",
            "select",
            "Show",
            id="findings.open",
            tooltip="show the tensors that this finding covers and only those, or the config",
        ),
        Binding(
            "j,down", "cursor_down", "Down", show=False, id="findings.down", tooltip="one row down"
        ),
        Binding("k,up", "cursor_up", "Up", show=False, id="findings.up", tooltip="one row up"),
        Binding("g,home", "first", "First", show=False, id="findings.first", tooltip="first row"),
        Binding("G,end", "last", "Last", show=False, id="findings.last", tooltip="last row"),
    ]


class FindingsScreen(BaseScreen[int]):
    """Lists the findings, the one under the cursor in full.

    Returns the number of the finding whose tensors the list is to show.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "y",
            "copy_fix",
            "Copy fix",
            id="findings.copy",
            tooltip="copy the command or the setting that mends it",
        ),
        Binding(
            "Y",
            "copy_finding",
            "Copy finding",
            show=False,
            id="findings.copy_all",
            tooltip="copy the finding as text",
        ),
        Binding(
            "c",
            "convert",
            "Convert with fix",
            id="findings.convert",
            tooltip="write the checkpoint once more, without this fault",
        ),
        Binding(
            "ctrl+d,pagedown",
            "scroll(5)",
            "Scroll",
            show=False,
            id="findings.page_down",
            tooltip="down in what is said of the finding",
        ),
        Binding(
            "ctrl+u,pageup",
            "scroll(-5)",
            "Scroll up",
            show=False,
            id="findings.page_up",
            tooltip="up again",
        ),
        Binding(
            "1,f",
            "back",
            "Tensors",
            show=False,
            id="findings.tensors",
            tooltip="back to the tensors",
        ),
        Binding(
            "question_mark",
            "guide",
            "Guide",
            id="findings.guide",
            tooltip="what the guide says of this class of faults",
        ),
    ]
    DEFAULT_CSS = """
    FindingsScreen {
        #findings-title { height: 1; padding: 0 1; }
        FindingList {
            height: auto;
            max-height: 8;
            padding: 0 1;
            background: transparent;
            border: solid $foreground 40%;
            border-title-style: bold;
            scrollbar-size-vertical: 1;
            &:focus { border: solid $primary; }
        }
        &.-wide FindingList { max-height: 12; }
        #finding {
            height: 1fr;
            padding: 0 1;
            border: solid $foreground 40%;
            border-title-style: bold;
            scrollbar-size-vertical: 1;
            &:focus { border: solid $primary; }
        }
        &.-ascii FindingList, &.-ascii FindingList:focus, &.-ascii #finding,
        &.-ascii #finding:focus { border: ascii $foreground 60%; }
    }
    """

    def __init__(self, session: Session, number: int = 1) -> None:
        super().__init__()
        self.session = session
        self._begins = number
        self.set_class(session.ascii_only, "-ascii")

    def compose_body(self) -> ComposeResult:
        yield Words(id="findings-title")
        with FindingList(markup=False) as rows:
            rows.border_title = "What is wrong"
        with VerticalScroll(id="finding"):
            yield Words(id="said")

    def on_mount(self) -> None:
        self.query_one("#findings-title", Words).show(self._title)
        self.query_one("#said", Words).show(self._finding_lines)
        self._show_rows()
        self.query_one(FindingList).highlighted = self._begins - 1
        self.query_one(FindingList).focus()

    def on_resize(self, event: Resize) -> None:  # noqa: ARG002
        self._show_rows()

    @property
    def number(self) -> int:
        """The number of the finding under the cursor, from 1."""
        return (self.query_one(FindingList).highlighted or 0) + 1

    @property
    def finding(self) -> Finding:
        return self.session.diagnosis.findings[self.number - 1]

    # ── drawing ──────────────────────────────────────────────────────────────────────────────

    def _show_rows(self) -> None:
        rows = self.query_one(FindingList)
        at, width = rows.highlighted or 0, self.size.width - 5
        ascii_only = self.session.ascii_only
        rows.set_options(
            Option(Content(finding_row(number, finding, width, ascii_only=ascii_only)))
            for number, finding in enumerate(self.session.diagnosis.findings, 1)
        )
        rows.highlighted = at

    def _title(self, width: int) -> list[Line]:
        findings = self.session.diagnosis.findings
        faults = sum(finding.severity == "fault" for finding in findings)
        words = plural(faults, "fault")
        if len(findings) > faults:
            words += f", {plural(len(findings) - faults, 'note')}"
        return [
            line(
                (f"{'Findings':<{max(9, width - len(words))}}", "strong"),
                (words, "act" if faults else ""),
            )
        ]

    def _finding_lines(self, width: int) -> list[Line]:
        return finding_page(self.finding, width, ascii_only=self.session.ascii_only)

    def on_option_list_option_highlighted(self, message: OptionList.OptionHighlighted) -> None:
        message.stop()
        box = self.query_one("#finding", VerticalScroll)
        box.border_title = Content(f"{self.number}  {self.finding.kind}")
        box.scroll_home(animate=False)
        self.query_one("#said", Words).changed()
        self.call_after_refresh(self._show_rest)
        self.refresh_bindings()

    def _show_rest(self) -> None:
        """Show which key scrolls, if the finding does not fit."""
        box = self.query_one("#finding", VerticalScroll)
        box.border_subtitle = (
            f"{key('findings.page_down', 'ctrl+d')} shows the rest" if box.max_scroll_y else ""
        )

    def on_option_list_option_selected(self, message: OptionList.OptionSelected) -> None:
        message.stop()
        if self.finding.tensors:
            self.dismiss(self.number)
        elif self.finding.kind == "CONFIG":
            from ckptdiff.tui.screens.config import ConfigScreen

            self.app.push_screen(ConfigScreen(self.session, self.finding.setting))

    # ── keys ─────────────────────────────────────────────────────────────────────────────────

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("copy_fix", "convert") and self.is_mounted and self._no_fix(action):
            return False  # not in the key line; pressing the key shows why
        return super().check_action(action, parameters)

    def why_not(self, action: str) -> str | None:
        if action not in ("copy_fix", "convert") or not self.is_mounted:
            return None
        if action == "convert" and not self._no_fix(action) and self.app.is_converting:
            return "Convert: another conversion is running."
        return self._no_fix(action)

    def _no_fix(self, action: str) -> str | None:
        """Return why there is no command to copy, or no conversion that mends it; None if any."""
        if action == "copy_fix":
            has_fix = self.finding.fix is not None
            return None if has_fix else f"There is no fix to copy: {why_no_command(self.finding)}"
        above = f"The fix above mends it; {key('findings.copy', 'y')} copies it."
        why = why_no_conversion(self.session, self.number, here=above)
        return None if why is None else f"Convert: {why}"

    def action_copy_fix(self) -> None:
        self.app.copy(fix_to_copy(self.session, self.finding) or "")

    def action_copy_finding(self) -> None:
        self.app.copy("\n".join(plain_lines(self.finding)))

    def action_guide(self) -> None:
        from ckptdiff.tui.screens.guide import GuideScreen

        self.app.push_screen(GuideScreen(self.finding.kind))

    def action_convert(self) -> None:
        self.app.show_convert(self.session, self.number)

    def action_scroll(self, lines: int) -> None:
        self.query_one("#finding").scroll_relative(y=lines, animate=False)
