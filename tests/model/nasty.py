"""Model code that could make a build without memory go another way than a plain one, each as the source of a `Net`.

Every entry: the ways of building that must be refused for it, and the source.
"""

from __future__ import annotations

BOTH = "meta uninitialized"

_HEAD = """
import copy
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

BIG = 300  # a square of that side is a large tensor


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(BIG, BIG)
"""

_BODIES = {
    # --- the meta device will do
    "tied by assignment": ("", "self.second = nn.Linear(BIG, BIG); self.second.weight = self.first.weight"),
    "tied by data": ("", "self.second = nn.Linear(BIG, BIG); self.second.weight.data = self.first.weight.data"),
    "one module, two names": ("", "self.second = self.first; self.third = nn.Sequential(self.first, self.first)"),
    "buffers": (
        "",
        """
        self.register_buffer("a", torch.tensor([1.0, 2.0]))
        self.register_buffer("b", None)
        self.register_buffer("c", torch.arange(5), persistent=False)
        self.register_parameter("d", None)
        self.register_buffer("e", torch.zeros(3, dtype=torch.complex64))
        self.register_buffer("f", torch.from_numpy(np.arange(4)))
        self.register_buffer("g", torch.tensor(np.float64(3)))
        """,
    ),
    "encoder of deep copies": ("", "self.second = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 2), 3)"),
    "deep copy of tied": (
        "",
        """
        self.second = nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9))
        self.second[1].weight = self.second[0].weight
        self.third = copy.deepcopy(self.second)
        """,
    ),
    "weight norm": ("", "self.second = torch.nn.utils.parametrizations.weight_norm(nn.Linear(BIG, BIG))"),
    "spectral norm": ("", "self.second = torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(30, 30, 3))"),
    "lazy": ("", "self.second = nn.LazyLinear(7); self.third = nn.LazyBatchNorm1d()"),
    "lazy with a dry run": ("", "self.second = nn.Sequential(nn.LazyLinear(7)); self.second(torch.zeros(2, 400))"),
    "size by a dry run": (
        "",
        """
        self.second = nn.Sequential(nn.Conv2d(3, 8, 7, 4), nn.BatchNorm2d(8), nn.Flatten())
        self.third = nn.Linear(self.second(torch.zeros(1, 3, 224, 224)).shape[1], 10)
        """,
    ),
    "half": ("", "self.half(); self.second = nn.Linear(3, 3).double()"),
    "to itself": ("meta", "self.second = nn.Linear(3, 3).to(self.first.weight)"),
    "legacy constructors": (
        "",
        """
        self.second = nn.Parameter(torch.Tensor(BIG, BIG))
        nn.init.xavier_uniform_(self.second)
        self.third = nn.Parameter(torch.FloatTensor([1, 2]))
        self.first.weight.data.fill_(0.1)
        """,
    ),
    "recurrent": ("", "self.second = nn.LSTM(8, 80, 2, bidirectional=True, proj_size=5); self.third = nn.GRU(8, 8)"),
    "no running statistics": (
        "",
        """
        self.second = nn.BatchNorm2d(3, track_running_stats=False, affine=False)
        self.third = nn.InstanceNorm2d(3)
        self.fourth = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(3)))
        """,
    ),
    "every initialisation": (
        "",
        """
        for fill in (nn.init.orthogonal_, nn.init.eye_, nn.init.trunc_normal_, nn.init.kaiming_normal_):
            fill(self.first.weight)
        nn.init.sparse_(self.first.weight, 0.5)
        nn.init.constant_(self.first.bias, 1)
        self.second = nn.Conv2d(9, 9, 3)
        nn.init.dirac_(self.second.weight)
        nn.init.trunc_normal_(self.second.weight)
        with torch.no_grad():
            self.first.weight[3].fill_(0)
            self.first.weight[:, torch.arange(4)] = 0
            self.first.weight.mul_(0.3).clamp_(-1, 1).add_(torch.eye(BIG))
        """,
    ),
    "default dtype": ("", "torch.set_default_dtype(torch.float64); self.second = nn.Linear(3, 3)"),
    "default device": ("", "torch.set_default_device('cpu'); self.second = nn.Linear(3, 3)"),
    "scripted": ("", "self.second = torch.jit.script(nn.Sequential(nn.Linear(3, 3)))"),
    "data parallel": ("", "self.second = nn.DataParallel(nn.Linear(3, 3))"),
    "frozen": ("", "self.requires_grad_(False)"),
    "large out of small": ("", "self.register_buffer('table', torch.arange(BIG)[:, None] * torch.arange(BIG))"),
    "a view as a buffer": ("", "self.register_buffer('row', self.first.weight.detach()[0])"),
    "pruned": ("", "import torch.nn.utils.prune as p; p.random_unstructured(self.first, 'weight', amount=3)"),
    "a large array": (
        "",
        "t = torch.from_numpy(np.ones((BIG, BIG))); self.second = nn.Linear(3, int(t.sum().item()) // BIG)",
    ),
    # --- values of small tensors
    "schedule": (
        "meta",
        "self.second = nn.ModuleList(nn.Linear(3, 3 + int(x.item() * 4)) for x in torch.linspace(0, 1, 5))",
    ),
    "schedule as a list": (
        "meta",
        "self.second = nn.ModuleList(nn.Linear(3, 3 + int(x * 4)) for x in torch.linspace(0, 1, 5).tolist())",
    ),
    "tensor and array": ("meta", "self.second = nn.Parameter(torch.from_numpy(np.ones(3)) + torch.ones(3))"),
    "array of a tensor": ("meta", "self.second = nn.Linear(3, int(np.asarray(torch.arange(4)).sum()))"),
    "equal": ("meta", "self.second = nn.Linear(3, 3 if torch.equal(torch.ones(2), torch.zeros(2)) else 4)"),
    "nonzero": ("meta", "self.second = nn.Parameter(torch.tensor([1.0, 0, 2]).nonzero().float())"),
    "masked": ("meta", "mask = torch.arange(5); self.second = nn.Parameter(mask[mask > 2].float())"),
    "a truth": ("meta", "self.second = nn.Linear(3, 3 if torch.ones(3).all() else 4)"),
    "a tensor as a size": (
        "meta",
        "self.second = nn.Linear(int(torch.tensor(4)), 3); self.third = torch.zeros(torch.tensor(3))",
    ),
    "to the cpu": ("meta", "self.to('cpu')"),
    "tied to the cpu": (
        "meta",
        "self.second = nn.Linear(BIG, BIG); self.second.weight = self.first.weight; self.to('cpu')",
    ),
    "an orthogonal parametrization": (
        BOTH,
        "self.second = torch.nn.utils.parametrizations.orthogonal(nn.Linear(9, 9))",
    ),
    # --- going by the meta device itself, which raises nothing
    "device of another": ("meta", "self.second = nn.Parameter(torch.zeros(3, device=self.first.weight.device))"),
    "asks is_meta": ("meta", "self.second = nn.Linear(3, 4 if self.first.weight.is_meta else 5)"),
    "asks for the device": ("meta", "self.second = nn.Linear(3, 4 if self.first.weight.device.type == 'cpu' else 5)"),
    "asks for the address": (
        "meta",
        "self.second = nn.Linear(3, 4 if self.first.weight.data_ptr() == self.first.bias.data_ptr() else 5)",
    ),
    "asks for the type": (
        "meta",
        "self.second = nn.Linear(3, 4 if self.first.weight.type() == 'torch.FloatTensor' else 5)",
    ),
    "a tensor in a name": ("meta", "self.add_module(f'n{torch.tensor(3)}', nn.Linear(3, 3))"),
    "a tensor as text": ("meta", "self.second = nn.Linear(3, len(str(torch.tensor(3))))"),
    "catches the failure": (
        "meta",
        """
        try:
            width = int(torch.tensor(7))
        except Exception:
            width = 3
        self.second = nn.Linear(width, width)
        """,
    ),
    "exits on failure": (
        "meta",
        """
        try:
            torch.tensor(7).item()
        except Exception:
            raise SystemExit(0)
        """,
    ),
    # --- values of large tensors
    "value of a large tensor": (
        BOTH,
        "self.second = nn.Linear(3, 4 if nn.init.ones_(self.first.weight).sum() > 0 else 5)",
    ),
    "value of a large one, caught": (
        BOTH,
        """
        nn.init.ones_(self.first.weight)
        try:
            width = int(self.first.weight[0, 0].item())
        except BaseException:
            width = 3
        self.second = nn.Linear(3, width)
        """,
    ),
    "array of a large tensor": (BOTH, "self.second = nn.Linear(3, int(torch.ones(BIG, BIG).numpy().sum() // BIG))"),
    "large tensor as a list": (BOTH, "self.second = nn.Linear(3, int(torch.ones(BIG, BIG).tolist()[0][0]) + 3)"),
    "small out of large": (
        BOTH,
        "self.second = nn.Linear(3, int(torch.tensor([torch.ones(BIG, BIG).max()] * 2).sum()))",
    ),
    "copied out of large": (
        BOTH,
        "t = torch.zeros(1); t.copy_(torch.ones(BIG, BIG)[0, :1]); self.second = nn.Linear(3, int(t.item()) + 1)",
    ),
    "written by out": (
        BOTH,
        "t = torch.zeros(BIG); torch.sum(torch.ones(BIG, BIG), 0, out=t); self.second = nn.Linear(3, int(t[0]))",
    ),
    "deep copy of large": (
        BOTH,
        "t = copy.deepcopy(torch.ones(BIG, BIG)); self.second = nn.Linear(3, int(t[0, 0].item()) + 1)",
    ),
    "large, cut down by resize": (
        BOTH,
        "t = torch.ones(BIG, BIG); t.resize_(2); self.second = nn.Linear(3, int(t[0].item()) + 1)",
    ),
    "mask of a large tensor": (BOTH, "t = torch.ones(BIG, BIG); self.second = nn.Parameter(t[t > 0])"),
    "random after skipped random": (
        BOTH,
        """
        torch.manual_seed(0)
        nn.init.normal_(self.first.weight)
        self.second = nn.Linear(3, int(torch.randint(1, 99, ()).item()))
        """,
    ),
    "random order": (
        BOTH,
        """
        torch.manual_seed(0)
        nn.init.trunc_normal_(self.first.weight)
        self.second = nn.ModuleList(nn.Linear(3, i + 1) for i in torch.randperm(6).tolist())
        """,
    ),
    "quantized": (
        BOTH,
        "self.first = torch.ao.quantization.quantize_dynamic(nn.Sequential(self.first), {nn.Linear}, torch.qint8)",
    ),
}


def _source(body: str) -> str:
    lines = body.strip("\n").split("\n")
    indent = len(lines[0]) - len(lines[0].lstrip())
    return _HEAD + "".join(f"        {line[indent:]}\n" for line in lines)


NASTY = {name: (tuple(refused.split()), _source(body)) for name, (refused, body) in _BODIES.items()}
