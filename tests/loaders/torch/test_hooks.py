"""Load hooks, extra state and overrides of every sort: their code runs, and changes nothing of the user's."""

from __future__ import annotations

import functools
import threading
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn

from ckptdiff.checkpoint.from_memory import checkpoint_of
from ckptdiff.loaders.torch.answer import error_message, loads
from ckptdiff.loaders.torch.module_code import ModelValuesNeeded
from ckptdiff.loaders.torch.walk import compare
from ckptdiff.model.extract import extract
from tests.loaders.torch.oracle import assert_agrees, state_of

Hook = Callable[..., Any]
Some = Callable[[Iterable[Any]], list[Any]]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            stem=nn.Linear(2, 2),
            body=nn.Sequential(OrderedDict(a=nn.Linear(2, 3), norm=nn.BatchNorm1d(3), b=nn.Linear(3, 2))),
            head=nn.Linear(2, 1),
        )
    )


def pre(module: nn.Module, hook: Hook, with_module: bool = False) -> None:
    module._register_load_state_dict_pre_hook(hook, with_module=with_module)


def every_state_dict() -> list[Any]:
    state_dict = net().state_dict()
    renamed = {key.replace("body.a", "body.old"): value for key, value in state_dict.items()}
    scaled = {key: value * 3 if value.is_floating_point() else value for key, value in state_dict.items()}
    short = {key: value for key, value in state_dict.items() if not key.startswith("body.b")}
    odd = {**state_dict, "body.a.weight": torch.zeros(7), "body.extra": torch.ones(1), "x": 3, "body.b.bias": None}
    return [state_dict, dict(state_dict), renamed, scaled, short, odd, {}]


def rename(state_dict: Any, prefix: str, *_: Any) -> None:
    for key in list(state_dict):
        if key.startswith(prefix) and ".old." in "." + key:
            state_dict[key.replace("old.", "a.", 1)] = state_dict.pop(key)


def drop(state_dict: Any, prefix: str, *_: Any) -> None:
    for key in [key for key in state_dict if key.endswith("bias")]:
        del state_dict[key]


def add(state_dict: Any, prefix: str, *_: Any) -> None:
    state_dict[prefix + "a.weight"] = torch.ones(3, 2)
    state_dict[prefix + "b.bias"] = [1]
    state_dict.setdefault(prefix + "new.weight", torch.ones(3, 2))
    state_dict["somewhere.else"] = torch.ones(1)


def reorder(state_dict: Any, *_: Any) -> None:
    for key in list(state_dict)[::-1]:
        state_dict[key] = state_dict.pop(key)


def reshape(state_dict: Any, *_: Any) -> None:
    for key, value in state_dict.items():
        if isinstance(value, torch.Tensor):
            state_dict[key] = value.reshape(-1)[:2].clone()


def resize_in_place(state_dict: Any, *_: Any) -> None:
    for value in state_dict.values():
        if isinstance(value, torch.Tensor) and value.dim() == 2:
            value.resize_(4, 4)


def lists(
    state_dict: Any, prefix: str, metadata: Any, strict: bool, missing: Any, unexpected: Any, errors: Any
) -> None:
    assert strict
    missing.append("m " + prefix)
    unexpected.insert(0, "u " + prefix)
    errors.append(f"e {prefix} {metadata.get('version')} {getattr(state_dict, '_metadata', None) is not None}")


def clear(
    state_dict: Any, prefix: str, metadata: Any, strict: bool, missing: Any, unexpected: Any, errors: Any
) -> None:
    del missing[:], unexpected[:], errors[:]
    state_dict.clear()


def metadata_writer(state_dict: Any, prefix: str, metadata: Any, *_: Any) -> None:
    metadata["version"] = 1
    if hasattr(state_dict, "_metadata"):
        state_dict._metadata["body.norm"] = {"version": 1}
    state_dict.pop(prefix + "norm.num_batches_tracked", None)
    state_dict.pop(prefix + "body.norm.num_batches_tracked", None)


def raising(state_dict: Any, *_: Any) -> None:
    raise LookupError("no\nthanks", 3)


def leaving(state_dict: Any, *_: Any) -> None:
    state_dict[3] = torch.ones(1)


def reading(
    state_dict: Any, prefix: str, metadata: Any, strict: bool, missing: Any, unexpected: Any, errors: Any
) -> None:
    for key, value in state_dict.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            errors.append(f"{key} sums to {value.sum().item():.4f}")


def branching(state_dict: Any, prefix: str, *_: Any) -> None:
    for key, value in list(state_dict.items()):
        if isinstance(value, torch.Tensor) and (value.abs() > 1).any():
            del state_dict[key]


def trying(
    state_dict: Any, prefix: str, metadata: Any, strict: bool, missing: Any, unexpected: Any, errors: Any
) -> None:
    for key, value in state_dict.items():
        try:
            errors.append(f"{key} {value.tolist()}")
        except Exception:
            errors.append(f"{key} has no values")


def asking_for_devices(state_dict: Any, *_: Any) -> None:
    for key, value in list(state_dict.items()):
        if isinstance(value, torch.Tensor) and value.device.type != "cpu":
            del state_dict[key]


def drawing(state_dict: Any, prefix: str, *_: Any) -> None:
    state_dict[prefix + "drawn"] = torch.randn(int(torch.randint(1, 4, ())))


def splitting(state_dict: Any, prefix: str, *_: Any) -> None:
    for key in [key for key in state_dict if key.endswith("body.a.weight") or key == prefix + "a.weight"]:
        value = state_dict.pop(key)
        if isinstance(value, torch.Tensor):
            for number, part in enumerate(value.chunk(3)):
                state_dict[f"{key}.{number}"] = part


PRE = [rename, drop, add, reorder, reshape, resize_in_place, lists, clear, metadata_writer, raising, leaving, reading,
       branching, trying, asking_for_devices, drawing, splitting]  # fmt: skip


@pytest.mark.one_in(3)
@pytest.mark.parametrize("hook", PRE, ids=lambda hook: hook.__name__)
@pytest.mark.parametrize("place", ["", "body", "body.a", "body.norm"])
def test_a_pre_hook(hook: Hook, place: str) -> None:
    def hooked() -> nn.Module:
        model = net()
        pre(model.get_submodule(place), hook)
        return model

    for state_dict in every_state_dict():
        if isinstance(state_dict, OrderedDict):
            state_dict = OrderedDict(state_dict)
            state_dict._metadata = net().state_dict()._metadata  # type: ignore[attr-defined]
        torch.manual_seed(1)
        assert_agrees_from_seed(hooked, state_dict)


def assert_agrees_from_seed(make: Callable[[], nn.Module], state_dict: Any, assign: bool = False) -> Any:
    def seeded() -> nn.Module:
        model = make()
        torch.manual_seed(5)
        return model

    return assert_agrees(seeded, state_dict, assign, untouched=True)


def test_hooks_everywhere_at_once_in_all_their_orders() -> None:
    harmless = [hook for hook in PRE if hook not in (raising, clear, drawing, leaving)]
    for shift in range(0, len(harmless), 3):

        def hooked(shift: int = shift) -> nn.Module:
            model = net()
            for number, (_, module) in enumerate(model.named_modules()):
                pre(module, harmless[(number + shift) % len(harmless)])
                pre(module, harmless[(number + shift + 1) % len(harmless)])
                pre(module, harmless[(number + shift + 1) % len(harmless)])  # the same one again
            return model

        for state_dict in every_state_dict():
            assert_agrees_from_seed(hooked, state_dict)


# What hooks do to modules


def shrink(module: nn.Module, state_dict: Any, prefix: str, *_: Any) -> None:
    if any(key.endswith("a.weight") for key in state_dict):
        target = module.body.a if hasattr(module, "body") else module.a if hasattr(module, "a") else module
        target.weight = nn.Parameter(torch.zeros(7))


def grow(module: nn.Module, *_: Any) -> None:
    module.add_module("extra", nn.Linear(1, 1))
    module.register_buffer("more", torch.zeros(2))
    module.register_parameter("gone", None)


def replace(module: nn.Module, *_: Any) -> None:
    for name in list(module._modules):
        module._modules[name] = nn.Bilinear(1, 1, 1) if name in ("a", "head") else None


def unhook(module: nn.Module, *_: Any) -> None:
    module._load_state_dict_post_hooks.clear()
    for child in module.children():
        child._load_state_dict_pre_hooks.clear()


def hook_others(module: nn.Module, *_: Any) -> None:
    for child in module.children():
        child.register_load_state_dict_post_hook(lambda _, keys: keys.missing_keys.append("post"))
        pre(child, lists)


def retype(module: nn.Module, *_: Any) -> None:
    for child in module.children():
        child.__class__ = nn.Sequential


def look_at_own_values(module: nn.Module, state_dict: Any, prefix: str, *_: Any) -> None:
    own = dict(module.named_parameters())
    for key in [key for key in state_dict if key[len(prefix) :] in own]:
        mine, value = own[key[len(prefix) :]], state_dict[key]
        if isinstance(value, torch.Tensor) and value.shape == mine.shape and torch.equal(value, mine):
            del state_dict[key]


def write_own_values(module: nn.Module, state_dict: Any, prefix: str, *_: Any) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(9)
    module.touched = True  # type: ignore[assignment]


MODULE_HOOKS = [
    shrink,
    grow,
    replace,
    unhook,
    hook_others,
    retype,
    look_at_own_values,
    write_own_values,
]


@pytest.mark.one_in(5)
@pytest.mark.parametrize("hook", MODULE_HOOKS, ids=lambda hook: hook.__name__)
@pytest.mark.parametrize("place", ["", "body", "body.a"])
@pytest.mark.parametrize("way", ["with module", "bound", "closure", "partial", "other module's"])
def test_a_pre_hook_that_works_on_modules(hook: Hook, place: str, way: str, of_many: Some) -> None:
    def hooked() -> nn.Module:
        model = net()
        module = model.get_submodule(place)
        if way == "with module":
            pre(module, hook, with_module=True)
        elif way == "bound":
            pre(module, types.MethodType(hook, module))
        elif way == "closure":
            pre(module, lambda *arguments: hook(module, *arguments))
        elif way == "partial":
            pre(module, functools.partial(hook, module))
        else:  # a hook of one module that works on another, visited before it or after
            pre(model.stem, lambda *arguments: hook(module, *arguments))
        return model

    for state_dict in of_many(every_state_dict()):
        assert_agrees(hooked, state_dict, untouched=True)
        assert_agrees(hooked, state_dict, assign=True)


@pytest.mark.parametrize("at", ["body.a", "body.b", "head"])
def test_hooks_that_change_what_torch_is_going_through(at: str) -> None:
    for change in (
        lambda model: model.body.add_module("z", nn.Linear(1, 1)),
        lambda model: model.add_module("z", nn.Linear(1, 1)),
        lambda model: model.body._modules.pop("a"),
        lambda model: model.body._modules.pop("b"),
        lambda model: model._modules.pop("head"),
        lambda model: model._modules.update(head=nn.Linear(9, 9)),
        lambda model: model.body._modules.update(b=None),
        lambda model: model.body.b.register_buffer("late", torch.zeros(1)),
        lambda model: model.head.register_buffer("late", torch.zeros(1)),
        lambda model: setattr(model.head, "weight", nn.Parameter(torch.zeros(3))),
    ):

        def hooked(change: Hook = change) -> nn.Module:
            model = net()
            pre(model.get_submodule(at), lambda *_: change(model) and None)
            return model

        for state_dict in every_state_dict()[1:]:
            assert_agrees(hooked, state_dict)


# Post-hooks


def edit(module: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [key for key in keys.missing_keys if "bias" not in key]
    keys.unexpected_keys.append(type(module).__name__)


def look(module: nn.Module, keys: Any) -> None:
    for name, parameter in module.named_parameters():
        keys.missing_keys.append(f"{name} {parameter.sum().item():.3f} {parameter.dtype} {parameter.requires_grad}")


def returning(module: nn.Module, keys: Any) -> Any:
    return keys


def failing(module: nn.Module, keys: Any) -> None:
    raise SystemError(str(keys))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("hook", [edit, look, returning, failing], ids=lambda hook: hook.__name__)
@pytest.mark.parametrize("places", [[""], ["body"], ["body.a", "body", ""], ["head", "head"]])
@pytest.mark.parametrize("assign", [False, True])
def test_post_hooks(hook: Hook, places: list[str], assign: bool, of_many: Some) -> None:
    def hooked() -> nn.Module:
        model = net()
        for place in places:
            model.get_submodule(place).register_load_state_dict_post_hook(hook)
        return model

    for state_dict in of_many(every_state_dict()):
        half = {key: value.half() if isinstance(value, torch.Tensor) else value for key, value in state_dict.items()}
        assert_agrees(hooked, state_dict, assign, untouched=True)
        assert_agrees(hooked, half, assign)


def test_hooks_see_what_was_loaded_before_them() -> None:
    def hooked() -> nn.Module:
        model = net()
        model.head.alias = [model.stem]  # known to it, but not among its modules

        def hook(
            module: nn.Module, state_dict: Any, prefix: str, metadata: Any, strict: Any, missing: Any, *_: Any
        ) -> None:
            missing.append(f"{module.alias[0].weight.sum().item():.4f}")

        pre(model.head, hook, with_module=True)
        return model

    for state_dict in every_state_dict():
        assert_agrees(hooked, state_dict, untouched=True)


# What hooks hold on to


class Helper:
    """Keeps count; holds a lock, which cannot be copied, and the module."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.lock = threading.Lock()
        self.seen: list[str] = []
        self.deep = {"counts": [0]}

    def hook(self, state_dict: Any, prefix: str, metadata: Any, strict: bool, missing: Any, *_: Any) -> None:
        with self.lock:
            self.seen.append(prefix)
            self.deep["counts"][0] += 1
            missing.append(f"{len(self.seen)} {self.deep}")
            self.module.register_buffer("found", torch.zeros(len(self.seen)))

    __call__ = hook


class Slotted:
    """The same in a class without a dictionary."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, state_dict: Any, prefix: str, metadata: Any, strict: bool, missing: Any, *_: Any) -> None:
        self.count += 1
        missing.append(str(self.count))


def with_counters() -> nn.Module:
    model = net()
    counter = 0
    log: list[Any] = []

    def count(state_dict: Any, prefix: str, metadata: Any, strict: bool, missing: Any, *_: Any) -> None:
        nonlocal counter
        counter += 1
        log.append(counter)
        missing.append(f"{counter} {log}")

    def report(state_dict: Any, prefix: str, metadata: Any, strict: bool, missing: Any, *_: Any) -> None:
        missing.append(f"counted {counter} {log} {state.count}")
        state.count += 1

    state = types.SimpleNamespace(count=0)
    helper = Helper(model.body)
    slotted = Slotted()
    for module in (model, model.body, model.body.a):
        pre(module, count)
        pre(module, report)
        pre(module, helper.hook)
        pre(module, helper)
        pre(module, slotted)

    def default(state_dict: Any, prefix: str, *_: Any, kept: list[str] = [], **__: Any) -> None:  # noqa: B006
        kept.append(prefix)
        state_dict["kept " + str(kept)] = 1

    pre(model, default)
    watched = weakref.ref(model.head)

    def weak(state_dict: Any, *_: Any) -> None:
        module = watched()
        if module is not None:
            module.register_buffer("weak", torch.zeros(1))

    pre(model, weak)
    return model


def test_what_hooks_hold_on_to_is_left_alone() -> None:
    for state_dict in every_state_dict():
        assert_agrees(with_counters, state_dict, untouched=True)


def test_comparing_twice_gives_the_same() -> None:
    model = with_counters()
    state_dict = every_state_dict()[5]
    first, second = (error_message(compare(extract(model), checkpoint_of(state_dict))) for _ in range(2))
    assert first == second


def test_comparing_from_many_threads_at_once() -> None:
    model = with_counters()
    for place in ("", "body", "body.norm"):
        model.get_submodule(place).register_load_state_dict_post_hook(look)
    state_dict = OrderedDict(every_state_dict()[5])
    state_dict._metadata = net().state_dict()._metadata  # type: ignore[attr-defined]
    before = state_of(model), state_of(state_dict)
    expected = [
        error_message(compare(extract(model), checkpoint_of(state_dict), assign=assign)) for assign in (False, True)
    ]
    answers: list[Any] = []

    def ask() -> None:
        for _ in range(3):
            for assign in (False, True):
                answers.append((assign, compare(extract(model), checkpoint_of(state_dict), assign=assign)))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [error_message(answer) for _, answer in answers] == [expected[assign] for assign, _ in answers]
    assert len(answers) == 24
    assert (state_of(model), state_of(state_dict)) == before


def test_a_shared_module_runs_its_hook_for_each_of_its_names() -> None:
    def hooked() -> nn.Module:
        model = net()
        pre(model.head, lists)
        pre(model.head, grow, with_module=True)
        model.register_module("again", model.head)
        model.body.register_module("head", model.head)
        return model

    for state_dict in every_state_dict():
        assert_agrees(hooked, state_dict, untouched=True)
        assert_agrees(hooked, state_dict, assign=True)


def test_a_shared_module_is_changed_under_all_its_names() -> None:
    def hooked() -> nn.Module:
        model = net()
        pre(model.body, hook_others, with_module=True)
        model.register_module("again", model.body.a)
        return model

    for state_dict in every_state_dict():
        assert_agrees(hooked, state_dict, untouched=True)
        assert_agrees(hooked, state_dict, assign=True)


def test_what_a_hook_did_is_told() -> None:
    def hooked() -> nn.Module:
        model = net()
        pre(model.body, rename)
        return model

    renamed = every_state_dict()[2]
    changes = assert_agrees(hooked, renamed).changes
    assert [(change.module, change.kind, change.key, change.new_key) for change in changes] == [
        ("body", "renamed", "body.old.weight", "body.a.weight"),
        ("body", "renamed", "body.old.bias", "body.a.bias"),
    ]


# Extra state


class Extra(nn.Module):
    def __init__(self, wants: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.inner = nn.Linear(1, 1)
        self.wants = wants

    def get_extra_state(self) -> Any:
        return {"a": 1}

    def set_extra_state(self, state: Any) -> None:
        if self.wants == "a":
            self.kept = state["a"]
        elif self.wants == "buffer":
            self.register_buffer("late", torch.zeros(3))
        elif self.wants == "module":
            self.another = nn.Linear(2, 2)
        elif self.wants == "value":
            self.kept = float(state)
        elif self.wants == "own":
            assert self.weight.item() == 5, self.weight.item()
        else:
            raise RuntimeError(self.wants)


@pytest.mark.parametrize("wants", ["a", "buffer", "module", "value", "own", "an error", ""])
def test_extra_state(wants: str, of_many: Some) -> None:
    def model() -> nn.Module:
        return nn.Sequential(Extra(wants), nn.Linear(1, 1))

    own = nn.Sequential(Extra(wants), nn.Linear(1, 1)).state_dict()
    own["0.weight"].fill_(5)
    for state in of_many(({"a": 1}, {}, 3, None, torch.tensor(2.0), "text", object())):
        for more in ({}, {"0.late": torch.zeros(3)}, {"0.another.weight": torch.zeros(2, 2)}, {"1._extra_state": 1}):
            assert_agrees(model, {**own, "0._extra_state": state, **more}, untouched=True)
    del own["0._extra_state"]
    assert_agrees(model, own)


# Overrides


class Override(nn.Linear):
    def __init__(self, way: str) -> None:
        super().__init__(2, 2)
        self.way = way
        self.register_buffer("seen", torch.zeros(1))
        self.inner = nn.Linear(1, 1)
        self.calls: list[str] = []

    def _load_from_state_dict(self, state_dict: Any, prefix: str, metadata: Any, strict: Any, missing: Any,
                              unexpected: Any, errors: Any) -> None:  # fmt: skip
        self.calls.append(prefix)
        arguments = (state_dict, prefix, metadata, strict, missing, unexpected, errors)
        if self.way == "nothing":
            return
        if self.way == "rename":
            for name in ("weight", "bias"):
                if prefix + "w." + name in state_dict:
                    state_dict[prefix + name] = state_dict.pop(prefix + "w." + name)
        elif self.way == "not strict":
            arguments = (state_dict, prefix, metadata, False, missing, unexpected, errors)
        elif self.way == "own dict":
            arguments = ({**state_dict, prefix + "seen": torch.ones(1)}, *arguments[1:])
        elif self.way == "values":
            if prefix + "weight" in state_dict and state_dict[prefix + "weight"].sum() > 0:
                errors.append("positive")
        elif self.way == "own values" and self.weight.sum() > 0:
            errors.append(f"I am positive: {self.weight.sum():.3f}")
        elif self.way == "resize":
            key = prefix + "seen"
            if key in state_dict:
                self.seen = torch.zeros(state_dict[key].shape)
        elif self.way == "raise":
            raise ValueError("no")
        elif self.way == "replace":
            self.inner = nn.Conv1d(1, 1, 1)
        super()._load_from_state_dict(*arguments)
        if self.way == "after":
            missing.clear()
            state_dict.clear()


@pytest.mark.parametrize("way", [
    "plain", "nothing", "rename", "not strict", "own dict", "values", "own values", "resize", "raise", "replace",
    "after",
])  # fmt: skip
@pytest.mark.parametrize("assign", [False, True])
def test_an_override(way: str, assign: bool, of_many: Some) -> None:
    def model() -> nn.Module:
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(1, 1), nn.Sequential(Override(way)))

    state_dict = model().state_dict()
    dicts: list[Any] = [state_dict, dict(state_dict), {}]
    dicts.append({key.replace("1.0.weight", "1.0.w.weight"): value for key, value in state_dict.items()})
    dicts.append({**state_dict, "1.0.seen": torch.zeros(5), "1.0.inner.weight": torch.zeros(4), "1.0.bias": "text"})
    dicts.append({**state_dict, "1.0.x": torch.zeros(5), "1.0.y.weight": torch.zeros(4), "1.0._extra_state": 1, 5: 1})
    dicts.append({**state_dict, "1.0.weight": torch.zeros(2, 2).to_sparse()})
    for given in of_many(dicts):
        assert_agrees(model, given, assign, untouched=True)


@pytest.mark.parametrize("way", ["instance", "partial", "class", "mixin after the norm", "setattr"])
@pytest.mark.parametrize("assign", [False, True])
def test_overrides_put_in_odd_places(way: str, assign: bool) -> None:
    def loader(self: nn.Module, state_dict: Any, prefix: str, *rest: Any) -> None:
        state_dict.pop(prefix + "weight", None)
        nn.Module._load_from_state_dict(self, state_dict, prefix, *rest)  # type: ignore[call-arg]

    class Mixin(nn.Module):
        def _load_from_state_dict(self, *arguments: Any) -> None:
            loader(self, *arguments)

    class Mixed(nn.BatchNorm1d, Mixin):
        pass

    class Setting(nn.Linear):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "weight" and hasattr(self, "weight"):
                raise AttributeError("read-only")
            super().__setattr__(name, value)

    def model() -> nn.Module:
        made = net()
        if way == "instance":
            made.head._load_from_state_dict = types.MethodType(loader, made.head)  # type: ignore[method-assign]
        elif way == "partial":
            made.head._load_from_state_dict = functools.partial(loader, made.head)  # type: ignore[method-assign]
        elif way == "class":
            made.head.__class__ = type("Linear", (nn.Linear,), {"_load_from_state_dict": loader})
        elif way == "setattr":
            made.head = Setting(2, 1)
        else:
            made.body.norm = Mixed(3)
        return made

    for state_dict in every_state_dict():
        assert_agrees(model, state_dict, assign, untouched=True)


def test_a_loader_replaced_for_all_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    original = nn.Module._load_from_state_dict

    def patched(self: nn.Module, state_dict: Any, prefix: str, *rest: Any) -> None:
        rest[2].append("seen " + prefix)  # the missing keys
        original(self, state_dict, prefix, *rest)  # type: ignore[call-arg]

    monkeypatch.setattr(nn.Module, "_load_from_state_dict", patched)
    for state_dict in every_state_dict():
        assert_agrees(net, state_dict)


class OwnLoading(nn.Linear):
    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        return super().load_state_dict(*arguments, **options)


def test_a_model_with_a_load_state_dict_of_its_own_is_said_to_have_one() -> None:
    ours = compare(extract(OwnLoading(2, 2)), checkpoint_of({}))
    assert ours.problem_keys("missing") == ("weight", "bias")
    assert ["has a load_state_dict of its own" in sentence for sentence in ours.doubts] == [True]


def test_code_that_asks_a_model_for_values_it_was_built_without() -> None:
    with torch.device("meta"):
        model = net()
    pre(model.body, look_at_own_values, with_module=True)
    for built in ("meta", "uninitialized"):
        with pytest.raises(ModelValuesNeeded, match="body"):
            compare(extract(model, built=built), checkpoint_of(net().state_dict()))
    with torch.device("meta"):
        model = net()
    pre(model.body, reading)
    assert not loads(compare(extract(model, built="meta"), checkpoint_of(net().state_dict())))
