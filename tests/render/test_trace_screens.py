"""What `ckptdiff trace` shows, in every format: of a program that loads all, one that does not, one that ends early."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ckptdiff
from ckptdiff.render import FORMATS, REPORTS, render_run, render_trace
from ckptdiff.render.view import View
from ckptdiff.tracing.trace import Trace
from ckptdiff.verbs.trace import run_of
from tests.golden import check_golden
from tests.tracing.programs import MODELS, prepare

CASES = {
    "complete": """\
model = Net()
run = torch.load("run.ckpt")
model.load_state_dict(run["model"])
optimizer = torch.optim.Adam(model.parameters())
optimizer.load_state_dict(run["optimizer"])
torch.save({"model": model.state_dict()}, "last.pth")
model(torch.rand(2, 4))
""",
    "not_complete": """\
model, critic = Net(7), Critic()
state = torch.load("second.pth")
try:
    model.load_state_dict(state)
except RuntimeError as error:
    print("could not load", error)
model.load_state_dict({k: v for k, v in state.items() if not k.startswith("head.")}, strict=False)
with torch.no_grad():
    model.head.weight[:5] = state["head.weight"]
model.body[0].weight.data.normal_()
critic.load_state_dict({f"net.{k}": v for k, v in torch.load("critic.pth").items()}, strict=False)
model(torch.rand(2, 4))
""",
    "no_answer": """\
print("reading the vocabulary")
open("vocabulary.txt")
""",
}


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Trace]]:
    folder = tmp_path_factory.mktemp("traces")
    prepare(folder, 1)
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, text in CASES.items():
            Path("train.py").write_text(text)
            names = {"torch": torch, "__name__": "__main__"}
            exec(MODELS, names)
            t = None
            try:
                with ckptdiff.trace() as t:
                    exec(compile(text, "train.py", "exec"), names)
            except FileNotFoundError:
                pass
            assert t is not None
            found[name] = replace(t.trace, program="train.py")
        yield found


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, traces: dict[str, Trace]) -> None:
    trace = traces[case]
    for format in FORMATS:
        if format == "rich":
            for width in (80, 140):
                shown = render_trace("rich", trace, View(width=width))
                assert max(map(len, shown.splitlines())) <= width
                check_golden(f"render/trace_{case}.rich{width}.txt", shown)
        else:
            check_golden(f"render/trace_{case}.{format}.txt", render_trace(format, trace, View(width=80)))


@pytest.mark.parametrize("case", CASES)
def test_every_report(case: str, traces: dict[str, Trace]) -> None:
    run = run_of(traces[case])
    assert run.outcome == {"complete": "pass", "not_complete": "fail", "no_answer": "error"}[case]
    for format in REPORTS:
        if format not in FORMATS:
            shown = render_run(format, run, View(width=80))
            assert {"no_answer": "stopped before", "complete": "Complete", "not_complete": "initial"}[
                case
            ].lower() in shown.lower(), format


def test_the_document_has_the_fields_that_are_promised(traces: dict[str, Trace]) -> None:
    answer = json.loads(render_trace("json", traces["not_complete"]))
    assert {"ended", "raised", "models", "optimizers", "files", "saved", "looked_at", "doubts"} <= set(answer)
    model = next(model for model in answer["models"] if model["class"] == "Net")
    assert model["filled"]["body.0.bias"] == [["second.pth", "body.0.bias"]]
    assert model["initial"] == ["head.weight", "head.bias"]
    assert model["overwritten"] == ["body.0.weight"]
    assert (model["keys"], model["made_at"]) == (9, "train.py:1")
    assert answer["files"] == [
        {"file": "second.pth", "tensors": 9, "unused": ["body.0.weight", "head.bias"]},
        {"file": "critic.pth", "tensors": 2, "unused": ["layer.weight", "layer.bias"]},
    ]
    assert answer["errors"] == []  # the same model was loaded later
