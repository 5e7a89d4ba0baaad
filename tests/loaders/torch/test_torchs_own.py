"""Every module of torch's own that loads in a way of its own."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.ao import quantization as quantize
from torch.ao.nn import quantized as q
from torch.ao.nn.quantized import dynamic as qd
from torch.ao.nn.quantized import reference as qr
from torch.nn.utils import parametrizations, parametrize, prune

from ckptdiff.loaders.torch.answer import loads
from tests.loaders.torch.oracle import assert_agrees


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Much of torch.ao is deprecated, and says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant = quantize.QuantStub()
        self.conv = nn.Conv2d(2, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.act = nn.ReLU()
        self.fc = nn.Linear(3, 2)
        self.dequant = quantize.DeQuantStub()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm(self.conv(self.quant(x))))
        return self.dequant(self.fc(x.mean((2, 3))))


def prepared(qat: bool) -> nn.Module:
    model = Small()
    model.qconfig = quantize.get_default_qat_qconfig("fbgemm") if qat else quantize.get_default_qconfig("fbgemm")
    model = quantize.prepare_qat(model.train()) if qat else quantize.prepare(model.eval())
    model(torch.rand(2, 2, 3, 3))
    return model


def converted(qat: bool) -> nn.Module:
    return quantize.convert(prepared(qat).eval())


def dynamic() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 3), nn.LSTM(3, 2), nn.GRUCell(2, 2), nn.LSTMCell(2, 2), nn.RNNCell(2, 2))
    return quantize.quantize_dynamic(
        model, {nn.Linear, nn.LSTM, nn.GRUCell, nn.LSTMCell, nn.RNNCell}, dtype=torch.qint8
    )


def fx(stage: str) -> nn.Module:
    from torch.ao.quantization import quantize_fx

    mapping = quantize.get_default_qconfig_mapping("fbgemm")
    model = quantize_fx.prepare_fx(Small().eval(), mapping, (torch.rand(1, 2, 3, 3),))
    model(torch.rand(2, 2, 3, 3))
    if stage == "reference":
        return quantize_fx.convert_to_reference_fx(model)
    return quantize_fx.convert_fx(model) if stage == "converted" else model


def lazy(*kinds: type[nn.Module], size: int = 2) -> nn.Module:
    rest = {nn.LazyLinear: (2,), nn.LazyConv2d: (2, 1), nn.LazyConv1d: (2, 1), nn.LazyConvTranspose3d: (2, 1)}
    return nn.Sequential(*(kind(*rest.get(kind, ())) for kind in kinds))


def parametrized(register: Callable[[nn.Module], Any]) -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(2, 2))
    register(model[0])
    return model


def pruned() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3))
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "qat": lambda: prepared(True),
    "observed": lambda: prepared(False),
    "quantized": lambda: converted(False),
    "quantized after training": lambda: converted(True),
    "dynamic": dynamic,
    "fx observed": lambda: fx("observed"),
    "fx converted": lambda: fx("converted"),
    "fx reference": lambda: fx("reference"),
    "traced": lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))),
    "linear": lambda: q.Linear(2, 3),
    "linear alone, half": lambda: qd.Linear(2, 3, dtype=torch.float16),
    "conv": lambda: nn.Sequential(q.Conv1d(2, 2, 1), q.Conv2d(2, 2, 1), q.Conv3d(2, 2, 1), q.ConvTranspose2d(2, 2, 1)),
    "embedding": lambda: nn.Sequential(q.Embedding(4, 2), q.EmbeddingBag(4, 2)),
    "functional": lambda: nn.Sequential(q.QFunctional(), q.FloatFunctional(), q.FXFloatFunctional()),
    "norms": lambda: nn.Sequential(
        q.BatchNorm2d(2),
        q.LayerNorm([2], nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2)), 1.0, 0),
        q.Quantize(1, 0, torch.qint8),
    ),
    "reference": lambda: nn.Sequential(qr.Linear(2, 2, weight_qparams=QPARAMS)),
    "observers": lambda: nn.Sequential(
        quantize.MinMaxObserver(),
        quantize.PerChannelMinMaxObserver(),
        quantize.HistogramObserver(),
        quantize.MovingAverageMinMaxObserver(),
        quantize.FakeQuantize(),
        quantize.default_fused_act_fake_quant(),
        quantize.PlaceholderObserver(),
        quantize.FixedQParamsFakeQuantize(quantize.default_fixed_qparams_range_0to1_observer),
    ),
    "lazy": lambda: lazy(
        nn.LazyLinear,
        nn.LazyConv2d,
        nn.LazyConv1d,
        nn.LazyConvTranspose3d,
        nn.LazyBatchNorm1d,
        nn.LazyBatchNorm2d,
        nn.LazyInstanceNorm3d,
    ),
    "lazy buffer": lambda: with_lazy_tensors(),
    "weight norm": lambda: parametrized(parametrizations.weight_norm),
    "spectral norm": lambda: parametrized(parametrizations.spectral_norm),
    "orthogonal": lambda: parametrized(parametrizations.orthogonal),
    "old weight norm": lambda: parametrized(nn.utils.weight_norm),
    "old spectral norm": lambda: parametrized(nn.utils.spectral_norm),
    "several parametrizations": lambda: parametrized(
        lambda module: (
            parametrizations.weight_norm(module),
            parametrize.register_parametrization(module, "bias", nn.Tanh()),
        )
    ),
    "pruned": pruned,
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), use_buffers=True
    ),
    "data parallel": lambda: nn.DataParallel(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))),
    "transformer": lambda: nn.Transformer(4, 2, 1, 1, 4),
    "recurrent": lambda: nn.ModuleDict(
        {"lstm": nn.LSTM(2, 2, 2, proj_size=1), "gru": nn.GRU(2, 2, bidirectional=True)}
    ),
    "attention": lambda: nn.MultiheadAttention(4, 2, kdim=2, add_bias_kv=True),
    "lists": lambda: nn.ParameterDict(
        {"a": torch.zeros(1), "b": nn.ParameterList([torch.zeros(2), nn.ParameterList()])}
    ),
    "scripted": lambda: torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))),
    "scripted inside": lambda: nn.Sequential(
        torch.jit.script(nn.Linear(2, 2)), hooked(nn.Sequential(torch.jit.script(nn.Linear(2, 2))))
    ),
    "traced by jit": lambda: torch.jit.trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), torch.zeros(1, 2)),
    "compiled": lambda: torch.compile(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), backend="eager"),
    "compiled, hooked": lambda: torch.compile(
        hooked(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))), backend="eager"
    ),
}
QPARAMS = {"qscheme": torch.per_tensor_affine, "dtype": torch.quint8, "scale": 2.0, "zero_point": 5}


def hooked(module: nn.Module) -> nn.Module:
    def hook(module: nn.Module, state_dict: Any, prefix: str, *_: Any) -> None:
        for key in list(state_dict):
            if key.endswith("old"):
                state_dict[key[:-3] + "weight"] = state_dict.pop(key)

    module._register_load_state_dict_pre_hook(hook, with_module=True)
    return module


def with_lazy_tensors() -> nn.Module:
    from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

    model = nn.Sequential(nn.LazyLinear(1), nn.Linear(1, 1))
    model[1].weight = UninitializedParameter()
    model[1].register_buffer("late", UninitializedBuffer())
    return model


def initialized(name: str) -> Any:
    """A state dict to load: of the model itself, or of one whose lazy tensors have a shape."""
    torch.manual_seed(0)
    model = MODELS[name]()
    if name == "lazy":
        return nn.Sequential(
            nn.Linear(3, 2),
            nn.Conv2d(3, 2, 1),
            nn.Conv1d(3, 2, 1),
            nn.ConvTranspose3d(3, 2, 1),
            nn.BatchNorm1d(4),
            nn.BatchNorm2d(5),
            nn.InstanceNorm3d(6, affine=True, track_running_stats=True),
        ).state_dict()
    if name == "lazy buffer":
        return {
            "0.weight": torch.zeros(1, 3),
            "1.weight": torch.zeros(2),
            "1.late": torch.zeros(3),
            "1.bias": torch.zeros(1),
        }
    return model.state_dict()


def perturbed(state_dict: Any) -> Iterator[Any]:
    yield state_dict
    yield OrderedDict(state_dict)
    yield {}
    for name in list(state_dict)[:: 1 + len(state_dict) // 12]:
        without = OrderedDict((key, value) for key, value in state_dict.items() if key != name)
        if hasattr(state_dict, "_metadata"):
            without._metadata = state_dict._metadata  # type: ignore[attr-defined]
        yield without
        for other in (torch.zeros(5), torch.zeros(()), None):
            changed = copy.copy(state_dict)
            changed[name] = other
            yield changed
    with_more = copy.copy(state_dict)
    for name in list(state_dict)[:3]:
        with_more[name + ".more"] = with_more[name.rpartition(".")[0] + "._extra_state"] = torch.zeros(1)
    yield with_more
    yield OrderedDict((key, with_more[key]) for key in sorted(with_more, reverse=True))


def can_be_made(name: str) -> bool:
    try:
        initialized(name)
    except (RuntimeError, ImportError, AttributeError, NotImplementedError, KeyError) as error:
        pytest.skip(f"not with this torch: {error}")
    return True


def can_be_copied(module: nn.Module) -> bool:
    """Whether a deep copy loads as the module does."""
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        return False  # its parameters become plain tensors
    try:
        copy.deepcopy(module)
    except Exception:  # lazy tensors, and parametrized ones that are cached
        return False
    return True


def is_float(value: Any) -> bool:
    return type(value) in (torch.Tensor, nn.Parameter) and value.is_floating_point()


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", MODELS)
def test_it_loads_as_torch_says(name: str, of_many: Callable[[Iterable[Any]], list[Any]]) -> None:
    can_be_made(name)

    def anew() -> nn.Module:
        torch.manual_seed(0)
        return MODELS[name]()

    make: Any = anew()
    if not can_be_copied(make):
        make = anew
    state_dict = initialized(name)
    assert_agrees(make, state_dict, untouched=True)
    for given in of_many(perturbed(state_dict)):
        assert_agrees(make, given)
    assert_agrees(make, state_dict, assign=True)
    assert_agrees(make, {}, assign=True)
    integers = {key: torch.zeros_like(value, dtype=torch.int64) for key, value in state_dict.items() if is_float(value)}
    assert_agrees(make, {**state_dict, **integers}, assign=True)


def test_old_names_become_new_ones() -> None:
    old = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 3)), nn.Linear(2, 2)).state_dict()
    ours = assert_agrees(MODELS["weight norm"], old)
    assert loads(ours)
    assert [change.new_key for change in ours.changes] == [
        "0.parametrizations.weight.original0",
        "0.parametrizations.weight.original1",
    ]


def test_distributed_tensors() -> None:
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available():
        pytest.skip("torch without distributed")
    try:
        from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh  # type: ignore[attr-defined]
    except ImportError:
        from torch.distributed._tensor import Replicate, Shard, distribute_tensor, init_device_mesh
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))

        def make() -> nn.Module:
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(2, 2), hooked(nn.Linear(2, 2)))
            for module in model:
                for name, parameter in list(module.named_parameters()):
                    module.register_parameter(name, nn.Parameter(distribute_tensor(parameter, mesh, [Shard(0)])))
            return model

        plain = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        spread = make().state_dict()
        replicated = {key: distribute_tensor(value, mesh, [Replicate()]) for key, value in plain.state_dict().items()}
        for state_dict in (spread, plain.state_dict(), replicated, {**spread, "0.weight": torch.zeros(3)}):
            assert_agrees(make, state_dict)
            assert_agrees(make, state_dict, assign=True)
        assert_agrees(plain, spread)
    finally:
        distributed.destroy_process_group()
