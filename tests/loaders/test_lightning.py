"""Lightning's `load_from_checkpoint`: its documented rules, each tried for real beside the answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.errors import CkptdiffError
from ckptdiff.loaders.asked import Asked
from ckptdiff.model.reference import parse_reference
from tests.loaders.real_calls import Real, disagreements, quiet, really, twin_of

pytestmark = [pytest.mark.zoo, pytest.mark.filterwarnings("ignore")]
lightning = pytest.importorskip("lightning")

MODULES = '''
import lightning
import torch
from torch import nn


class Plain(lightning.LightningModule):
    def __init__(self, width=4, depth=1, loss=None):
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))


class Needy(Plain):
    def __init__(self, width, depth):
        super().__init__(width, depth)
        self.save_hyperparameters()


class Headed(Plain):
    def __init__(self, width=4, depth=1):
        super().__init__(width, depth)
        self.head = nn.Linear(2, 2)


class Lenient(Headed):
    def __init__(self, width=4, depth=1):
        super().__init__(width, depth)
        self.strict_loading = False


class Renaming(Headed):
    def on_load_checkpoint(self, checkpoint):
        state = checkpoint["state_dict"]
        state["head.weight"] = state["layers.0.weight"][:2, :2] * 2
        state["head.bias"] = state["layers.0.bias"][:2]


class Configured(lightning.LightningModule):
    def __init__(self, width=4, depth=1):
        super().__init__()
        self.save_hyperparameters()
        self.layers = None

    def configure_model(self):
        if self.layers is None:
            width = self.hparams.width
            self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(self.hparams.depth))


class Ignoring(lightning.LightningModule):
    """Takes what it is given, hyper-parameters that it has no name for included."""

    def __init__(self, width=3, **kwargs):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width)])


class Given(Plain):
    """Takes a module among its hyper-parameters, as itself or in a list."""

    def __init__(self, width=4, depth=1, head=None, heads=None):
        super().__init__(width, depth)
        self.save_hyperparameters()
        self.head = head
        self.heads = heads and nn.ModuleList(heads)


class Raising(Plain):
    def on_load_checkpoint(self, checkpoint):
        raise RuntimeError(f"of another version: {checkpoint['epoch']}")


class Named(lightning.LightningModule):
    def __init__(self, hparams):
        super().__init__()
        self.save_hyperparameters(hparams)
        self.layers = nn.ModuleList([nn.Linear(hparams["width"], hparams["width"])])


def make():
    return Plain()
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lightning")
    (folder / "modules.py").write_text(MODULES)
    namespace: dict = {"__name__": "modules"}
    exec(MODULES, namespace)
    for width, depth in ((4, 1), (6, 2)):
        (folder / f"w{width}").mkdir()
        with quiet():
            module = namespace["Plain"](width, depth)
            trainer = lightning.Trainer(max_epochs=0, logger=False, enable_checkpointing=False, accelerator="cpu")
            trainer.strategy.connect(module)
            trainer.save_checkpoint(folder / f"w{width}" / "last.ckpt")
        twin_of(folder / f"w{width}")
    return folder, namespace


CASES = [
    ("Plain", 4, {}, {}),
    ("Plain", 6, {}, {}),  # made from the hyper-parameters
    ("Plain", 6, {}, {"width": 4}),  # which arguments override
    ("Plain", 6, {}, {"depth": 1}),
    ("Plain", 6, {"strict": False}, {"depth": 1}),
    ("Plain", 6, {"strict": False}, {"depth": 3}),
    ("Needy", 6, {}, {}),
    ("Headed", 4, {}, {}),
    ("Headed", 4, {"strict": False}, {}),
    ("Headed", 4, {"strict": True}, {}),
    ("Lenient", 4, {}, {}),
    ("Lenient", 6, {}, {"width": 4}),
    ("Lenient", 4, {"strict": True}, {}),  # a conflict, and so an error
    ("Renaming", 4, {}, {}),
    ("Configured", 6, {}, {}),
    ("Ignoring", 4, {}, {}),
    ("Ignoring", 6, {}, {}),
    ("Raising", 4, {}, {}),
    ("Named", 4, {}, {}),  # its constructor has one argument, of another name
    ("Plain", 4, {"map_location": "cpu", "weights_only": True}, {}),
]


@pytest.mark.parametrize(("name", "width", "options", "args"), CASES, ids=str)
def test_it_is_what_load_from_checkpoint_does(name, width, options, args, home):
    from ckptdiff.loaders.lightning import ask

    folder, namespace = home
    cls = namespace[name]

    def call(path: Path) -> Real:
        return Real(model=cls.load_from_checkpoint(path / "last.ckpt", **options, **args))

    path = folder / f"w{width}"
    real = really(call, path, path.with_name(f"{path.name}-twin"))
    model = parse_reference(f"{folder}/modules.py:{name}")
    outcome = ask(Asked(model, str(path / "last.ckpt"), args, options)).outcome
    assert disagreements(outcome, real) == []
    assert outcome.loader.name == "lightning"
    assert outcome.loader.version == lightning.__version__


def test_the_lists_of_a_lenient_load(home):
    from ckptdiff.loaders.lightning import ask

    folder, namespace = home
    outcome = ask(Asked(namespace["Lenient"](), str(folder / "w6" / "last.ckpt"))).outcome
    assert outcome.raised is None
    assert outcome.problem_keys("missing") == ("head.weight", "head.bias")
    outcome = ask(Asked(namespace["Lenient"](), str(folder / "w6" / "last.ckpt"), {"depth": 1})).outcome
    assert outcome.problem_keys("unexpected") == ("layers.1.weight", "layers.1.bias")
    assert outcome.unused["layers.1.weight"] == "ignored"
    assert outcome.loader.call == "Lenient.load_from_checkpoint(path, depth=1)"


def test_hyper_parameters_come_from_another_file(home, tmp_path):
    from ckptdiff.loaders.lightning import ask

    folder, namespace = home
    (tmp_path / "hparams.yaml").write_text("width: 4\ndepth: 2\n")
    path = folder / "w6"

    def call(path: Path) -> Real:
        return Real(
            model=namespace["Plain"].load_from_checkpoint(path / "last.ckpt", hparams_file=tmp_path / "hparams.yaml")
        )

    real = really(call, path)
    outcome = ask(
        Asked(namespace["Plain"](), str(path / "last.ckpt"), {}, {"hparams_file": str(tmp_path / "hparams.yaml")})
    ).outcome
    assert disagreements(outcome, real) == []
    assert "size mismatch for layers.0.weight" in (outcome.raised or "")
    assert len(outcome.mismatches()) == 4


@pytest.mark.parametrize("options", [{}, {"weights_only": False}], ids=str)
def test_an_object_among_the_hyper_parameters_is_made_only_where_it_is_trusted(options, home, tmp_path):
    from ckptdiff.loaders.lightning import ask

    folder, namespace = home
    for name in ("w4", "w4-twin"):
        content = torch.load(folder / name / "last.ckpt", weights_only=False)
        content["hyper_parameters"]["loss"] = nn.CrossEntropyLoss()
        (tmp_path / name).mkdir()
        torch.save(content, tmp_path / name / "last.ckpt")

    def call(path: Path) -> Real:
        return Real(model=namespace["Plain"].load_from_checkpoint(path / "last.ckpt", **options))

    real = really(call, tmp_path / "w4", tmp_path / "w4-twin")
    assert (real.raised is None) is bool(options)
    asked = Asked(namespace["Plain"](), str(tmp_path / "w4" / "last.ckpt"), {}, options, trust_checkpoint=True)
    outcome = ask(asked).outcome
    assert disagreements(outcome, real) == []
    assert outcome.doubts == ()


@pytest.mark.parametrize("name", ["head", "heads"])
def test_a_module_among_the_hyper_parameters_is_made_only_where_it_is_trusted(name, home, tmp_path):
    from ckptdiff.loaders.lightning import ask

    folder, namespace = home
    content = torch.load(folder / "w4" / "last.ckpt", weights_only=False)
    head = nn.Linear(2, 2)
    content["hyper_parameters"][name] = head if name == "head" else [head]
    inside = "" if name == "head" else "0."
    content["state_dict"] |= {f"{name}.{inside}{key}": value for key, value in head.state_dict().items()}
    torch.save(content, tmp_path / "last.ckpt")
    asked = Asked(namespace["Given"](), str(tmp_path / "last.ckpt"), {}, {"weights_only": False})
    with pytest.raises(CkptdiffError, match=r"object of the class torch\.nn\.modules\.linear\.Linear"):
        ask(asked)
    assert ask(replace(asked, trust_checkpoint=True)).outcome.raised is None


@pytest.mark.parametrize("width", [4, 5])
def test_a_live_module_other_than_the_one_that_is_made_is_a_doubt(width, home):
    folder, namespace = home
    report = ckptdiff.compare(namespace["Plain"](width), folder / "w4" / "last.ckpt")
    assert (report.loader.name, report.complete) == ("lightning", True)
    other = "other than the one given: layers.0.weight is [5, 5] in that, and [4, 4] in its own."
    said = () if width == 4 else (f"Plain.load_from_checkpoint(path) makes a model of its own, {other}",)
    assert report.outcome.doubts == said


def test_a_live_module_that_is_not_configured_yet_is_no_other(home):
    folder, namespace = home
    assert ckptdiff.compare(namespace["Configured"](), folder / "w4" / "last.ckpt").outcome.doubts == ()


def test_a_state_dict_that_is_none_raises_as_there(home, tmp_path):
    from ckptdiff.loaders.lightning import ask

    folder, namespace = home
    content = torch.load(folder / "w4" / "last.ckpt", weights_only=False)
    torch.save({**content, "state_dict": None}, tmp_path / "last.ckpt")
    real = really(lambda path: Real(model=namespace["Plain"].load_from_checkpoint(path)), tmp_path / "last.ckpt")
    outcome = ask(Asked(namespace["Plain"](), str(tmp_path / "last.ckpt"))).outcome
    assert disagreements(outcome, real) == []
    assert outcome.raised is not None


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("modules.py", "has not one LightningModule but"),
        ("modules.py:make", "is no LightningModule's class"),
        ("modules.py:nn.Linear", "is no LightningModule's class"),
        ("nowhere.py:Net", "there is no such file"),
    ],
)
def test_what_is_no_class_of_lightnings_is_said(reference, said, home):
    from ckptdiff.loaders.lightning import ask

    folder, _ = home
    with pytest.raises(CkptdiffError, match=said):
        ask(Asked(parse_reference(f"{folder}/{reference}"), str(folder / "w4" / "last.ckpt")))


def test_keys_are_called_as_in_their_state_dict(home, tmp_path):
    """Where that lies in the file is said once, not as a rename of every key."""
    folder, namespace = home
    report = ckptdiff.compare(namespace["Plain"](), folder / "w4" / "last.ckpt")
    assert report.loader.name == "lightning"
    assert (report.findings, report.conversions) == ((), [])
    content = torch.load(folder / "w4" / "last.ckpt", weights_only=False)
    content["state_dict"] |= {"layers.0.bias": torch.ones(5), "more": torch.ones(2)}
    torch.save(content, tmp_path / "last.ckpt")
    options = {"strict": False}
    report = ckptdiff.compare(namespace["Plain"](), tmp_path / "last.ckpt", loader="lightning", loader_args=options)
    assert "size mismatch" in report.raises
    assert {(finding.rule, finding.key) for finding in report.findings} == {
        ("size-mismatch", "layers.0.bias"), ("initial-value", "layers.0.bias"), ("load-error", ""),
        ("ignored-key", "more"), ("unused-key", "layers.0.bias"),
    }  # fmt: skip
