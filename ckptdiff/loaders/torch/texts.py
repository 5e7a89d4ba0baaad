"""The texts that torch collects on loading, and Problems: the one place that writes and reads them.

What the walk says itself is a Problem from the start. A text that torch or a module's own code has written is read
once, where it arrives; nothing after the walk looks into it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.loaders.outcome import Problem
from ckptdiff.model.tree import ModuleTree

_SIZE_MISMATCH = re.compile(
    r"size mismatch for (?P<key>.*): copying a param with shape torch\.Size\(\[(?P<given>[\d, ]*)\]\) from checkpoint, "
    r"the shape in current model is torch\.Size\(\[(?P<wanted>[\d, ]*)\]\)\.",
    re.DOTALL,
)
_NOT_A_TENSOR = re.compile(
    r'While copying the parameter named "(?P<key>.*)", expected torch\.Tensor or Tensor-like object from checkpoint '
    r"but received (?:<class ')?(?P<given>.*?)(?:'>)?",
    re.DOTALL,
)
_CANNOT_COPY = re.compile(
    r'While \w+ the parameter named "(?P<key>.*?)", whose dimensions in the model are ', re.DOTALL
)
# A name in a sentence: what stands in quotes, or a word without the punctuation around it.
_NAME = re.compile(r'"([^"]*)"|([^\s"\'(),:;]+)')


class Texts:
    """Texts of one loading as Problems. `said` holds those that are known without being read."""

    def __init__(self, tree: ModuleTree, checkpoint: Checkpoint, said: Mapping[str, Problem]) -> None:
        self._tree = tree
        self._checkpoint = checkpoint
        self._said = said
        self._names: set[str] = set()

    def problems(self, missing: Iterable[str], unexpected: Iterable[str], errors: Iterable[str]) -> tuple[Problem, ...]:
        """torch's three lists as one, each in its order."""
        return (
            *(Problem("missing", key) for key in missing),
            *(Problem("unexpected", key) for key in unexpected),
            *map(self.problem, errors),
        )

    def problem(self, text: str) -> Problem:
        """What one text says."""
        known = self._said.get(text) or read(text)
        if known is not None:
            return known
        if not self._names:
            self._names = known_names(self._tree, self._checkpoint)
        keys = tuple(quoted for quoted, _ in _NAME.findall(text) if quoted)
        return Problem("other", named_in(text, self._names), text, named=keys)


def read(text: str) -> Problem | None:
    """One of torch's own texts as a Problem, None for any other."""
    if told := _SIZE_MISMATCH.fullmatch(text):
        return Problem("mismatched", told["key"], text, _sizes(told["given"]), _sizes(told["wanted"]))
    if told := _NOT_A_TENSOR.fullmatch(text):
        return Problem("not-a-tensor", told["key"], text, told["given"])
    if told := _CANNOT_COPY.match(text):
        return Problem("cannot-copy", told["key"], text)
    return None


def mismatched(key: str, given: tuple[int, ...], wanted: tuple[int, ...]) -> Problem:
    """Of two shapes that do not fit, as torch says it."""
    text = (
        f"size mismatch for {key}: copying a param with shape {_size(given)} from checkpoint, "
        f"the shape in current model is {_size(wanted)}."
    )
    return Problem("mismatched", key, text, given, wanted)


def not_a_tensor(key: str, printed: str, type_name: str) -> Problem:
    """Of a value that is no tensor, as torch says it; `printed` is its class as Python prints it."""
    text = (
        f'While copying the parameter named "{key}", expected torch.Tensor or Tensor-like object from checkpoint '
        f"but received {printed}"
    )
    return Problem("not-a-tensor", key, text, type_name)


def no_data(key: str, shape: tuple[int, ...]) -> Problem:
    """Of a tensor on the meta device that is to be copied into one that is not, as torch says it."""
    text = (
        f'While copying the parameter named "{key}", whose dimensions in the model are {_size(shape)} and whose '
        f"dimensions in the checkpoint are {_size(shape)}, an exception occurred : "
        "('Cannot copy out of meta tensor; no data!',)."
    )
    return Problem("cannot-copy", key, text)


def running_stats(keys: tuple[str, ...], class_name: str) -> Problem:
    """Of what a checkpoint from before 0.4.0 has of an InstanceNorm without statistics, as torch says it."""
    text = (
        f"Unexpected running stats buffer(s) {_listed(keys)} for {class_name} with track_running_stats=False. "
        "If state_dict is a checkpoint saved before 0.4.0, this may be expected because "
        f"{class_name} does not track running stats by default since 0.4.0. Please remove these keys from "
        "state_dict. If the running stats are actually needed, instead set track_running_stats=True in "
        f"{class_name} to enable them. See the documentation of {class_name} for details."
    )
    return Problem("other", keys[0], text, named=keys)


def _listed(keys: tuple[str, ...]) -> str:
    return " and ".join(f'"{key}"' for key in keys)


def _size(shape: tuple[int, ...]) -> str:
    """As torch prints a torch.Size."""
    return f"torch.Size([{', '.join(map(str, shape))}])"


def known_names(tree: ModuleTree, checkpoint: Checkpoint) -> set[str]:
    """Everything that a sentence may be about: paths and classes of modules, keys of both sides."""
    names = {key for key in checkpoint.entries if isinstance(key, str)} | tree.keys().keys()
    for prefix, node in tree.walk():
        names |= {prefix[:-1], node.qualified_name}
    return names


def named_in(sentence: str, names: set[str]) -> str:
    """The first of the names that a sentence names, "" where it names none."""
    words = (quoted or word.rstrip(".") for quoted, word in _NAME.findall(sentence))
    return next((name for name in words if name and name in names), "")


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(",") if size.strip())
