"""Constructors whose schema depends on a look that a build without memory cannot show as it is plainly.

As in `nasty.py`: the ways of building that must be refused, and the body of `Net.__init__`, in which `w` is a large
tensor full of ones, `s` a small one, and `width(x)` makes the number of features.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.model.nasty import BOTH

META = "meta"

_HEAD = """
import copy, io, math, os, pickle, random, threading
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

BIG = 300


class Net(nn.Module):
    def width(self, x):
        self.second = nn.Linear(3, 3 + int(x) % 7)

    def __init__(self):
        super().__init__()
        self.small = nn.Linear(2, 2)
        self.first = nn.Linear(BIG, BIG)
        w = self.first.weight
        s = self.small.weight
"""

ONES = "nn.init.ones_(w); "

_BODIES = {
    # --- where tensors are
    "the default device": ("", "self.width(torch.get_default_device().type == 'cpu')"),
    "the default device, imported": (
        "",
        "from torch import get_default_device as ask; self.width(ask() == torch.device('cpu'))",
    ),
    "a default device of its own": (
        "",
        "torch.set_default_device('meta'); self.width(torch.get_default_device().type == 'meta')",
    ),
    "a new tensor's device": (META, "self.width(torch.empty(0).device.type == 'cpu')"),
    "a device context of its own": (
        "",
        "\nwith torch.device('cpu'):\n    self.width(sum(torch.arange(4).tolist()))",
    ),
    "the meta device of its own": (META, "\nwith torch.device('meta'):\n    self.second = nn.Linear(3, 4)"),
    "type as text": (META, "self.width(s.type() == 'torch.FloatTensor')"),
    "type as text, by keyword": (META, "self.width(s.type(dtype=None) == 'torch.FloatTensor')"),
    "the type's name": (META, "self.width(torch.typename(s) == 'torch.FloatTensor')"),
    "a legacy type": (META, "self.width(isinstance(s, torch.FloatTensor))"),
    "one of several legacy types": (META, "self.width(isinstance(s, (torch.DoubleTensor, torch.FloatTensor)))"),
    "a legacy type by another name": (META, "kind = torch.FloatTensor; self.width(isinstance(s, kind))"),
    "a legacy type, imported": (META, "from torch import FloatTensor as FT; self.width(isinstance(s, FT))"),
    "a legacy type by getattr": (META, "self.width(isinstance(s, getattr(torch, 'FloatTensor')))"),
    "a legacy type, matched": (
        META,
        """
        match s.data:
            case torch.FloatTensor():
                self.width(1)
            case _:
                self.width(2)
        """,
    ),
    "a legacy type asked itself": (META, "self.width(torch.FloatTensor.__instancecheck__(s))"),
    "a legacy type, converted to": ("", "self.register_buffer('x', torch.FloatTensor([1, 2]).type(torch.LongTensor))"),
    "get_device": ("", "self.width(s.get_device() + 2)"),
    "torch.get_device": ("", "self.width(torch.get_device(s) + 2)"),
    "is_cpu": (META, "self.width(s.is_cpu)"),
    "device by getattr": (META, "self.width(getattr(s, 'device').type == 'cpu')"),
    "device by its descriptor": (META, "self.width(torch.Tensor.device.__get__(s).type == 'cpu')"),
    "device of a module's parameter": (META, "self.width(next(self.parameters()).device == torch.device('cpu'))"),
    "device by vars": (META, "from operator import attrgetter; self.width(attrgetter('device.type')(s) == 'cpu')"),
    "the storage's device": (META, "self.width(s.untyped_storage().device.type == 'cpu')"),
    "the storage's type": (META, "self.width('Meta' not in str(s.storage_type()))"),
    "a scripted question": (
        META,
        "g = {}; exec('import torch', g); self.width(torch.jit.script(_scripted)(s))",
    ),
    "the version": (BOTH, ONES + "self.width(w._version)"),
    "shared memory": (BOTH, "w.data.share_memory_(); self.width(w.is_shared() + 3)"),
    "the same memory": (META, "self.width(s.untyped_storage().data_ptr() == s.detach().untyped_storage().data_ptr())"),
    "an address": (META, "self.width(w.data_ptr() != 0)"),
    "an address that a helper reads": (BOTH, ONES + "self.width(_read(w.data_ptr()) + 1)"),
    "tied by address": (META, "self.width(len({p.data_ptr() for p in self.parameters()}))"),
    "an address of a small one": (META, "self.width(s.data_ptr() != 0)"),
    "alias": (META, "self.width(s.is_set_to(s.detach()) if True else 0)"),
    # --- errors that only one way has
    "swallowed in a thread": (
        BOTH,
        """
        found = [1]
        def look():
            try:
                found.append(int(s.detach().fill_(4).sum()))
            except Exception:
                pass
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        self.width(found[-1])
        """,
    ),
    "swallowed in a pool": (
        BOTH,
        """
        from concurrent.futures import ThreadPoolExecutor
        def look(x):
            try:
                return int(x.detach().fill_(4).sum())
            except Exception:
                return 1
        with ThreadPoolExecutor(1) as pool:
            self.width(next(pool.map(look, [s])))
        """,
    ),
    "a thread below threading": (
        BOTH,
        """
        import _thread, time
        found = []
        def look():
            try:
                found.append(int(s.detach().fill_(4).sum()))
            except Exception:
                found.append(1)
        _thread.start_new_thread(look, ())
        while not found:
            time.sleep(0.01)
        self.width(found[-1])
        """,
    ),
    "a timer": (
        BOTH,
        """
        found = [0]
        timer = threading.Timer(0, lambda: found.append(torch.ones(3).sum().item()))
        timer.start()
        timer.join()
        self.width(found[-1])
        """,
    ),
    "swallowed in a fork": (
        BOTH,
        """
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.write(write, bytes([int(torch.full((3,), 2).sum())]))
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        os.close(write)
        self.width((os.read(read, 1) or b'\\x00')[0])
        """,
    ),
    "swallowed, any error": (
        META,
        "\ntry:\n    n = int(s.sum() * 0 + 5)\nexcept BaseException:\n    n = 1\nself.width(n)",
    ),
    "swallowed by a context": (
        META,
        "import contextlib; n = 1\nwith contextlib.suppress(Exception):\n    n = int(torch.tensor(5))\nself.width(n)",
    ),
    "an error by hasattr": (META, "self.width(hasattr(_Lazy(s), 'value'))"),
    "more memory than there is": (
        META,
        "\ntry:\n    torch.empty(10**15)\n    n = 1\nexcept RuntimeError:\n    n = 2\nself.width(n)",
    ),
    "an operator by name": (
        META,
        "\ntry:\n    n = torch.ops.aten.item(torch.tensor(5))\nexcept Exception:\n    n = 1\nself.width(n)",
    ),
    "dlpack, swallowed": (
        META,
        "\ntry:\n    n = np.from_dlpack(torch.tensor([5]))[0]\nexcept Exception:\n    n = 1\nself.width(n)",
    ),
    "an old dlpack, swallowed": (
        META,
        """
        import torch.utils.dlpack as d
        try:
            n = d.from_dlpack(d.to_dlpack(torch.tensor([5]))).item()
        except Exception:
            n = 1
        self.width(n)
        """,
    ),
    "numpy, swallowed": (
        META,
        "\ntry:\n    n = torch.tensor([5]).numpy()[0]\nexcept TypeError:\n    n = 1\nself.width(n)",
    ),
    "generator, swallowed": (
        BOTH,
        """
        g = torch.Generator().manual_seed(3)
        try:
            n = torch.randint(9, (), generator=g).item()
        except Exception:
            n = 1
        self.width(n)
        """,
    ),
    # --- code that runs where no mode is
    "a hook of backward": (
        BOTH,
        """
        found = []
        def hook(grad):
            try:
                found.append(int(grad.sum()))
            except Exception:
                found.append(1)
        t = torch.ones(2, requires_grad=True)
        t.register_hook(hook)
        (t * 3).sum().backward()
        self.width(found[0])
        """,
    ),
    "a subclass of Tensor": (
        BOTH,
        """
        found = []
        class Own(torch.Tensor):
            @classmethod
            def __torch_function__(cls, func, types, args=(), kwargs=None):
                with torch._C.DisableTorchFunctionSubclass():
                    found.append(args[0].device.type == 'cpu')
                return super().__torch_function__(func, types, args, kwargs or {})
        torch.ones(2).as_subclass(Own).sum()
        self.width(sum(found))
        """,
    ),
    "an overridable function of its own": (
        BOTH,
        """
        def ask(t):
            if torch.overrides.has_torch_function_unary(t):
                return torch.overrides.handle_torch_function(ask, (t,), t)
            return t.device.type == 'cpu'
        self.width(ask(s))
        """,
    ),
    "a function of autograd": (
        META,
        """
        class Ask(torch.autograd.Function):
            @staticmethod
            def forward(ctx, t):
                found.append(t.device.type == 'cpu')
                return t
        found = []
        Ask.apply(s)
        self.width(found[0])
        """,
    ),
    "mapped over": (META, "x = []; torch.vmap(lambda t: x.append(t.is_meta) or t)(s); self.width(x[0])"),
    "a scripted module": (
        META,
        """
        self.width(torch.jit.script(_Asks())(s))
        """,
    ),
    "a coroutine in a thread": (
        BOTH,
        "import asyncio; self.width(asyncio.run(asyncio.to_thread(lambda: torch.ones(3).sum().item())))",
    ),
    # --- what looks odd and is none
    "a copy": ("", "self.second = copy.copy(self.first); self.third = copy.deepcopy(self.first)"),
    "a copied tensor": ("", "self.second = nn.Linear(BIG, BIG); self.second.weight = copy.copy(w)"),
    "an encoder with its states": ("", "self.load_state_dict(copy.deepcopy(self.state_dict()))"),
    "an optimizer": ("", "opt = torch.optim.AdamW(self.parameters(), lr=1e-3); opt.zero_grad()"),
    "parts counted": ("", "self.width(sum(p.numel() for p in self.parameters()))"),
}

_TAIL = """

def _scripted(x: torch.Tensor) -> bool:
    return x.is_meta


class _Asks(nn.Module):
    def forward(self, x: torch.Tensor) -> bool:
        return x.is_meta


def _valued(x: torch.Tensor) -> int:
    return int(x.max())


class _Lazy:
    def __init__(self, tensor):
        self.tensor = tensor

    @property
    def value(self):
        try:
            return self.tensor.sum().item()
        except Exception:
            raise AttributeError
"""


_READ = """

def _read(address):
    import ctypes
    return ctypes.c_float.from_address(address).value
"""


def _source(body: str) -> str:
    lines = body.strip("\n").split("\n")
    indent = len(lines[0]) - len(lines[0].lstrip())
    tail = _TAIL + _READ if "_read(" in body else _TAIL
    return _HEAD + "".join(f"        {line[indent:]}\n" for line in lines) + tail


def sources(bodies: Mapping[str, tuple[str, str]]) -> dict[str, tuple[tuple[str, ...], str]]:
    """What is in such a table, as it is in `nasty.NASTY`."""
    return {name: (tuple(refused.split()), _source(body)) for name, (refused, body) in bodies.items()}


LOOKS = sources(_BODIES)
