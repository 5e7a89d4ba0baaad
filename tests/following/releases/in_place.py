"""A class of one's own whose `_init_weights` writes in place, loaded by the transformers that is installed.

Some releases load it, report empty lists and return random weights (their issue 46620). `python -m
tests.following.releases.in_place`: a key is filled exactly where two real calls on two files differ in every element.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

import ckptdiff


class OwnConfig(transformers.PretrainedConfig):
    """Its configuration."""

    model_type = "own_in_place"

    def __init__(self, width: int = 8, **kwargs: Any) -> None:
        self.width = width
        super().__init__(**kwargs)


class Own(transformers.PreTrainedModel):
    """A model whose weights are made as was usual before 5.0."""

    config_class = OwnConfig

    def __init__(self, config: OwnConfig) -> None:
        super().__init__(config)
        self.first = nn.Linear(config.width, config.width)
        self.gate = nn.Parameter(torch.zeros(config.width))
        self.norm = nn.LayerNorm(config.width)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(mean=0.0, std=0.02)
            module.bias.data.zero_()
        elif isinstance(module, nn.LayerNorm):
            module.weight.data.fill_(1.0)
            module.bias.data.zero_()
        elif isinstance(module, Own):
            module.gate.data.fill_(0.5)


def load(path: Any) -> Own:
    """As people do."""
    return Own.from_pretrained(path)


def main() -> int:
    """Print what is filled; 1 where that is not so."""
    folders = []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in (1, 2):
            torch.manual_seed(seed)
            model = Own(OwnConfig())
            with torch.no_grad():
                for own in model.parameters():
                    own.copy_(torch.rand_like(own) + seed)
            folders.append(Path(temporary) / str(seed))
            model.save_pretrained(folders[-1])
        real = []
        for folder in folders:
            torch.manual_seed(5)
            model, told = Own.from_pretrained(folder, output_loading_info=True)
            real.append(model.state_dict())
        report = ckptdiff.compare(None, folders[0], loader=load)
    truth = {key: bool((real[0][key] != real[1][key]).all()) for key in real[0]}
    filled = {key: found.by == "file" for key, found in report.outcome.filled.items()}
    print(f"transformers {transformers.__version__} says missing: {sorted(told['missing_keys'])}")
    print(
        f"filled: {sorted(key for key in filled if filled[key])}, really {sorted(key for key in truth if truth[key])}"
    )
    print(report.to_text().splitlines()[0])
    return int(filled != truth or report.complete != all(truth.values()))


if __name__ == "__main__":
    sys.exit(main())
