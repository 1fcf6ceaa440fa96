"""The screen that asks for checkpoints, the first one if no path is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option
from textual.worker import get_current_worker

from ckptdiff import __version__
from ckptdiff.errors import CkptDiffError
from ckptdiff.text import operand, printable, shell_line
from ckptdiff.tui.keymap import key
from ckptdiff.tui.messages import PathRead, PathRecognised
from ckptdiff.tui.screens.base import BaseScreen
from ckptdiff.tui.text.hints import KEYS
from ckptdiff.tui.text.sides import recognised
from ckptdiff.tui.widgets.path_input import PathInput
from ckptdiff.tui.words import format_ago, plural, shorten
from ckptdiff.tui.workers.cancellable import Stopped

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.timer import Timer

    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.settings import RecentPair
    from ckptdiff.tui.model.comparison import Side

PAUSE = 0.2  # seconds from the last key to reading a path
TITLES = {"a": "A  reference", "b": "B  compared with A"}
HINTS = {
    "a": "A folder of Hugging Face or Megatron files, or one file. ctrl+o browses.",
    "b": "Empty: A alone is shown. A Megatron folder holds latest_checkpointed_iteration.txt"
    " or mp_rank_00.",
}
GLYPHS = {"same": "=", "close": "~", "differ": "!"}


class OpenScreen(BaseScreen[None]):
    """Two path fields, each with what was found there, and the recent pairs."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter",
            "compare",
            "Compare",
            priority=True,
            id="open.compare",
            tooltip="compare A and B; A alone is shown; a recent pair is compared",
        ),
        Binding("ctrl+o", "browse", "Browse", id="open.browse", tooltip="choose from a tree"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._opened: dict[Path, Checkpoint] = {}
        self._pauses: dict[Side, Timer] = {}

    def compose_body(self) -> ComposeResult:
        yield Static(f" ckptdiff {__version__}   Compare two checkpoints", id="title")
        for side in ("a", "b"):
            with Vertical(id=f"side-{side}", classes="side") as box:
                box.border_title = TITLES[side]
                yield PathInput(id=side)
                yield Static(HINTS[side], id=f"words-{side}", classes="words", markup=False)
        with Vertical(id="recent") as box:
            box.border_title = "Recent"
            yield OptionList(*self._recent(), markup=False, compact=True)
            yield Static("Pairs that you compare are listed here.", id="none", classes="words")

    def on_mount(self) -> None:
        self.query_one("#recent").set_class(not self.app.settings.recent, "-empty")
        self.query_one("#a", PathInput).focus()

    def _recent(self) -> list[Option]:
        now = self.app.now()
        return [Option(recent_words(pair, now)) for pair in self.app.settings.recent]

    # ── recognising ──────────────────────────────────────────────────────────────────────────

    def on_input_changed(self, message: Input.Changed) -> None:
        """Read a path when the typing pauses."""
        side: Side = "a" if message.input.id == "a" else "b"
        if side in self._pauses:
            self._pauses[side].stop()
        path = self._field(side).path
        if path is None:
            self._show_words(side, HINTS[side], trouble=False)
            return
        self._pauses[side] = self.set_timer(PAUSE, lambda: self._start_reading(side, path))

    def _start_reading(self, side: Side, path: Path) -> None:
        if path == self._field(side).path:
            (self._recognise_a if side == "a" else self._recognise_b)(path)

    @work(thread=True, exclusive=True, exit_on_error=False, group="a")
    def _recognise_a(self, path: Path) -> None:
        self._recognise("a", path)

    @work(thread=True, exclusive=True, exit_on_error=False, group="b")
    def _recognise_b(self, path: Path) -> None:
        self._recognise("b", path)

    def _recognise(self, side: Side, path: Path) -> None:
        worker = get_current_worker()

        def progress(done: int, total: int) -> None:
            if worker.is_cancelled:
                raise Stopped
            self.post_message(PathRead(side, path, done, total))

        engine = self.app.engine
        try:
            checkpoint = engine.open(path, progress)
            family, layers = engine.describe(checkpoint)
            words = recognised(checkpoint, family=family, layers=layers)
            self.post_message(PathRecognised(side, path, checkpoint, words))
        except CkptDiffError as error:
            self.post_message(PathRecognised(side, path, None, error.with_hint(KEYS)))
        except Stopped:
            pass

    def on_path_read(self, message: PathRead) -> None:
        if message.path == self._field(message.side).path:
            files = plural(message.total, "file")
            self._show_words(
                message.side, f"Reading headers {message.done} of {files}", trouble=False
            )

    def on_path_recognised(self, message: PathRecognised) -> None:
        if message.path != self._field(message.side).path:
            return
        if message.checkpoint is not None:
            self._opened[message.path] = message.checkpoint
        self._show_words(message.side, message.words, trouble=message.checkpoint is None)
        self.refresh_bindings()

    def _show_words(self, side: Side, words: str, *, trouble: bool) -> None:
        line = self.query_one(f"#words-{side}", Static)
        line.update(Content(printable(words)))
        line.set_class(trouble, "-trouble")

    def _field(self, side: Side) -> PathInput:
        return self.query_one(f"#{side}", PathInput)

    # ── keys ─────────────────────────────────────────────────────────────────────────────────

    def action_compare(self) -> None:
        """Open the recent pair under the cursor, or the paths of the fields."""
        recent = self.query_one(OptionList)
        if self.focused is recent:
            if recent.highlighted is not None:
                pair = self.app.settings.recent[recent.highlighted]
                self._field("a").value, self._field("b").value = pair.a, pair.b
                self.app.open([Path(pair.a), Path(pair.b)])
            return
        paths = [path for side in ("a", "b") if (path := self._field(side).path) is not None]
        if self._field("a").path is None:
            self.notify(
                f"A is empty: type a path, or press {key('open.browse', 'ctrl+o')} to browse."
            )
            return
        self.app.open(paths, self._opened)

    def action_browse(self) -> None:
        from ckptdiff.tui.screens.browse import BrowseScreen

        field = self.focused if isinstance(self.focused, PathInput) else self._field("a")
        start = field.path or Path.cwd()
        while not start.is_dir() and start != start.parent:
            start = start.parent

        def chosen(path: Path | None) -> None:
            if path is not None:
                field.value = str(path)
                field.action_end()

        self.app.push_screen(BrowseScreen(start), chosen)

    def command_line(self) -> str:
        """Return the command line that opens the same paths."""
        paths = [operand(path) for path in (self._field("a").path, self._field("b").path) if path]
        return shell_line(["ckptdiff", *paths])


def recent_words(pair: RecentPair, now: float) -> Content:
    """Return one line about a recent pair: both paths, the verdict, how long ago."""
    verdict = f"{GLYPHS.get(pair.verdict, ' ')} {pair.verdict}"
    if pair.differences and pair.verdict not in ("packed", "matched"):
        verdict = f"! {pair.differences:,} differ"
    names = [shorten(printable(_last_parts(path)), 22) for path in (pair.a, pair.b)]
    return Content(f"{names[0]:<22}  {names[1]:<22}  {verdict:<14} {format_ago(now - pair.at)}")


def _last_parts(path: str) -> str:
    return "/".join(Path(path).parts[-2:])
