"""Running the code of custom modules: hooks, overrides of `_load_from_state_dict`, `set_extra_state`.

The one place where live module code runs during a comparison. It runs on shadows of the modules, on a copy of the
dictionary, on meta tensors or, where it asks for values, on real ones; what it did to the keys is recorded.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.overrides import is_tensor_like

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.checkpoint.from_memory import entry_of
from ckptdiff.errors import words_of
from ckptdiff.loaders.outcome import KeyChange, Raised
from ckptdiff.loaders.torch.given_values import Values
from ckptdiff.loaders.torch.meta_warnings import no_meta_warning
from ckptdiff.loaders.torch.restarts import CodeFailed, ModelValuesNeeded, TakeLiterally
from ckptdiff.loaders.torch.shadows import Shadows, is_plain
from ckptdiff.loaders.torch.subtree import LiteralScope, Scope
from ckptdiff.model.extract import counts_batches_as_usual, extract, registered
from ckptdiff.model.meta_building import MetaWatch
from ckptdiff.model.past_modes import ValueNeeded
from ckptdiff.model.tree import OVERRIDE, PRE_HOOK, ModuleNode, ModuleTree
from ckptdiff.tensors import Entry, ObjectInfo
from ckptdiff.torch_private import (
    LOAD_METHOD,
    BatchNormBase,
    IncompatibleKeys,
    children_of,
    load_post_hooks,
    own_buffers,
    own_parameters,
    post_hook_error,
    set_metadata,
)

# An error that says so was made by the meta device.
_OF_META = re.compile(r"\bmeta\b")


class Runner:
    """Runs the code of one tree's modules against one checkpoint, on meta tensors or on real ones."""

    def __init__(self, tree: ModuleTree, checkpoint: Checkpoint, *, real: bool, literal: bool) -> None:
        """With `literal`, all modules are shadows from the start, so that code changing another is seen by all."""
        self._valueless = tree.built in ("meta", "uninitialized")
        self.real = real
        # Memory that was never written to would pass for values; tensors on the meta device say that they have none.
        self._shadows = Shadows(tree, self._filled, real=real and not self._valueless)
        self._values = Values(checkpoint, real=real)
        self._tree = tree
        self._literal = literal
        self._shared: set[int] | None = None
        self._waiting: dict[int, list[tuple[str, object, bool]]] = {}
        if literal:
            self._shadows.of(tree.root.live)

    def load(
        self,
        prefix: str,
        node: ModuleNode,
        scope: Scope | LiteralScope,
        metadata: object,
        all_metadata: object,
        lists: tuple[list[str], list[str], list[str]],
        *,
        whole: bool,
    ) -> tuple[ModuleNode, Scope | LiteralScope, list[KeyChange]]:
        """Run a module's pre-hooks, or with `whole` its `_load_from_state_dict`, on the keys below `prefix`.

        `lists` are the missing keys, the unexpected keys and the errors, written to as torch would have it. Returns
        the module and the keys as they are then, and what became of the keys.
        """
        given = {key: self._value(key, scope) for key in scope.below(prefix)}
        if whole:
            self._mind_unusual(prefix, node, given)
        state_dict: dict[object, object] = dict(given) if prefix else OrderedDict(given)
        if not prefix and all_metadata is not None:
            set_metadata(state_dict, all_metadata)
        known = len(lists[2])
        if whole:
            method = getattr(self._shadows.of(node.live), LOAD_METHOD)
            self._run(prefix, node, method, state_dict, prefix, metadata, True, *lists)
        else:
            for hook in self._shadows.pre_hooks(node.live):
                self._run(prefix, node, hook, state_dict, prefix, metadata, True, *lists)

        if (not self.real or self._valueless) and any(_OF_META.search(str(error)) for error in lists[2][known:]):
            raise ModelValuesNeeded(prefix, node.qualified_name) if self.real else CodeFailed("it said so")
        same_keys = len(state_dict) == len(given) and all(
            old == new and state_dict[new] is value and _is_as_described(value, scope.entries[old])
            for (old, value), new in zip(given.items(), state_dict, strict=True)
        )
        same_modules = not self._shadows.exists(node.live) or self._shadows.unchanged(self._shadows.of(node.live))
        if same_keys and same_modules:
            return node, scope, []
        if not same_modules:
            shadow = self._shadows.of(node.live)
            self._mind_shared(shadow)
            node = extract(shadow).root
            self._shadows.note(shadow)
        changes = _changes(prefix, given, state_dict)
        if whole:  # its own keys it may well have taken out after having used them
            changes = [change for change in changes if change.kind != "dropped" or "." in change.key[len(prefix) :]]
        entries: dict[object, Entry] = {}
        objects: dict[object, object] = {}
        for key, value in state_dict.items():
            if given.get(key, self) is value and _is_as_described(value, scope.entries[key]):
                entries[key] = scope.entries[key]
                if key in scope.objects:
                    objects[key] = value
            else:
                entries[key] = entry_of(value)
                objects[key] = value
        literal = isinstance(scope, LiteralScope)
        below = LiteralScope(entries, objects) if literal else Scope(prefix, node, entries, objects)
        return node, below, changes

    def must_run(self, node: ModuleNode, *, assign: bool) -> bool:
        """Whether code of the module's own runs before or instead of torch's `_load_from_state_dict`."""
        return PRE_HOOK in node.custom or self.runs_whole(node, assign=assign)

    def runs_whole(self, node: ModuleNode, *, assign: bool) -> bool:
        """Whether a module's `_load_from_state_dict` is to be run as it is."""
        # The version rules of norms come before pre-hooks; and code of its own may take an assigned tensor.
        return (
            OVERRIDE in node.custom
            or (PRE_HOOK in node.custom and node.loader != "plain")
            or (assign and _sets_attributes(node))
        )

    def set_extra_state(self, key: str, node: ModuleNode, scope: Scope | LiteralScope) -> bool:
        """Hand a module its extra state. False where that is an object that only its own class could rebuild."""
        entry = scope.entries[key]
        if key not in scope.objects and isinstance(entry, ObjectInfo) and not self._values.has(entry):
            return False
        self._run(key, node, self._shadows.of(node.live).set_extra_state, self._value(key, scope))
        return True

    def run_post_hooks(self, prefix: str, node: ModuleNode, missing: list[str], unexpected: list[str]) -> None:
        """Run a module's post-hooks, which may change both lists in place."""
        shadow = self._shadows.of(node.live)
        for hook in load_post_hooks(shadow).values():
            result = self._run(prefix, node, hook, shadow, IncompatibleKeys(missing, unexpected))
            if result is not None:
                raise Raised(f"AssertionError: {post_hook_error()}")

    def loaded(self, node: ModuleNode, name: str, key: object, scope: Scope | LiteralScope, *, assign: bool) -> None:
        """Load one value into the shadow of a module, since code that runs later may look at it there."""
        if not (self.real or assign) or node.live is None:
            return
        item = (name, self._value(key, scope), assign)
        if self._shadows.exists(node.live):
            shadow = self._shadows.of(node.live)
            # Copying into a tensor leaves the module as it was noted.
            replaces = assign or node.local[name].lazy
            if node.local[name].lazy:
                self._mind_shared(shadow)
            settled = replaces and self._shadows.unchanged(shadow, below=False)
            _load(shadow, [item])
            if settled:
                self._shadows.note(shadow, below=False)
        else:
            self._waiting.setdefault(id(node.live), []).append(item)

    def children(self, node: ModuleNode) -> Mapping[str, ModuleNode | nn.Module | None]:
        """The children of a module as they are now, by name: modules, ModuleNodes or None."""
        if node.live is None or not self._shadows.exists(node.live):
            return node.children
        return children_of(self._shadows.of(node.live))

    def children_of(self, node: ModuleNode) -> Iterator[tuple[str, ModuleNode]]:
        """The children to visit, looked up one by one, since code of one may change those that come after it."""
        for name, child in self.children(node).items():
            if child is not None:
                yield name, extract(self._shadows.of(child)).root if isinstance(child, nn.Module) else self._now(child)

    def _now(self, node: ModuleNode) -> ModuleNode:
        if node.live is None or not self._shadows.exists(node.live):
            return node
        return extract(self._shadows.of(node.live)).root

    def true_value(self, value: object) -> object:
        """A value that a hook made, or None where it stands for one that is not known on the meta device."""
        if self.real:
            return value
        if isinstance(value, torch.Tensor) and is_plain(value):
            return None
        raise CodeFailed

    def original(self, module: nn.Module) -> nn.Module:
        """The model's own module for a module of the tree, which may be a shadow."""
        return self._shadows.original(module)

    def settled(self) -> bool:
        """Whether no module was changed by code that runs elsewhere than on it or above it."""
        return self._shadows.all_unchanged()

    def unknown(self) -> list[str]:
        """A sentence for every value that code was given and that is not the one in the file."""
        return [f"{key}: {why}, and code of a module was given it." for key, why in self._values.unknown.items()]

    def _filled(self, module: nn.Module, shadow: nn.Module) -> None:
        """Load into a new shadow what was loaded into its module before there was one."""
        _load(shadow, self._waiting.pop(id(module), []))

    def _value(self, key: object, scope: Scope | LiteralScope) -> object:
        return scope.objects[key] if key in scope.objects else self._values.of(key, scope.entries[key])

    def _mind_unusual(self, prefix: str, node: ModuleNode, given: dict[object, Any]) -> None:
        """Unusual tensors are copied like others on the meta device, and may not be in truth."""
        if self.real and not self._valueless:
            return
        if isinstance(node.live, BatchNormBase) and not counts_batches_as_usual(node.live):
            # What it puts into the state dict depends on where its counter is.
            raise ModelValuesNeeded(prefix, node.qualified_name) if self.real else CodeFailed
        for name, slot in node.local.items():
            value = given.get(prefix + name)
            if not is_tensor_like(value):  # type: ignore[no-untyped-call]
                continue
            usual = slot.ordinary and isinstance(value, torch.Tensor) and is_plain(value)
            if not usual or (self.real and value.is_meta):  # type: ignore[union-attr]
                raise ModelValuesNeeded(prefix, node.qualified_name) if self.real else CodeFailed

    def _mind_shared(self, changed: nn.Module) -> None:
        """Under its other names, a module would still be taken for what it was. Raises TakeLiterally if it has any."""
        if self._literal:
            return
        if self._shared is None:
            names = Counter(id(node.live) for node in self._tree.modules())
            self._shared = {module for module, count in names.items() if count > 1}
        if self._shared and any(id(self.original(module)) in self._shared for module in changed.modules()):
            raise TakeLiterally

    def _run(self, place: str, node: ModuleNode, code: Callable[..., object], *arguments: object) -> object:
        if self.real and not self._valueless:
            try:
                return code(*arguments)
            except (Exception, SystemExit) as error:
                raise Raised(words_of(error)) from error
        watch = MetaWatch()
        try:
            with watch, no_meta_warning():
                result = code(*arguments)
        except (Exception, SystemExit, ValueNeeded) as error:
            if not self.real:
                raise CodeFailed((*watch.doubts, words_of(error))[0]) from error
            if watch.doubts or "meta" in str(error):
                raise ModelValuesNeeded(place, node.qualified_name) from error
            raise Raised(words_of(error)) from error
        if watch.doubts:
            raise ModelValuesNeeded(place, node.qualified_name) if self.real else CodeFailed(watch.doubts[0])
        return result


def needed(tree: ModuleTree, *, assign: bool) -> bool:
    """Whether code of a module takes part in loading."""
    return any(node.custom or (assign and _sets_attributes(node)) for node in tree.modules())


def _sets_attributes(node: ModuleNode) -> bool:
    """Whether assigning to a tensor's name does more than replace it: by code of the class, by way of a namesake, or
    because the name is one that `Module.__setattr__` refuses."""
    if node.live is None:
        return False
    cls: Any = type(node.live)
    return (
        cls.__setattr__ is not nn.Module.__setattr__
        or node.odd_names
        or "" in node.local
        or not node.local.keys().isdisjoint(node.children.keys())
        or not own_parameters(node.live).keys().isdisjoint(own_buffers(node.live).keys())
    )


def _is_as_described(value: object, entry: Entry) -> bool:
    """Whether a tensor that was handed out still has its shape."""
    return type(value) is not torch.Tensor or isinstance(entry, ObjectInfo) or value.shape == entry.shape


def _load(shadow: nn.Module, items: list[tuple[str, Any, bool]]) -> None:
    for name, value, assign in items:
        target = registered(shadow, name)
        if target is None:
            continue
        # That torch would load it was found out before; a copy between devices may still fail, and is only a courtesy.
        with contextlib.suppress(Exception), torch.no_grad():
            if not is_lazy(target) and target.dim() == 0 and value.dim() == 1:
                value = value[0]
            if not assign:
                target.copy_(value)
            elif isinstance(target, nn.Parameter):
                made = value if isinstance(value, nn.Parameter) else nn.Parameter(value)
                own_parameters(shadow)[name] = cast("nn.Parameter", made.requires_grad_(target.requires_grad))
            else:
                own_buffers(shadow)[name] = value


def _changes(prefix: str, before: dict[Any, object], after: dict[Any, object]) -> list[KeyChange]:
    """What became of the keys. A value that is the same object under another key was renamed."""
    module = prefix[:-1]
    gone = {id(value): key for key, value in before.items() if key not in after}
    changes: list[KeyChange] = []
    renamed = set()
    for key, value in after.items():
        if key not in before:
            old = gone.get(id(value))
            if old is None:
                changes.append(KeyChange(module, "added", key))
            else:
                renamed.add(old)
                changes.append(KeyChange(module, "renamed", old, key))
        elif before[key] is not value:
            changes.append(KeyChange(module, "replaced", key))
    changes.extend(KeyChange(module, "dropped", key) for key in before if key not in after and key not in renamed)
    return changes
