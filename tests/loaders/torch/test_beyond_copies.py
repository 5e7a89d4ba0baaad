"""Code that looks at what no copy of a module has: who it is, where it lies, what others hold of it, how often it ran.

Each case is a function that makes a model and a state dict anew. torch's own loader, really run on that very model, is
the oracle; before it, nothing of the model, the modules' globals and the random generators may be other than it was.
"""

from __future__ import annotations

import builtins
import concurrent.futures
import functools
import gc
import itertools
import pickle
import queue
import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ckptdiff.checkpoint.from_memory import checkpoint_of
from ckptdiff.loaders.outcome import Outcome
from ckptdiff.loaders.torch.answer import error_message
from ckptdiff.loaders.torch.walk import compare
from ckptdiff.model.extract import extract
from tests.loaders.torch.oracle import state_of, torch_says

Case = tuple[nn.Module, Any]
CASES: dict[str, Callable[[], Case]] = {}
ASSIGN: set[str] = set()


def case(make: Callable[[], Case]) -> Callable[[], Case]:
    CASES[make.__name__] = make
    return make


def assigned(make: Callable[[], Case]) -> Callable[[], Case]:
    ASSIGN.add(make.__name__)
    return case(make)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, 2)
        self.b = nn.Linear(2, 2)


def pair() -> tuple[Net, dict[str, Any]]:
    torch.manual_seed(0)
    model, other = Net(), Net()
    return model, other.state_dict()


def post(module: nn.Module, hook: Callable[[nn.Module, Any], None]) -> None:
    module.register_load_state_dict_post_hook(hook)


def pre(module: nn.Module, hook: Callable[..., None], with_module: bool = False) -> None:
    module._register_load_state_dict_pre_hook(hook, with_module=with_module)


def say(keys: Any, what: object) -> None:
    keys.missing_keys.append(str(what))


# What a module global says

COUNT = 0
CALLS: list[str] = []
SEEN: dict[str, int] = {}
NAMES: set[str] = set()
MODEL: Any = None
WEIGHT: Any = None
WEAK: Any = None
WEAK_KEYS: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
WEAK_VALUES: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
WEAK_SET: weakref.WeakSet[Any] = weakref.WeakSet()
REGISTRY: dict[int, str] = {}
NUMBERS: Iterator[int] = itertools.count()
ADDRESS = 0
POOL: Any = None


@case
def counting_in_a_global() -> Case:
    global COUNT
    COUNT = 0

    def hook(_: nn.Module, keys: Any) -> None:
        global COUNT
        COUNT += 1
        say(keys, f"call {COUNT}")

    model, given = pair()
    post(model, hook)
    post(model.a, hook)
    return model, given


@case
def failing_after_it_counted() -> Case:
    """On meta tensors it fails, and would be run again."""
    global COUNT
    COUNT = 0

    def hook(given: Any, prefix: str, *rest: Any) -> None:
        global COUNT
        COUNT += 1
        given[f"extra.{COUNT}"] = given[prefix + "a.weight"].sum().item()

    model, given = pair()
    pre(model, hook)
    return model, given


@case
def a_list_that_grows() -> Case:
    CALLS.clear()

    def hook(_: nn.Module, keys: Any) -> None:
        CALLS.append("call")
        say(keys, len(CALLS))

    model, given = pair()
    for module in (model, model.a, model.b):
        post(module, hook)
    return model, given


@case
def a_dict_and_a_set_that_grow() -> Case:
    SEEN.clear()
    NAMES.clear()

    def hook(given: Any, prefix: str, *_: Any) -> None:
        SEEN[prefix] = SEEN.get(prefix, 0) + 1
        NAMES.update(given)
        if len(SEEN) > 1 or SEEN[prefix] > 1:
            given.pop("a.bias", None)
        given[f"names.{len(NAMES)}"] = 1

    model, given = pair()
    pre(model, hook)
    return model, given


@case
def an_iterator() -> Case:
    global NUMBERS
    NUMBERS = itertools.count()

    def hook(_: nn.Module, keys: Any) -> None:
        say(keys, next(NUMBERS))

    model, given = pair()
    post(model, hook)
    return model, given


@case
def an_iterator_in_a_closure() -> Case:
    numbers = itertools.count()

    def hook(_: nn.Module, keys: Any) -> None:
        say(keys, next(numbers))

    model, given = pair()
    post(model, hook)
    return model, given


@case
def a_generator_in_a_closure() -> Case:
    lines = (f"line {number}" for number in range(10))

    def hook(_: nn.Module, keys: Any) -> None:
        say(keys, next(lines))

    model, given = pair()
    post(model, hook)
    return model, given


@case
def an_attribute_of_a_function() -> Case:
    def inner() -> int:
        inner.calls = getattr(inner, "calls", 0) + 1  # type: ignore[attr-defined]
        return inner.calls  # type: ignore[attr-defined, no-any-return]

    model, given = pair()
    post(model, lambda _, keys: say(keys, inner()))
    post(model.b, lambda _, keys: say(keys, inner()))
    return model, given


def remembering() -> int:
    remembering.calls += 1  # type: ignore[attr-defined]
    return remembering.calls  # type: ignore[attr-defined, no-any-return]


@case
def an_attribute_of_a_global_function() -> Case:
    remembering.calls = 0  # type: ignore[attr-defined]
    model, given = pair()
    post(model, lambda _, keys: say(keys, remembering()))
    return model, given


@functools.cache
def cached(_: str) -> list[int]:
    return []


@case
def a_cache() -> Case:
    cached.cache_clear()

    def hook(_: nn.Module, keys: Any) -> None:
        cached("x").append(1)
        say(keys, len(cached("x")))

    model, given = pair()
    post(model, hook)
    return model, given


class Counted(nn.Module):
    loads = 0
    log: ClassVar[list[str]] = []

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def _load_from_state_dict(self, given: Any, prefix: str, *rest: Any) -> None:
        Counted.loads += 1
        self.log.append(prefix)
        given[f"{prefix}n{Counted.loads}.{len(self.log)}"] = torch.zeros(1)
        super()._load_from_state_dict(given, prefix, *rest)


@case
def class_attributes_that_count() -> Case:
    Counted.loads = 0
    Counted.log.clear()
    return nn.Sequential(Counted(), Counted()), {"0.weight": torch.ones(2)}


# Who a module or tensor is


@case
def a_global_model() -> Case:
    global MODEL
    model, given = pair()
    MODEL = model
    post(model, lambda module, keys: say(keys, module is MODEL))
    return model, given


@case
def values_of_a_global_model() -> Case:
    global MODEL
    model, given = pair()
    MODEL = model
    post(model, lambda _, keys: say(keys, MODEL.a.weight.sum().item()))
    return model, given


@case
def writing_to_a_global_model() -> Case:
    global MODEL
    model, given = pair()
    MODEL = model

    def hook(given: Any, prefix: str, *_: Any) -> None:
        MODEL.a.weight.data.fill_(7)
        MODEL.register_buffer("late", torch.zeros(2))

    pre(model, hook)
    return model, given


@case
def a_global_weight() -> Case:
    global WEIGHT
    model, given = pair()
    WEIGHT = model.a.weight
    post(model, lambda module, keys: say(keys, module.a.weight is WEIGHT))
    return model, given


@assigned
def a_global_weight_that_was_replaced() -> Case:
    global WEIGHT
    model, given = pair()
    WEIGHT = model.a.weight
    post(model, lambda module, keys: say(keys, (module.a.weight is WEIGHT, WEIGHT.sum().item())))
    return model, given


@case
def a_weak_global() -> Case:
    global WEAK
    model, given = pair()
    WEAK = weakref.ref(model)
    post(model, lambda module, keys: say(keys, WEAK() is module))
    return model, given


@case
def a_weak_proxy() -> Case:
    model, given = pair()
    proxy = weakref.proxy(model)
    post(model, lambda _, keys: say(keys, proxy.a.weight.sum().item()))
    return model, given


@case
def a_weak_method() -> Case:
    model, given = pair()
    method = weakref.WeakMethod(model.extra_repr)
    post(model, lambda module, keys: say(keys, method().__self__ is module))  # type: ignore[union-attr]
    return model, given


@case
def weak_collections() -> Case:
    model, given = pair()
    WEAK_KEYS[model] = "it"
    WEAK_VALUES["it"] = model.a
    WEAK_SET.add(model.b.weight)

    def hook(module: nn.Module, keys: Any) -> None:
        say(keys, (WEAK_KEYS.get(module), WEAK_VALUES["it"] is module.a, module.b.weight in WEAK_SET))

    post(model, hook)
    return model, given


@case
def weak_collections_in_a_closure() -> Case:
    model, given = pair()
    known: Any = weakref.WeakKeyDictionary({model: 3})
    post(model, lambda module, keys: say(keys, known.get(module)))
    return model, given


@case
def a_registry_by_id() -> Case:
    model, given = pair()
    REGISTRY.clear()
    REGISTRY[id(model)] = "known"
    post(model, lambda module, keys: say(keys, REGISTRY.get(id(module))))
    return model, given


@case
def an_id_in_a_closure() -> Case:
    model, given = pair()
    number = id(model.a.weight)
    post(model, lambda module, keys: say(keys, id(module.a.weight) == number))
    return model, given


@case
def a_hash() -> Case:
    model, given = pair()
    number = hash(model)
    post(model, lambda module, keys: say(keys, hash(module) == number))
    return model, given


@case
def a_hash_asked_of_the_object() -> Case:
    model, given = pair()
    number = model.__hash__()
    post(model, lambda module, keys: say(keys, module.__hash__() == number))
    return model, given


@case
def the_default_text_of_an_object() -> Case:
    model, given = pair()
    text = object.__repr__(model)
    post(model, lambda module, keys: say(keys, object.__repr__(module) == text))
    return model, given


class Holder:
    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __deepcopy__(self, memo: Any) -> Holder:
        return self

    def look(self, module: nn.Module, keys: Any) -> None:
        say(keys, module is self.model)


@case
def an_object_that_is_never_copied() -> Case:
    model, given = pair()
    post(model, Holder(model).look)
    return model, given


@case
def all_objects_there_are() -> Case:
    model, given = pair()
    model.tag = "this one"  # type: ignore[assignment]

    def hook(module: nn.Module, keys: Any) -> None:
        found = [each for each in gc.get_objects() if isinstance(each, Net) and vars(each).get("tag") == "this one"]
        say(keys, len([each for each in found if each is module]))

    post(model, hook)
    return model, given


@case
def who_refers_to_it() -> Case:
    model, given = pair()
    here = [model.a]
    post(model, lambda module, keys: say(keys, any(each is here for each in gc.get_referrers(module.a))))
    return model, given


@case
def frames() -> Case:
    model, given = pair()

    def hook(_: nn.Module, keys: Any) -> None:
        frame = sys._getframe(1)
        say(keys, (frame.f_code.co_name, sorted(frame.f_locals)[:2]))

    post(model, hook)
    return model, given


# What was done to tensors, and where they lie


@case
def versions() -> Case:
    model, given = pair()
    model.a.weight.data.add_(1)
    with torch.no_grad():
        model.b.weight.add_(1)
    post(model, lambda module, keys: say(keys, [parameter._version for parameter in module.parameters()]))
    return model, given


@case
def a_version_remembered() -> Case:
    model, given = pair()
    before = model.a.weight._version
    post(model, lambda module, keys: say(keys, module.a.weight._version - before))
    return model, given


@case
def versions_of_the_values() -> Case:
    model, given = pair()
    for value in given.values():
        value.mul_(2)
    pre(model, lambda given, prefix, *rest: given.update({f"v{given['a.weight']._version}": 1}))
    return model, given


@assigned
def versions_after_assigning() -> Case:
    model, given = pair()
    post(model, lambda module, keys: say(keys, [parameter._version for parameter in module.parameters()]))
    return model, given


@case
def addresses() -> Case:
    global ADDRESS
    model, given = pair()
    ADDRESS = model.a.weight.data_ptr()
    post(model, lambda module, keys: say(keys, module.a.weight.data_ptr() == ADDRESS))
    return model, given


@assigned
def addresses_after_assigning() -> Case:
    model, given = pair()
    addresses = {value.data_ptr() for value in given.values()}
    post(model, lambda module, keys: say(keys, [each.data_ptr() in addresses for each in module.parameters()]))
    return model, given


@case
def addresses_asked_by_name() -> Case:
    model, given = pair()
    address = model.a.weight.data_ptr()
    name = "_".join(("data", "ptr"))
    post(model, lambda module, keys: say(keys, getattr(module.a.weight, name)() == address))
    return model, given


@case
def a_state_dict_of_the_models_own() -> Case:
    model, _ = pair()

    def hook(module: Any, given: Any, prefix: str, *_: Any) -> None:
        if given["a.weight"].data_ptr() == module.a.weight.data_ptr():
            del given["a.weight"]

    pre(model, hook, with_module=True)
    return model, model.state_dict()


@case
def storages() -> Case:
    memory = torch.zeros(8)
    model = nn.Module()
    model.register_buffer("x", memory[:4])
    model.register_buffer("y", memory[4:])

    def hook(module: Any, keys: Any) -> None:
        same = module.x.untyped_storage().data_ptr() == module.y.untyped_storage().data_ptr()
        say(keys, (same, module.x._base is module.y._base, memory.sum().item()))

    post(model, hook)
    return model, {"x": torch.ones(4), "y": torch.ones(4)}


@case
def numpy_that_shares_memory() -> Case:
    array = np.zeros(4, dtype=np.float32)
    model = nn.Module()
    model.register_buffer("x", torch.from_numpy(array))
    post(model, lambda _, keys: say(keys, array.sum()))
    return model, {"x": torch.ones(4)}


@assigned
def what_was_assigned() -> Case:
    model, given = pair()
    kept = {key: nn.Parameter(value) for key, value in given.items()}

    def hook(module: Any, keys: Any) -> None:
        say(keys, [parameter is kept[key] for key, parameter in module.named_parameters()])

    post(model, hook)
    return model, kept


@assigned
def what_was_assigned_and_kept_by_a_pre_hook() -> Case:
    model, given = pair()
    seen: list[Any] = []
    pre(model, lambda given, *_: seen.extend(given.values()))
    post(model, lambda module, keys: say(keys, [any(each is one for one in seen) for each in module.parameters()]))
    return model, {key: nn.Parameter(value) for key, value in given.items()}


# What tensors are said to be


@case
def legacy_types() -> Case:
    model, given = pair()

    def hook(given: Any, *_: Any) -> None:
        for key in [key for key, value in given.items() if isinstance(value, torch.FloatTensor)]:
            del given[key]

    pre(model, hook)
    return model, given


LEGACY = torch.DoubleTensor


@case
def a_legacy_type_by_another_name() -> Case:
    model, given = pair()
    given["a.bias"] = given["a.bias"].double()
    pre(
        model, lambda given, *_: given.update({f"d{key}": 1 for key, v in list(given.items()) if isinstance(v, LEGACY)})
    )
    return model, given


@case
def a_legacy_type_by_its_text() -> Case:
    model, given = pair()
    kind: Any = getattr(torch, "Float" + "Tensor")
    post(model, lambda module, keys: say(keys, isinstance(module.a.weight, kind)))
    return model, given


@case
def types_as_text() -> Case:
    model, given = pair()
    post(
        model,
        lambda module, keys: say(keys, (module.a.weight.type(), module.a.weight.is_cuda, module.a.weight.is_meta)),
    )
    return model, given


@case
def devices() -> Case:
    model, given = pair()
    post(model, lambda module, keys: say(keys, {str(each.device) for each in module.parameters()}))
    return model, given


@case
def text_of_a_tensor() -> Case:
    model, given = pair()
    post(model, lambda module, keys: say(keys, f"{module.a.weight}"))
    return model, given


@case
def pickled() -> Case:
    model, given = pair()
    post(model, lambda module, keys: say(keys, hash(pickle.dumps(module.a.weight.tolist()))))
    return model, given


@case
def by_numpy_and_dlpack() -> Case:
    model, given = pair()

    def hook(module: Any, keys: Any) -> None:
        say(keys, (np.asarray(module.a.weight.detach()).sum(), np.from_dlpack(module.b.weight.detach()).sum()))

    post(model, hook)
    return model, given


@case
def by_memory() -> Case:
    import ctypes

    model, given = pair()

    def hook(module: Any, keys: Any) -> None:
        say(keys, ctypes.c_float.from_address(module.a.weight.data_ptr()).value)

    post(model, hook)
    return model, given


# Threads


@case
def a_value_read_in_a_thread() -> Case:
    model, given = pair()

    def hook(given: Any, *_: Any) -> None:
        sums: list[float] = []

        def read() -> None:
            try:
                sums.append(given["a.weight"].sum().item())
            except Exception:
                sums.append(0.0)

        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
        given[f"sum {sums[0]:.5f}"] = 1

    pre(model, hook)
    return model, given


@case
def a_value_read_in_a_pool() -> Case:
    model, given = pair()

    def hook(module: Any, keys: Any) -> None:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            say(keys, list(pool.map(lambda each: each.sum().item(), module.parameters())))

    post(model, hook)
    return model, given


@case
def a_thread_by_the_lowest_module() -> Case:
    import _thread

    model, given = pair()
    answers: queue.Queue[float] = queue.Queue()

    def hook(module: Any, keys: Any) -> None:
        _thread.start_new_thread(lambda: answers.put(module.a.weight.sum().item()), ())
        say(keys, answers.get())

    post(model, hook)
    return model, given


@case
def what_belongs_to_a_thread() -> Case:
    local = threading.local()
    local.calls = 0
    model, given = pair()

    def hook(_: Any, keys: Any) -> None:
        local.calls += 1
        say(keys, local.calls)

    post(model, hook)
    return model, given


# Random numbers


@case
def torchs_random_numbers() -> Case:
    model, given = pair()
    pre(model, lambda given, *_: given.update({f"r{torch.randint(1000, ()).item()}": 1}))
    return model, given


@case
def pythons_random_numbers() -> Case:
    random.seed(3)
    model, given = pair()
    pre(model, lambda given, *_: given.update({f"r{random.randrange(1000)}": 1}))
    return model, given


@case
def numpys_random_numbers() -> Case:
    np.random.seed(3)
    model, given = pair()
    pre(model, lambda given, *_: given.update({f"r{np.random.randint(1000)}": 1}))
    return model, given


@case
def a_generator_of_its_own() -> Case:
    model, given = pair()
    generator = torch.Generator().manual_seed(3)
    pre(model, lambda given, *_: given.update({f"r{torch.randint(1000, (), generator=generator).item()}": 1}))
    return model, given


@case
def a_new_layer() -> Case:
    model, given = pair()

    def hook(module: Any, given: Any, *_: Any) -> None:
        module.c = nn.Linear(2, 2)
        given[f"w{module.c.weight.sum().item():.5f}"] = 1

    pre(model, hook, with_module=True)
    return model, given


@case
def a_layer_made_and_dropped() -> Case:
    model, given = pair()
    pre(model, lambda given, *_: given.update({"extra": nn.init.kaiming_uniform_(torch.empty(2, 2))}))
    return model, given


# Code other than hooks


class Watchful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def __getattribute__(self, name: str) -> Any:
        if name == "_buffers":
            return {"surprise": torch.zeros(3)}
        return super().__getattribute__(name)


@case
def a_getattribute() -> Case:
    return nn.Sequential(Watchful(), nn.Linear(2, 2)), {"0.weight": torch.ones(2)}


class Fickle(nn.Module):
    asked = 0

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    @property
    def _modules(self) -> Any:  # type: ignore[override]
        Fickle.asked += 1
        return {}

    @_modules.setter
    def _modules(self, value: Any) -> None:
        pass


@case
def a_property_in_the_place_of_the_modules() -> Case:
    Fickle.asked = 0
    return Fickle(), {"weight": torch.ones(2), "x.y": torch.ones(1)}


class Renaming(type):
    def __getattribute__(cls, name: str) -> Any:
        if name == "__name__":
            return "Somebody"
        return super().__getattribute__(name)


class Renamed(nn.Module, metaclass=Renaming):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))


@case
def a_metaclass() -> Case:
    return Renamed(), {"weight": torch.ones(3)}


class Setting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        vars(self)["before"] = self.weight

    def __setattr__(self, name: str, value: Any) -> None:
        if "before" in vars(self) and name == "weight":
            raise TypeError(f"{value is GIVEN} {self.weight is vars(self)['before']}")
        super().__setattr__(name, value)


GIVEN = nn.Parameter(torch.ones(2))


@assigned
def a_setattr() -> Case:
    return Setting(), {"weight": GIVEN}


class Stateful(nn.Module):
    states: ClassVar[list[Any]] = []

    def set_extra_state(self, state: Any) -> None:
        Stateful.states.append(state)
        if len(Stateful.states) > 1:
            raise ValueError("twice")

    def get_extra_state(self) -> Any:
        return 0


@case
def an_extra_state_that_remembers() -> Case:
    Stateful.states.clear()
    return nn.Sequential(Stateful(), nn.Linear(1, 1)), {"0._extra_state": 3}


class Mode(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.copy_:
            raise ValueError("not under my rule")
        return func(*args, **(kwargs or {}))


class Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        CALLS.append(f"{func} {args[0].device if args and isinstance(args[0], torch.Tensor) else ''}")
        return func(*args, **(kwargs or {}))


@case
def a_dispatch_mode_in_a_hook() -> Case:
    CALLS.clear()
    model, given = pair()

    def hook(module: Any, keys: Any) -> None:
        with Dispatch():
            module.a.weight + 1
        say(keys, CALLS)

    post(model, hook)
    return model, given


@case
def a_function_mode_in_a_hook() -> Case:
    model, given = pair()

    def hook(module: Any, keys: Any) -> None:
        with Mode():
            try:
                module.a.weight.data.copy_(torch.ones(2, 2))
            except ValueError as error:
                say(keys, error)

    post(model, hook)
    return model, given


@case
def without_torch_functions() -> Case:
    model, given = pair()

    def hook(module: Any, keys: Any) -> None:
        with torch._C.DisableTorchFunction():
            say(keys, (module.a.weight.is_meta, module.a.weight.device))

    post(model, hook)
    return model, given


@case
def code_made_at_run_time() -> Case:
    global COUNT
    COUNT = 0
    model, given = pair()
    here = __name__
    post(model, lambda _, keys: (exec("COUNT += 1", vars(sys.modules[here])), say(keys, COUNT))[1])
    return model, given


@case
def something_imported_by_name() -> Case:
    global MODEL
    model, given = pair()
    MODEL = model
    here = __name__
    post(model, lambda module, keys: say(keys, builtins.__import__("sys").modules[here].MODEL is module))
    return model, given


@case
def a_callable_object() -> Case:
    class Hook:
        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, module: nn.Module, keys: Any) -> None:
            self.calls += 1
            say(keys, (self.calls, id(module) == number))

    model, given = pair()
    number = id(model)
    hook = Hook()
    post(model, hook)
    post(model.a, hook)
    return model, given


@case
def gradients() -> Case:
    model, given = pair()
    model.a.weight.grad = torch.ones(2, 2)
    post(model, lambda module, keys: say(keys, module.a.weight.grad))
    return model, given


@case
def settings_of_torch() -> Case:
    torch.set_printoptions(precision=4)
    model, given = pair()

    def hook(module: Any, keys: Any) -> None:
        say(keys, module.a.weight)
        torch.set_printoptions(precision=2)

    post(model, hook)
    post(model.b, lambda module, keys: torch.set_printoptions(precision=4))
    return model, given


@case
def the_text_of_a_function() -> Case:
    model, given = pair()

    def hook(_: Any, keys: Any) -> None:
        say(keys, f"{hook}" == text)

    text = str(hook)
    post(model, hook)
    return model, given


def generators() -> Any:
    return torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state()[1].tolist())


def everything() -> Any:
    return COUNT, list(CALLS), dict(SEEN), sorted(NAMES), repr(NUMBERS), Counted.loads, list(Counted.log), Fickle.asked


def asked(model: nn.Module, given: Any, *, assign: bool, untouched: bool = True) -> Outcome:
    """Our answer, with nothing changed by it."""
    before = (state_of(model), state_of(given), generators(), everything()) if untouched else None
    ours = compare(extract(model), checkpoint_of(given), assign=assign)
    if before is not None:
        assert (state_of(model), state_of(given), generators(), everything()) == before
    return ours


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", CASES)
def test_the_answer_is_torchs(name: str) -> None:
    for strict in (True, False):
        model, given = CASES[name]()
        assign = name in ASSIGN
        # A property or a generator that counts counts when we look whether it has counted.
        looks = name in ("a_property_in_the_place_of_the_modules", "a_getattribute")
        ours = asked(model, given, assign=assign, untouched=not looks)
        if looks:
            model, given = CASES[name]()
        theirs = torch_says(model, given, strict, assign)
        assert error_message(ours, strict) == theirs.error
        if theirs.missing is not None:
            assert list(ours.problem_keys("missing")) == theirs.missing
            assert list(ours.problem_keys("unexpected")) == theirs.unexpected
