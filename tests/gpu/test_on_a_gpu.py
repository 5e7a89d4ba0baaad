"""What is promised for GPUs, on one: constructors as they really are there, live models, files, random numbers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.claimed.here import devices_of
from ckptdiff.model.given import describe
from ckptdiff.model.reference import parse_reference
from tests.formats.test_saved_on import FILES
from tests.model import gpu_constructors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not devices_of("cuda"), reason="this machine has no GPU, or its torch no CUDA"),
]
SOURCE = Path(gpu_constructors.__file__)
SEVERAL = {"SeveralNeeded", "TwoDevices", "SecondChosen", "ParallelOfTwo"}


@pytest.fixture
def untouched() -> Iterator[None]:
    """CUDA is not started in between, or nothing is allocated where it was before."""
    started = torch.cuda.is_initialized()
    before = torch.cuda.memory_allocated() if started else 0
    yield
    assert torch.cuda.is_initialized() is started
    assert not started or torch.cuda.memory_allocated() == before


@pytest.mark.parametrize("name", gpu_constructors.KINDS)
def test_a_constructor_is_what_it_is_there(name: str) -> None:
    """Made for real, in a process of its own."""
    if name in SEVERAL and devices_of("cuda") < 2:
        pytest.skip("this machine has one GPU")
    code = f"from tests.model.gpu_constructors import KINDS\nn = KINDS[{name!r}]()\n"
    code += "print({k: tuple(v.shape) for k, v in n.state_dict().items()} == KINDS[%r].shapes)" % name  # noqa: UP031
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip().endswith("True"), done.stderr[-2000:]


@pytest.mark.parametrize("name", gpu_constructors.KINDS)
@pytest.mark.usefixtures("untouched")
def test_a_constructor_is_claimed(name: str) -> None:
    """On this machine too nothing is allocated."""
    given = describe(parse_reference(f"{SOURCE}:{name}"), {})
    assert given.tree.shapes() == gpu_constructors.KINDS[name].shapes


def test_the_commands_start_nothing(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a = nn.Linear(8, 16).cuda()\n        self.n = nn.BatchNorm1d(16).cuda()\n"
    )
    net, file = f"{tmp_path / 'net.py'}:Net", str(FILES / "dev.pth")
    free, _ = torch.cuda.mem_get_info()
    for command in (["inspect", file], ["compare", net, file], ["snapshot", net, "-o", "-"], ["suggest", net, file]):
        done = subprocess.run([sys.executable, "-m", "ckptdiff", *command], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    assert abs(torch.cuda.mem_get_info()[0] - free) < 1 << 20


def test_a_file_of_a_gpu_says_nothing_here(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4)).cuda()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    report = ckptdiff.compare(model, tmp_path / "w.pth")
    assert (report.complete, report.findings) == (True, ())
    assert "saved-on" in {f.rule for f in ckptdiff.compare(model, tmp_path / "w.pth", device="cpu").findings}


def test_a_live_model_is_untouched(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).cuda()
    torch.save(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict(), tmp_path / "w.pth")
    before = {key: (value.data_ptr(), value.clone()) for key, value in model.state_dict().items()}
    assert ckptdiff.compare(model, tmp_path / "w.pth").complete
    moved = ckptdiff.compare(model, tmp_path / "w.pth", assign=True)
    assert {finding.rule for finding in moved.findings} == {"assigned-device"}
    for key, value in model.state_dict().items():
        assert value.data_ptr() == before[key][0]
        assert torch.equal(value, before[key][1])


def test_a_hook_that_draws_there() -> None:
    model = nn.Linear(2, 2).cuda()
    model.register_load_state_dict_pre_hook(lambda *_: torch.rand(3, device="cuda"))
    before = torch.cuda.get_rng_state()
    ckptdiff.compare(model, model.state_dict())
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_a_digest_is_the_same_on_every_device(tmp_path: Path) -> None:
    model = nn.Linear(3, 4)
    torch.save(model.state_dict(), tmp_path / "cpu.pth")
    torch.save(model.cuda().state_dict(), tmp_path / "gpu.pth")
    assert ckptdiff.diff(tmp_path / "cpu.pth", tmp_path / "gpu.pth").equal
