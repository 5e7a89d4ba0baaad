"""What a reference names is found and built; what goes wrong is one sentence and one hint."""

from __future__ import annotations

import json
import os
import pickle
import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ckptdiff.errors import CkptdiffError, ModelError, UsageError
from ckptdiff.model.build import Built, build
from ckptdiff.model.libraries import recipe
from ckptdiff.model.reference import parse_reference
from ckptdiff.model.user_code import display_name

Write = Callable[..., Path]

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4, *, bias=True):
        super().__init__()
        self.layer = nn.Linear(3, width, bias=bias)

    @classmethod
    def small(cls):
        return cls(2)

def make(width=5):
    return Net(width)

class zoo:
    tiny = Net
"""


def live(built: Built) -> Any:
    return built.module


def made(reference: str, args: Mapping[str, object] | None = None) -> Any:
    return build(reference, args).module


def fails(reference: str, args: Mapping[str, object] | None = None) -> CkptdiffError:
    with pytest.raises(CkptdiffError) as caught:
        build(reference, args)
    error = caught.value
    assert "\n" not in error.message
    assert error.hint
    assert "\n" not in error.hint
    return error


@pytest.mark.parametrize(
    ("attr", "width"), [("Net", 4), ("Net.small", 2), ("make", 5), ("zoo.tiny", 4), ("zoo.tiny.small", 2)]
)
def test_classes_and_callables_are_called(write: Write, attr: str, width: int) -> None:
    write(NET)
    for target in ("model.py", "./model.py", str(Path("model.py").resolve()), "model"):
        built = build(f"{target}:{attr}")
        assert live(built).layer.weight.shape == (width, 3)
        assert built.how == "meta"
        assert built.reference == f"{target}:{attr}"
        assert built.notes == ()


def test_arguments_are_passed(write: Write) -> None:
    write(NET)
    module = build("model.py:Net", {"width": 7, "bias": False}).module
    assert {key: tuple(value.shape) for key, value in module.state_dict().items()} == {"layer.weight": (7, 3)}


def test_an_instance_is_taken_as_it_is(write: Write) -> None:
    write(NET + "\nmodel = Net(9)\n")
    assert build("model.py:model").how == "meta"
    assert made("model.py").layer.out_features == 9
    assert isinstance(fails("model.py:model", {"width": 3}), UsageError)


def test_siblings_and_packages_import_as_they_do_in_python(write: Write) -> None:
    write("WIDTH = 6", "lib/sizes.py")
    write("from sizes import WIDTH\n" + NET + "\nmodel = Net(WIDTH)", "lib/model.py")
    assert made("lib/model.py").layer.out_features == 6
    write("", "pkg/__init__.py")
    write("", "pkg/sub/__init__.py")
    write("from dataclasses import dataclass\n@dataclass\nclass Config:\n    width: int = 8", "pkg/config.py")
    write(
        "from ..config import Config\n" + NET + "\ndef get_model():\n    return Net(Config().width)", "pkg/sub/net.py"
    )
    for reference in ("pkg/sub/net.py", "pkg/sub/net.py:get_model", "pkg.sub.net:get_model"):
        built = build(reference)
        assert live(built).layer.out_features == 8
        assert type(built.module).__module__ == "pkg.sub.net"


def test_two_models_with_siblings_of_one_name(write: Write) -> None:
    for width, directory in ((2, "a"), (3, "b"), (4, "a")):
        write(f"# {'x' * width}\nWIDTH = {width}", f"{directory}/sizes.py")
        write("from sizes import WIDTH\n" + NET + "\nmodel = Net(WIDTH)", f"{directory}/model.py")
        assert made(f"{directory}/model.py").layer.out_features == width


def test_a_sibling_goes_before_a_module_of_the_callers(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("WIDTH = 1", "elsewhere/sizes.py")
    monkeypatch.syspath_prepend(str(Path("elsewhere").resolve()))
    import sizes  # type: ignore[import-not-found]

    write("WIDTH = 2", "here/sizes.py")
    write("from sizes import WIDTH\n" + NET + "\nmodel = Net(WIDTH)", "here/model.py")
    assert made("here/model.py").layer.out_features == 2
    assert sys.modules["sizes"] is sizes


def test_hooks_find_what_they_import_late(write: Write) -> None:
    write("WIDTH = 3", "here/sizes.py")
    write("LATE = 3", "here/late.py")
    write(
        NET.partition("def make")[0]
        + "\n    def forward(self):\n        import late, sizes\n        print(late.LATE, sizes.WIDTH)",
        "here/model.py",
    )
    write("import sizes\nfrom model import Net\n", "here/user.py")
    built = build("here/user.py:Net")
    assert "sizes" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        built.module()
    for _ in range(2):
        with built.running():
            built.module()
    assert not {"late", "sizes", "model"} & set(sys.modules)


def test_classes_of_a_file_can_be_pickled(write: Write) -> None:
    write(
        "import dataclasses, pickle, torch\n"
        + NET
        + "\n@dataclasses.dataclass\nclass C:\n    w: int = 3\npickle.dumps(C())"
    )
    module = build("model.py:Net").module
    assert pickle.loads(pickle.dumps(type(module))) is type(module)
    assert display_name(type(module).__module__) == "model"
    assert display_name("package.module") == "package.module"


def test_a_callers_module_is_used_as_it_is(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write(NET + "\nmodel = Net(9)\n", "callers_module.py")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    import callers_module  # type: ignore[import-not-found]

    built = build("callers_module:model")
    assert built.module is callers_module.model
    assert built.how == "plain"
    assert sys.modules["callers_module"] is callers_module


def test_installed_packages_are_first_imported_as_always(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("import torch\nTABLE = torch.ones(3)", "venv/site-packages/installed_library.py")
    monkeypatch.syspath_prepend(str(Path("venv/site-packages").resolve()))
    write("import torch, installed_library\n" + NET + "\nTABLE = torch.ones(3)\nmodel = Net()\nmodel.table = TABLE")
    assert made("model.py").table.is_meta
    assert sys.modules["installed_library"].TABLE.tolist() == [1, 1, 1]


def test_what_a_failed_way_left_in_the_users_modules_is_gone(write: Write) -> None:
    write("import torch\nCACHE = {}\ndef table():\n    return CACHE.setdefault('t', torch.arange(4))", "tables.py")
    write("import tables\n" + NET + "\ndef get_model():\n    tables.table()\n    return Net(int(tables.table()[3]))")
    built = build("model.py")
    assert (built.how, live(built).layer.out_features) == ("uninitialized", 3)
    assert "meta" in built.notes[0]


def test_an_instance_made_at_import_falls_back_too(write: Write) -> None:
    write("import torch\n" + NET + "\nmodel = Net(int(torch.tensor(6)))")
    assert build("model.py").how == "uninitialized"


# --- what goes wrong


def test_what_is_not_there(write: Write) -> None:
    write(NET)
    assert "`model.py`" in fails("modle.py").hint
    assert fails("nothing/at/all.py").message == "nothing/at/all.py: there is no such file."
    assert fails("model.py:Nat").message == "model.py has no `Nat`."
    assert "`model.py:Net`" in fails("model.py:Nat").hint
    assert "`model.py:zoo.tiny`" in fails("model.py:zoo.tyny").hint
    assert "No module named" in fails("no_such_package.module:Net").message
    Path("dir.py").mkdir()
    assert "directory" in fails("dir.py").message
    assert isinstance(fails("model.json"), UsageError)


def test_arguments_that_do_not_fit(write: Write) -> None:
    write(
        NET + "\ndef needs(width, *, depth, other=3): pass\ndef positional(x, /): pass\n"
        "def anything(**kwargs): return Net()"
    )
    missing = fails("model.py:needs")
    assert missing.message == "model.py:needs needs `width` and `depth`, which have no default."
    assert missing.hint == "Add args={'width': ..., 'depth': ...}."
    assert "needs `depth`, which has" in fails("model.py:needs", {"width": 1}).message
    unknown = fails("model.py:Net", {"widht": 1})
    assert isinstance(unknown, UsageError)
    assert unknown.message == "model.py:Net takes no argument `widht`."
    assert "Did you mean `width`?" in unknown.hint
    assert "`width=4`" in unknown.hint
    assert "by position" in fails("model.py:positional").message
    assert build("model.py:anything", {"whatever": 1}).module


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("lambda: None", "returned None"),
        ("lambda: (Net(), 3)", "returned a tuple"),
        ("lambda: Net().state_dict()", "returned an OrderedDict"),
        ("lambda: Net", "returned a type"),
        ("dict", "no nn.Module"),
        ("3", "of type int"),
    ],
)
def test_what_is_no_model(write: Write, value: str, message: str) -> None:
    write(NET + f"\nthing = {value}")
    error = fails("model.py:thing")
    assert isinstance(error, ModelError)
    assert message in error.message


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ValueError('bad width')", "ValueError: bad width"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("raise ValueError('x' * 100_000)", "ValueError: xxx"),
        ("import sys; sys.exit(0)", "sys.exit(0)"),
        ("exit('bye')", "sys.exit('bye')"),
        ("raise SystemExit", "sys.exit(None)"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("f = lambda: f(); f()", "RecursionError"),
        ("raise MemoryError", "MemoryError"),
        ("class E(BaseException): pass\nraise E('odd')", "E: odd"),
        ("class E(Exception):\n    def __str__(self): raise KeyError\nraise E", "E"),
        ("input()", "EOFError"),
        ("torch.zeros(2) + torch.zeros(3)", "RuntimeError: "),
        ("nn.Linear(2, 2).load_state_dict({})", "RuntimeError: "),
        ("torch.zeros(10**15)", ""),
    ],
)
@pytest.mark.parametrize("where", ["importing it", "building get_model"])
def test_failing_code_is_a_model_error(write: Write, code: str, message: str, where: str) -> None:
    lines = code.split("\n")
    if where == "importing it":
        write("\n".join(["import torch", "from torch import nn", *lines]))
    else:
        write(
            "\n".join(["import torch", "from torch import nn", "def get_model():", *(f"    {line}" for line in lines)])
        )
    error = fails("model.py:get_model")
    assert isinstance(error, ModelError)
    if message:
        assert error.message.startswith(f"model.py: {where} failed: ")
        assert message in error.message
        assert len(error.message) < 400


def test_the_traceback_shows_the_users_frames_only(write: Write) -> None:
    write("def widen():\n    raise ValueError('bad width')", "helper.py")
    write("import torch, helper\ndef get_model():\n    torch.nn.Sequential().apply(lambda m: helper.widen())")
    detail = fails("model.py").detail
    assert detail.splitlines()[0] == "Traceback (most recent call last):"
    assert detail.splitlines()[-1] == "ValueError: bad width"
    assert "model.py" in detail
    assert "helper.py" in detail
    assert "importlib" not in detail
    assert "ckptdiff/model" not in detail.replace(os.sep, "/")
    assert "module.py" not in detail


def test_a_syntax_error_names_its_line(write: Write) -> None:
    write("x = 1\ndef broken(:\n    pass")
    error = fails("model.py:Net")
    assert "SyntaxError" in error.message
    assert "line 2" in error.message
    assert "def broken(:" in error.detail


def test_an_interrupt_passes(write: Write) -> None:
    write("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        build("model.py:Net")


# --- the rest of the process


def test_code_reaches_neither_stdout_nor_stdin(write: Write, capfd: pytest.CaptureFixture[str]) -> None:
    write(
        "import os, subprocess, sys\nprint('by print')\nos.write(1, b'by descriptor\\n')\n"
        "print('by original', file=sys.__stdout__)\nsubprocess.run([sys.executable, '-c', 'print(\"by child\")'])\n"
        "assert sys.stdin.read() == ''\n" + NET
    )
    print("before")
    build("model.py:Net")
    print("after")
    out, err = capfd.readouterr()
    assert out == "before\nafter\n"
    for how in ("print", "descriptor", "original", "child"):
        assert f"by {how}" in err


@pytest.mark.skipif(os.name != "posix", reason="needs the C library's stdout")
def test_code_in_c_does_not_reach_stdout(write: Write, capfd: pytest.CaptureFixture[str]) -> None:
    write("import ctypes\nctypes.CDLL(None).printf(b'by C\\n')\n" + NET)
    build("model.py:Net")
    out, err = capfd.readouterr()
    assert (out, err) == ("", "by C\n")


@pytest.mark.parametrize("ending", ["", "raise ValueError"])
def test_the_process_is_as_before(write: Write, ending: str) -> None:
    Path("away").mkdir()
    write(
        "import os, random, sys, warnings\nimport numpy, torch\n" + NET + "\ndef get_model():\n"
        "    os.chdir('away'); sys.path.append('x'); random.seed(1); numpy.random.seed(1); torch.manual_seed(1)\n"
        "    torch.set_default_dtype(torch.float64); torch.set_default_device('meta'); torch.set_grad_enabled(False)\n"
        "    warnings.simplefilter('error'); warnings.warn('noise') if sys.argv[1:] else None; sys.stdout = None\n"
        f"    {ending}\n    return Net()\n"
    )
    import numpy as np

    def state() -> list[object]:
        return [
            os.getcwd(),
            sys.path[:],
            sys.meta_path[:],
            sys.argv,
            sys.stdin,
            sys.stdout,
            random.getstate(),
            str(np.random.get_state()),
            torch.get_rng_state().tolist(),
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.is_grad_enabled(),
            torch.zeros(1).device,
        ]

    before = state()
    if ending:
        fails("model.py")
    else:
        build("model.py")
    assert state() == before


def test_warnings_of_the_code_are_not_ours(write: Write) -> None:
    write("import warnings\nwarnings.warn('noise')\n" + NET)
    assert build("model.py:Net").module  # warnings are errors in these tests


# --- transformers


@pytest.fixture
def config(write: Write) -> Path:
    values = {
        "model_type": "bert",
        "architectures": ["BertForMaskedLM"],
        "hidden_size": 8,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "vocab_size": 50,
        "auto_map": {"AutoModel": "evil--code.Net"},
    }
    return write(json.dumps(values), "bert/config.json")


def test_a_transformers_configuration(config: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for reference in ("hf:bert", "hf:bert/config.json"):
        built = build(reference)
        assert type(built.module) is transformers.BertForMaskedLM
        assert built.how == "meta"
    assert made("hf:bert", {"vocab_size": 60}).bert.embeddings.word_embeddings.weight.shape == (60, 8)
    assert "Did you mean `vocab_size`?" in fails("hf:bert", {"vocab_siz": 60}).hint
    assert "HF_HUB_OFFLINE" not in os.environ


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": None}, ""),
        ({"dtype": "bfloat16"}, ""),
        ({"torch_dtype": "bfloat16", "architectures": []}, ""),
        ({"architectures": ["BertForMaskedLN"]}, "no architecture `BertForMaskedLN`"),
        ({"architectures": 3}, "no list"),
        ({"model_type": "brt"}, "no model type `brt`"),
        ({"model_type": None}, "names no `model_type`"),
        ({"hidden_size": 9}, "ValueError"),
    ],
)
def test_transformers_configurations_of_all_kinds(config: Path, change: dict[str, object], message: str) -> None:
    pytest.importorskip("transformers")
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    if message:
        assert message in fails("hf:bert").message
        return
    module = build("hf:bert").module
    if "dtype" not in change and "torch_dtype" not in change:
        assert type(module).__name__ == "BertModel"
    else:
        assert next(module.parameters()).dtype is torch.bfloat16


def test_a_quantized_configuration_is_remarked_on(config: Path) -> None:
    pytest.importorskip("transformers")
    quantized = {**json.loads(config.read_text()), "quantization_config": {"quant_method": "bitsandbytes"}}
    config.write_text(json.dumps(quantized))
    assert "quantization" in build("hf:bert").remarks[0]


def test_the_remark_on_quantization_reaches_the_screen(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    from ckptdiff.cli import main

    torch.save(build("hf:bert", with_values=True).module.state_dict(), tmp_path / "weights.pth")
    quantized = {**json.loads(config.read_text()), "quantization_config": {"quant_method": "bitsandbytes"}}
    config.write_text(json.dumps(quantized))
    arguments = ["compare", "hf:bert", str(tmp_path / "weights.pth"), "--loader", "torch", "--format", "text"]
    assert main(arguments) == 0
    assert "The configuration asks for quantization; the model was built without it." in capsys.readouterr().out


@pytest.mark.parametrize("model_type", ["bert", "nemotron_h", "falcon_h1"])
def test_floats_that_json_has_no_word_for(config: Path, model_type: str) -> None:
    """As transformers writes them: NemotronH and FalconH1 have an infinite `time_step_limit`."""
    transformers = pytest.importorskip("transformers")
    values = {"model_type": model_type, "time_step_limit": [0.0, {"__float__": "Infinity"}], "a": {"__float__": "NaN"}}
    config.write_text(json.dumps({**values, "b": {"__float__": "other"}}))
    if model_type not in transformers.CONFIG_MAPPING:
        pytest.skip("this transformers has no such model")
    made: Any = recipe(parse_reference("hf:bert"), {}).args["config"]
    assert made.time_step_limit[1] == float("inf")
    assert made.a != made.a
    assert made.b == {"__float__": "other"}


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff", "[" * 99999])
def test_what_is_no_configuration(write: Write, text: str) -> None:
    write(text, "config.json")
    assert isinstance(fails("hf:."), ModelError)


def test_nothing_is_downloaded(write: Write) -> None:
    assert "Nothing is downloaded" in fails("hf:google-bert/bert-base-uncased").hint
    Path("empty").mkdir()
    assert "no config.json" in fails("hf:empty").message


@pytest.mark.parametrize("library", ["torchvision", "timm", "transformers"])
def test_a_library_that_is_not_installed(config: Path, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    error = fails("hf:bert" if library == "transformers" else f"{library}:resnet18")
    assert error.message == f"{library} is not installed."
    assert f"pip install {library}" in error.hint


def test_a_module_is_an_nn_module(write: Write) -> None:
    write(NET)
    assert isinstance(build("model.py:Net").module, nn.Module)
