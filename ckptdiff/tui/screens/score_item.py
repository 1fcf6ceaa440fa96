"""The screen of one item: the question, its answers, and what both sides give for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from textual.binding import Binding, BindingType

from ckptdiff.extras import why_not
from ckptdiff.logits.prompt import ids_text
from ckptdiff.report.score_words import ids_of
from ckptdiff.scores.paired import choices_of, is_flip
from ckptdiff.scores.verdict import worst_question
from ckptdiff.text import printable
from ckptdiff.tui.screens.base import BaseScreen
from ckptdiff.tui.screens.detail import Pane
from ckptdiff.tui.text.lines import line
from ckptdiff.tui.text.scores import answer_lines, item_title, item_to_copy, question_lines
from ckptdiff.tui.widgets.painted import Words
from ckptdiff.tui.widgets.score_lists import AnswerList
from ckptdiff.tui.words import fitted, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult

    from ckptdiff.scores.results import Item
    from ckptdiff.tui.base_app import BaseApp
    from ckptdiff.tui.runners.prompt import PromptRunner
    from ckptdiff.tui.text.lines import Line
    from ckptdiff.tui.widgets.cursor_list import CursorList

FRAME = 3  # lines of the list beside its rows: the border and the header


def ask_logits(app: BaseApp, prompts: PromptRunner, ids: Sequence[int]) -> None:
    """Open the logits screen with token ids as the prompt."""
    from ckptdiff.tui.screens.logits import show_logits

    if not why_not("logits"):
        text = ids_text(ids)
        app.prompts.add(text)
        prompts.ask(text)
    show_logits(app, prompts)


class ScoreItemScreen(BaseScreen[None]):
    """Shows one of some items. `n` shows the next."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "step(1)", "Next", id="item.next", tooltip="the next item"),
        Binding(
            "N", "step(-1)", "Previous", show=False, id="item.previous", tooltip="the item before"
        ),
        Binding(
            "p,4", "logits", "Logits", id="item.logits",
            tooltip="give both sides the question and this answer as a prompt, layer by layer",
        ),
        Binding("y", "copy_item", "Copy", id="item.copy", tooltip="copy the item as text"),
        Binding(
            "question_mark", "guide", "Guide", id="item.guide",
            tooltip="what the guide says of these numbers",
        ),
    ]  # fmt: skip
    LEGEND: ClassVar[dict[str, str]] = {
        "A, B": "log-likelihood of the answer after the question, in nats",
        "|A-B|": "how far they are apart",
        "floor": "the same with A's weights in B's arithmetic: what two right programs make",
        "chosen": "the side whose log-likelihood is largest for this answer",
    }
    DEFAULT_CSS = """
    ScoreItemScreen {
        #item-title { height: 1; padding: 0 1; }
        #question {
            height: 1fr;
            padding: 0 1;
            border: solid $foreground 40%;
            border-title-style: bold;
            scrollbar-size-vertical: 1;
            &:focus { border: solid $primary; }
        }
        AnswerList { height: auto; }
        #answer { height: auto; max-height: 5; padding: 0 1; }
        #question.-maximized, AnswerList.-maximized { height: 1fr; max-height: 100%; }
        &.-short {
            #question, AnswerList, #question:focus, AnswerList:focus { border: none; }
            #answer { max-height: 1; }
        }
        &.-ascii {
            #question, AnswerList { border: ascii $foreground 60%; }
            #question:focus, AnswerList:focus { border: ascii $primary; }
        }
    }
    """

    def __init__(self, prompts: PromptRunner, items: Sequence[Item], at: int) -> None:
        super().__init__()
        self.prompts = prompts
        self.session = prompts.session
        self._items = items
        self._at = at
        self.set_class(self.session.ascii_only, "-ascii")

    @property
    def item(self) -> Item:
        return self._items[self._at]

    def compose_body(self) -> ComposeResult:
        yield Words(id="item-title")
        with Pane(id="question") as question:
            question.border_title = "Question"
            yield Words(id="asked")
        answers = AnswerList(ascii_only=self.session.ascii_only)
        answers.border_title = "Answers: log-likelihoods in nats"
        yield answers
        yield Words(id="answer")

    def on_mount(self) -> None:
        self.query_one("#item-title", Words).show(self._title)
        self.query_one("#asked", Words).show(lambda width: question_lines(self.item, width))
        self.query_one("#answer", Words).show(self._answer)
        self._show()
        self.query_one(AnswerList).focus()

    # ── drawing ──────────────────────────────────────────────────────────────────────────────

    def on_resize(self) -> None:
        self._fit()

    def _show(self) -> None:
        item, answers = self.item, self.query_one(AnswerList)
        choices = choices_of(item)
        at = worst_question(item) if item.answers else 0
        at = choices[1] if choices is not None and is_flip(item) else at
        with self.app.batch_update():
            answers.show_item(item, at)
            self._fit()
            for words in self.query(Words):
                words.changed()
            self.query_one("#question").scroll_home(animate=False)
        self.refresh_bindings()

    def _fit(self) -> None:
        """Give the answers the lines that they need, and at most half of the screen."""
        frame = FRAME if self.size.height >= 16 else 1
        lines = min(len(self.item.answers) + frame, max(frame + 1, self.size.height // 2))
        self.query_one(AnswerList).styles.height = lines

    def _title(self, width: int) -> list[Line]:
        item, ascii_only = self.item, self.session.ascii_only
        ending = f"{self._at + 1:,} of {len(self._items):,}"
        role = "differ" if is_flip(item) else ""
        told = item_title(item, short=width < 60)
        room = width - len(ending) - len(told) - 4
        name = shorten(printable(f"{item.task} {item.doc}"), room, ascii_only=ascii_only)
        told = fitted(told, width - len(name) - len(ending) - 3, ascii_only=ascii_only)
        return [line((f"{name}  ", "strong"), (f"{told} ", role), ending)]

    def _answer(self, width: int) -> list[Line]:
        number = self.query_one(AnswerList).row
        return [] if number is None else answer_lines(self.item, number, width)

    def on_cursor_list_cursor_moved(self, message: CursorList.CursorMoved) -> None:
        message.stop()
        self.query_one("#answer", Words).changed()

    # ── keys ─────────────────────────────────────────────────────────────────────────────────

    def why_not(self, action: str) -> str | None:
        if action == "step" and len(self._items) < 2:
            return "There is no other item."
        return None

    def action_step(self, step: Literal[1, -1]) -> None:
        self._at = (self._at + step) % len(self._items)
        self._show()

    def action_logits(self) -> None:
        number = self.query_one(AnswerList).row
        if number is not None:
            ask_logits(self.app, self.prompts, ids_of(self.item, number))

    def action_copy_item(self) -> None:
        self.app.copy(item_to_copy(self.item))

    def action_guide(self) -> None:
        from ckptdiff.tui.screens.guide import GuideScreen

        self.app.push_screen(GuideScreen("scores"))
