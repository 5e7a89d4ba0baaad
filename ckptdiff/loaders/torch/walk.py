"""ModuleTree × Checkpoint → Outcome: what `nn.Module.load_state_dict` would do, in time linear in keys and modules.

The rules are those of torch/nn/modules/module.py (`Module.load_state_dict` and `Module._load_from_state_dict`),
torch/nn/modules/batchnorm.py (`_NormBase._load_from_state_dict`) and torch/nn/modules/instancenorm.py
(`_InstanceNorm._load_from_state_dict`). Any other code a module brings along is run, by `loaders.torch.module_code`.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import words_of
from ckptdiff.formats.pickles.plain_values import opaque
from ckptdiff.garbage import uncollected
from ckptdiff.loaders.outcome import Filled, KeyChange, Machine, Outcome, Problem, Raised
from ckptdiff.loaders.torch.accounting import Origins, completed, unused, without_values
from ckptdiff.loaders.torch.answer import torch_loader
from ckptdiff.loaders.torch.depth import room_for_calls
from ckptdiff.loaders.torch.metadata import copied
from ckptdiff.loaders.torch.one_pass import COUNTER, one_pass
from ckptdiff.loaders.torch.restarts import ModelValuesNeeded, TakeLiterally
from ckptdiff.loaders.torch.subtree import LiteralScope, Scope
from ckptdiff.loaders.torch.texts import Texts, mismatched, no_data, not_a_tensor, read, running_stats
from ckptdiff.loaders.torch.usual_copies import shapes_decide
from ckptdiff.model.tree import EXTRA_STATE, EXTRA_STATE_KEY, POST_HOOK, ModuleNode, ModuleTree, Slot
from ckptdiff.tensors import Entry, ObjectInfo, TensorInfo

if TYPE_CHECKING:
    from ckptdiff.loaders.torch.module_code import Runner

AnyScope = Scope | LiteralScope

_new = tuple.__new__


def compare(tree: ModuleTree, checkpoint: Checkpoint, *, assign: bool = False) -> Outcome:
    """What torch would do on loading `checkpoint` into the model that `tree` describes.

    Code of custom modules first runs on meta tensors. Where it fails on them or asks for more than they know,
    everything starts again with real values, read only where they are used.

    Raises ModelValuesNeeded where that code asks a model for values that it was built without.
    """
    with uncollected():
        if tree.root.live is not None:
            from ckptdiff.loaders.torch.attempts import compare_live

            return compare_live(tree, checkpoint, assign=assign)
        try:
            return Walk(tree, checkpoint, None, assign, literal=False).run()
        except TakeLiterally:
            return Walk(tree, checkpoint, None, assign, literal=True).run()


class Walk:
    """One attempt. Raises TakeLiterally or CodeFailed where another has to be made."""

    def __init__(
        self, tree: ModuleTree, checkpoint: Checkpoint, runner: Runner | None, assign: bool, *, literal: bool
    ) -> None:
        self.tree = tree
        self.checkpoint = checkpoint
        self.runner = runner
        self.assign = assign
        self.literal = literal
        self.live = checkpoint.live
        # Keys whose values torch has to be asked about; and whether it has to be asked about all.
        self.unusual: frozenset[object] = frozenset()
        self.valueless = checkpoint.without_values()
        self.swaps = False
        if tree.root.live is not None:
            from ckptdiff.checkpoint.from_memory import unusual_keys
            from ckptdiff.loaders.torch.given_values import Values
            from ckptdiff.loaders.torch.tensor_trial import swaps_tensors, target_of

            self.values = Values(checkpoint, real=True)
            self.unusual = unusual_keys(checkpoint)
            self.swaps = swaps_tensors()
            self.target_of = target_of
        # Hooks may write to the metadata, and what they write holds for the modules after them.
        self.metadata: Any = checkpoint.metadata if runner is None else copied(checkpoint.metadata)
        # These three are torch's own lists: hooks get them, and may change what earlier modules said.
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.errors: list[str] = []
        # What is known of errors without their text being read.
        self.said: dict[str, Problem] = {}
        self.filled: dict[str, Filled] = {}
        self.ignored: list[str] = []
        self.changes: list[KeyChange] = []
        self.origins = Origins(checkpoint.path)
        self.doubts: list[str] = []
        self.undecided: list[str] = []

    def run(self) -> Outcome:
        raised = None
        if self.tree.overrides_load_state_dict:
            self.doubts.append(
                f"{self.tree.root.qualified_name} has a load_state_dict of its own; this is what torch's would do."
            )
        if self.checkpoint.kind.predicted:  # which says what is not known of it
            self.doubts.extend(self.checkpoint.warnings)
        try:
            self._visit_all()
        except Raised as error:
            raised = str(error)
        if self.runner is not None:
            if not self.literal and not self.runner.settled():
                raise TakeLiterally
            self.doubts.extend(self.runner.unknown())
        problems = Texts(self.tree, self.checkpoint, self.said).problems(self.missing, self.unexpected, self.errors)
        plain = self.runner is None and raised is None and not self.literal
        filled, overwritten = completed(self.tree, self.filled, assign=self.assign, whole=plain)
        filled = without_values(self.tree, filled, self.valueless, assign=self.assign, whole=plain)
        all_loaded = plain and not self.unexpected and not self.errors and not self.ignored
        return Outcome(
            loader=torch_loader(self.tree.torch_version, assign=self.assign),
            machine=Machine(self.tree.torch_version),
            model=self.tree,
            checkpoint=self.checkpoint,
            filled=filled,
            unused={} if all_loaded else unused(self.checkpoint, filled, problems, self.ignored, self.origins),
            problems=problems,
            raised=raised,
            overwritten=overwritten,
            changes=tuple(self.changes),
            doubts=tuple(self.doubts),
            undecided=tuple(self.undecided),
            assign=self.assign,
        )

    def _visit_all(self) -> None:
        entries = self.checkpoint.entries
        room = room_for_calls()
        if self.runner is None and not (self.literal or self.assign or self.unusual or self.swaps):
            matched = one_pass(self.tree, self.checkpoint, self.valueless, room)
            if matched is not None:
                self.filled, self.missing, problems, self.unexpected, self.ignored = matched
                for problem in problems:
                    self._say(problem)
                return
        scope: AnyScope = LiteralScope(entries, {}) if self.literal else Scope("", self.tree.root, entries, {})
        stack = [self._visit("", self.tree.root, scope)]
        while stack:
            prefix, node, scope, children = stack[-1]
            name, child = self._next_child(children)
            if child is not None:
                below = f"{prefix}{name}."
                if child.custom or child.children or self.assign:
                    stack.append(self._visit(below, child, scope.child(below)))
                    if len(stack) == room:
                        self._too_deep(below)
                else:
                    self._visit_plain(below, child, scope.child(below), self._local_metadata(below))
                continue
            # Post-hooks run when all children are done.
            stack.pop()
            if POST_HOOK in node.custom and self.runner is not None and node.live is not None:
                self.runner.run_post_hooks(prefix, node, self.missing, self.unexpected)

    def _visit(
        self, prefix: str, node: ModuleNode, scope: AnyScope
    ) -> tuple[str, ModuleNode, AnyScope, Iterator[tuple[str, ModuleNode]]]:
        """Visit one module. Returns it and its keys as they are afterwards, and its children still to be visited."""
        metadata = self._local_metadata(prefix)
        if node.custom or node.loader != "plain":
            self.doubts.extend(opaque(prefix, metadata))
        if self.runner is None or node.live is None:
            if node.custom:
                self._doubt_custom(prefix, node)
            self._visit_plain(prefix, node, scope, metadata)
            return prefix, node, scope, node.named_children()
        if self.runner.must_run(node, assign=self.assign):
            known = len(self.errors)
            whole = self.runner.runs_whole(node, assign=self.assign)
            lists = (self.missing, self.unexpected, self.errors)
            node, scope, changes = self.runner.load(prefix, node, scope, metadata, self.metadata, lists, whole=whole)
            self.origins.follow(changes)
            supplied = KeyChange(prefix[:-1], "added", prefix + COUNTER) if whole else None
            self.changes.extend(change for change in changes if change != supplied)
            if whole:
                self._record(prefix, node, scope, self.errors[known:], by_rule=supplied in changes)
            else:
                self._visit_plain(prefix, node, scope, metadata)
        else:
            self._visit_plain(prefix, node, scope, metadata)
        return prefix, node, scope, self.runner.children_of(node) if self.literal else node.named_children()

    def _next_child(self, children: Iterator[tuple[str, ModuleNode]]) -> tuple[str, ModuleNode | None]:
        try:
            name, child = next(children, ("", None))
        except RuntimeError as error:  # code of a child changed the module's children meanwhile
            raise Raised(f"RuntimeError: {error}") from error
        if not isinstance(name, str):
            raise Raised(f'TypeError: can only concatenate str (not "{type(name).__name__}") to str')
        return name, child

    def _too_deep(self, prefix: str) -> None:
        self.doubts.append(
            f"The model's modules are nested more than {prefix.count('.')} deep, and torch's loader, which calls "
            f"itself for each, gives up at Python's recursion limit of {sys.getrecursionlimit()}."
        )
        raise Raised("RecursionError: maximum recursion depth exceeded")

    def _doubt_custom(self, prefix: str, node: ModuleNode) -> None:
        self.doubts.append(
            f"{prefix[:-1] or 'the model itself'} ({node.qualified_name}) takes its keys by code of its own "
            f"({', '.join(node.custom)}), which could not be run here."
        )

    def _local_metadata(self, prefix: str) -> object:
        if self.metadata is None:
            return {"assign_to_params_buffers": True} if self.assign else {}
        try:
            local = self.metadata.get(prefix[:-1], {})
            if self.assign:
                local = copy.copy(local)
                local["assign_to_params_buffers"] = True
        except Exception as error:
            raise Raised(words_of(error)) from None
        return local

    # One call of `_load_from_state_dict` of a module that has torch's own, after its pre-hooks

    def _visit_plain(self, prefix: str, node: ModuleNode, scope: AnyScope, metadata: Any) -> None:
        removed: tuple[str, ...] = ()
        supplied = None
        if metadata or type(metadata) is not dict or node.loader != "plain":
            try:
                version = metadata.get("version")
                assign = bool(metadata.get("assign_to_params_buffers", False))
                old = node.loader in ("batchnorm", "instancenorm") and (version is None or version < 2)
            except Exception as error:
                raise Raised(words_of(error)) from None
            if node.loader == "instancenorm" and version is None and not node.track_running_stats:
                removed = self._remove_running_stats(prefix, node, scope)
            if old and node.track_running_stats and prefix + COUNTER not in scope.entries:
                supplied = prefix + COUNTER
                self.filled[supplied] = Filled(supplied, "rule", node.local.get(COUNTER))
        else:
            assign = False

        entries = scope.entries
        for name, slot in node.local.items():
            if type(name) is not str and not isinstance(name, str):
                raise Raised(f'TypeError: can only concatenate str (not "{type(name).__name__}") to str')
            key = prefix + name
            entry = entries.get(key)
            if entry is None or key in removed:
                if key != supplied:
                    self.missing.append(key)
                    self.filled[key] = Filled(key, "initial", slot)
            elif not self._take(prefix, name, entry, slot, node, scope, assign):
                self.filled[key] = Filled(key, "initial", slot)
        if EXTRA_STATE in node.custom:
            self._take_extra_state(prefix, node, scope)

        children = node.children if self.runner is None or not self.literal else self.runner.children(node)
        for key in scope.unexpected(prefix, node, children):
            if key not in removed:
                self.unexpected.append(key)
        if supplied is not None and COUNTER not in node.local:
            self.unexpected.append(supplied)
        self.ignored.extend(scope.ignored(prefix))

    def _remove_running_stats(self, prefix: str, node: ModuleNode, scope: AnyScope) -> tuple[str, ...]:
        keys = tuple(prefix + name for name in ("running_mean", "running_var") if prefix + name in scope.entries)
        if keys:
            self._say(running_stats(keys, node.class_name))
        return keys

    def _say(self, problem: Problem) -> None:
        self.said[problem.text] = problem
        self.errors.append(problem.text)

    def _fill(self, key: str, slot: Slot, entry: TensorInfo) -> None:
        """Note that a tensor is loaded into a parameter or buffer."""
        if self.runner is not None:
            sources, steps = self.origins.sources(key, entry), self.origins.steps.get(key, ())
            self.filled[key] = Filled(key, "file" if sources else "code", slot, entry, sources, steps)
            return
        storage = entry.storage
        file = self.checkpoint.path if storage is None else storage.file
        self.filled[key] = _new(Filled, (key, "file", slot, entry, ((file, key),), (), None))

    def _take(
        self, prefix: str, name: str, entry: Entry, slot: Slot, node: ModuleNode, scope: AnyScope, assign: bool
    ) -> bool:
        """Load one entry into one parameter or buffer, or say why not. Returns whether it was loaded."""
        key = prefix + name
        if isinstance(entry, ObjectInfo):
            value = scope.objects.get(key, self.live[key] if self.live is not None and key in self.live else None)
            if value is None and not entry.certain:
                self.doubts.append(
                    f"{key} holds a {entry.type_name}; only its class knows whether it is like a tensor."
                )
            kind = f"<class '{entry.type_name}'>" if value is None else str(type(value))
            self._say(not_a_tensor(key, kind, entry.type_name))
            return False
        if self._has_to_be_asked(prefix, name, entry, slot, node, scope, assign):
            if not self._ask(prefix, name, entry, slot, node, scope, assign):
                return False
        else:
            shape, wanted = entry.shape, slot.tensor.shape
            if shape != wanted and not self._fits(key, shape, wanted):
                return False
            if self.live is not None and not assign and self._may_overlap(key, entry, slot, scope):
                from ckptdiff.loaders.torch.tensor_trial import overlap

                target = self._target(node, name, slot)
                overlaps = target is not None and overlap(cast("Any", self.live[key]), target)
                if overlaps and not self._ask(prefix, name, entry, slot, node, scope, assign):
                    return False
        self._fill(key, slot, entry)
        if self.runner is not None:
            self.runner.loaded(node, name, key, scope, assign=assign)
        return True

    def _fits(self, key: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
        """Whether unequal shapes will do, as in checkpoints from before there were scalars; if not, it is reported."""
        if not wanted and len(shape) == 1 and (shape[0] == 1 or self.tree.dialect.vector_into_scalar):
            if shape[0] == 0:
                raise Raised("IndexError: index 0 is out of bounds for dimension 0 with size 0")
            return True
        self._say(mismatched(key, shape, wanted))
        return False

    def _has_to_be_asked(
        self, prefix: str, name: str, entry: TensorInfo, slot: Slot, node: ModuleNode, scope: AnyScope, assign: bool
    ) -> bool:
        """Whether more than the shapes decides on how torch takes this entry."""
        key = prefix + name
        return (
            not shapes_decide(entry, slot, assign)
            or (key in self.unusual and key not in scope.objects)
            or self.swaps
            or self._is_valueless(prefix, name, slot, node, scope)
        )

    def _may_overlap(self, key: str, entry: TensorInfo, slot: Slot, scope: AnyScope) -> bool:
        target = slot.tensor
        same = entry.offset == target.offset and entry.stride == target.stride and entry.dtype == target.dtype
        return not same and key not in scope.objects

    def _ask(
        self, prefix: str, name: str, entry: TensorInfo, slot: Slot, node: ModuleNode, scope: AnyScope, assign: bool
    ) -> bool:
        """Have torch load one tensor, on copies. Returns whether it did; if not, it is reported."""
        key = prefix + name
        if node.live is None:
            if not slot.lazy and entry.shape != slot.tensor.shape:
                if not self._fits(key, entry.shape, slot.tensor.shape):
                    return False
                entry = entry._replace(shape=())
            if key in self.valueless and (slot.lazy or shapes_decide(entry, slot, assign)):
                if not assign:
                    self._say(no_data(key, entry.shape))
                return assign
            if slot.lazy:
                return True
            self.doubts.append(f"{key}: whether torch can copy it was not tried, for want of the model.")
            return True
        from ckptdiff.loaders.torch.shadows import is_plain
        from ckptdiff.loaders.torch.tensor_trial import Unknown, try_loading

        target = self._target(node, name, slot)
        if self.tree.built == "meta" and target is not None and not is_plain(target):
            raise ModelValuesNeeded(prefix, node.qualified_name)  # the meta device copies what no other one does
        if key in scope.objects:
            assert self.runner is not None
            source = self.runner.true_value(scope.objects[key])
        elif self.live is None:
            source = self.values.to_try(key, entry)
        else:
            source = self.live[key]
        try:
            errors = try_loading(
                prefix, name, entry, slot, source, target, assign=assign, on_meta=self._is_meta(node, name, slot)
            )
        except Unknown as why:
            self.doubts.append(f"{key}: {why}")
            if why.decides and not assign:
                self.undecided.append(self.doubts[-1])
            return True
        for text in errors:
            self._say(read(text) or Problem("cannot-copy", key, text))
        return not errors

    def _target(self, node: ModuleNode, name: str, slot: Slot) -> Any:
        """The model's own parameter or buffer that a slot describes, or None where a hook made another."""
        module = node.live if self.runner is None or node.live is None else self.runner.original(node.live)
        return None if module is None else self.target_of(module, name, slot)

    def _is_meta(self, node: ModuleNode, name: str, slot: Slot) -> bool:
        """Whether a tensor of the model is on the meta device, and not only because we have built it there."""
        target = self._target(node, name, slot)
        return self.tree.built != "meta" and target is not None and bool(target.is_meta)

    def _is_valueless(self, prefix: str, name: str, slot: Slot, node: ModuleNode, scope: AnyScope) -> bool:
        """Whether a tensor without values is to be loaded into one that has some."""
        if not self.valueless:
            return False
        key = prefix + name
        if key not in scope.objects:
            return key in self.valueless and not self._is_meta(node, name, slot)
        if not getattr(scope.objects[key], "is_meta", False):
            return False
        if self.tree.built in ("meta", "uninitialized"):
            raise ModelValuesNeeded(prefix, node.qualified_name)  # it may be the model's own values that are missing
        return not self._is_meta(node, name, slot)

    def _record(self, prefix: str, node: ModuleNode, scope: AnyScope, errors: list[str], *, by_rule: bool) -> None:
        """Sort the keys of a module that reported on them itself."""
        problems = [problem for problem in map(read, errors) if problem is not None]
        failed = {problem.key for problem in problems if problem.kind == "mismatched"}
        for problem in problems:
            entry = scope.entries.get(problem.key)
            if problem.kind == "not-a-tensor" and isinstance(entry, ObjectInfo):
                self.said[problem.text] = problem._replace(given=entry.type_name)
        for name, slot in node.local.items():
            key = prefix + name
            entry = scope.entries.get(key)
            if isinstance(entry, TensorInfo) and key not in failed:
                self._fill(key, slot, entry)
                if by_rule and name == COUNTER:
                    self.filled[key] = self.filled[key]._replace(by="rule")
            else:
                self.filled[key] = Filled(key, "initial", slot)
        extra = prefix + EXTRA_STATE_KEY
        if EXTRA_STATE in node.custom and extra in scope.entries:
            self.filled[extra] = Filled(extra, "file", sources=self.origins.sources(extra, scope.entries[extra]))
        self.ignored.extend(scope.ignored(prefix))

    def _take_extra_state(self, prefix: str, node: ModuleNode, scope: AnyScope) -> None:
        key = prefix + EXTRA_STATE_KEY
        if key not in scope.entries:
            self.missing.append(key)
            self.filled[key] = Filled(key, "initial")
            return
        self.filled[key] = Filled(key, "file", sources=self.origins.sources(key, scope.entries[key]))
        if self.runner is not None and node.live is not None:
            known = self.runner.set_extra_state(key, node, scope)
            if not known:
                self.doubts.append(
                    f"{key} holds a {scope.entries[key].type_name}, which is never rebuilt, so that it is not known "
                    f"whether {node.qualified_name}.set_extra_state accepts it."
                )
