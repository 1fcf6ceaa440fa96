"""Write the guide's table of keys from the program's bindings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from textual.binding import Binding
from textual.keys import format_key

from ckptdiff.tui.app import CkptDiffApp
from ckptdiff.tui.screens.ask import AskScreen
from ckptdiff.tui.screens.base import BaseScreen
from ckptdiff.tui.screens.browse import BrowseScreen
from ckptdiff.tui.screens.config import ConfigScreen
from ckptdiff.tui.screens.conversion import ConversionScreen
from ckptdiff.tui.screens.convert import ConvertScreen
from ckptdiff.tui.screens.detail import DetailScreen, Pane
from ckptdiff.tui.screens.entries import EntriesScreen
from ckptdiff.tui.screens.findings import FindingList, FindingsScreen
from ckptdiff.tui.screens.guide import GuideScreen
from ckptdiff.tui.screens.help import HelpScreen
from ckptdiff.tui.screens.logits import LogitsScreen
from ckptdiff.tui.screens.open import OpenScreen
from ckptdiff.tui.screens.report import ReportScreen
from ckptdiff.tui.screens.score_item import ScoreItemScreen
from ckptdiff.tui.screens.scores import ScoresScreen
from ckptdiff.tui.screens.tensors import TensorsScreen
from ckptdiff.tui.screens.values import ElementLine, ValuesScreen
from ckptdiff.tui.widgets.choice import Choice
from ckptdiff.tui.widgets.filter_line import FilterLine
from ckptdiff.tui.widgets.heat_map import HeatMap
from ckptdiff.tui.widgets.next_tokens import NextTokens
from ckptdiff.tui.widgets.path_input import PathInput
from ckptdiff.tui.widgets.prompt_input import PromptInput
from ckptdiff.tui.widgets.score_lists import ItemList, ScoreTable
from ckptdiff.tui.widgets.tap_map import TapMap
from ckptdiff.tui.widgets.task_input import TaskInput
from ckptdiff.tui.widgets.tensor_list import TensorList
from ckptdiff.tui.widgets.values import Values

if TYPE_CHECKING:
    from textual.dom import DOMNode

PAGE = Path(__file__).parents[1] / "ckptdiff/guide/keys.md"
PLACES: tuple[tuple[str, tuple[type[DOMNode], ...]], ...] = (
    ("everywhere", (BaseScreen, CkptDiffApp)),
    ("tensor list", (TensorsScreen, TensorList)),
    ("filter", (FilterLine,)),
    ("one tensor", (DetailScreen, Pane, HeatMap)),
    ("config", (ConfigScreen,)),
    ("values", (ValuesScreen, Values, ElementLine)),
    ("entries", (EntriesScreen,)),
    ("findings", (FindingsScreen, FindingList)),
    ("logits", (LogitsScreen, TapMap)),
    ("prompt", (PromptInput,)),
    ("next tokens", (NextTokens,)),
    ("scores", (ScoresScreen, ScoreTable, ItemList)),
    ("tasks", (TaskInput,)),
    ("an item", (ScoreItemScreen,)),
    ("guide", (GuideScreen,)),
    ("open", (OpenScreen, PathInput)),
    ("choosing from a tree", (BrowseScreen,)),
    ("convert", (ConvertScreen, Choice)),
    ("conversion", (ConversionScreen,)),
    ("report", (ReportScreen,)),
    ("a question", (AskScreen,)),
    ("help", (HelpScreen,)),
)
TABLE = re.compile(r"(?<=<!-- keys -->\n).*?(?=<!-- end of keys -->)", re.DOTALL)


def key_table() -> str:
    """Return a row for each binding: where it works, its keys, and what its tooltip says."""
    rows = ["| where | keys | what it does | name |", "| --- | --- | --- | --- |"]
    for place, owners in PLACES:
        for owner in owners:
            for binding in owner.__dict__.get("BINDINGS", ()):
                if isinstance(binding, Binding) and (binding.tooltip or binding.description):
                    if binding.id == "screen.leave":  # what going back is on the first screen
                        continue
                    what = binding.tooltip or binding.description
                    if binding.id == "screen.back":
                        what += "; on the first, leave ckptdiff"
                    what = what.replace("|", "\\|")
                    rows.append(f"| {place} | {_keys(binding)} | {what} | `{binding.id}` |")
    return "\n".join(rows) + "\n"


def _keys(binding: Binding) -> str:
    names = [binding.key_display] if binding.key_display else binding.key.split(",")
    shown = [name if len(name) == 1 else format_key(name) for name in names]
    return " ".join(f"`{name}`" if name != "`" else "`` ` ``" for name in shown)


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(lambda _: key_table(), PAGE.read_text()))
