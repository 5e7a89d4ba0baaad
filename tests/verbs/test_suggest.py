"""`suggest`: rules that make a checkpoint load, proved by applying them."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

import ckptdiff


def net() -> nn.Sequential:
    blocks = nn.Sequential(*(nn.Sequential(OrderedDict(fc=nn.Linear(4, 4), norm=nn.BatchNorm1d(4))) for _ in range(3)))
    return nn.Sequential(OrderedDict(blocks=blocks, head=nn.Linear(4, 2)))


def renamed() -> dict[str, torch.Tensor]:
    return {key.replace("blocks.", "encoder.layers."): value for key, value in net().state_dict().items()}


def test_what_is_suggested_makes_it_load(tmp_path: Path) -> None:
    torch.save(renamed(), tmp_path / "old.pth")
    for checkpoint in (tmp_path / "old.pth", renamed(), ckptdiff.inspect(tmp_path / "old.pth")):
        suggestion = ckptdiff.suggest(net(), checkpoint)
        assert suggestion.rules
        assert ckptdiff.compare(net(), checkpoint, rename=[str(rule) for rule in suggestion.rules]).loads()


def test_shapes_alone_are_enough() -> None:
    wanted = {key: list(value.shape) for key, value in net().state_dict().items()}
    given = {key: tuple(value.shape) for key, value in renamed().items()}
    assert ckptdiff.suggest(wanted, given).rules == ckptdiff.suggest(net(), renamed()).rules


def test_nothing_is_proposed_where_nothing_is_wrong() -> None:
    assert not ckptdiff.suggest(net(), net().state_dict()).rules
