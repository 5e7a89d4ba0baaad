"""torch.distributed.checkpoint in one process: its rules, each tried for real beside the answer."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

import ckptdiff
from ckptdiff.errors import CheckpointError, UsageError
from ckptdiff.loaders.asked import Asked
from ckptdiff.loaders.dcp import ask
from tests.loaders.real_calls import Real, disagreements, other_values, quiet, really

pytestmark = pytest.mark.filterwarnings("ignore")


class Tied(nn.Module):
    """Has a tie, a buffer, a counter, a scalar and a tensor without elements."""

    def __init__(self, width: int = 4, more: bool = False, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, width, dtype=dtype)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 6, bias=False, dtype=dtype)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("empty", torch.zeros(0, 3))
        if more:
            self.more = nn.Linear(2, 2)


class Hooked(Tied):
    """Would rename what it is given, were it given anything."""

    def __init__(self) -> None:
        super().__init__()
        self.renamed = nn.Linear(2, 2)
        register = getattr(self, "register_load_state_dict_pre_hook", self._register_load_state_dict_pre_hook)
        register(self._rename)  # torch 2.4 has the second alone, which gives no module

    def _rename(self, *given):
        state_dict, prefix = next(given[at : at + 2] for at, value in enumerate(given) if isinstance(value, dict))
        for key in ("weight", "bias"):
            state_dict[f"{prefix}renamed.{key}"] = torch.ones(2, 2)[0 if key == "bias" else ...]


class Stated(Tied):
    """Has extra state."""

    def get_extra_state(self):
        return {"step": 3}

    def set_extra_state(self, state):
        self.step = state["step"]


def saved(folder: Path, state: dict, **options) -> tuple[Path, Path]:
    with quiet():
        for name, content in (("a", state), ("b", _others(state))):
            dcp.save(content, storage_writer=dcp.FileSystemWriter(folder / name, **options))
    return folder / "a", folder / "b"


def _others(state: dict) -> dict:
    if isinstance(state, dict):
        return {key: _others(value) for key, value in state.items()}
    return other_values({"": state})[""] if isinstance(state, torch.Tensor) else state


def loading(model: nn.Module, *, key: str | None = None, partial: bool = False, settings: dict | None = None):
    def call(path: Path) -> Real:
        target = copy.deepcopy(model)
        state = target.state_dict()
        planner = dcp.DefaultLoadPlanner(allow_partial_load=True) if partial else None
        dcp.load(state if key is None else {key: state}, checkpoint_id=path, planner=planner)
        if settings is not None:
            set_model_state_dict(target, state, options=StateDictOptions(**settings))
        return Real(model=target)

    return call


CASES = {
    "as saved": (Tied, {}),
    "missing": (lambda: Tied(more=True), {}),
    "missing, in part": (lambda: Tied(more=True), {"allow_partial_load": True}),
    "shape": (lambda: Tied(width=5), {}),
    "shape, in part": (lambda: Tied(width=5), {"allow_partial_load": True}),
    "extra": (lambda: nn.ModuleDict({"embed": nn.Embedding(6, 4)}), {}),
    "cast": (lambda: Tied(dtype=torch.bfloat16), {}),
    "prefix": (lambda: nn.ModuleDict({"module": Tied()}), {}),
    "hooks take no part": (Hooked, {}),
    "extra state": (Stated, {}),
    "none in common": (lambda: nn.Linear(2, 2), {"allow_partial_load": True}),
    "then set": (Tied, {"strict": True}),
    "then set, not strict": (Hooked, {"allow_partial_load": True, "strict": False}),
}


@pytest.mark.parametrize(("name", "one_file"), [("as saved", False), *((name, True) for name in CASES)])
def test_a_directory_is_loaded_as_dcp_load_does(name, one_file, tmp_path):
    make, options = CASES[name]
    path, twin = saved(tmp_path, Tied().state_dict(), single_file_per_rank=one_file)
    model = make()
    partial = options.get("allow_partial_load", False)
    settings = {key: value for key, value in options.items() if key == "strict"} or None
    real = really(loading(model, partial=partial, settings=settings), path, twin)
    outcome = ask(Asked(model, str(path), options=options)).outcome
    assert disagreements(outcome, real) == []
    assert outcome.doubts == ()


def test_a_missing_key_is_a_raise_and_every_one_is_listed(tmp_path):
    path, _ = saved(tmp_path, Tied().state_dict())
    outcome = ask(Asked(Tied(more=True), str(path))).outcome
    assert outcome.raised is not None
    assert "Missing key in checkpoint state_dict: more." in outcome.raised
    assert set(outcome.problem_keys("missing")) == {"more.weight", "more.bias"}
    assert outcome.loader.call == "dcp.load(model.state_dict(), checkpoint_id=path)"


@pytest.mark.skipif(torch.__version__ < "2.5", reason="torch 2.4 loads what both have of it")
def test_a_shape_is_a_raise_with_both_shapes(tmp_path):
    path, _ = saved(tmp_path, Tied().state_dict())
    outcome = ask(Asked(Tied(width=5), str(path))).outcome
    assert outcome.raised is not None
    assert "Size mismatch between saved torch.Size([6, 4]) and current: torch.Size([6, 5])" in outcome.raised
    assert ("norm.bias", (4,), (5,)) in outcome.mismatches()


def test_extra_keys_pass_in_silence(tmp_path):
    path, _ = saved(tmp_path, Tied().state_dict())
    outcome = ask(Asked(nn.ModuleDict({"norm": nn.BatchNorm1d(4)}), str(path))).outcome
    assert outcome.raised is None
    assert set(outcome.problem_keys("unexpected")) == {"embed.weight", "head.weight", "scale", "empty"}
    assert set(outcome.unused.values()) == {"ignored"}


def test_where_the_state_dict_lies_is_said(tmp_path):
    path, twin = saved(tmp_path, {"model": Tied().state_dict(), "optimizer": {"lr": 0.1}, "epoch": 3})
    model = Tied()
    real = really(loading(model, key="model"), path, twin)
    outcome = ask(Asked(model, str(path), options={"key": "model"})).outcome
    assert disagreements(outcome, real) == []
    assert outcome.raised is None
    assert outcome.filled["norm.weight"].sources == (("__0_0.distcp", "model.norm.weight"),)
    assert "Missing key" in (ask(Asked(model, str(path))).outcome.raised or "")


def test_a_directory_of_something_else_is_an_error_in_its_own_words(tmp_path):
    (tmp_path / "empty").mkdir()
    model = Tied()
    outcome = ask(Asked(model, str(tmp_path / "empty"))).outcome
    assert outcome.raised is not None
    real = really(loading(model), tmp_path / "empty")
    assert outcome.raised.splitlines()[0] == (real.raised or "").splitlines()[0]


STATES = {
    "as saved": lambda state: state,
    "missing": lambda state: state.pop("scale"),
    "extra": lambda state: state.update(more=torch.ones(2)),
    "shape": lambda state: state.update(scale=torch.ones(3)),
}
SETTINGS = (
    {}, {"strict": False}, {"full_state_dict": True}, {"full_state_dict": True, "strict": False},
    {"cpu_offload": True}, {"ignore_frozen_params": True},
)  # fmt: skip


@pytest.mark.one_in(5)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("name", STATES)
def test_set_model_state_dict_with_its_options(name, settings, tmp_path):
    state = Tied().state_dict()
    STATES[name](state)
    torch.save(state, tmp_path / "a.pth")
    torch.save(_others(dict(state)), tmp_path / "b.pth")
    model = Tied()

    def call(path: Path) -> Real:
        target = copy.deepcopy(model)
        result = set_model_state_dict(target, torch.load(path), options=StateDictOptions(**settings))
        return Real(None, set(result.missing_keys), set(result.unexpected_keys), model=target)

    real = really(call, tmp_path / "a.pth", tmp_path / "b.pth")
    outcome = ask(Asked(model, str(tmp_path / "a.pth"), options=settings)).outcome
    assert disagreements(outcome, real) == []


@pytest.mark.parametrize("content", ["with versions", "without versions", "no dict", "a tensor"])
def test_set_model_state_dict_is_given_what_the_file_holds(content, tmp_path):
    model = nn.BatchNorm1d(3)
    state = model.state_dict()
    del state["num_batches_tracked"]  # which a state dict of version 2 has to have
    given = {"with versions": state, "without versions": dict(state), "no dict": [1], "a tensor": torch.ones(2)}
    torch.save(given[content], tmp_path / "a.pth")

    def call(path: Path) -> Real:
        set_model_state_dict(nn.BatchNorm1d(3), torch.load(path))
        return Real()

    assert ask(Asked(model, str(tmp_path / "a.pth"))).outcome.raised == really(call, tmp_path / "a.pth").raised


@pytest.mark.skipif(torch.__version__ < "2.5", reason="torch 2.4 raises")
def test_a_full_state_dict_without_a_key_is_no_error_and_yet_an_initial_value(tmp_path):
    state = Tied().state_dict()
    del state["scale"]
    torch.save({"model": state}, tmp_path / "a.pth")
    outcome = ask(Asked(Tied(), str(tmp_path / "a.pth"), options={"key": "model", "full_state_dict": True})).outcome
    assert outcome.raised is None
    assert outcome.problem_keys("missing") == ()
    assert outcome.filled["scale"].by == "initial"


def test_an_option_it_does_not_take_is_refused(tmp_path):
    with pytest.raises(UsageError, match="takes no such argument"):
        ask(Asked(Tied(), str(tmp_path), options={"stricter": True}))


def test_a_tensor_without_elements_is_complete_and_no_conversion(tmp_path):
    torch.save(Tied().state_dict(), tmp_path / "a.pth")
    path, _ = saved(tmp_path, Tied().state_dict())
    for checkpoint in (path, tmp_path / "a.pth"):
        report = ckptdiff.compare(Tied(), checkpoint, loader="dcp")
        assert report.complete
        assert "empty" not in {finding.key for finding in report.findings}


def test_a_damaged_file_is_its_error_without_our_frames(tmp_path):
    path, _ = saved(tmp_path, Tied().state_dict())
    (file,) = path.glob("*.distcp")
    file.write_bytes(file.read_bytes()[:200])
    model = Tied()
    assert ask(Asked(model, str(path))).outcome.raised == really(loading(model), path).raised


@pytest.mark.parametrize("key", [None, "model"])
def test_what_lies_in_pieces_is_not_filtered(key, tmp_path):
    state = Tied().state_dict()
    path, _ = saved(tmp_path, {key: state} if key else state)
    options = {"key": key} if key else {}
    with pytest.raises(CheckpointError, match="whose tensors lie in pieces"):
        ckptdiff.filter(Tied(), path, tmp_path / "new.pth", loader="dcp", loader_args=options)
