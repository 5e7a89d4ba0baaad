"""Tensors of classes that are not torch's, as `torch.load` itself gives them.

How such a tensor is copied only its class knows (torchao, quanto). Where the model's own code has imported the library,
and that has registered the class with torch as safe, `torch.load` rebuilds it, with its default, weights_only=True.
Where it has not, or the file names anything else beyond the ordinary, nothing is known.
"""

from __future__ import annotations

import warnings

import torch

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.files import Files
from ckptdiff.errors import CkptdiffError
from ckptdiff.loaders.torch.rereading import at
from ckptdiff.places import is_url
from ckptdiff.tensors import TensorInfo


class OwnClasses:
    """The tensors of a checkpoint's file, loaded by torch when first asked for."""

    def __init__(self, checkpoint: Checkpoint, files: Files) -> None:
        self._checkpoint = checkpoint
        self._files = files
        self._loaded: object = self

    def tensor(self, key: object, entry: TensorInfo) -> torch.Tensor | None:
        """The value of a key, mapped from the file; None where torch refuses it, or gives another than was read."""
        origin = self._checkpoint.origin(key)
        if len(origin.sources) != 1 or origin.steps or not self._alone(entry.type_name):
            return None
        if self._loaded is self:
            self._loaded = self._load()
        tensor = self._loaded.get(origin.sources[0][1]) if isinstance(self._loaded, dict) else None
        if not isinstance(tensor, torch.Tensor):
            return None
        same = type(tensor).__qualname__ == entry.type_name.rpartition(".")[2]
        return tensor if same and tuple(tensor.shape) == entry.shape else None

    def _alone(self, name: str) -> bool:
        """Whether the file names nothing beyond the ordinary but what the library of this class has: whatever else
        somebody has called safe is not run for an answer."""
        allowed = {name.partition(".")[0], "torch"}
        return all(named.partition(".")[0] in allowed for named in self._checkpoint.unsafe_globals)

    def _load(self) -> object:
        path = self._checkpoint.path
        if self._checkpoint.format != "torch-zip" or is_url(path):
            return None
        try:
            self._files.source(path)  # it has to be the file whose header was read
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except CkptdiffError:
            raise
        except Exception:  # whatever its classes do
            return None
        return at(value, self._checkpoint.state_dict_key)
