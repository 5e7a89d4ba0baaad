"""Constructors that need a GPU, each with the shapes of its state dict there, and its values where they are known."""

from __future__ import annotations

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.cuda import is_available as imported_is_available

KINDS: dict[str, type[nn.Module]] = {}


def kind(text: str, **values: object):
    """The shapes, as `key 4,3; key 2`, and values of a constructor."""

    def registered(cls: type[nn.Module]) -> type[nn.Module]:
        cls.shapes = {}
        for item in filter(None, (part.strip() for part in text.split(";"))):
            key, *sizes = item.replace(",", " ").split()
            cls.shapes[key] = tuple(map(int, sizes))
        cls.values = {key.replace("__", "."): value for key, value in values.items()}
        KINDS[cls.__name__] = cls
        return cls

    return registered


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.build()


LINEAR = "l.weight 4,3; l.bias 4"


@kind(LINEAR)
class PlainCuda(Base):
    def build(self):
        self.l = nn.Linear(3, 4).cuda()


@kind(LINEAR)
class CudaIndex(Base):
    def build(self):
        self.l = nn.Linear(3, 4).cuda(0)


@kind(LINEAR)
class ToText(Base):
    def build(self):
        self.l = nn.Linear(3, 4).to("cuda")


@kind(LINEAR)
class ToIndexed(Base):
    def build(self):
        self.l = nn.Linear(3, 4).to("cuda:0")


@kind(LINEAR)
class ToNumber(Base):
    def build(self):
        self.l = nn.Linear(3, 4).to(0)
        assert self.l.weight.get_device() == 0


@kind(LINEAR)
class ToDevice(Base):
    def build(self):
        self.l = nn.Linear(3, 4).to(torch.device("cuda", 0))


@kind(LINEAR)
class ToDeviceAndDtype(Base):
    def build(self):
        self.l = nn.Linear(3, 4).to("cuda", torch.float16)
        assert self.l.weight.dtype == torch.float16
        assert self.l.weight.is_cuda


@kind(LINEAR)
class ToKeywords(Base):
    def build(self):
        self.l = nn.Linear(3, 4).to(device="cuda", dtype=torch.bfloat16, non_blocking=True)
        assert self.l.bias.dtype == torch.bfloat16
        assert self.l.bias.is_cuda


@kind(LINEAR)
class ToKeywordNumber(Base):
    def build(self):
        self.l = nn.Linear(3, 4).to(device=0)
        assert self.l.bias.is_cuda
        assert str(self.l.weight.device) == "cuda:0"


@kind(LINEAR)
class MovedByData(Base):
    def build(self):
        self.l = nn.Linear(3, 4)
        for parameter in self.parameters():
            parameter.data = parameter.data.cuda()
        assert all(parameter.is_cuda for parameter in self.parameters())


@kind(LINEAR)
class StateDictMoved(Base):
    def build(self):
        state = nn.Linear(3, 4).cuda().state_dict()
        assert all(value.is_cuda for value in state.values())
        self.l = nn.Linear(3, 4)
        self.l.load_state_dict(state)
        self.l.cuda()


@kind("q 4,4")
class Decomposed(Base):
    def build(self):
        q, _ = torch.linalg.qr(torch.eye(4, device="cuda"))
        self.q = nn.Parameter(q.contiguous())
        assert self.q.is_cuda


@kind(LINEAR)
class ToAnothersDevice(Base):
    def build(self):
        self.l = nn.Linear(3, 4)
        probe = torch.zeros(1, device="cuda", dtype=torch.float64)
        assert self.l.weight.to(probe).dtype == torch.float64
        self.l.to(probe.device)
        assert self.l.weight.device == probe.device


@kind(LINEAR)
class Keyword(Base):
    def build(self):
        self.l = nn.Linear(3, 4, device="cuda")


@kind("w 5,2", w=[[0.0, 0.0]] * 5)
class ParameterOfKeyword(Base):
    def build(self):
        self.w = nn.Parameter(torch.zeros(5, 2, device="cuda"))
        assert self.w.is_cuda
        assert not self.w.is_meta


@kind("w 3", w=[1.0, 1.0, 1.0])
class BufferOfKeyword(Base):
    def build(self):
        self.register_buffer("w", torch.ones(3, device=torch.device("cuda")))


@kind(LINEAR)
class WithDevice(Base):
    def build(self):
        with torch.device("cuda"):
            self.l = nn.Linear(3, 4)
        assert self.l.weight.is_cuda


@kind("w 2; " + LINEAR, w=[0.0, 0.0])
class DefaultDevice(Base):
    def build(self):
        torch.set_default_device("cuda")
        self.l = nn.Linear(3, 4)
        self.w = nn.Parameter(torch.zeros(2))
        assert self.w.device == torch.device("cuda:0")
        torch.set_default_device(None)


@kind(LINEAR)
class GetDefaultDevice(Base):
    def build(self):
        torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
        assert torch.get_default_device().type == "cuda"
        self.l = nn.Linear(3, 4)
        torch.set_default_device("cpu")


@kind(LINEAR)
class DefaultTensorType(Base):
    def build(self):
        torch.set_default_tensor_type("torch.cuda.FloatTensor")
        self.l = nn.Linear(3, 4)
        assert self.l.weight.type() == "torch.cuda.FloatTensor"


@kind(LINEAR)
class Streams(Base):
    def build(self):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            self.l = nn.Linear(3, 4).cuda()
        stream.synchronize()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()


@kind(LINEAR)
class Events(Base):
    def build(self):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        self.l = nn.Linear(3, 4).cuda()
        end.record()
        torch.cuda.synchronize()
        assert start.elapsed_time(end) >= 0


@kind("w 6")
class Generators(Base):
    def build(self):
        generator = torch.Generator(device="cuda")
        generator.manual_seed(3)
        assert generator.device.type == "cuda"
        self.w = nn.Parameter(torch.randn(6, generator=generator, device="cuda"))


@kind("w 6")
class GeneratorMethod(Base):
    def build(self):
        generator = torch.Generator("cuda").manual_seed(3)
        self.w = nn.Parameter(torch.empty(6, device="cuda").normal_(generator=generator))


@kind("w 4", w=[0.0] * 4)
class Pinned(Base):
    def build(self):
        host = torch.zeros(4).pin_memory()
        assert host.is_pinned()
        self.register_buffer("w", host.cuda(non_blocking=True))


@kind("w 4", w=[0.0] * 4)
class PinnedKeyword(Base):
    def build(self):
        self.register_buffer("w", torch.zeros(4, pin_memory=True).to("cuda"))


@kind(LINEAR)
class Capability(Base):
    def build(self):
        major, _ = torch.cuda.get_device_capability()
        assert major >= 7
        self.l = nn.Linear(3, 4, device="cuda")


@kind(LINEAR)
class DeviceProperties(Base):
    def build(self):
        card = torch.cuda.get_device_properties(0)
        assert card.total_memory > 1 << 30
        assert card.name == torch.cuda.get_device_name()
        assert card.multi_processor_count
        self.l = nn.Linear(3, 4).cuda()


@kind(LINEAR)
class Count(Base):
    def build(self):
        assert torch.cuda.device_count() > 0
        self.l = nn.Linear(3, 4).cuda(torch.cuda.device_count() - 1)


@kind(LINEAR)
class SeveralNeeded(Base):
    def build(self):
        if torch.cuda.device_count() < 2:
            raise RuntimeError("This needs two GPUs.")
        self.l = nn.Linear(3, 4).to("cuda:1")


@kind("a.weight 4,3; a.bias 4; b.weight 2,4; b.bias 2")
class TwoDevices(Base):
    def build(self):
        self.a, self.b = nn.Linear(3, 4).to("cuda:0"), nn.Linear(4, 2).to("cuda:1")
        assert self.a.weight.device != self.b.weight.device
        assert self.b.weight.device.index == 1


@kind("a.weight 4,3; a.bias 4; b.weight 2,4; b.bias 2")
class HalfOnTheCpu(Base):
    def build(self):
        self.a, self.b = nn.Linear(3, 4).cuda(), nn.Linear(4, 2)
        assert {p.device.type for p in self.parameters()} == {"cpu", "cuda"}


@kind(LINEAR)
class AssertAvailable(Base):
    def build(self):
        assert torch.cuda.is_available(), "a GPU is needed"
        self.l = nn.Linear(3, 4)


@kind(LINEAR)
class AssertImported(Base):
    def build(self):
        if not imported_is_available():
            raise OSError("no GPU")
        self.l = nn.Linear(3, 4)


@kind(LINEAR)
class AssertOnTensor(Base):
    def build(self):
        self.l = nn.Linear(3, 4).cuda()
        for parameter in self.parameters():
            assert parameter.is_cuda
            assert not parameter.is_cpu
            assert parameter.device.type == "cuda"


@kind("l.weight 4,3; l.bias 4; fast.weight 2,2; fast.bias 2")
class GuardOnTensor(Base):
    def build(self):
        self.l = nn.Linear(3, 4).cuda()
        if self.l.weight.is_cuda:
            self.fast = nn.Linear(2, 2).cuda()


@kind(LINEAR)
class TypeText(Base):
    def build(self):
        self.l = nn.Linear(3, 4).type("torch.cuda.HalfTensor")
        assert self.l.weight.type() == "torch.cuda.HalfTensor"
        assert isinstance(self.l.weight.data, torch.cuda.HalfTensor)


@kind("w 3", w=[2.0, 2.0, 2.0])
class LegacyConstructor(Base):
    def build(self):
        self.w = nn.Parameter(torch.cuda.FloatTensor(3).fill_(2))


@kind("_orig_mod.weight 4,3; _orig_mod.bias 4")
def _compiled():
    return torch.compile(nn.Linear(3, 4).cuda())


@kind("l._orig_mod.weight 4,3; l._orig_mod.bias 4")
class Compiled(Base):
    def build(self):
        self.l = torch.compile(nn.Linear(3, 4).cuda())


@kind("l.module.weight 4,3; l.module.bias 4")
class Parallel(Base):
    def build(self):
        self.l = nn.DataParallel(nn.Linear(3, 4))
        assert self.l.device_ids == [0]


@kind("l.module.weight 4,3; l.module.bias 4")
class ParallelOfTwo(Base):
    def build(self):
        self.l = nn.DataParallel(nn.Linear(3, 4).cuda(), device_ids=[0, 1])


@kind(LINEAR)
class Scaler(Base):
    def build(self):
        self.l = nn.Linear(3, 4).cuda()
        self.scaler = torch.amp.GradScaler("cuda")
        assert self.scaler.is_enabled()


@kind("w 2,4; " + LINEAR)
class Autocast(Base):
    def build(self):
        self.l = nn.Linear(3, 4).cuda()
        with torch.autocast("cuda"):
            made = self.l(torch.ones(2, 3, device="cuda"))
        assert made.dtype == torch.float16
        self.register_buffer("w", made.detach())


@kind("w 2,4; " + LINEAR)
class AutocastBfloat(Base):
    def build(self):
        self.l = nn.Linear(3, 4).cuda()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            self.register_buffer("w", self.l(torch.ones(2, 3).cuda()).detach())
        assert self.w.dtype == torch.bfloat16


@kind("w 3; m.weight 6,6; m.bias 6", w=[1.0, 2.0, 3.0])
class ValuesLookedAt(Base):
    def build(self):
        self.register_buffer("w", torch.tensor([1.0, 2.0, 3.0], device="cuda"))
        n = int(self.w.sum().item())
        self.m = nn.Linear(n, n).cuda()


@kind("m.weight 4,4; m.bias 4")
class ValuesBranchedOn(Base):
    def build(self):
        scale = torch.linspace(0, 1, 5).cuda()
        self.m = nn.Linear(4, 4) if bool((scale > 0.5).any()) else nn.Linear(1, 1)


@kind("w 3", w=[2.0, 4.0, 6.0])
class ValuesToNumpy(Base):
    def build(self):
        made = torch.arange(1.0, 4.0, device="cuda") * 2
        self.register_buffer("w", torch.from_numpy(made.cpu().numpy()).cuda())


@kind("w 2; k 3", w=[0.0, 0.0])
class NumpyRefused(Base):
    def build(self):
        self.w = nn.Parameter(torch.zeros(2, device="cuda"))
        try:
            self.w.detach().numpy()
        except TypeError:
            self.k = nn.Parameter(torch.ones(3, device="cuda"))


@kind("w 2; mixed 1")
class TwoDevicesMixed(Base):
    def build(self):
        self.w = nn.Parameter(torch.zeros(2, device="cuda"))
        try:
            self.w + torch.ones(2)
        except RuntimeError as error:
            if "two devices, cuda:0 and cpu" in str(error):
                self.mixed = nn.Parameter(torch.zeros(1))


@kind("l.weight_ih_l0 16,3; l.weight_hh_l0 16,4; l.bias_ih_l0 16; l.bias_hh_l0 16")
class Recurrent(Base):
    def build(self):
        self.l = nn.LSTM(3, 4).cuda()
        self.l.flatten_parameters()


@kind("l.weight_ih_l0 12,3; l.weight_hh_l0 12,4; l.bias_ih_l0 12; l.bias_hh_l0 12")
class RecurrentRun(Base):
    def build(self):
        self.l = nn.GRU(3, 4).to("cuda")
        out, _ = self.l(torch.zeros(1, 2, 3, device="cuda"))
        assert out.is_cuda


@kind(LINEAR)
class Cudnn(Base):
    def build(self):
        torch.backends.cudnn.benchmark = True
        assert torch.backends.cudnn.is_available()
        assert torch.backends.cudnn.version() > 7000
        self.l = nn.Linear(3, 4).cuda()
        assert torch.backends.cudnn.is_acceptable(self.l.weight)
        torch.backends.cudnn.benchmark = False


@kind(LINEAR)
class Memory(Base):
    def build(self):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        free, total = torch.cuda.mem_get_info()
        assert 0 < free <= total
        assert torch.cuda.memory_allocated() >= 0
        assert torch.cuda.max_memory_reserved(0) >= 0
        self.l = nn.Linear(3, 4).cuda()


@kind(LINEAR)
class Seeds(Base):
    def build(self):
        torch.cuda.manual_seed_all(1)
        torch.cuda.manual_seed(1)
        state = torch.cuda.get_rng_state()
        self.l = nn.Linear(3, 4).cuda()
        torch.cuda.set_rng_state(state)


@kind(LINEAR)
class ChosenDevice(Base):
    def build(self):
        torch.cuda.set_device(0)
        with torch.cuda.device(0):
            assert torch.cuda.current_device() == 0
            self.l = nn.Linear(3, 4).cuda()


@kind(LINEAR)
class SecondChosen(Base):
    def build(self):
        with torch.cuda.device(1):
            self.l = nn.Linear(3, 4).cuda()
        assert self.l.weight.device.index == 1


@kind(LINEAR)
class Bfloat16IfSupported(Base):
    def build(self):
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        self.l = nn.Linear(3, 4, device="cuda", dtype=dtype)


@kind("w 3", w=[0.0] * 3)
class Like(Base):
    def build(self):
        source = torch.ones(3, device="cuda")
        for made in (
            torch.zeros_like(source),
            source.new_zeros(3),
            source.clone(),
            source.detach(),
            source[None],
            source * 2,
        ):
            assert made.is_cuda
        self.register_buffer("w", torch.zeros_like(source))


@kind("w 2,3; v 2", v=[3.0, 3.0])
class Computed(Base):
    def build(self):
        self.w = nn.Parameter(torch.ones(2, 3).cuda())
        self.register_buffer("v", (self.w @ torch.ones(3, device="cuda")).detach())
        assert torch.cat([self.v, self.v]).is_cuda
        assert all(part.is_cuda for part in self.w.chunk(2))


@kind(LINEAR)
class ThereAndBack(Base):
    def build(self):
        self.l = nn.Linear(3, 4).cuda().cpu()
        assert not self.l.weight.is_cuda
        self.l.cuda()
        assert self.l.weight.is_cuda


@kind(LINEAR)
class WholeAtTheEnd(Base):
    def build(self):
        self.l = nn.Linear(3, 4)
        self.cuda()
        assert next(self.parameters()).device == torch.device("cuda", 0)


@kind("l.weight 4,3; l.bias 4; k 1")
class Tied(Base):
    def build(self):
        self.l = nn.Linear(3, 4).cuda()
        self.l.weight.data = self.l.weight.data * 0
        assert self.l.weight.is_cuda
        self.k = nn.Parameter(self.l.bias.data[:1])
        assert self.k.is_cuda


@kind(LINEAR)
class ToEmpty(Base):
    def build(self):
        with torch.device("meta"):
            self.l = nn.Linear(3, 4)
        self.l.to_empty(device="cuda")
        assert self.l.weight.is_cuda


@kind(LINEAR)
class Initialised(Base):
    def build(self):
        self.l = nn.Linear(3, 4).cuda()
        nn.init.trunc_normal_(self.l.weight, std=0.02)
        nn.init.zeros_(self.l.bias)
        nn.init.orthogonal_(self.l.weight)


@kind("e.weight 7,4; p 5,4")
class Positions(Base):
    def build(self):
        self.e = nn.Embedding(7, 4).cuda()
        position = torch.arange(5, device="cuda").unsqueeze(1)
        div = torch.exp(torch.arange(0, 4, 2, device="cuda") * (-math.log(10000.0) / 4))
        table = torch.zeros(5, 4, device="cuda")
        table[:, 0::2] = torch.sin(position * div)
        table[:, 1::2] = torch.cos(position * div)
        assert table.is_cuda
        self.register_buffer("p", table)


@kind("head.weight 2,18; head.bias 2; c.weight 2,1,3,3; c.bias 2")
class SizeByARun(Base):
    def build(self):
        self.c = nn.Conv2d(1, 2, 3).cuda()
        with torch.no_grad():
            out = F.relu(self.c(torch.zeros(1, 1, 5, 5, device="cuda"))).flatten(1)
        assert out.is_cuda
        self.head = nn.Linear(out.shape[1], 2).cuda()


@kind(LINEAR)
class Accelerator(Base):
    def build(self):
        device = torch.accelerator.current_accelerator() if hasattr(torch, "accelerator") else torch.device("cuda")
        assert device.type == "cuda"
        self.l = nn.Linear(3, 4).to(device)


@kind(LINEAR)
class Versions(Base):
    def build(self):
        assert torch.version.cuda is not None
        assert torch.backends.cuda.is_built()
        assert tuple(map(int, torch.version.cuda.split(".")[:2])) >= (11, 0)
        self.l = nn.Linear(3, 4).cuda()


@kind(LINEAR)
class Graphs(Base):
    def build(self):
        self.l = nn.Linear(3, 4).cuda()
        self.graph = torch.cuda.CUDAGraph()
        torch.cuda.nvtx.range_push("made")
        torch.cuda.nvtx.range_pop()


@kind(LINEAR)
class Recorded(Base):
    def build(self):
        self.l = nn.Linear(3, 4).cuda()
        self.l.weight.record_stream(torch.cuda.current_stream())
        assert self.l.weight.storage().dtype == torch.float32


@kind("l.weight 4,3; l.bias 4; big.weight 3000,3000; big.bias 3000")
class Large(Base):
    def build(self):
        self.l = nn.Linear(3, 4).cuda()
        self.big = nn.Linear(3000, 3000).cuda()
        assert self.big.weight.is_cuda


@kind("l.weight 4,3; l.bias 4; k 2")
class CaughtAndGone(Base):
    """It would like another device and goes on without."""

    def build(self):
        self.l = nn.Linear(3, 4).cuda()
        with contextlib.suppress(Exception):
            self.l.to("xpu")
        self.k = nn.Parameter(torch.ones(2, device="cuda"))


@kind("t.weight 4,3; t.bias 4")
class Scripted(Base):
    def build(self):
        self.t = torch.jit.script(nn.Linear(3, 4)).cuda()


del KINDS["_compiled"]
