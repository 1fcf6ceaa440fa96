"""The form of a conversion. Plan, disk space and command line follow its fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, cast

from textual import work
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Input, Static
from textual.worker import Worker, WorkerState

from ckptdiff.formats.hub.lookup import absolute
from ckptdiff.tui.model.conversion import (
    ConversionDraft,
    ConversionPlan,
    reference_of,
    stated_target,
)
from ckptdiff.tui.screens.base import BaseScreen
from ckptdiff.tui.text.conversion import before_writing, warning_words
from ckptdiff.tui.text.sides import described
from ckptdiff.tui.widgets.choice import Choice
from ckptdiff.tui.widgets.form import FORMATS, RELEASES, SIZES, Box, field, size_field, size_texts
from ckptdiff.tui.widgets.path_input import PathInput
from ckptdiff.tui.words import short_path

if TYPE_CHECKING:
    from pathlib import Path

    from textual.app import ComposeResult
    from textual.timer import Timer

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.conversion.plan import Target
    from ckptdiff.conversion.remap import Remap
    from ckptdiff.tui.model.comparison import Side
    from ckptdiff.tui.model.session import Session

PAUSE = 0.2  # seconds from the last change to the next plan
NO_OR_YES = {"no": "no", "yes": "yes"}


class ConvertScreen(BaseScreen[None]):
    """Asks what to convert into. Nothing is written before Enter."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter",
            "start",
            "Start",
            priority=True,
            id="convert.start",
            tooltip="convert as planned",
        ),
        Binding("j,down", "next(1)", "Next", id="convert.next", tooltip="the next field"),
        Binding(
            "k,up",
            "next(-1)",
            "Previous",
            show=False,
            id="convert.previous",
            tooltip="the field before",
        ),
        Binding(
            "Y,ctrl+y",
            "copy_command",
            "Copy command",
            id="convert.copy",
            tooltip="copy the command line that does the same",
        ),
        Binding(
            "escape,q", "back", "Close", id="convert.back", tooltip="go back and convert nothing"
        ),
        Binding(
            "ctrl+d,pagedown",
            "scroll(5)",
            "Scroll",
            show=False,
            id="convert.down",
            tooltip="down, where not everything fits",
        ),
        Binding(
            "ctrl+u,pageup",
            "scroll(-5)",
            "Scroll up",
            show=False,
            id="convert.up",
            tooltip="up again",
        ),
    ]

    def __init__(self, session: Session, draft: ConversionDraft | None = None) -> None:
        """`draft` fills in the fields, if its source is an open side."""
        super().__init__()
        self.session = session
        self.plan: ConversionPlan | None = None  # None until that of the current fields is made
        letters: tuple[Side, Side] = ("a", "b")
        self._sides: dict[Side, tuple[Path, Assembled]] = {
            side: (path, assembled)
            for side, path, assembled in zip(
                letters, session.paths, (session.a, session.b), strict=False
            )
            if assembled is not None
        }
        self._side: Side = list(self._sides)[-1]
        self._draft = draft if draft is not None and self._choose_source(draft.source) else None
        self._proposed = ""  # the folder of the plan, shown unless the user types another
        self._opened: dict[Path, Checkpoint] = {}
        self._pause: Timer | None = None
        self._planner: Worker[ConversionPlan] | None = None
        self._stale = False  # the fields have changed since the running planner started

    def _choose_source(self, source: Path) -> bool:
        """Choose the side at this path; return whether there is one."""
        found = [side for side, (path, _) in self._sides.items() if path == source]
        self._side = found[0] if found else self._side
        return bool(found)

    # ── the fields ───────────────────────────────────────────────────────────────────────────

    def compose_body(self) -> ComposeResult:
        draft = self._draft or ConversionDraft(*self._defaults())
        target = draft.target
        numbers = size_texts(target.parallelism)
        with Box(id="convert", classes="box") as box:
            box.border_title = "Convert"
            sides = {str(side): side.upper() for side in self._sides}
            yield field("side", "From", Choice(sides, self._side, id="side"), Static(id="source"))
            out = "" if draft.out is None else str(draft.out)
            yield field("to", "To", Choice(FORMATS, target.to, id="to"))
            yield field("out", "Output", PathInput(out, id="out"))
            yield field("sizes", "Ranks", *(w for n in SIZES for w in size_field(n, numbers[n])))
            names = {"": "default", "mcore": "mcore", "te": "te", "legacy": "legacy"}
            yield field("names", "Names", Choice(names, target.names or "", id="names"))
            programs = Choice(RELEASES, target.version, id="version")
            yield field("version", "For", Static("Megatron-LM", classes="size"), programs)
            dtypes = {"": "as stored", "bf16": "bf16", "fp16": "fp16", "fp32": "fp32"}
            yield field("dtype", "Dtype", Choice(dtypes, target.dtype or "", id="dtype"))
            like = "yes" if self._draft is None or draft.like is not None else "no"
            likes = {"yes": self._like_words(), "no": "nothing"}
            yield field("like", "Like", Choice(likes, like, id="like"))
            drops = "yes" if target.allow_unmapped else "no"
            words = {"no": "refuse names without a rule", "yes": "leave them out"}
            yield field("unmapped", "Unknown", Choice(words, drops, id="unmapped"))
            undoes = {"yes": "take out", **self._all_faults(), "no": "keep"}
            faults = Static(id="faults", markup=False)
            yield field("undo", "Faults", Choice(undoes, "yes", id="undo"), faults)
            writes = "yes" if target.allow_incomplete else "no"
            words = {"no": "refuse what is incomplete", "yes": "write what is there"}
            yield field("incomplete", "Gaps", Choice(words, writes, id="incomplete"))
            replaces = "yes" if target.overwrite else "no"
            yield field("replace", "Replace", Choice(NO_OR_YES, replaces, id="replace"))
            yield field("plan", "Plan", Static("Reading headers ...", id="plan", markup=False))
            yield field("space", "Space", Static(id="space", markup=False))
            yield field("command", "Command", Static(id="command", markup=False))

    def on_mount(self) -> None:
        self._show_fields()
        self.query_one("#to", Choice).focus(scroll_visible=False)
        self._make_plan()

    def _defaults(self) -> tuple[Path, Target]:
        """Return the source and its default target: Hugging Face, or Megatron as the other is."""
        from ckptdiff.checkpoint import Parallelism
        from ckptdiff.conversion.plan import Target

        path, source = self._sides[self._side]
        other = self._other()
        if source.checkpoint.convention != "hf":
            return path, Target("hf")
        if other is not None and other[1].checkpoint.convention == "megatron":
            return path, Target("megatron", other[1].checkpoint.parallelism)
        return path, Target("megatron", Parallelism())

    def _other(self) -> tuple[Path, Assembled] | None:
        return next((found for side, found in self._sides.items() if side != self._side), None)

    def _lender(self) -> Path | None:
        """Return the other side's path if that is a Hugging Face folder and the source is not."""
        other = self._other()
        if other is None or self._sides[self._side][1].checkpoint.convention == "hf":
            return None
        return other[0] if other[1].checkpoint.convention == "hf" else None

    def _like_words(self) -> str:
        letter = "A" if self._side == "b" else "B"
        return f"config, tokenizer and names of {letter}"

    def _show_fields(self) -> None:
        """Show the fields that apply to the source and the target format."""
        path, source = self._sides[self._side]
        is_sharded = self._choice("to") != "hf"
        experts = source.config is not None and bool(source.config.num_experts)
        undone = ", ".join(remap.kind for remap in self._undo())
        shown = {
            "sizes": is_sharded,
            "names": is_sharded,
            "version": is_sharded,
            "like": self._lender() is not None,
            "unmapped": bool(source.unmapped) or source.adapter is not None,
            "undo": bool(undone),
            "incomplete": bool(source.shortfall) or self._choice("incomplete") == "yes",
        }
        for name, is_shown in shown.items():
            self.query_one(f"#{name}-field").display = is_shown
        for name in ("ep", "etp"):
            for widget in self.query(f".{name}"):
                widget.display = experts
        self.query_one("#side").display = len(self._sides) > 1
        self.query_one("#faults", Static).update(Content(undone))
        words = f"{short_path(absolute(path))}  {described(source)}"
        self.query_one("#source", Static).update(Content(words))

    def _choice(self, name: str) -> str:
        return self.query_one(f"#{name}", Choice).value

    def _number(self, name: str) -> int | None:
        widget = self.query_one(f"#{name}", Input)
        return int(widget.value) if widget.value and widget.display else None

    def _kept(self) -> Target | None:
        """Return the target of the draft, for what has no field; None for another source."""
        draft, path = self._draft, self._sides[self._side][0]
        return draft.target if draft is not None and draft.source == path else None

    def _undo(self) -> tuple[Remap, ...]:
        """Return the re-mappings that the form offers: those of the draft, or of all faults."""
        kept = self._kept()
        if kept is not None and self._choice("undo") != "all":
            return kept.undo
        return () if self._side == "a" else self.session.diagnosis.undo

    def _all_faults(self) -> dict[str, str]:
        """Return the choice of all faults, where the draft takes out fewer."""
        kept, every = self._kept(), self.session.diagnosis.undo
        if kept is None or not 0 < len(kept.undo) < len(every):
            return {}
        return {"all": f"all {len(every)}"}

    def _read_draft(self) -> ConversionDraft:
        """Return the draft that the fields state."""
        path, _ = self._sides[self._side]
        like = self._lender() if self._choice("like") == "yes" else None
        choices = {choice.id: choice.value for choice in self.query(Choice) if choice.id}
        sizes = {name: self._number(name) for name in SIZES}
        undo = () if choices["undo"] == "no" else self._undo()
        target = stated_target(choices, sizes, undo, self._kept(), lent=like is not None)
        out = self.query_one("#out", PathInput)
        typed = out.path if out.value != self._proposed else None
        return ConversionDraft(path, target, typed, like)

    def on_choice_changed(self, message: Choice.Changed) -> None:
        message.stop()
        if message.choice.id == "side":
            self._side = cast("Side", message.choice.value)
            _, target = self._defaults()
            self.query_one("#to", Choice).choose(target.to)
            for name, number in size_texts(target.parallelism).items():
                self.query_one(f"#{name}", Input).value = number
        self._show_fields()
        self._change()

    def on_input_changed(self, message: Input.Changed) -> None:
        message.stop()
        if message.input.id != "out" or message.value != self._proposed:
            self._change()

    # ── planning ─────────────────────────────────────────────────────────────────────────────

    def _change(self) -> None:
        """Drop the plan, and plan again when the changes pause."""
        self.plan = None
        for name in ("plan", "space", "command"):
            self.query_one(f"#{name}").add_class("-stale")
        self.refresh_bindings()
        if self._pause is not None:
            self._pause.stop()
        self._pause = self.set_timer(PAUSE, self._make_plan)

    def _make_plan(self) -> None:
        """Start the planner; if it is running, have it start again after its end."""
        self._stale = self._planner is not None
        if not self._stale:
            self._planner = self._plan(self._read_draft())

    @work(thread=True, exit_on_error=False, group="plan", description="planning")
    def _plan(self, draft: ConversionDraft) -> ConversionPlan:
        from ckptdiff.tui.workers import convert as conversion_jobs

        return conversion_jobs.plan_draft(draft, self.app.engine, self._opened)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.worker is not self._planner or not event.worker.is_finished:
            return
        self._planner = None
        if self._stale or event.state is WorkerState.CANCELLED:
            self._make_plan()
        elif event.state is WorkerState.ERROR:
            error = event.worker.error
            words = f"{type(error).__name__}: {error}. This is a bug in ckptdiff."
            draft = self._read_draft()
            self._show_plan(ConversionPlan(draft, draft.out or draft.source, (), error=words))
        elif event.worker.result is not None and event.worker.result.draft == self._read_draft():
            self._show_plan(event.worker.result)

    def _show_plan(self, plan: ConversionPlan) -> None:
        self.plan = plan
        if plan.draft.out is None and plan.command:
            self._proposed = str(plan.out)
            out = self.query_one("#out", PathInput)
            out.value = self._proposed
        warnings = warning_words(plan, self.session, self._side)
        notes = "\n".join(filter(None, (*(f"! {words}" for words in warnings), plan.words)))
        for name, words in (
            ("plan", notes), ("space", plan.space), ("command", plan.command_line),
        ):  # fmt: skip
            widget = self.query_one(f"#{name}", Static)
            widget.update(Content(words))
            widget.remove_class("-stale")
            self.query_one(f"#{name}-field").display = bool(words)
        if plan.hint == "allow-incomplete":
            self.query_one("#incomplete-field").display = True
        self.query_one("#plan").set_class(plan.conversion is None, "-trouble")
        self.query_one("#space").set_class(not plan.fits or plan.replaces, "-trouble")
        self.refresh_bindings()

    # ── keys ─────────────────────────────────────────────────────────────────────────────────

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "maximise":
            return False
        return super().check_action(action, parameters)

    def why_not(self, action: str) -> str | None:
        if action == "start":
            if self.plan is None:
                return "Start: the plan is not ready yet."
            if self.plan.conversion is None:
                return "Start: this cannot be converted so."
            if self.app.is_converting:
                return "Start: another conversion is running."
        if action == "copy_command" and (self.plan is None or not self.plan.command):
            return "There is no plan yet."
        return None

    def action_start(self) -> None:
        from ckptdiff.tui.screens.ask import AskScreen

        plan = self.plan
        assert plan is not None

        def answered(yes: bool | None) -> None:  # noqa: FBT001
            if yes:
                self._start(plan)

        question = "Replace it?" if plan.replaces else "Write it?"
        yes = "replaces it" if plan.replaces else "writes it"
        words = before_writing(plan, self.session, self._side)
        self.app.push_screen(AskScreen(question, words, yes=yes, no="goes back"), answered)

    def _start(self, plan: ConversionPlan) -> None:
        from ckptdiff.tui.screens.conversion import ConversionScreen

        run = self.app.start_conversion(plan, reference_of(self.session, plan.draft))
        self.app.switch_screen(ConversionScreen(run, self.session))

    def action_copy_command(self) -> None:
        if self.plan is not None:
            self.app.copy(self.plan.command_line)

    def action_next(self, step: Literal[1, -1]) -> None:
        if step > 0:
            self.focus_next()
        else:
            self.focus_previous()

    def action_scroll(self, lines: int) -> None:
        self.query_one("#convert").scroll_relative(y=lines, animate=False)
