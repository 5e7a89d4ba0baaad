"""What an Outcome accounts for: every key of the model once, every key of the checkpoint once, whatever the pair."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ckptdiff
from ckptdiff.checkpoint.from_memory import checkpoint_of
from ckptdiff.loaders.outcome import Outcome, Problem
from ckptdiff.loaders.torch.answer import error_message, loads
from ckptdiff.loaders.torch.texts import read
from ckptdiff.loaders.torch.walk import compare
from ckptdiff.model.extract import extract


class Renaming(nn.Module):
    """A module with a hook that renames a key, one that it drops, one that it makes and one that it changes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 3))
        self.made = nn.Parameter(torch.zeros(2))
        self.turned = nn.Parameter(torch.zeros(2, 3))
        self._register_load_state_dict_pre_hook(self.rename, with_module=True)  # public since torch 2.5

    @staticmethod
    def rename(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
        if prefix + "gamma" in state_dict:
            state_dict[prefix + "weight"] = state_dict.pop(prefix + "gamma")
        if getattr(state_dict.get(prefix + "turned"), "ndim", 0) == 2:
            state_dict[prefix + "turned"] = state_dict[prefix + "turned"].t()
        state_dict[prefix + "made"] = torch.ones(2)
        state_dict.pop(prefix + "old", None)


class Net(nn.Module):
    """Every way in which a key is filled: plainly, by a tie, by a version rule, by code, by extra state, not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.head = nn.Linear(3, 4)
        self.head.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(3)
        self.code = Renaming()
        self.twice = self.also = nn.Linear(1, 1)
        self.register_module("gone", None)
        self.scale = nn.Parameter(torch.zeros(()))

    def get_extra_state(self) -> int:
        return 0

    def set_extra_state(self, state: object) -> None:
        pass


KEYS = (
    *Net().state_dict(),
    "code.gamma", "code.old", "code.none", "gone.weight", "gone.a.b", "left.over", "norm", "head.weight.x", "",
)  # fmt: skip
VALUES = st.sampled_from(
    [torch.zeros(4, 3), torch.zeros(3), torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(1, 1), torch.zeros(1),
     torch.zeros(()), torch.zeros(4), 7, "text"]
)  # fmt: skip


def fitting(key: str) -> Any:
    """The value that the model itself has for a key, transposed where its hook transposes."""
    value = Net().state_dict().get(key, torch.zeros(2, 3))
    return value.t() if key == "code.turned" else value


@st.composite
def state_dicts(draw: st.DrawFn) -> dict[str, Any]:
    """State dicts that are near the model's: most keys, some others, most values of the right shape."""
    keys = draw(st.lists(st.sampled_from(KEYS), unique=True))
    if draw(st.booleans()):
        keys = list(dict.fromkeys([*Net().state_dict(), *keys]))
    return {key: draw(VALUES) if draw(st.integers(0, 5)) == 0 else fitting(key) for key in keys}


def accounted(outcome: Outcome, state_dict: dict[str, Any]) -> None:
    wanted = {*outcome.model.keys(), "_extra_state"}
    assert wanted <= outcome.filled.keys()
    assert all(key == item.key for key, item in outcome.filled.items())
    sources = Counter(key for item in outcome.filled.values() if item.by != "tie" for _, key in item.sources)
    assert {key: count for key, count in sources.items() if count > 1} == {}
    assert sources.keys() | outcome.unused.keys() == set(state_dict)
    assert not sources.keys() & outcome.unused.keys()
    for key, item in outcome.filled.items():
        if item.by != "meta":  # which may have come out of a file
            assert (item.by in ("initial", "rule", "code")) == (not item.sources), (key, item)


@settings(max_examples=60, deadline=None)
@given(state_dicts(), st.booleans(), st.booleans())
def test_every_key_of_both_sides_is_accounted_for_once(state_dict: dict[str, Any], assign: bool, hooks: bool) -> None:
    model = Net()
    if not hooks:
        del model.code
    outcome = compare(extract(model), checkpoint_of(state_dict), assign=assign)
    accounted(outcome, state_dict)
    theirs = None
    try:
        fresh = Net()
        if not hooks:
            del fresh.code
        fresh.load_state_dict(state_dict, assign=assign)
    except RuntimeError as error:
        theirs = str(error)
    if outcome.raised is None:
        assert error_message(outcome) == theirs
    for problem in outcome.problems:
        if problem.kind not in ("missing", "unexpected"):
            told = read(problem.text)
            assert told is None or told[:2] == problem[:2]


def test_what_fills_each_key_is_said() -> None:
    state_dict = {key: fitting(key) for key in Net().state_dict()}
    del state_dict["head.weight"], state_dict["code.weight"], state_dict["code.made"], state_dict["scale"]
    state_dict |= {"code.gamma": torch.ones(2, 3), "code.old": torch.ones(1), "gone.x": torch.ones(1)}
    outcome = compare(extract(Net()), checkpoint_of(state_dict))
    filled = {key: (item.by, item.sources, item.steps) for key, item in outcome.filled.items()}
    assert filled["embed.weight"] == ("file", (("", "embed.weight"),), ())
    assert filled["head.weight"] == ("tie", (("", "embed.weight"),), ())
    assert filled["code.weight"] == ("file", (("", "code.gamma"),), ())
    assert filled["code.made"] == ("code", (), ())
    assert filled["code.turned"] == ("file", (("", "code.turned"),), ("replaced by code of code",))
    assert filled["scale"] == ("initial", (), ())
    assert filled["_extra_state"] == ("file", (("", "_extra_state"),), ())
    assert outcome.unused == {"code.old": "dropped", "gone.x": "ignored"}
    assert outcome.problem_keys("missing") == ("scale", "head.weight")


def test_old_norms_and_tensors_left_on_meta() -> None:
    model = nn.BatchNorm1d(2)
    outcome = compare(extract(model), checkpoint_of(dict(list(model.state_dict().items())[:4])))
    assert outcome.filled["num_batches_tracked"].by == "rule"
    with torch.device("meta"):
        empty = nn.Linear(2, 2)
    outcome = compare(extract(empty), checkpoint_of({"weight": torch.zeros(2, 2)}), assign=True)
    assert {key: item.by for key, item in outcome.filled.items()} == {"weight": "file", "bias": "meta"}


@pytest.mark.parametrize("assign", [False, True])
def test_the_later_of_two_tied_keys_overwrites_the_first(assign: bool) -> None:
    model = Net()
    outcome = compare(extract(model), checkpoint_of(model.state_dict()), assign=assign)
    shared = {"twice.weight": "also.weight", "twice.bias": "also.bias"}
    assert outcome.overwritten == (shared if assign else {"embed.weight": "head.weight", **shared})


def test_a_report_says_what_raises_and_whether_it_is_complete(tmp_path: Any) -> None:
    model = nn.Linear(2, 2)
    report = ckptdiff.compare(model, model.state_dict())
    assert (report.verdict, report.raises, report.complete, report.conversions) == ("pass", None, True, [])
    assert (report.loader.name, report.loader.how) == ("torch", "walk")
    assert report.outcome.machine.torch == torch.__version__
    report = ckptdiff.compare(model, {"weight": torch.zeros(3, 3)})
    with pytest.raises(RuntimeError) as raised:
        model.load_state_dict({"weight": torch.zeros(3, 3)})
    assert report.raises == f"RuntimeError: {raised.value}"
    assert not report.complete
    assert report.mismatched_keys == [("weight", (3, 3), (2, 2))]


def test_text_of_code_is_read_once_where_it_arrives() -> None:
    class Picky(nn.Linear):
        def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
            super()._load_from_state_dict(state_dict, prefix, *rest)
            rest[-1].append(f'"{prefix}weight" is not to my taste')

    model = nn.Sequential(Picky(2, 2))
    outcome = compare(extract(model), checkpoint_of(model.state_dict()))
    text = '"0.weight" is not to my taste'
    assert outcome.problems == (Problem("other", "0.weight", text, named=("0.weight",)),)
    assert not loads(outcome, strict=False)
