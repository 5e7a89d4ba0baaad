"""The canonical runs that every format for continuous integration is fed, beyond single reports (tests/reports.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ckptdiff.gate.run import Ignored, NoVerdict, Run, TargetResult, single
from ckptdiff.judging.report import Report, judge
from ckptdiff.model.tree import ModuleNode, Slot
from ckptdiff.tensors import Entry, ObjectInfo, TensorInfo
from tests import reports

F32, F16, I64 = "float32", "float16", "int64"
STARTED = "2026-01-02T03:04:05"
Tensors = Mapping[str, tuple[str, tuple[int, ...]]]


def model(tensors: Tensors, *, none: tuple[str, ...] = (), tied: Mapping[str, str] | None = None) -> ModuleNode:
    """The root of a model of plain modules. `none` are children registered as None; `tied` maps a key to its twin."""
    levels: dict[str, object] = {}
    for key in (*tensors, *none):
        *path, name = key.split(".")
        level = levels
        for part in path:
            level = level.setdefault(part + ".", {})  # type: ignore[assignment]  # names of inner levels end with a dot
        level[name] = None if key in none else key
    identity = {key: place for place, key in enumerate(tensors)}
    identity |= {key: identity[twin] for key, twin in (tied or {}).items()}

    def node(level: Mapping[str, object], name: str) -> ModuleNode:
        local, children = {}, {}
        for part, value in level.items():
            if isinstance(value, str):
                dtype, shape = tensors[value]
                kind = "buffer" if "running" in part or dtype == I64 else "parameter"
                local[part] = Slot(TensorInfo(dtype, shape), kind, identity[value])  # type: ignore[arg-type]
            elif value is None:
                children[part] = None
            else:
                assert isinstance(value, dict)
                children[part.removesuffix(".")] = node(value, "Block")
        return ModuleNode(name, f"model.{name}", local, children)

    return node(levels, "Net")


def judged(
    root: ModuleNode, entries: Mapping[str, tuple[str, tuple[int, ...]] | Entry], **checkpoint: object
) -> Report:
    tensors = {key: TensorInfo(*value) if isinstance(value, tuple) else value for key, value in entries.items()}
    nbytes = sum(entry.nbytes for entry in tensors.values() if isinstance(entry, TensorInfo))
    return judge(reports.compared(root, tensors, checkpoint={"nbytes": nbytes, **checkpoint}))


def resnet(classes: int = 10) -> dict[str, tuple[str, tuple[int, ...]]]:
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {"conv1.weight": (F32, (64, 3, 7, 7))}

    def norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{name}.{part}"] = (F32, (width,))
        tensors[f"{name}.num_batches_tracked"] = (I64, ())

    norm("bn1", 64)
    width = 64
    for layer in range(1, 5):
        for block in range(2):
            out = 32 << layer
            tensors[f"layer{layer}.{block}.conv1.weight"] = (F32, (out, width, 3, 3))
            norm(f"layer{layer}.{block}.bn1", out)
            tensors[f"layer{layer}.{block}.conv2.weight"] = (F32, (out, out, 3, 3))
            norm(f"layer{layer}.{block}.bn2", out)
            if width != out:
                tensors[f"layer{layer}.{block}.downsample.0.weight"] = (F32, (out, width, 1, 1))
                norm(f"layer{layer}.{block}.downsample.1", out)
            width = out
    tensors["fc.weight"] = (F32, (classes, 512))
    tensors["fc.bias"] = (F32, (classes,))
    return tensors


def passing() -> Report:
    return judged(model(resnet()), resnet())


def failing() -> Report:
    """What everyday failures look like: new classes, a renamed layer, half precision, an object, tied weights."""
    ours = resnet() | {"embed.weight": (F32, (100, 16)), "decoder.weight": (F32, (100, 16))}
    theirs: dict[str, tuple[str, tuple[int, ...]] | Entry] = {**resnet(1000), "embed.weight": (F16, (100, 16))}
    for key in [key for key in theirs if key.startswith("layer3.")]:
        theirs[key.replace("layer3.", "stage3.")] = theirs.pop(key)
    for part in ("weight", "bias"):
        theirs[f"head.{part}"] = (F32, (7,))
    theirs["bn1.weight"] = ObjectInfo("numpy.ndarray", "64 values")
    theirs["layer1.0.conv1.weight"] = ("float64", (64, 64, 3, 3))
    root = model(ours, tied={"decoder.weight": "embed.weight"})
    return judged(root, theirs, unsafe_globals=("os.system",))


HOSTILE = (
    "\x1b[31mred\x1b[0m.weight",
    "line\nbreak\r::error::pwned.weight",
    "::error file=a,line=1::pwned",
    "##[error]pwned",
    "</script><script>window.pwned=1</script>.weight",
    "<img src=x onerror=window.pwned=1>.bias",
    "<!--<script>",
    "]]><x>&amp;",
    "[link](javascript:alert(1)).weight",
    "![img](https://example.invalid/x.png)",
    "a|b`c``d*e_f~g.weight",
    "@octocat closes #1 :tada: https://example.invalid/",
    "| --- | </details>",
    "{0} {{1}} %0A %25 \\ \\|",
    "\u202etxt.exe\u2066\u200b",
    "\u2028line\u2029para\u0085nel",
    "\ud800lone.weight",
    "nul\x00\x7f\ufffe\uffff",
    "__proto__.constructor.weight",
    "__proto__",
    "toString.hasOwnProperty",
    "a..b.",
    "",
    ".",
    " \xa0 spaces \t.weight ",
    "x" * 1_000_000,
    "deep." * 200_000 + "weight",
    "日本語.重み",
    "🧨.🧨",
)


def hostile() -> Report:
    """Hostile names on both sides, in every status they can have."""
    tensors = dict.fromkeys(HOSTILE, (F32, (2, 2)))
    ours = {key: value for key, value in tensors.items() if key and "deep" not in key and not key.endswith(".")}
    theirs: dict[str, tuple[str, tuple[int, ...]] | Entry] = {}
    kinds = (None, (F32, (3,)), (F16, (2, 2)), ObjectInfo("<b>evil</b>\x1b[0m", "\n"), (F32, (2, 2)))
    for place, key in enumerate(tensors):
        kind = kinds[place % len(kinds)] or (None if key in ours else kinds[-1])
        if kind is not None:
            theirs[key] = kind
    outcome = judged(model(ours), theirs, unsafe_globals=tuple(HOSTILE[:9])).outcome
    tree = replace(outcome.model, reference="</script>\x1b[2J`|@octocat`.py:Net")
    file = replace(outcome.checkpoint, path="<img src=x>,::error::\n.pth", state_dict_key=HOSTILE[4])
    return judge(replace(outcome, model=tree, checkpoint=file, doubts=HOSTILE[:20]))


def huge(amount: int = 50_000) -> Report:
    """A model of `amount` keys, a tenth of them missing, a tenth of another shape, and as many unexpected."""
    names = [f"blocks.{block}.experts.{expert}.{layer}.{part}" for block, expert, layer, part in _places(amount)]
    ours = {name: (F32, (64 + place % 64, 32)) for place, name in enumerate(names)}
    theirs: dict[str, tuple[str, tuple[int, ...]] | Entry] = {}
    for place, (name, value) in enumerate(ours.items()):
        if place % 10 == 0:
            theirs[name.replace("experts", "expert_list")] = value
        else:
            theirs[name] = (F32, (7, 32)) if place % 10 == 1 else value
    return judged(model(ours), theirs)


def _places(amount: int) -> Iterator[tuple[int, int, str, str]]:
    layers = ("w1", "w2", "gate", "norm", "proj")
    for place in range(amount):
        rest, part = divmod(place, 2)
        rest, layer = divmod(rest, len(layers))
        block, expert = divmod(rest, 50)
        yield block, expert, layers[layer], ("weight", "bias")[part]


def several() -> Run:
    """Four targets: one passes, one fails, one has no verdict, one passes by what is accepted and yet is stale."""
    whole = failing()
    left = tuple(finding for finding in whole.findings if finding.level != "error")
    accepted = tuple(Ignored(f, "baseline") for f in whole.findings if f.level == "error")
    return Run(
        (
            TargetResult("resnet18", passing(), seconds=0.25),
            TargetResult("resnet18, new head", failing(), seconds=1.5),
            TargetResult(
                "llama",
                error=NoVerdict("timeout", "The model took longer than 60 s.", "Raise --timeout.", "last line"),
                seconds=60.0,
            ),
            TargetResult(
                "accepted",
                Report(whole.outcome, left, whole.coverage),
                ignored=accepted,
                stale=("missing-key conv9.weight",),
            ),
        ),
        config="pyproject.toml",
        started=STARTED,
    )


def hostile_run() -> Run:
    name = "t</script>|`@octocat`\n::error::x\x1b[0m\ud800"
    error = NoVerdict("crash", f"{name} crashed", name, f"Traceback\n\n{name}\n::error::x")
    return Run(
        (
            TargetResult(name, hostile(), stale=(name,)),
            TargetResult(name, error=error),
            TargetResult(name + "2", hostile()),
        ),
        config=name,
    )


def canonical() -> dict[str, Run]:
    """Those that have golden files."""
    return {
        **{name: single(reports.report(name)) for name in reports.CASES},
        "everyday": single(failing(), 0.25, STARTED),
        "several": several(),
        "none": Run(()),
    }
