"""A sample of the table: what is followed is what the real call does. `make loaders` runs all of it."""

from __future__ import annotations

import importlib

import pytest

from tests.following.table.running import apart, importable

SAMPLE = {
    "plain": ("own_state[name].copy_", "torch.load, mapped and assigned", "safe_open, slices", "dcp.load"),
    "vision": ("timm pretrained, resampled", "timm load_checkpoint, EMA"),
    "training": ("AveragedModel", "LightningModule.load_from_checkpoint", "accelerate load_checkpoint_and_dispatch"),
    "hub": ("transformers, another head", "PyTorchModelHubMixin.from_pretrained", "peft, merged"),
    "optimizers": ("AdamW, two groups", "SGD, momentum"),
}
ROWS = [
    row
    for family in SAMPLE
    for row in importlib.import_module(f"tests.following.table.{family}").ROWS
    if row.name in SAMPLE[family]
]


@pytest.mark.one_in(2)
@pytest.mark.zoo
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_it_is_followed_as_it_acts(row):
    lacking = [name for name in row.needs if not importable(name)]
    if lacking:
        pytest.skip(f"{', '.join(lacking)} is not installed")
    verdicts = apart(row)
    assert len(verdicts) >= 3
    assert not {name: verdict for name, verdict in verdicts.items() if not verdict.startswith("agree")}
