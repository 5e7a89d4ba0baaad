"""Every architecture of torchvision, timm and transformers that can be built offline, on the meta device."""

from __future__ import annotations

import contextlib
import signal
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from ckptdiff.model.uncommitted import uncommitted

BUILD_SECONDS = 60


class TooSlow(Exception):
    """Building took longer than anybody would wait."""


def everything() -> dict[str, Callable[[], nn.Module]]:
    """`library:name` → a function that builds the model on the meta device, or raises."""
    found: dict[str, Callable[[], nn.Module]] = {}
    for listed in (_torchvision, _timm, _transformers):
        with contextlib.suppress(ImportError):
            found.update(listed())
    return {name: _on_meta(make) for name, make in found.items()}


def _on_meta(make: Callable[[], Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        with warnings.catch_warnings(), _time_limit(BUILD_SECONDS):
            warnings.simplefilter("ignore")
            try:
                with torch.device("meta"):
                    model = make()
            except NotImplementedError:  # its constructor asks for values
                with uncommitted():
                    model = make()
        if not isinstance(model, nn.Module):
            raise TypeError(f"{type(model).__name__} is no module")
        return model

    return build


@contextlib.contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooSlow(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _torchvision() -> Iterator[tuple[str, Callable[[], Any]]]:
    from torchvision.models import get_model, list_models

    for name in list_models():
        # Detection models take their backbone's weights from the network unless told not to.
        options = {"weights_backbone": None} if name.partition("_")[0] in _WITH_BACKBONE else {}
        yield f"torchvision:{name}", lambda name=name, options=options: get_model(name, weights=None, **options)


_WITH_BACKBONE = (
    "fasterrcnn",
    "maskrcnn",
    "keypointrcnn",
    "retinanet",
    "ssd300",
    "ssdlite320",
    "fcos",
    "deeplabv3",
    "fcn",
    "lraspp",
)


def _timm() -> Iterator[tuple[str, Callable[[], Any]]]:
    import timm

    for name in timm.list_models():
        yield f"timm:{name}", lambda name=name: timm.create_model(name, pretrained=False)


def _transformers() -> Iterator[tuple[str, Callable[[], Any]]]:
    import transformers
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    heads = [
        value
        for name, value in vars(modeling_auto).items()
        if name.startswith("MODEL_FOR_") and name.endswith("_NAMES")
    ]
    for kind in sorted(CONFIG_MAPPING):
        base = modeling_auto.MODEL_MAPPING_NAMES.get(kind)
        classes = [base] if isinstance(base, str) else list(base or ())
        classes += next(([names[kind]] for names in heads if isinstance(names.get(kind), str)), [])
        for class_name in dict.fromkeys(classes):
            yield (
                f"transformers:{kind}:{class_name}",
                lambda kind=kind, name=class_name: _from_config(transformers, kind, name),
            )


def _from_config(transformers: Any, kind: str, class_name: str) -> nn.Module:
    cls = getattr(transformers, class_name)
    last: Exception | None = None
    for shrink in (True, False):  # a smaller model says the same, unless its config does not allow for one
        try:
            config = cls.config_class()
            if shrink:
                _shrink(config, set())
            return cls(config)
        except TooSlow:
            raise
        except Exception as error:
            last = error
    assert last is not None
    raise last


_SIZES = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
    "num_encoder_layers",
    "num_decoder_layers",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "depth",
)


def _shrink(config: Any, seen: set[int]) -> None:
    if id(config) in seen:
        return
    seen.add(id(config))
    for name in _SIZES:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 4:
            with contextlib.suppress(Exception):
                setattr(config, name, 4)
    if isinstance(getattr(config, "layer_types", None), list):
        with contextlib.suppress(Exception):
            config.layer_types = config.layer_types[:4]
    for value in list(vars(config).values()):
        if hasattr(value, "to_dict"):
            _shrink(value, seen)
