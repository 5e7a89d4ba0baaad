"""Building takes neither the memory of the weights nor the time to fill them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

_MEASURE = """
import json, resource, sys
from ckptdiff.model.build import build

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

build("small.py")
before, results = peak(), []
for reference in sys.argv[1:]:
    built = build(reference)
    results.append((built.how, sum(p.numel() for p in built.module.parameters()), peak() - before))
print(json.dumps(results))
"""

_SMALL = """
import numpy, torch

def get_model():
    torch.ones(1).item()
    return torch.nn.TransformerEncoderLayer(400, 2, 400)
"""

_LARGE = """
import numpy as np
import torch
from torch import nn

def stack(width, layers):
    return nn.Sequential(*[nn.TransformerEncoderLayer(width, 8, width * 4) for _ in range(layers)])

def eight_billion():
    return stack(4096, 40)

def from_numpy():
    model = stack(2048, 10)
    model.table = nn.Parameter(torch.from_numpy(np.ones(3)) + torch.ones(3))
    return model

def schedule_and_half():
    [x.item() for x in torch.linspace(0, 1, 3)]
    return stack(2048, 10).half()

def filled_by_itself():
    model = stack(2048, torch.tensor(10).item())
    for parameter in model.parameters():
        nn.init.trunc_normal_(parameter)
        parameter.data.mul_(2)
    return model

def loaded_and_converted():
    model = stack(2048, torch.tensor(10).item())
    model.load_state_dict({key: value + 1 for key, value in model.state_dict().items()})
    return model.to("cpu", torch.bfloat16)
"""


@pytest.mark.parametrize("prelude", ["pass", "torch.ones(1).item()"], ids=["meta", "uninitialized"])
def test_plain_layers_do_not_cost_importing_torchs_compiler(write: Callable[..., Path], prelude: str) -> None:
    layers = "nn.Embedding(999, 99), nn.Conv2d(9, 99, 9), nn.BatchNorm2d(9), nn.LSTM(99, 99), nn.Linear(999, 99)"
    write(f"import torch\nfrom torch import nn\n{prelude}\nmodel = nn.Sequential({layers})")
    code = "import sys; from ckptdiff.model.build import build; how = build('model.py').how; "
    done = run(code + "print(how, 'torch._dynamo' in sys.modules)")
    assert done.stdout.split() == ["meta" if prelude == "pass" else "uninitialized", "False"], done.stderr


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_large_models_take_little_memory(write: Callable[..., Path]) -> None:
    write(_SMALL, "small.py")
    write(_LARGE)
    names = ("eight_billion", "from_numpy", "schedule_and_half", "filled_by_itself", "loaded_and_converted")
    done = run(_MEASURE, *(f"model.py:{name}" for name in names))
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert [how for how, _, _ in results] == ["meta", *["uninitialized"] * 4]
    assert results[0][1] > 8e9
    assert all(parameters > 5e8 for _, parameters, _ in results)
    assert max(megabytes for _, _, megabytes in results) < 50, results
