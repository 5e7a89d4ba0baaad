"""Outcomes made by hand, the same for every test of findings and formats. No torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ckptdiff.checkpoint.checkpoint import Alternative, Checkpoint
from ckptdiff.contents.numbers import TensorValues
from ckptdiff.judging.report import Report, judge
from ckptdiff.loaders.outcome import Filled, KeyChange, Machine, Outcome, ValueFacts
from ckptdiff.loaders.torch.accounting import Origins, completed, unused, without_values
from ckptdiff.loaders.torch.answer import torch_loader
from ckptdiff.loaders.torch.texts import Texts, mismatched, not_a_tensor
from ckptdiff.model.tree import ModuleNode, ModuleTree, Slot
from ckptdiff.tensors import Entry, ObjectInfo, SavedOn, Storage, TensorInfo

EVIL = "evil\x1b[31m\u202e[bold]\n::error::\ud800<b>|`key`"


def tensor(*shape: int, dtype: str = "float32", storage: str | None = None, **more: Any) -> TensorInfo:
    info = TensorInfo(dtype, shape, **more)
    if storage is None:
        return info
    return TensorInfo(dtype, shape, storage=Storage(storage, "data", 0, info.nbytes), **more)


_identity = iter(range(1, 1_000_000))


def slot(*shape: int, dtype: str = "float32", kind: Any = "parameter", identity: int = 0, lazy: bool = False) -> Slot:
    return Slot(tensor(*shape, dtype=dtype), kind, identity or next(_identity), lazy)


def module(name: str = "Net", *, children: dict[str, Any] | None = None, **slots: Any) -> ModuleNode:
    """A module; slots are its parameters and buffers, keyword `non_persistent` its non-persistent buffers."""
    non_persistent = slots.pop("non_persistent", {})
    return ModuleNode(name, f"models.{name}", slots, children or {}, non_persistent=non_persistent)


def compared(
    root: ModuleNode,
    entries: dict[str, Entry],
    *,
    missing: tuple[str, ...] | None = None,
    unexpected: tuple[str, ...] | None = None,
    ignored: tuple[str, ...] = (),
    supplied: tuple[str, ...] = (),
    errors: tuple[str, ...] | None = None,
    checkpoint: dict[str, Any] | None = None,
    assign: bool = False,
    **more: Any,
) -> Outcome:
    """An Outcome as the walk would give it for plain modules: keys of one side only are missing or unexpected."""
    tree = ModuleTree(root, "model.py:Net", "meta", "2.13.0")
    model = tree.keys()
    file = Checkpoint("weights.pth", "torch-zip", entries, **{"nbytes": 4_000, **(checkpoint or {})})
    filled: dict[str, Filled] = {}
    known = []
    for key, target in model.items():
        entry = entries.get(key)
        wanted = target.tensor.shape
        filled[key] = Filled(key, "rule" if key in supplied else "initial", target)
        if isinstance(entry, ObjectInfo):
            known.append(not_a_tensor(key, f"<class '{entry.type_name}'>", entry.type_name))
        elif isinstance(entry, TensorInfo):
            if entry.shape == wanted or target.lazy or (wanted == () and len(entry.shape) == 1):
                filled[key] = Filled(key, "file", target, entry, (("weights.pth", key),))
            else:
                known.append(mismatched(key, entry.shape, wanted))
    problems = Texts(tree, file, {problem.text: problem for problem in known}).problems(
        [key for key in model if key not in entries] if missing is None else missing,
        [key for key in entries if key not in model] if unexpected is None else unexpected,
        [problem.text for problem in known] if errors is None else errors,
    )
    filled, overwritten = completed(tree, filled, assign=assign, whole=False)
    filled = without_values(tree, filled, file.without_values(), assign=assign, whole=False)
    return Outcome(
        torch_loader("2.13.0", assign=assign),
        Machine("2.13.0"),
        tree,
        file,
        filled,
        unused(file, filled, problems, ignored, Origins(file.path)),
        problems,
        overwritten=overwritten,
        assign=assign,
        **more,
    )


def good() -> Outcome:
    layers = {str(i): module("Linear", weight=slot(4, 4), bias=slot(4)) for i in range(3)}
    root = module(children={"layers": module("ModuleList", children=layers)})
    entries: dict[str, Entry] = {}
    for i in range(3):
        entries[f"layers.{i}.weight"] = tensor(4, 4)
        entries[f"layers.{i}.bias"] = tensor(4)
    return compared(root, entries)


def bad() -> Outcome:
    """Every rule at once but those about the whole (`prefix`, `uncertain`, `load-error`)."""
    norms = {
        str(i): module(
            "BatchNorm1d",
            weight=slot(8),
            running_mean=slot(8, kind="buffer"),
            num_batches_tracked=slot(dtype="int64", kind="buffer"),
        )
        for i in range(30)
    }
    root = module(
        children={
            "norms": module("ModuleList", children=norms),
            "head": module("Linear", weight=slot(10, 8), bias=slot(10)),
            "embed": module("Embedding", weight=slot(50, 8, identity=-1)),
            "unembed": module("Linear", weight=slot(50, 8, identity=-1)),
            "left": module("Linear", weight=slot(2, 2, identity=-2)),
            "right": module("Linear", weight=slot(2, 2, identity=-2)),
            "half": module("Linear", weight=slot(3, dtype="float16"), bias=slot(3, dtype="float64")),
            "scale": module("Scale", value=slot(), other=slot()),
            "lazy": module("LazyLinear", weight=slot(lazy=True)),
            "odd": module("Odd", value=slot(1)),
            "gone": None,
            "rope": module("Rope", non_persistent={"freqs": tensor(4)}),
        }
    )
    entries: dict[str, Entry] = {f"norms.{i}.weight": tensor(8) for i in range(30)}
    entries |= {
        "head.weight": tensor(5, 8),
        "head.bias": tensor(5),
        "embed.weight": tensor(50, 8),
        "left.weight": tensor(2, 2, storage="0"),
        "right.weight": tensor(2, 2, storage="1"),
        "half.weight": tensor(3),
        "half.bias": tensor(3),
        "scale.value": tensor(1),
        "scale.other": tensor(7),
        "lazy.weight": tensor(9, 9),
        "odd.value": ObjectInfo("numpy.ndarray", "float32 [1]"),
        "gone.weight": tensor(6),
        "rope.freqs": tensor(4),
        "extra.scalar": ObjectInfo("int", "3", 3),
        EVIL: tensor(1),
    }
    supplied = tuple(f"norms.{i}.num_batches_tracked" for i in range(30))
    changes = tuple(KeyChange(f"norms.{i}", "renamed", f"norms.{i}.gamma", f"norms.{i}.weight") for i in range(30))
    return compared(
        root,
        entries,
        missing=(*(f"norms.{i}.running_mean" for i in range(0, 30)), "unembed.weight", "odd._extra_state"),
        unexpected=("rope.freqs", "extra.scalar", EVIL),
        ignored=("gone.weight",),
        supplied=supplied,
        changes=changes,
        values=ValueFacts({"half.weight": TensorValues(nan=1, inf=1, first_non_finite=1, lost=1, first_lost=0)}, {}),
        checkpoint={
            "state_dict_key": "model.state_dict",
            "alternatives": (Alternative("ema", 12), Alternative("odd name", 3)),
            "unsafe_globals": ("os.system",),
            "weights_only": "Unsupported operand 73",
            "warnings": ("The file was written by a torch of the future.",),
        },
    )


def prefixed() -> Outcome:
    layers = {str(i): module("Linear", weight=slot(4, 4), bias=slot(4)) for i in range(40)}
    root = module(children={"layers": module("ModuleList", children=layers)})
    entries: dict[str, Entry] = {}
    for i in range(40):
        entries[f"module.layers.{i}.weight"] = tensor(4, 4)
        entries[f"module.layers.{i}.bias"] = tensor(4)
    return compared(root, entries)


def raised() -> Outcome:
    return compared(module(weight=slot(2)), {"weight": tensor(2)}, raised="KeyError: 'scale'\n  in the hook")


def uncertain() -> Outcome:
    return compared(module(weight=slot(2)), {"weight": tensor(2)}, doubts=("Net overrides load_state_dict itself.",))


def empty_checkpoint() -> Outcome:
    return compared(module(weight=slot(2)), {})


def empty_model() -> Outcome:
    return compared(module("ReLU"), {})


def warned() -> Outcome:
    return compared(module(weight=slot(2, dtype="float16")), {"weight": tensor(2)})


def tied() -> Outcome:
    root = module(
        children={
            "a": module("Linear", weight=slot(3, identity=-1)),
            "b": module("Linear", weight=slot(3, identity=-1)),
        }
    )
    return compared(root, {"a.weight": tensor(3)})


def assigned() -> Outcome:
    """Tied weights, one name of them missing, under assign=True; and another dtype."""
    root = module(embed=slot(8, 4, identity=5), head=slot(8, 4, identity=5), norm=slot(4), bias=slot(4))
    entries: dict[str, Entry] = {
        "embed": tensor(8, 4, storage="0"),
        "norm": tensor(4, dtype="float16", storage="1"),
        "bias": tensor(4, storage="2"),
    }
    return compared(root, entries, assign=True)


def valueless() -> Outcome:
    """Under assign=True one tensor of the checkpoint has no values."""
    root = module(weight=slot(2, 8), bias=slot(2))
    entries: dict[str, Entry] = {"weight": tensor(2, 8, device="meta"), "bias": tensor(2)}
    return compared(root, entries, assign=True)


def covered() -> Outcome:
    """All parameters are loaded, and what is left over is none."""
    return compared(module(weight=slot(2)), {"weight": tensor(2), "rope.freqs": tensor(8)})


def many() -> Outcome:
    """More rows than are shown by default: no two keys fold."""
    root = module(**{"w" + "x" * i: slot(2) for i in range(50)})
    return compared(root, {"other": tensor(2)})


def elsewhere() -> Outcome:
    """A file of a GPU, read where there is none."""
    entries: dict[str, Entry] = {"weight": tensor(3, device="cuda:1")}
    outcome = compared(module(weight=slot(3)), entries, checkpoint={"saved_on": (SavedOn("cuda:1"),)})
    there = "the keys differ (1 more: extra), and load_state_dict raises Error(s) in loading state_dict for Net"
    return replace(
        outcome,
        unrestored="RuntimeError: Attempting to deserialize object on a CUDA device",
        elsewhere=(("a machine with a GPU", there),),
    )


def moved() -> Outcome:
    """Assigned tensors of a GPU in a model on the CPU, and one that stays."""
    entries: dict[str, Entry] = {"weight": tensor(3, device="cuda:1")}
    return compared(module(bias=slot(3), weight=slot(3)), entries, assign=True)


CASES = {
    case.__name__: case
    for case in (
        good,
        bad,
        prefixed,
        covered,
        raised,
        uncertain,
        empty_checkpoint,
        empty_model,
        warned,
        tied,
        assigned,
        valueless,
        many,
        elsewhere,
        moved,
    )
}


def report(name: str, **more: Any) -> Report:
    return judge(CASES[name](), **more)
