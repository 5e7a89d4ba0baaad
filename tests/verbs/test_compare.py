"""`compare` on live modules and state dicts: torch is the oracle."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ckptdiff
from ckptdiff.judging.advice import Advice
from ckptdiff.model.extract import extract
from ckptdiff.render.advised import sentence


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def torchs_answer(model: nn.Module, state_dict: object, strict: bool = True) -> str | None:
    try:
        model.load_state_dict(state_dict, strict=strict)  # type: ignore[arg-type]
    except RuntimeError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def perturbed() -> dict[str, dict[str, object]]:
    good = net().state_dict()
    return {
        "same": dict(good),
        "empty": {},
        "missing": {key: value for key, value in good.items() if "weight" not in key},
        "unexpected": {**good, "3.weight": torch.zeros(1)},
        "mismatch": {**good, "0.weight": torch.zeros(9, 9)},
        "prefix": {f"module.{key}": value for key, value in good.items()},
        "no tensor": {**good, "0.bias": [1, 2]},
    }


@pytest.mark.parametrize("case", perturbed())
@pytest.mark.parametrize("strict", [True, False])
def test_a_state_dict_in_memory_gets_torchs_answer(case: str, strict: bool) -> None:
    state_dict = perturbed()[case]
    model = net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = ckptdiff.compare(model, state_dict)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "the model was touched"
    answer = torchs_answer(net(), state_dict, strict)
    assert report.error_message(strict=strict) == answer
    assert report.loads(strict=strict) == (answer is None)


@pytest.mark.parametrize("value", [[1, 2], None, 3, net()], ids=["list", "None", "int", "module"])
def test_what_is_no_state_dict_gets_torchs_answer(value: object) -> None:
    report = ckptdiff.compare(net(), value)  # type: ignore[arg-type]
    assert report.error_message() == torchs_answer(net(), value)
    assert not report.loads()


@pytest.mark.parametrize("save", ["zip", "legacy"])
def test_a_file_gets_the_answer_of_its_state_dict(tmp_path: Path, save: str) -> None:
    path = tmp_path / "weights.pth"
    state_dict = OrderedDict(net().state_dict(), extra=torch.zeros(2))
    torch.save({"state_dict": state_dict}, path, _use_new_zipfile_serialization=save == "zip")
    for given in (path, str(path), ckptdiff.inspect(path)):
        assert ckptdiff.compare(net(), given).unexpected_keys == ["extra"]
    assert ckptdiff.inspect(path).state_dict_key == "state_dict"


def test_a_model_by_reference_with_arguments(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("from torch import nn\ndef net(n): return nn.Linear(n, 1)\n")
    reference = f"{tmp_path / 'model.py'}:net"
    weights = nn.Linear(3, 1).state_dict()
    assert ckptdiff.compare(reference, weights, args={"n": 3}).loads()
    assert ckptdiff.compare(reference, weights, args={"n": 4}).mismatched_keys == [("weight", (1, 3), (1, 4))]


def test_a_model_tree_serves_as_the_model() -> None:
    assert ckptdiff.compare(extract(net()), net().state_dict()).loads()


def test_renames_are_made_in_their_order(tmp_path: Path) -> None:
    state_dict = {f"module.{key}": value for key, value in net().state_dict().items()}
    rules = tmp_path / "r.rules.toml"
    rules.write_text('version = 1\n[[rule]]\nrename = "1.{*} -> 2.{*}"\n')
    report = ckptdiff.compare(
        nn.Sequential(net()), state_dict, strip_prefix="module.", rename="2.{*} -> 9.{*}", rules=rules, add_prefix="0."
    )
    assert report.unexpected_keys == [f"0.9.{name}" for name in ("weight", "bias")] + [
        f"0.2.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    ]
    assert [key for key, *_ in report.mismatched_keys] == ["0.2.weight", "0.2.bias"]


def test_values_are_looked_at_where_that_is_asked(tmp_path: Path) -> None:
    state_dict = net().state_dict()
    state_dict["0.weight"][0, 0] = torch.nan
    torch.save(state_dict, tmp_path / "w.pth")
    for check_values in (False, True):
        report = ckptdiff.compare(net(), tmp_path / "w.pth", check_values=check_values)
        assert any(finding.key == "0.weight" for finding in report.findings) == check_values


def test_assign_is_torchs() -> None:
    model, state_dict = net(), net().double().state_dict()
    assigned = [finding.rule for finding in ckptdiff.compare(model, state_dict, assign=True).findings]
    copied = [finding.rule for finding in ckptdiff.compare(model, state_dict).findings]
    assert assigned != copied


def test_arguments_that_make_no_sense() -> None:
    with pytest.raises(ckptdiff.CkptdiffError, match="args is for a model"):
        ckptdiff.compare(net(), {}, args={"n": 3})
    with pytest.raises(ckptdiff.CkptdiffError, match="key is for files"):
        ckptdiff.compare(net(), {}, key="ema")
    with pytest.raises(ckptdiff.CkptdiffError, match="not int"):
        ckptdiff.compare(3, {})  # type: ignore[arg-type]
    with pytest.raises(ckptdiff.CkptdiffError, match="does not exist"):
        ckptdiff.inspect("no/such/file.pth")


def test_the_fail_on_level_decides_the_outcome() -> None:
    state_dict = net().double().state_dict()
    assert ckptdiff.compare(net(), state_dict).verdict == "pass"
    assert ckptdiff.compare(net(), state_dict, fail_on="warning").verdict == "fail"


def test_advice_is_not_looked_for_among_hundreds_of_thousands_of_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ckptdiff.verbs import compare

    file, snapshot = tmp_path / "a.pth", tmp_path / "m.json"
    torch.save({"a.x": torch.ones(2, 2), "b.y": torch.ones(2)}, file)
    snapshot.write_text(ckptdiff.snapshot(torch.nn.Linear(2, 2)))
    monkeypatch.setattr(compare, "_MOST_ADVISED", 3)
    (advice,) = compare.compare(snapshot, file).advice
    assert advice == Advice("not-looked-for", facts={"keys": 4}, sides=(str(snapshot), str(file)))
    request = f"ckptdiff.suggest({str(snapshot)!r}, {str(file)!r})"
    assert sentence(advice) == f"Whether renaming helps was not looked for among 4 keys: see `{request}`."


def test_advice_says_what_to_give_compare(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    wrapped = {f"module.{key}": value for key, value in model.state_dict().items()}
    (advice,) = ckptdiff.compare(model, wrapped).advice
    assert (advice.kind, advice.options) == ("prefix", (("strip_prefix", "module."),))
    assert advice.facts == {"side": "model", "matched": 2, "same_shape": 2}
    assert ckptdiff.compare(model, wrapped, **dict(advice.options)).loads()

    torch.save({"state_dict": {"0.weight": torch.ones(2, 2)}, "ema": model.state_dict()}, tmp_path / "a.pth")
    report = ckptdiff.compare(model, tmp_path / "a.pth", key="state_dict")
    options = [advice.options for advice in report.advice if advice.kind == "other-state-dict"]
    assert options == [(("key", "ema"),)]
    assert ckptdiff.compare(model, tmp_path / "a.pth", **dict(options[0])).loads()


def test_advice_to_rename_is_what_rename_takes(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({"encoder": torch.nn.Linear(2, 3), "decoder": torch.nn.Linear(3, 4)})
    file, snapshot = tmp_path / "a.pth", tmp_path / "m.json"
    snapshot.write_text(ckptdiff.snapshot(model))
    torch.save({key.replace("coder.", "coder.fc."): value for key, value in model.state_dict().items()}, file)
    (advice,) = ckptdiff.compare(snapshot, file).advice
    assert advice.kind == "rename"
    assert advice.facts["loads"]
    rules = [rule for name, rule in advice.options if name == "rename"]
    assert ckptdiff.compare(snapshot, file, rename=rules).loads()


def test_a_model_that_goes_by_the_machine(tmp_path: Path) -> None:
    """Both answers, and the other machine's alone where it is asked for."""
    (tmp_path / "by_machine.py").write_text(
        "import torch\nfrom torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.a = nn.Linear(2, 2)\n"
        "        if torch.cuda.is_available():\n            self.fast = nn.Linear(2, 2)\n"
    )
    net = f"{tmp_path / 'by_machine.py'}:Net"
    state = {"a.weight": torch.zeros(2, 2), "a.bias": torch.zeros(2)}
    without = ckptdiff.compare(net, state, device="cpu")
    assert (without.loads(), without.findings, without.outcome.machine.device) == (True, (), "cpu")
    there = ckptdiff.compare(net, state, device="cuda")
    assert (there.missing_keys, there.outcome.machine.device) == (["fast.weight", "fast.bias"], "cuda")
    if not torch.cuda.is_available():
        (finding,) = ckptdiff.compare(net, state).findings
        assert (finding.rule, finding.level) == ("machine", "warning")
        assert finding.arguments["machine"] == "a machine with a GPU"
        assert str(finding.arguments["text"]).startswith(
            "the keys differ (2 more: fast.weight, fast.bias), and load_state_dict raises Error(s) in loading"
        )
    assert '"fast.weight"' not in ckptdiff.snapshot(net, device="cpu")
    assert '"fast.weight"' in ckptdiff.snapshot(net, device="cuda")
    with pytest.raises(ckptdiff.CkptdiffError, match="there is no such machine"):
        ckptdiff.compare(net, state, device="tpu")


def test_a_model_that_needs_a_gpu_and_a_file_of_one(tmp_path: Path) -> None:
    (tmp_path / "needs.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.a = nn.Linear(8, 16).cuda()\n"
        "        self.n = nn.BatchNorm1d(16).cuda()\n"
    )
    saved = Path(__file__).parents[1] / "formats" / "saved_on_gpu" / "dev.pth"
    report = ckptdiff.compare(f"{tmp_path / 'needs.py'}:Net", saved, device="cuda")
    assert (report.complete, report.findings) == (True, ())
    assert "machine       as on one that has cuda" in str(render_text(report))
    assert "saved-on" in [finding.rule for finding in ckptdiff.compare(nn.Linear(1, 1), saved, device="cpu").findings]


def render_text(report: ckptdiff.Report) -> str:
    from ckptdiff.render import render_report
    from ckptdiff.render.view import View

    return render_report("text", report, View())


def test_sources_are_the_keys_that_the_file_has(tmp_path: Path) -> None:
    """Whatever they were renamed to: a prefix, a rule, a tensor operation."""
    path = str(tmp_path / "model.safetensors")
    save_file({"m.w": torch.ones(2, 3), "m.b": torch.ones(2), "m.more": torch.ones(1), "m.none.x": torch.ones(1)}, path)
    model = nn.Linear(3, 2)
    model.register_module("none", None)
    report = ckptdiff.compare(model, path, strip_prefix="m.", rename=["w -> weight", "b -> bias"])
    assert {key: item.sources for key, item in report.outcome.filled.items()} == {
        "weight": ((path, "m.w"),),
        "bias": ((path, "m.b"),),
    }
    assert report.outcome.unused == {"m.more": "unexpected", "m.none.x": "ignored"}
    assert report.unexpected_keys == ["more"]
    assert report.conversions == [(("m.w",), ("weight",), "rename"), (("m.b",), ("bias",), "rename")]


def test_sources_of_what_is_computed_are_all_that_it_is_made_of(tmp_path: Path) -> None:
    path = str(tmp_path / "model.safetensors")
    save_file({"m.up": torch.ones(1, 3), "m.down": torch.ones(1, 3), "m.bias": torch.ones(2)}, path)
    rules = tmp_path / "rules.toml"
    rules.write_text("version = 1\n[[rule]]\ntensors = 'concat(0): up, down -> weight'\n")
    report = ckptdiff.compare(nn.Linear(3, 2), path, strip_prefix="m.", rules=rules)
    assert report.complete
    assert {key: item.sources for key, item in report.outcome.filled.items()} == {
        "weight": ((path, "m.up"), (path, "m.down")),
        "bias": ((path, "m.bias"),),
    }
    assert not report.outcome.unused
    (sources, targets, operation), rename = report.conversions
    assert rename == (("m.bias",), ("bias",), "rename")
    assert (sources, targets) == (("m.up", "m.down"), ("weight",))
    assert operation.startswith("concat(0")


def test_a_loader_is_asked_as_on_a_machine(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pth")

    def to_the_gpu(model: nn.Module, path: Path) -> None:
        model.cuda()
        model.load_state_dict(torch.load(path, map_location="cuda"))
        assert model.weight.is_cuda

    report = ckptdiff.compare(nn.Linear(2, 2), tmp_path / "w.pth", loader=to_the_gpu, device="cuda")
    assert (report.complete, report.raises, report.outcome.machine.device) == (True, None, "cuda")
    report = ckptdiff.compare(nn.Linear(2, 2), tmp_path / "w.pth", loader=to_the_gpu, device="cpu")
    assert (report.complete, report.outcome.machine.device) == (False, "cpu")
    assert ckptdiff.compare(nn.Linear(2, 2), tmp_path / "w.pth", loader=to_the_gpu).complete
    saved = Path(__file__).parents[1] / "formats" / "saved_on_gpu" / "param.pth"
    model = nn.ParameterDict({"p": nn.Parameter(torch.zeros(3)), "q": nn.Parameter(torch.zeros(3))})

    def plainly(model: nn.Module, path: Path) -> None:
        model.load_state_dict(torch.load(path))

    assert ckptdiff.compare(model, saved, loader=plainly, device="cuda").complete
    raised = ckptdiff.compare(model, saved, loader=plainly, device="cpu").raises
    assert raised is not None
    assert raised.startswith("RuntimeError: Attempting to deserialize object on a CUDA device")
    assert not torch.cuda.is_initialized()


def test_advice_on_a_live_model_is_spelled_for_its_caller(tmp_path: Path) -> None:
    """Looked for when it is asked for, with the model and the state dict under names of the caller's."""
    model = torch.nn.ModuleDict({"encoder": torch.nn.Linear(2, 3), "decoder": torch.nn.Linear(3, 4)})
    renamed = {key.replace("coder.", "coder.fc."): value for key, value in model.state_dict().items()}
    report = ckptdiff.compare(model, renamed)
    (advice,) = report.advice
    assert advice.kind == "rename"
    assert ckptdiff.compare(model, renamed, rename=[rule for _, rule in advice.options]).loads()
    assert ">>> ckptdiff.compare(model, state_dict, rename=[" in str(report)
    torch.save(renamed, tmp_path / "a.pth")
    path = tmp_path / "a.pth"
    assert f">>> ckptdiff.fix(model, {str(path)!r}, out=" in str(ckptdiff.compare(model, path))
    undecided = {"x": torch.ones(2, 2), "y": torch.ones(2, 2)}
    twins = torch.nn.ModuleDict({name: torch.nn.Linear(2, 2, bias=False) for name in "ab"})
    assert "see `ckptdiff.suggest(model, state_dict)`" in str(ckptdiff.compare(twins, undecided))


def test_a_rename_that_matches_nothing_is_said() -> None:
    model = net()
    report = ckptdiff.compare(model, model.state_dict(), rename="zzz -> a", strip_prefix="module.")
    for text in (str(report), report.to_json(), report.to_markdown(), report.to_html()):
        assert "The rule zzz -" in text.replace("&gt;", ">")
        assert "matches no key" in text
