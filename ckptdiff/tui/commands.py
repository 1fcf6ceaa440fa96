"""The command palette: the commands that apply now, as `noun: verb`, and every tensor's name."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content

from ckptdiff.comparison.verdict import Tolerance
from ckptdiff.errors import BadArgument
from ckptdiff.guide.topics import topics
from ckptdiff.name_filter import matcher as names_matcher
from ckptdiff.text import printable
from ckptdiff.tui.keymap import key
from ckptdiff.tui.model.order import SORTS
from ckptdiff.tui.screens.logits import LogitsScreen
from ckptdiff.tui.screens.scores import ScoresScreen
from ckptdiff.tui.screens.tensors import TensorsScreen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptdiff.tui.base_app import BaseApp

    Command = tuple[str, str, Callable[[], Any]]

MOST_TENSORS = 50
TOLERANCES = {
    "cast": "equal after one rounding is close; or type ulp:N, rel:X",
    "exact": "a rounding is a difference too; or type ulp:N, rel:X",
}
GO_TO = "tensor: go to "


class Commands(Provider):
    """Yields the commands of the screen in front. Each calls the action that its key calls."""

    @property
    def _app(self) -> BaseApp:
        return self.app  # type: ignore[return-value]

    def _commands(self) -> Iterator[Command]:
        screen = self.screen
        if isinstance(screen, TensorsScreen):
            yield from self._tensor_commands(screen)
        elif isinstance(screen, LogitsScreen):
            yield from self._logit_commands(screen)
        elif isinstance(screen, ScoresScreen):
            yield from self._score_commands(screen)
        app = self._app
        if app.is_converting:
            yield "convert: stop and remove", "what was written goes", app.ask_to_stop
        yield "help: keys and glyphs", key("screen.help", "?"), screen.action_help  # type: ignore[attr-defined]
        for topic, about in topics().items():
            yield f"guide: {topic}", about, partial(self._show_guide, topic)
        yield "open: other checkpoints", "", app.show_open_screen
        yield "theme: choose", "kept for the next time", app.action_change_theme
        yield "screenshot: save SVG", "into the folder you started in", self._save_picture
        yield "settings: show file", "where they are kept", app.settings_runner.show_file
        yield "quit: leave ckptdiff", key("app.quit", "Q"), app.action_quit

    def _show_guide(self, topic: str) -> None:
        from ckptdiff.tui.screens.guide import GuideScreen

        self.app.push_screen(GuideScreen(topic))

    def _save_picture(self) -> None:
        """Save the screen as an SVG picture in the folder where ckptdiff was started."""
        try:
            path = self.app.save_screenshot()
        except OSError as error:
            self.app.notify(f"No picture: {error.strerror}.", severity="error", markup=False)
        else:
            self.app.notify(f"Saved {path}", markup=False)

    def _logit_commands(self, screen: LogitsScreen) -> Iterator[Command]:
        def can(action: str) -> bool:
            return screen.why_not(action) is None

        yield "logits: compare prompt ...", key("logits.prompt", "p"), screen.action_prompt
        if can("stop"):
            yield (
                "logits: stop",
                f"what is known stays  {key('logits.stop', 'x')}",
                screen.action_stop,
            )
        if can("attribution"):
            shares = key("logits.attribution", "a")
            what = f"what the difference is made of; runs it once more  {shares}"
            yield "logits: attribution", what, screen.action_attribution
        if can("positions"):
            yield (
                "logits: top-k or all positions",
                key("logits.positions", "t"),
                screen.action_positions,
            )
        if can("copy_table"):
            yield (
                "copy: logits",
                f"verdict, figures and steps  {key('logits.copy', 'y')}",
                screen.action_copy_table,
            )
        if can("copy_command"):
            yield "copy: command line", key("logits.copy_command", "Y"), screen.action_copy_command
        yield "view: tensors", key("logits.tensors", "1"), screen.action_back
        yield (
            "view: config",
            f"config.json against args  {key('logits.config', '2')}",
            screen.action_config,
        )

    def _score_commands(self, screen: ScoresScreen) -> Iterator[Command]:
        def can(action: str) -> bool:
            return screen.why_not(action) is None

        yield "scores: choose tasks ...", key("scores.tasks", "t"), screen.action_tasks
        if can("stop"):
            what = f"what was answered stays  {key('scores.stop', 'x')}"
            yield "scores: stop", what, screen.action_stop
        else:
            what = f"after a stop, go on  {key('scores.again', 'r')}"
            yield "scores: run", what, screen.action_again
        if can("logits"):
            what = f"layer by layer, on both sides  {key('scores.logits', 'p')}"
            yield "logits: compare this item", what, screen.action_logits
        if can("shown"):
            what = f"the first that shows it  {key('scores.shown', 's')}"
            yield "scores: go to item", what, screen.action_shown
        if can("copy_table"):
            what = f"verdict and table  {key('scores.copy', 'y')}"
            yield "copy: scores", what, screen.action_copy_table
        if can("copy_command"):
            yield "copy: command line", key("scores.copy_command", "Y"), screen.action_copy_command
        yield "view: tensors", key("scores.tensors", "1"), screen.action_back
        what = f"config.json against args  {key('scores.config', '2')}"
        yield "view: config", what, screen.action_config

    def _tensor_commands(self, screen: TensorsScreen) -> Iterator[Command]:
        session = screen.session

        def can(action: str) -> bool:
            return screen.why_not(action) is None

        if can("stop"):
            yield (
                "compare: stop",
                f"what is known stays  {key('tensors.stop', 'x')}",
                screen.action_stop,
            )
        if session.phase in ("stopped", "failed"):
            yield (
                "compare: start",
                f"go on with what is left  {key('tensors.again', 'r')}",
                screen.action_again,
            )
        elif session.phase == "done":
            yield (
                "compare: again",
                f"every tensor, headers first  {key('tensors.again', 'r')}",
                screen.action_again,
            )
        if not session.browsing:
            for tolerance, what in TOLERANCES.items():
                if tolerance != session.tolerance:
                    run = partial(screen.judge_by, tolerance)
                    yield f"tolerance: {tolerance}", what, run
        if can("optimizer"):
            what = "weights alone" if session.optimizer else "optimizer state too"
            yield (
                f"compare: {what}",
                f"master weights and moments  {key('tensors.optimizer', 'o')}",
                screen.action_optimizer,
            )
        if can("difference"):
            yield (
                "view: next difference",
                key("tensors.next", "n"),
                partial(screen.action_difference, 1),
            )
            yield (
                "view: previous difference",
                key("tensors.previous", "N"),
                partial(screen.action_difference, -1),
            )
        if can("entries"):
            yield (
                "view: other entries",
                f"arguments, optimizer, random states  {key('tensors.entries', 'e')}",
                screen.action_entries,
            )
        if can("config"):
            yield (
                "view: config",
                f"config.json against args  {key('tensors.config', '2')}",
                screen.action_config,
            )
        if can("findings"):
            what = "what is wrong, and why" if session.diagnosis.findings else "look for the cause"
            yield (
                "view: findings",
                f"{what}  {key('tensors.findings', 'f')}",
                screen.action_findings,
            )
        if can("logits"):
            yield (
                "logits: compare prompt ...",
                f"layer by layer, on both sides  {key('tensors.logits', 'p')}",
                screen.action_logits,
            )
        if can("scores"):
            yield (
                "scores: compare benchmark scores ...",
                f"and what they do not show  {key('tensors.scores', '5')}",
                screen.action_scores,
            )
        if can("filter"):
            yield (
                "filter: by name",
                f"words, letters, re:, ! inverts  {key('tensors.filter', '/')}",
                screen.action_filter,
            )
        if can("differences_only"):
            what = "all tensors" if session.differences_only else "differences only"
            yield f"filter: {what}", key("tensors.differences", "d"), screen.action_differences_only
        if session.filter:
            yield "filter: clear", key("screen.escape", "esc"), partial(screen.set_filter, "")
        elif session.finding is not None:
            yield "filter: clear", key("screen.escape", "esc"), screen.action_escape
        if can("sort"):
            for sort, words in SORTS.items():
                if sort != session.sort and (sort in ("model", "size") or not session.browsing):
                    yield (
                        f"sort: {words}",
                        key("tensors.sort", "s"),
                        partial(screen.action_sort_by, sort),
                    )
            yield "sort: reverse", key("tensors.reverse", "S"), screen.action_reverse
            yield (
                "layers: fold all",
                f"{key('list.fold', 'h')} folds one",
                partial(screen.rows.fold_all, unfolded=False),
            )
            yield (
                "layers: unfold all",
                f"{key('list.unfold', 'l')} unfolds one",
                partial(screen.rows.fold_all, unfolded=True),
            )
        if can("convert"):
            yield (
                "convert: to another format or parallelism",
                f"planned, then written and verified  {key('tensors.convert', 'c')}",
                screen.action_convert,
            )
        if can("write_report"):
            yield (
                "report: write",
                f"JSON, Markdown or HTML, by the name's ending  {key('tensors.report', 'w')}",
                screen.action_write_report,
            )
        if can("copy_name"):
            yield "copy: tensor name", key("tensors.copy", "y"), screen.action_copy_name
            yield "copy: command line", key("tensors.copy_command", "Y"), screen.action_copy_command

    async def discover(self) -> Hits:
        for name, text, run in self._commands():
            yield DiscoveryHit(name, run, help=text or None)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for name, text, run in self._commands():
            if (score := matcher.match(name)) > 0:
                yield Hit(score, matcher.highlight(name), run, help=text or None)
        screen = self.screen
        if not isinstance(screen, TensorsScreen):
            return
        typed = query.removeprefix("tolerance:").strip()
        if typed.startswith(("ulp:", "rel:")) and not screen.session.browsing:
            with suppress(BadArgument):
                Tolerance.parse(typed)
                label = Content(f"tolerance: {typed}")
                run = partial(screen.judge_by, typed)
                yield Hit(1.0, label, run, text=label.plain, help="compare again under it")
        # Plain words, not the fuzzy matcher: that needs seconds for 90,000 names.
        words = query.removeprefix("tensor:").strip().removeprefix("go to").strip()
        if not words:
            return
        matches = names_matcher(words.removeprefix("re:"))
        found = 0
        for name in screen.session.names:
            if matches(name):
                found += 1
                label = Content(GO_TO + printable(name))
                score = 0.5 - found / 1000
                yield Hit(score, label, partial(screen.go_to, name), text=label.plain)
                if found == MOST_TENSORS:
                    return
