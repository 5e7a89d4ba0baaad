"""Renaming a checkpoint: whole components only, `_metadata` along, no two keys under one name."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

from ckptdiff.checkpoint.from_memory import checkpoint_of
from ckptdiff.errors import UsageError
from ckptdiff.loaders.torch.answer import loads
from ckptdiff.loaders.torch.walk import compare
from ckptdiff.model.extract import extract
from ckptdiff.renaming.applied import Renames, renamed
from ckptdiff.renaming.rename_rules import parse_rule


def small() -> nn.Module:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 1), norm=nn.BatchNorm2d(2)))


def saved(model: nn.Module, rename: Any) -> OrderedDict[str, torch.Tensor]:
    """The model's state dict with keys and `_metadata` as `rename` of a dotted path makes them."""
    state_dict = model.state_dict()
    out = OrderedDict((rename(key), value) for key, value in state_dict.items())
    out._metadata = {  # type: ignore[attr-defined]
        rename(path + ".x")[:-2] if path else "": entry for path, entry in state_dict._metadata.items()
    }
    return out


def loads_after(model: nn.Module, state_dict: Any, renames: Renames) -> bool:
    checkpoint, idle = renamed(checkpoint_of(state_dict), renames)
    assert not idle
    return loads(compare(extract(model), checkpoint))


@pytest.mark.parametrize(
    ("rename", "renames"),
    [
        (lambda key: f"module.{key}", Renames(strip_prefix=("module.",))),
        (lambda key: f"module.{key}", Renames(strip_prefix=("module",))),
        (lambda key: f"_orig_mod.module.{key}", Renames(strip_prefix=("_orig_mod.module.",))),
        (lambda key: f"_orig_mod.module.{key}", Renames(strip_prefix=("_orig_mod", "module"))),
        (lambda key: key.replace("norm.", "norm._orig_mod."), Renames(strip_prefix=("_orig_mod.",))),
        (
            lambda key: "_fsdp_wrapped_module." + key.replace(".", "._checkpoint_wrapped_module.", 1),
            Renames(strip_prefix=("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")),
        ),
        (lambda key: key.replace("norm.", "bn."), Renames(rules=(parse_rule("bn.{*} -> norm.{*}"),))),
    ],
)
def test_what_was_renamed_loads_after_renaming_it_back(rename: Any, renames: Renames) -> None:
    model = small()
    state_dict = saved(model, rename)
    assert not loads(compare(extract(model), checkpoint_of(state_dict)))
    assert loads_after(model, state_dict, renames)


def test_metadata_moves_along_so_that_the_version_rules_hold() -> None:
    model = small()
    state_dict = saved(model, lambda key: f"module.{key}")
    del state_dict["module.norm.num_batches_tracked"]
    checkpoint, _ = renamed(checkpoint_of(state_dict), Renames(strip_prefix=("module.",)))
    assert checkpoint.metadata is not None
    assert checkpoint.metadata["norm"] == {"version": 2}
    # With version 2 the missing buffer is missing; without metadata torch would supply it.
    assert compare(extract(model), checkpoint).problem_keys("missing") == ("norm.num_batches_tracked",)


def test_the_model_may_be_the_wrapped_one() -> None:
    model = nn.Sequential(OrderedDict(module=small()))
    assert loads_after(model, small().state_dict(), Renames(add_prefix="module."))


def test_only_whole_components_go_and_other_keys_stay() -> None:
    tensor = torch.zeros(1)
    checkpoint = checkpoint_of({"modulelist.0": tensor, "module.a": tensor, "b._orig_mod": tensor, 3: tensor})
    stripped, _ = renamed(checkpoint, Renames(strip_prefix=("module", "_orig_mod")))
    assert list(stripped.entries) == ["modulelist.0", "a", "b._orig_mod", 3]


def test_two_keys_under_one_name_are_an_error() -> None:
    checkpoint = checkpoint_of({"module.a": torch.zeros(1), "a": torch.zeros(1)})
    with pytest.raises(UsageError, match=r"'module\.a' and 'a' both become 'a'"):
        renamed(checkpoint, Renames(strip_prefix=("module",)))


def test_renames_that_move_nothing_are_told() -> None:
    renames = Renames(strip_prefix=("module.",), rules=(parse_rule("x.{*} -> y.{*}"),))
    _, idle = renamed(checkpoint_of({"a": torch.zeros(1)}), renames)
    assert idle == ("strip_prefix='module.' matches no key.", "The rule x.{*} -> y.{*} matches no key.")


def test_the_callers_values_are_renamed_too_and_their_dictionary_is_not() -> None:
    state_dict = {"module.a": torch.zeros(1)}
    checkpoint, _ = renamed(checkpoint_of(state_dict), Renames(strip_prefix=("module",)))
    assert checkpoint.live == {"a": state_dict["module.a"]}
    assert list(state_dict) == ["module.a"]
