"""The usual at once, and the general way: they come to the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from ckptdiff.following import engine
from ckptdiff.following.followed import Followed
from ckptdiff.following.mode import Following
from ckptdiff.following.readers import named_files, opened_files

Copy = tuple[int, int, int, int, bool]
STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2), st.integers(0, 4), st.booleans()), max_size=6
)
AFTERWARDS: tuple[Callable[[torch.Tensor], object], ...] = (
    lambda weight: weight.mul_(2),
    lambda weight: weight[:1].zero_(),
    lambda weight: weight.sum().item(),
    lambda weight: weight.copy_(weight.clone()),
    lambda weight: None,
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.full((6,), float(i))) for i in range(4)])


def answer(copies: list[Copy]) -> list[object]:
    """What is filled, what the values are, and what was looked at."""
    run = engine.Engine()
    files = named_files.Files(run)
    given, model = {f"w{i}": torch.arange(6.0) + 10 * i for i in range(4)}, Net()
    with opened_files.in_this_thread():
        files.gave_all(given, "w.pth")
        with Following(run), torch.no_grad():
            for into, source, part, then, back in copies:
                target, tensor = model.weights[into].data, given[f"w{source}"]
                if part == 1:
                    target, tensor = target[:3], tensor[3:]
                if part == 2:
                    target, tensor = target.view(2, 3).T, tensor.view(3, 2)
                (tensor.copy_(target) if back else target.copy_(tensor))
                AFTERWARDS[then](target)
    followed = Followed(run, files)
    fills = {key: followed.fill(weight) for key, weight in model.named_parameters()}
    values = [run.value(weight).tolist() for weight in (*model.parameters(), *given.values())]
    return [fills, values, run.looked, files.order]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_they_come_to_the_same(monkeypatch: pytest.MonkeyPatch, copies: list[Copy]) -> None:
    at_once = answer(copies)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "copied", lambda *_: False)
        patch.setattr(named_files, "described", lambda *_: False)
        assert at_once == answer(copies)


def test_whole_tensors_are_copied_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[bool] = []
    original = engine.copied
    monkeypatch.setattr(engine, "copied", lambda *given: done.append(original(*given)) or done[-1])
    answer([(into, 3 - into, 0, 4, False) for into in range(4)])
    assert sum(done) == 4
