"""A state dict as one subtree of modules sees it, and which module turns which of its keys away.

torch filters the dictionary again at each level (`Module.load_state_dict`, inner function `load`), which is quadratic.
`Scope` looks at each key once: a hash lookup finds the module it belongs to, and only keys that belong to none are
followed down the tree to the module that turns them away. `LiteralScope` does as torch does, for the rare state dicts
and modules with which anything else would not be the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ckptdiff.errors import words_of
from ckptdiff.loaders.outcome import Raised
from ckptdiff.loaders.torch.restarts import TakeLiterally
from ckptdiff.model.tree import EXTRA_STATE, EXTRA_STATE_KEY, ModuleNode
from ckptdiff.tensors import Entry


class Scope:
    """The keys below `prefix` in their order, as the module `root` there is given them.

    `objects` holds what a hook has put in place of an entry. Raises TakeLiterally where a key is no plain string or a
    module or tensor has a name with a dot, so that a key can belong to several modules at once.
    """

    __slots__ = ("_ignored", "_positions", "_sorted", "_turned_away", "entries", "objects", "prefix")

    def __init__(
        self, prefix: str, root: ModuleNode, entries: Mapping[Any, Entry], objects: dict[object, object]
    ) -> None:
        self.prefix = prefix
        self.entries = entries
        self.objects = objects
        self._sorted: list[str] | None = None
        self._positions: dict[str, int] = {}
        self._turned_away: dict[str, list[str]] = {}
        self._ignored: dict[str, list[str]] = {}
        self._attribute(root)

    def below(self, prefix: str) -> Iterable[str]:
        """The keys that start with `prefix`, in the state dict's order."""
        if prefix == self.prefix:
            return self.entries
        if self._sorted is None:
            self._positions = {key: position for position, key in enumerate(self.entries)}
            self._sorted = sorted(self.entries)
        start = end = bisect_left(self._sorted, prefix)
        while end < len(self._sorted) and self._sorted[end].startswith(prefix):
            end += 1
        return sorted(self._sorted[start:end], key=self._positions.__getitem__)

    def unexpected(self, prefix: str, node: ModuleNode, children: Mapping[str, object]) -> Iterable[str]:  # noqa: ARG002
        """The keys `node` calls unexpected, in torch's order: its extra state first, then in the state dict's order."""
        return self._turned_away.get(prefix, ())

    def ignored(self, prefix: str) -> Iterable[str]:
        """The keys that `node` passes to a child registered as None, where nobody ever looks at them."""
        return self._ignored.get(prefix, ())

    def child(self, prefix: str) -> Scope:  # noqa: ARG002
        """The scope of a child module, found at `prefix`."""
        return self

    def _attribute(self, root: ModuleNode) -> None:
        modules = _modules(self.prefix, root)
        turned_away = self._turned_away
        for key in self.entries:
            if type(key) is not str:
                raise TakeLiterally
            if not key.startswith(self.prefix):
                continue  # a hook put it here, where nobody looks at it
            head, dot, name = key.rpartition(".")
            node = modules.get(head + dot)
            if node is not None:
                if name in node.local and name != EXTRA_STATE_KEY:
                    continue
                if name == EXTRA_STATE_KEY:
                    if EXTRA_STATE not in node.custom:
                        turned_away.setdefault(head + dot, []).insert(0, key)
                    continue
            place, is_ignored = place_of(key, self.prefix, root)
            (self._ignored if is_ignored else turned_away).setdefault(place, []).append(key)


def place_of(key: str, prefix: str, node: ModuleNode) -> tuple[str, bool]:
    """The prefix of the module below `node` at which torch stops passing on a key that no module takes, and whether
    that is since it is for a child registered as None."""
    start = len(prefix)
    while (end := key.find(".", start)) >= 0:
        name = key[start:end]
        if name not in node.children:
            break
        child = node.children[name]
        if child is None:
            return prefix, True
        prefix, node, start = key[: end + 1], child, end + 1
    return prefix, False


def _modules(prefix: str, root: ModuleNode) -> dict[str, ModuleNode]:
    """Every module by its prefix, below and with `root`."""
    modules: dict[str, ModuleNode] = {}
    stack = [(prefix, root)]
    while stack:
        prefix, node = stack.pop()
        if node.odd_names:
            raise TakeLiterally
        modules[prefix] = node
        for name, child in node.children.items():
            if child is not None:
                stack.append((f"{prefix}{name}.", child))
    return modules


class LiteralScope:
    """The keys that torch hands to one module, dealt with by torch's own steps, exceptions included."""

    __slots__ = ("_ignored", "entries", "objects")

    def __init__(self, entries: Mapping[Any, Entry], objects: dict[object, object]) -> None:
        self.entries = entries
        self.objects = objects
        self._ignored: list[str] = []

    def below(self, prefix: str) -> Iterable[object]:  # noqa: ARG002
        """All keys: there are no others."""
        return self.entries

    def unexpected(self, prefix: str, node: ModuleNode, children: Mapping[str, object]) -> Iterator[str]:
        """The keys `node` calls unexpected, in torch's order. Raises Raised where torch trips over a key."""
        extra_state = prefix + EXTRA_STATE_KEY
        if extra_state in self.entries and EXTRA_STATE not in node.custom:
            yield extra_state
        for key in self.entries:
            try:
                if not key.startswith(prefix) or key == extra_state:
                    continue
                name = key[len(prefix) :].split(".", 1)
                passed_on = len(name) > 1
                taken = name[0] in (children if passed_on else node.local)
            except Exception as error:
                raise Raised(words_of(error)) from None
            if not taken:
                yield key
            elif passed_on and children[name[0]] is None:
                self._ignored.append(key)

    def ignored(self, prefix: str) -> Iterable[str]:  # noqa: ARG002
        """The keys for a child registered as None, once all `unexpected` ones are known."""
        return self._ignored

    def child(self, prefix: str) -> LiteralScope:
        """The scope of a child module, found at `prefix`. Raises Raised where torch trips over a key."""
        try:
            entries = {key: entry for key, entry in self.entries.items() if key.startswith(prefix)}
        except Exception as error:
            raise Raised(words_of(error)) from None
        return LiteralScope(entries, {key: self.objects[key] for key in entries if key in self.objects})
