"""Two lines under the list: the tensors of each status, and the progress or verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.content import Content
from textual.widget import Widget

from ckptdiff.text import format_bytes
from ckptdiff.tui.keymap import key
from ckptdiff.tui.model.comparison import GLYPHS, tally
from ckptdiff.tui.text.progress import outcome, side_notes, state_words
from ckptdiff.tui.words import format_eta, plural

if TYPE_CHECKING:
    from textual.style import Style

    from ckptdiff.tui.model.progress import Progress
    from ckptdiff.tui.model.session import Session

MAX_ROWS = 4  # of the verdict and the notes; the style sheet has the same number
# Statuses that are counted. Only those that occur are shown: `= 0 same` would be noise.
COUNTED = {
    "error": "error", "differ": "differ", "shape": "shape", "only_a": "only A",
    "only_b": "only B", "packed": "packed", "matched": "matched", "close": "close", "same": "same",
}  # fmt: skip


class CountsLine(Widget):
    """Shows `! 8 differ  ~ 6 close  = 33 same` and, at the right, `47 of 92 compared`."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"counts-line--{status}" for status in COUNTED}

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def render(self) -> Content:
        session = self.session
        if session.browsing or session.b is None:
            return Content("")
        parts = [
            Content.assemble(
                (
                    f"{GLYPHS[status]} {count:,} {COUNTED[status]}",
                    self.get_visual_style(f"counts-line--{status}"),
                )
            )
            for status, count in tally(session.counts)
            if status in COUNTED
        ]
        if session.inventory.unmapped:
            style = self.get_visual_style("counts-line--differ")
            words = f"! {plural(len(session.inventory.unmapped), 'name')} without a rule"
            parts.append(Content.assemble((words, style)))
        if session.conflicts:
            style = self.get_visual_style("counts-line--differ")
            config = key("tensors.config", "2")
            words = f"! {plural(session.conflicts, 'config conflict')}: key {config}"
            parts.append(Content.assemble((words, style)))
        line = Content("  ").join(parts)
        total = len(session.names)
        end = f"{session.compared:,} of {total:,} compared"
        room = self.size.width - line.cell_length - len(end)
        if room < 2:
            end = f"{session.compared:,}/{total:,}"
            room = self.size.width - line.cell_length - len(end)
        return Content.assemble(line, " " * max(2, room), end)


class ProgressLine(Widget):
    """Shows a progress bar while comparing, and the verdict at the end."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "progress-line--bar",
        "progress-line--same",
        "progress-line--close",
        "progress-line--matched",
        "progress-line--packed",
        "progress-line--differ",
        "progress-line--error",
    }

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def render(self) -> Content:
        words = self._words()
        lines = words.wrap(self.size.width) if self.size.width else []
        if len(lines) <= MAX_ROWS:
            return words
        dots = " .." if self.session.ascii_only else " …"
        last = lines[MAX_ROWS - 1].rstrip().truncate(self.size.width - len(dots))
        return Content("\n").join([*lines[: MAX_ROWS - 1], Content.assemble(last, dots)])

    def _words(self) -> Content:
        session = self.session
        if session.phase == "comparing":
            style = self.get_visual_style("progress-line--bar")
            return progress_bar(session.progress, self.size.width, style)
        if session.phase == "done" and not session.browsing:
            word, text = outcome(session)
            style = self.get_visual_style(f"progress-line--{word}")
            return Content.assemble((text, style), *(f" {note}" for note in side_notes(session)))
        if session.phase == "failed":
            style = self.get_visual_style("progress-line--error")
            return Content.styled(f"x {session.error}", style)
        notes = side_notes(session) if session.browsing else []
        return Content(" ".join([state_words(session), *notes]))


def progress_bar(progress: Progress, width: int, style: Style) -> Content:
    """Return `[###---]  45%  780 MB/s  ETA 12 s` in `width` cells."""
    fraction = progress.fraction
    # Rounded down: 100 % means that everything is done.
    end = f" {int(100 * fraction):>3}%"
    if progress.rate is not None and progress.eta is not None:
        end += f"  {format_bytes(progress.rate)}/s  ETA {format_eta(progress.eta)}"
    width = max(4, width - len(end) - 2)
    filled = int(width * fraction)
    bar = "#" * filled + "-" * (width - filled)
    return Content.assemble("[", (bar, style), "]", end)
