"""The terminal program: a tree a file, a line to search in, and what is known of the tensor under the cursor.

Names reach the widgets inside a `Text`, never as markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Footer, Input, Label, Static, Tree
from textual.widgets.tree import TreeNode

from ckptdiff.browsing.branches import ORDERS, Branch, Order, found, grown
from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.render.escape import plain
from ckptdiff.render.phrases import count, size
from ckptdiff.tensors import TensorInfo

_OPENED = 40
"""Branches of a search that are opened at once; more are opened by whoever looks."""


class Names(Tree[Branch]):
    """The tree of one file, whose branches are put in when they are opened."""

    def __init__(self, checkpoint: Checkpoint, place: int) -> None:
        super().__init__(Text(plain(checkpoint.path or "in memory")), id=f"names{place}")
        self._file = plain(checkpoint.path or "in memory")
        self._tensors = [(str(key), tensor) for key, tensor in checkpoint.tensors.items()]
        self.branch = Branch("", "")
        self.order: Order = "file"
        self.wanted = ""

    def on_mount(self) -> None:
        self.show()

    def show(self) -> None:
        """Draw it anew, in its order and with what is searched for."""
        self.branch = grown(found(self._tensors, self.wanted))
        self.clear()
        self.root.data = self.branch
        self.root.set_label(self._label(self.branch, self._file))
        self._fill(self.root)
        self.root.expand()
        if self.wanted and self.branch.tensors <= _OPENED:
            self._open(self.root)

    def go_to(self, path: str) -> None:
        """Put the cursor on a name, or as near to it as there is something."""
        node = self.root
        for part in path.split("."):
            self._fill(node)
            node.expand()
            inside = next((child for child in node.children if child.data and child.data.name == part), None)
            if inside is None:
                break
            node = inside
        self.call_after_refresh(self.move_cursor, node)

    def on_tree_node_expanded(self, event: Tree.NodeExpanded[Branch]) -> None:
        """A branch is opened."""
        self._fill(event.node)

    def _open(self, node: TreeNode[Branch]) -> None:
        self._fill(node)
        node.expand()
        for child in node.children:
            if child.allow_expand:
                self._open(child)

    def _fill(self, node: TreeNode[Branch]) -> None:
        if node.children or node.data is None:
            return
        for branch in node.data.sorted(self.order):
            add = node.add if branch.below else node.add_leaf
            add(self._label(branch, plain(branch.name)), branch)

    def _label(self, branch: Branch, name: str) -> Text:
        if branch.tensor is not None and not branch.below:
            known = f"{branch.tensor.dtype} {list(branch.tensor.shape)}"
            return Text.assemble(name, "  ", (known, "cyan"), "  ", (size(branch.nbytes), "dim"))
        about = f"{count(branch.tensors, 'tensor')}, {size(branch.nbytes)}"
        return Text.assemble((name, "bold"), "  ", (about, "dim"))


class Browser(App[None]):
    """One checkpoint, or two side by side, of which one follows the cursor in the other."""

    CSS = """
    Names { width: 1fr; padding: 0 1; }
    #search { display: none; }
    #search.open { display: block; }
    #about { height: auto; max-height: 8; padding: 0 1; background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("slash", "search", "Search"),
        ("s", "sort", "Sort"),
        ("tab", "other", "Other file"),
        ("escape", "all", "All"),
        ("q", "quit", "Quit"),
    ]

    def __init__(self, checkpoints: Sequence[Checkpoint]) -> None:
        super().__init__()
        self.checkpoints = list(checkpoints)
        self.title = "ckptdiff"

    def compose(self) -> ComposeResult:
        """The widgets, from above."""
        with Vertical():
            yield Input(placeholder="a part of a name, or a glob such as *.bias", id="search")
            with Horizontal():
                for place, checkpoint in enumerate(self.checkpoints):
                    yield Names(checkpoint, place)
            yield Static("", id="about")
            yield Label("", id="order")
        yield Footer()

    def on_mount(self) -> None:
        """Begin in the first tree."""
        self.trees[0].focus()

    @property
    def trees(self) -> list[Names]:
        """One for each file."""
        return list(self.query(Names))

    def action_search(self) -> None:
        """Ask what to look for."""
        search = self.query_one("#search", Input)
        search.add_class("open")
        search.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show what is found while it is typed."""
        for tree in self.trees:
            tree.wanted = event.value
            tree.show()

    def on_input_submitted(self) -> None:
        """Look at what was found."""
        self.trees[0].focus()

    def action_all(self) -> None:
        """Everything again."""
        search = self.query_one("#search", Input)
        search.value = ""
        search.remove_class("open")
        self.trees[0].focus()

    def action_sort(self) -> None:
        """The next order: as in the file, by name, by size."""
        for tree in self.trees:
            tree.order = ORDERS[(ORDERS.index(tree.order) + 1) % len(ORDERS)]
            tree.show()
        self.query_one("#order", Label).update(f" sorted by {self.trees[0].order}")

    def action_other(self) -> None:
        """The other tree."""
        trees = self.trees
        here = next((place for place, tree in enumerate(trees) if tree.has_focus), 0)
        trees[(here + 1) % len(trees)].focus()

    def on_tree_node_highlighted(self, event: Tree.NodeHighlighted[Branch]) -> None:
        """Say what is known of what is under the cursor, and follow it in the other tree."""
        branch = event.node.data
        tree = event.node.tree
        if branch is None or not isinstance(tree, Names) or not tree.has_focus:
            return
        self.query_one("#about", Static).update(Text("\n".join(self._about(branch.path))))
        for other in self.trees:
            if other is not tree and branch.path:
                other.go_to(branch.path)

    def _about(self, path: str) -> list[str]:
        lines = [plain(path, 1000)]
        known = []
        for tree in self.trees:
            branch = tree.branch.at(path)
            if branch is None:
                known.append("is not here")
            elif branch.tensor is not None:
                known.append(_said(branch.tensor))
            else:
                known.append(f"{count(branch.tensors, 'tensor')}, {size(branch.nbytes)}")
        differ = "" if len(set(known)) == 1 else "  (they differ)"
        return [*lines, *known[:1], *(f"{fact}{differ}" for fact in known[1:])]


def _said(tensor: TensorInfo) -> str:
    where = f", in {plain(tensor.storage.file, 200)}" if tensor.storage is not None else ""
    return f"{tensor.dtype} {list(tensor.shape)}, {count(tensor.numel, 'element')}, {size(tensor.nbytes)}{where}"


def browse(checkpoints: Sequence[Checkpoint]) -> None:
    """Show them until the user leaves."""
    Browser(checkpoints).run()
