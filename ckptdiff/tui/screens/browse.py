"""The dialog that chooses a folder or file from a tree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import DirectoryTree, Static

from ckptdiff.text import printable
from ckptdiff.tui.keymap import key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.text import Text, TextType
    from textual.app import ComposeResult


class FolderTree(DirectoryTree):
    """A directory tree in plain characters: terminals disagree on the width of Textual's icons."""

    ICON_NODE = "+ "
    ICON_NODE_EXPANDED = "- "
    ICON_FILE = "  "

    def process_label(self, label: TextType) -> Text:
        return super().process_label(printable(label) if isinstance(label, str) else label)

    def filter_paths(self, paths: Iterable[Path]) -> Iterable[Path]:
        return [path for path in paths if not path.name.startswith(".")]


class BrowseScreen(ModalScreen[Path | None]):
    """Returns the folder or file under the cursor; None if cancelled."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", "Choose", id="browse.choose", priority=True),
        Binding("l,right", "unfold", "Unfold", id="browse.unfold"),
        Binding("h,left", "fold", "Fold", id="browse.fold"),
        Binding("j", "move(1)", "Down", show=False, id="browse.down"),
        Binding("k", "move(-1)", "Up", show=False, id="browse.up"),
        Binding("minus,backspace", "parent", "Folder above", id="browse.parent"),
        Binding("escape,q", "cancel", "Cancel", id="browse.cancel"),
    ]

    def __init__(self, start: Path) -> None:
        super().__init__()
        self._start = start

    def compose(self) -> ComposeResult:
        with Vertical(id="browse") as box:
            box.border_title = "Choose a checkpoint"
            yield FolderTree(self._start)
            does = {
                key("browse.choose", "enter"): "chooses",
                key("browse.unfold", "l"): "unfolds",
                key("browse.fold", "h"): "folds",
                key("browse.parent", "-"): "folder above",
                key("browse.cancel", "esc"): "cancels",
            }
            hint = "  ".join(f"{shown} {what}" for shown, what in does.items())
            yield Static(hint, id="hint", markup=False)

    @property
    def _tree(self) -> FolderTree:
        return self.query_one(FolderTree)

    def on_mount(self) -> None:
        self._tree.guide_depth = 2
        self._tree.show_guides = not self.app.has_class("-ascii")
        self._tree.focus()

    def action_choose(self) -> None:
        node = self._tree.cursor_node
        self.dismiss(None if node is None or node.data is None else node.data.path)

    def action_move(self, lines: int) -> None:
        self._tree.cursor_line += lines

    def action_unfold(self) -> None:
        if (node := self._tree.cursor_node) is not None:
            node.expand()

    def action_fold(self) -> None:
        node = self._tree.cursor_node
        if node is None:
            return
        if node.is_expanded and node.allow_expand:
            node.collapse()
        elif node.parent is not None:
            self._tree.move_cursor(node.parent)

    def action_parent(self) -> None:
        """Show the parent of the tree's root."""
        self._tree.path = Path(self._tree.path).absolute().parent

    def action_cancel(self) -> None:
        self.dismiss(None)
