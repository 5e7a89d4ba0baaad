"""What two trees of modules say of each other: which index is which, and where the modules went."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from ckptdiff.suggesting.key_patterns import Index, Path, Template, slots


class Slots:
    """Which index of the checkpoint's slots is which of the model's."""

    def __init__(self, checkpoint: Sequence[Template], model: Sequence[Template]) -> None:
        self._seen = (self._collect(checkpoint), self._collect(model))

    @staticmethod
    def _collect(templates: Sequence[Template]) -> dict[Path, set[int]]:
        seen: dict[Path, set[int]] = defaultdict(set)
        for template in templates:
            for number, place in enumerate(slots(template.path)):
                seen[template.path[: place + 1]].update(index[number] for index in template.keys)
        return seen

    def offset(self, source: Path, target: Path) -> int | None:
        """What to add to an index of slot `source` for slot `target`; None where the two do not correspond."""
        indices, wanted = self._seen[0][source], self._seen[1][target]
        if indices <= wanted or wanted <= indices:
            return 0
        shift = min(wanted) - min(indices)
        return shift if {number + shift for number in indices} == wanted else None

    def pair(self, source: Template, target: Template) -> dict[str, str] | None:
        """The keys of `source` by the keys of `target` they become; None where shapes or indices forbid."""
        here = slots(source.path)
        there = slots(target.path)
        if len(here) != len(there):
            if len(source.keys) != len(target.keys) or list(source.shapes.values()) != list(target.shapes.values()):
                return None
            return dict(zip(source.keys.values(), target.keys.values(), strict=True))
        offsets = []
        whole = True
        for place, image in zip(here, there, strict=True):
            shift = self.offset(source.path[: place + 1], target.path[: image + 1])
            if shift is None:
                return None
            seen, seen_there = self._seen[0][source.path[: place + 1]], self._seen[1][target.path[: image + 1]]
            whole = whole and len(seen) == len(seen_there)
            offsets.append(shift)
        keys = {}
        for index, key in source.keys.items():
            moved: Index = tuple(number + shift for number, shift in zip(index, offsets, strict=True))
            if moved not in target.keys:
                if whole:
                    return None
                continue
            if target.shapes[moved] != source.shapes[index]:
                return None
            keys[key] = target.keys[moved]
        if not keys or (whole and len(keys) != len(target.keys)):
            return None
        return keys


class Context:
    """Where the modules of one side went, by the pairs made so far."""

    def __init__(self) -> None:
        self._own: dict[Path, Counter[Path]] = {}
        self._children: dict[Path, set[str]] = {}
        self._images: dict[Path, Path | None] = {}

    def add(self, source: Path, target: Path) -> None:
        self._own.setdefault(source, Counter())[target] += 1
        self._images.pop(source, None)
        for depth in range(len(source) - 1, 0, -1):
            self._children.setdefault(source[:depth], set()).add(source[depth])
            self._images.pop(source[:depth], None)

    def image(self, path: Path) -> Path | None:
        """The deepest module that holds what came from at least four fifths of the children of `path`; one above the
        child's where only one went anywhere; None if none did."""
        if path in self._images:
            return self._images[path]
        own = self._own.get(path)
        images = [below for name in self._children.get(path, ()) if (below := self.image((*path, name))) is not None]
        image: Path | None = None
        if own and not images:
            image = own.most_common(1)[0][0]
        elif images:
            if own:
                images.append(own.most_common(1)[0][0])
            if len(images) == 1:
                image = images[0][:-1]
            else:
                votes = Counter(below[:depth] for below in images for depth in range(1, len(below) + 1))
                most = 0.8 * len(images)
                image = max((there for there, count in votes.items() if count >= most), key=len, default=())
        self._images[path] = image
        return image

    def place(self, source: Path, target: Path) -> tuple[float, int, int]:
        """How well `target` lies where the relatives of `source` went (0 to 1; 0.3 where none went anywhere), with the
        depths of the two modules that correspond."""
        worth, known = 1.0, False
        for depth in range(len(source), 0, -1):
            image = self.image(source[:depth])
            if image is None:
                continue
            if target[: len(image)] == image:
                return worth * (0.4 if not image else 1.0), depth, len(image)
            # Where a single child went is no more than a guess at where its parent is.
            if depth == len(source) or len(self._children.get(source[:depth], ())) > 1:
                known = True
                worth *= 0.5
        return (0.0 if known else 0.3), 0, 0
