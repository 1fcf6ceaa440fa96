"""One line about the conversion in the background."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.content import Content
from textual.widget import Widget

from ckptdiff.tui.keymap import key
from ckptdiff.tui.widgets.progress_line import progress_bar
from ckptdiff.tui.words import shorten

if TYPE_CHECKING:
    from ckptdiff.tui.base_app import BaseApp

HEAD = "Converting "


class ConversionLine(Widget):
    """Shown while a conversion runs, or has ended while its screen was not open."""

    app: BaseApp

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "conversion-line--bar",
        "conversion-line--done",
        "conversion-line--failed",
    }

    def on_mount(self) -> None:
        self.update()

    def update(self) -> None:
        run = self.app.conversion
        self.set_class(run is not None and (run.is_busy or run.ended_unseen), "-shown")
        self.refresh()

    def render(self) -> Content:
        run = self.app.conversion
        if run is None:
            return Content("")
        can = hasattr(self.screen, "action_convert")
        shows = f"  {key('tensors.convert', 'c')} shows" if can else ""
        room = self.size.width - len(shows)
        if run.stage in ("writing", "verifying"):
            head = HEAD if run.stage == "writing" else "Verifying "
            style = self.get_visual_style("conversion-line--bar")
            bar = progress_bar(run.progress, room - len(head), style)
            return Content.assemble(head, bar, shows)
        words = shorten(run.headline.replace("\n", " "), room, ascii_only=self.app.ascii_only)
        if run.stage in ("done", "failed"):
            return Content.assemble(
                (words, self.get_visual_style(f"conversion-line--{run.stage}")), shows
            )
        return Content(words)
