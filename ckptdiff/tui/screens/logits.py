"""The screen of a prompt: next tokens, table of taps, verdict and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from ckptdiff.extras import why_not
from ckptdiff.logits.verdict import place
from ckptdiff.report.logits import shares
from ckptdiff.tui.keymap import key
from ckptdiff.tui.model.comparison import DIFFERENCES, GLYPHS
from ckptdiff.tui.screens import finding_keys
from ckptdiff.tui.screens.base import BaseScreen
from ckptdiff.tui.screens.detail import POLL_SECONDS, Pane
from ckptdiff.tui.text.lines import line
from ckptdiff.tui.text.logits import (
    NOTHING,
    count_words,
    outcome_lines,
    prompt_lines,
    share_lines,
    text_to_copy,
    why_not_prompt,
)
from ckptdiff.tui.text.taps import EQUAL, tap_mark
from ckptdiff.tui.widgets.choice import Choice
from ckptdiff.tui.widgets.next_tokens import NextTokens
from ckptdiff.tui.widgets.painted import Words
from ckptdiff.tui.widgets.prompt_input import PromptInput
from ckptdiff.tui.widgets.tap_map import TapMap

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.widgets import Input

    from ckptdiff.results import Finding, LogitDiff, Tap
    from ckptdiff.tui.base_app import BaseApp
    from ckptdiff.tui.model.prompt_run import PromptRun
    from ckptdiff.tui.runners.prompt import PromptRunner
    from ckptdiff.tui.text.lines import Line
    from ckptdiff.tui.text.taps import TensorRead

ROOMY = 30  # lines of the terminal from which on everything is shown


class Shares(Pane):
    """The box of the attribution: a bar for the share of each cause."""


def show_logits(app: BaseApp, prompts: PromptRunner) -> None:
    """Open the screen; where the libraries are not installed, say how to install them."""
    if why := why_not("logits"):
        app.notify(f"{why[0].upper()}{why[1:]}", timeout=15, markup=False)
    else:
        app.push_screen(LogitsScreen(prompts))


class LogitsScreen(BaseScreen[None]):
    """Shows the run of a `PromptRunner`, during and after it."""

    AUTO_FOCUS = ""  # `on_mount` chooses
    BINDINGS: ClassVar[list[BindingType]] = [
        *finding_keys.finding_keys("logits"),
        Binding("p", "prompt", "Prompt", id="logits.prompt", tooltip="type a prompt"),
        Binding(
            "t", "positions", "Top-k", id="logits.positions",
            tooltip="the likeliest tokens after one position, or the first after each; "
            "arrows change the position",
        ),
        Binding(
            "D", "device", "Device", show=False, id="logits.device",
            tooltip="compute the next prompt on another device: auto, cpu or a GPU",
        ),
        Binding("x", "stop", "Stop", id="logits.stop", tooltip="stop; what is known stays"),
        Binding(
            "a", "attribution", "Causes", id="logits.attribution",
            tooltip="how much each rounding adds to the difference; the prompt is run once more",
        ),
        Binding(
            "y", "copy_table", "Copy", id="logits.copy", tooltip="copy verdict, figures and steps"
        ),
        Binding(
            "Y", "copy_command", "Copy command", show=False, id="logits.copy_command",
            tooltip="copy the command line that does the same",
        ),
        Binding(
            "2", "config", "Config", show=False, id="logits.config",
            tooltip="compare config.json with the args",
        ),
        Binding(
            "1", "back", "Tensors", show=False, id="logits.tensors", tooltip="back to the tensors"
        ),
        Binding(
            "question_mark", "guide", "Guide", id="logits.guide",
            tooltip="what the guide says of these numbers",
        ),
    ]  # fmt: skip
    LEGEND: ClassVar[dict[str, str]] = {
        "-7.1": "log10 of |A-B| / |A| after this step, where both sides start from A's values",
        EQUAL: "no difference at all",
        "!": "above the threshold, which comes from A's own weights computed both ways",
        ">": "the first that is",
        "~": "above it, but a cast of the weights to the other side's dtype explains that",
        "in, out": "what lies before the first layer, and behind the last",
        "flips": "the likeliest token is another; beyond the margin: more than |A-B| can do",
        "#14": "the token's place in the other side's list",
        "R": "the difference over what independent rounding of both makes: 0.8 to 1.1 is normal",
    }
    DEFAULT_CSS = """
    LogitsScreen {
        #ask { height: 1; padding: 0 1; }
        #ask Static { width: auto; text-style: bold; }
        #ask PromptInput { width: 1fr; height: 1; padding: 0 1; }
        #ask Choice { width: auto; height: 1; margin: 0 1; }
        #tokens { height: auto; padding: 0 1; }
        #answer { height: 1fr; }
        #nothing { padding: 1 2; }
        #outcome { height: auto; padding: 0 1; }
        NextTokens { height: 42%; min-height: 5; max-height: 13; }
        NextTokens, TapMap, Shares {
            padding: 0 1;
            border: solid $foreground 40%;
            border-title-style: bold;
            scrollbar-size-vertical: 1;
            &:focus { border: solid $primary; }
        }
        Shares { height: 1fr; }
        NextTokens.-maximized, TapMap.-maximized, Shares.-maximized {
            height: 1fr; max-height: 100%;
        }
        &.-ascii {
            NextTokens, TapMap, Shares { border: ascii $foreground 60%; }
            NextTokens:focus, TapMap:focus, Shares:focus { border: ascii $primary; }
        }
    }
    """

    def __init__(self, prompts: PromptRunner) -> None:
        super().__init__()
        self.prompts = prompts
        self.session = prompts.session
        self._shows_shares = False
        self._known = self.session.diagnosis
        self.set_class(self.session.ascii_only, "-ascii")

    @property
    def prompt_run(self) -> PromptRun | None:
        return self.prompts.run

    @property
    def diff(self) -> LogitDiff | None:
        return None if self.prompt_run is None else self.prompt_run.diff

    def compose_body(self) -> ComposeResult:
        ascii_only = self.session.ascii_only
        run = self.prompt_run
        with Horizontal(id="ask"):
            yield Static("Prompt")
            yield PromptInput("" if run is None else run.text, self.app.prompts)
            yield Choice(
                {name: name for name in self.prompts.devices}, self.prompts.device, id="device"
            )
            yield Static(id="count", markup=False)
        yield Words(id="tokens")
        with Vertical(id="answer"):
            yield Static(NOTHING.format(key("prompt.run", "Enter")), id="nothing")
            yield NextTokens(ascii_only=ascii_only)
            yield TapMap(ascii_only=ascii_only)
            with Shares() as bars:
                bars.border_title = "What the difference is made of: shares of its square"
                bars.border_subtitle = f"{key('logits.attribution', 'a')} shows the layers"
                yield Words(id="shares")
        yield Words(id="outcome")

    def on_mount(self) -> None:
        self.prompts.is_shown = True
        self.set_interval(POLL_SECONDS, self._poll)
        self.query_one("#tokens", Words).show(self._tokens)
        self.query_one("#outcome", Words).show(self._outcome)
        self.query_one("#shares", Words).show(self._shares)
        self.prompt_changed()
        if self.prompt_run is None:
            self.query_one(PromptInput).focus()
        else:
            self._focus_answer()

    def on_unmount(self) -> None:
        self.prompts.is_shown = False

    # ── drawing ──────────────────────────────────────────────────────────────────────────────

    def on_resize(self) -> None:
        self.prompt_changed()

    def prompt_changed(self) -> None:
        """Show the progress or the result."""
        run, diff = self.prompt_run, self.diff
        taps = () if run is None else run.taps
        with self.app.batch_update():
            self.query_one("#nothing").display = run is None
            self.query_one(Choice).offer({name: name for name in self.prompts.devices})
            self.query_one("#count", Static).update(Content(count_words(run)))
            self.query_one("#tokens", Words).changed()
            self.query_one("#outcome", Words).changed()
            self.query_one("#shares", Words).changed()
            self._show_taps()
            next_tokens = self.query_one(NextTokens)
            shows_shares = self._shows_shares and diff is not None
            next_tokens.display = diff is not None and (
                self.size.height >= ROOMY or not shows_shares
            )
            if diff is not None:
                next_tokens.show(diff.top, diff.ids, diff.texts)
            self.query_one(Shares).display = shows_shares
            self.query_one(TapMap).display = bool(taps) and not shows_shares
        if not isinstance(self.focused, PromptInput | NextTokens | Choice):
            self._focus_answer()
        self.refresh_bindings()

    def _show_taps(self) -> None:
        run, diff, taps = self.prompt_run, self.diff, self.query_one(TapMap)
        title = "Layer by layer: log10 of |A-B| / |A|"
        if diff is None:
            taps.show(() if run is None else run.taps)
        else:
            limit = f"{diff.threshold:.1e}"
            title += f", ! above {limit}" if diff.first is not None else f", none above {limit}"
            if any(tap_mark(tap, diff.threshold) == "~" for tap in diff.taps):
                title += ", ~ only cast"
            taps.show(diff.taps, threshold=diff.threshold, first=diff.first, reads=self._reads)
        taps.border_title = title

    def _reads(self, tap: Tap) -> list[TensorRead]:
        """Return the tensors that a tap depends on, with glyphs, those that differ first."""
        session = self.session
        names = sorted(tap.reads, key=lambda name: session.status(name) not in DIFFERENCES)
        return [(GLYPHS[session.status(name)], name) for name in names]

    def _tokens(self, width: int) -> list[Line]:
        run = self.prompt_run
        if run is None or run.prompt is None:
            return []
        height = 3 if self.size.height >= ROOMY else 1
        return prompt_lines(run.prompt, width, height, ascii_only=self.session.ascii_only)

    def _outcome(self, width: int) -> list[Line]:
        if self.prompt_run is None:
            return []
        first = None if self.diff is None else self.diff.first
        return outcome_lines(
            self.prompt_run,
            width,
            findings=() if first is None else self._findings_of(first),
            roomy=self.size.height >= ROOMY,
            ascii_only=self.session.ascii_only,
        )

    def _shares(self, width: int) -> list[Line]:
        if self.diff is None or not self.diff.attribution:
            return [line(("No causes were worked out for this prompt.", "dim"))]
        return share_lines(shares(self.diff.attribution), width, ascii_only=self.session.ascii_only)

    def _focus_answer(self) -> None:
        """Focus the result instead of the field, so that letters are keys."""
        shown = [w for w in (self.query_one(TapMap), self.query_one(Shares)) if w.display]
        self.set_focus(shown[0] if shown else None)

    # ── the field ────────────────────────────────────────────────────────────────────────────

    def on_input_submitted(self, message: Input.Submitted) -> None:
        message.stop()
        text = message.value.strip()
        if not text:
            return
        reason = self.why_not("ask")
        if reason is not None:
            self.notify(reason, markup=False)
            return
        self.app.prompts.add(text)
        self._shows_shares = False
        self.prompts.ask(text)
        self.prompt_changed()
        self._focus_answer()

    def on_prompt_input_left(self, message: PromptInput.Left) -> None:
        message.stop()
        if self.prompt_run is None:
            self.dismiss()
        else:
            self._focus_answer()

    # ── keys ─────────────────────────────────────────────────────────────────────────────────

    @property
    def covering(self) -> list[tuple[int, Finding]]:
        """The findings about the step under the cursor, each with its number from 1."""
        tap = self.query_one(TapMap).tap if self.is_mounted and self.diff is not None else None
        return [] if tap is None else self._findings_of(tap)

    def _findings_of(self, tap: Tap) -> list[tuple[int, Finding]]:
        return self.session.diagnosis.of_step(tap, self.session.config)

    def _poll(self) -> None:
        """Show the findings once the diagnosis has ended."""
        if self._known is not self.session.diagnosis:
            self._known = self.session.diagnosis
            self.prompt_changed()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "stop" and self.why_not("stop"):
            return False  # not in the key line; pressing the key shows why
        if action == "mend" and not finding_keys.mends(self.session, self.covering):
            return False
        return super().check_action(action, parameters)

    def why_not(self, action: str) -> str | None:
        reason = why_not_prompt(self.session, self.prompt_run, action)
        return reason or finding_keys.why_no_finding(
            self.app, self.session, self.covering, action, what="this step"
        )

    def action_finding(self) -> None:
        finding_keys.open_finding(self.app, self.session, self.covering)

    def action_mend(self) -> None:
        finding_keys.mend(self.app, self.session, self.covering)

    def action_prompt(self) -> None:
        self.query_one(PromptInput).focus()

    def action_device(self) -> None:
        self.query_one(Choice).action_step(1)

    def on_choice_changed(self, message: Choice.Changed) -> None:
        message.stop()
        self.prompts.device = message.choice.value

    def action_positions(self) -> None:
        next_tokens = self.query_one(NextTokens)
        if next_tokens.display:
            next_tokens.toggle()
        else:  # the shares are shown in its place
            self._shows_shares = False
            self.prompt_changed()
        next_tokens.focus()

    def action_attribution(self) -> None:
        """Switch between shares and taps; without an attribution, run the prompt with one."""
        run, diff = self.prompt_run, self.diff
        if run is None:
            return
        if diff is None or not run.attribute:
            self._shows_shares = True
            self.prompts.ask(run.text, attribute=True)
            self.prompt_changed()
        else:
            self._shows_shares = not self._shows_shares
            self.prompt_changed()
        self._focus_answer()

    def action_stop(self) -> None:
        self.prompts.stop()

    def action_copy_table(self) -> None:
        if self.diff is not None:
            self.app.copy(text_to_copy(self.diff))

    def action_copy_command(self) -> None:
        if self.prompt_run is not None:
            self.app.copy(self.prompt_run.command_line(self.session.paths))

    def action_guide(self) -> None:
        from ckptdiff.tui.screens.guide import GuideScreen

        self.app.push_screen(GuideScreen("logits"))

    def action_config(self) -> None:
        from ckptdiff.tui.screens.config import ConfigScreen

        self.app.push_screen(ConfigScreen(self.session))

    def on_tap_map_opened(self, message: TapMap.Opened) -> None:
        """Open a tensor that the tap depends on: the first that differs, or else the first."""
        message.stop()
        reads = self._reads(message.tap)
        if reads:
            from ckptdiff.tui.screens.detail import DetailScreen

            self.app.push_screen(DetailScreen(self.session, reads[0][1]))
        else:
            words = (
                f"{place(message.tap)} reads no tensor, only the config: key "
                f"{key('logits.config', '2')} shows that."
            )
            self.notify(words, markup=False)
