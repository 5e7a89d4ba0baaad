"""`ckptdiff snapshot`, and a snapshot in place of a model or a checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ckptdiff.cli import main

ROOT = Path(__file__).parents[2]

CUSTOM = """
class Custom(Net):
    def _load_from_state_dict(self, *args):
        super()._load_from_state_dict(*args)
"""


@pytest.fixture
def kept(desk: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    """The desk with a snapshot of its model."""
    assert main(["snapshot", "net.py:Net", "-o", "net.json"]) == 0
    out, err = capfd.readouterr()
    assert (out, err.splitlines()[-1]) == ("", "wrote net.json")
    return desk


def change(desk: Path, old: str, new: str) -> None:
    text = (desk / "net.py").read_text()
    assert old in text
    (desk / "net.py").write_text(text.replace(old, new))
    sys.modules.pop("net", None)


def test_it_is_stable_and_can_be_printed(kept: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["snapshot", "net.py:Net", "-o", "-"]) == 0
    assert capfd.readouterr().out == (kept / "net.json").read_text()
    assert main(["snapshot", "net.json", "-o", "-"]) == 0
    assert capfd.readouterr().out == (kept / "net.json").read_text()


def test_check_shows_what_changed(kept: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["snapshot", "net.py:Net", "--check", "net.json"]) == 0
    change(kept, "nn.Linear(8, classes)", "nn.Linear(8, classes, bias=False)")
    assert main(["snapshot", "net.py:Net", "--check", "net.json"]) == 1
    out, err = capfd.readouterr()
    assert out.splitlines()[1:] == [
        "net.py:Net differs from net.json:",
        '-  {"path": "head", "class": "torch.nn.modules.linear.Linear"}',
        '+  {"path": "head", "class": "torch.nn.modules.linear.Linear", "none_parameters": ["bias"]}',
        '-  {"key": "head.bias", "kind": "parameter", "dtype": "float32", "shape": [10]}',
    ]
    assert "ckptdiff compare net.py:Net net.json" in err


def test_check_does_not_mind_the_torch_or_the_layout_of_the_file(kept: Path) -> None:
    import json

    content = json.loads((kept / "net.json").read_text())
    (kept / "net.json").write_text(json.dumps({**content, "torch": "1.0"}, indent=4).replace("\n", "\r\n"))
    assert main(["snapshot", "net.py:Net", "--check", "net.json"]) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("net.py:Net",), "either -o FILE or --check FILE"),
        (("net.py:Net", "-o", "a.json", "--check", "a.json"), "either -o FILE or --check FILE"),
        (("net.py:Net", "--check", "gone.json"), "gone.json could not be read"),
        (("net.py:Net", "--check", "net.py"), "net.py is no ckptdiff snapshot"),
        (("net.py:Net", "-o", "gone/a.json"), "gone/a.json could not be written"),
        (("bare.json", "-o", "-"), "bare.json"),
    ],
)
def test_mistakes(desk: Path, arguments: tuple[str, ...], says: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["snapshot", *arguments]) == 2
    assert says in capfd.readouterr().err


def test_a_snapshot_is_compared_with_weights_without_torch(kept: Path) -> None:
    code = (
        "import sys\n"
        "from ckptdiff.cli import main\n"
        "codes = [main(['compare', 'net.json', name, '--format', 'text']) for name in sys.argv[1:]]\n"
        "print(codes, sorted({'torch', 'numpy', 'rich', 'pydantic'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code, "good.safetensors", "headless.safetensors", "net.json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stdout.splitlines()[-1] == "[0, 1, 0] []", done.stderr


@pytest.mark.parametrize("name", ["good", "headless", "wrapped", "double", "evil"])
def test_a_snapshot_gives_the_answer_of_its_model(kept: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    codes = [main(["compare", model, f"{name}.safetensors"]) for model in ("net.py:Net", "net.json")]
    of_model, of_snapshot = (part.splitlines()[1:] for part in capfd.readouterr().out.split("ompatible")[-2:])
    assert codes[0] == codes[1]
    assert [line for line in of_model if "missing" in line] == [line for line in of_snapshot if "missing" in line]


def test_a_changed_model_is_compared_with_what_the_old_one_saved(kept: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "net.py:Net", "net.json"]) == 0
    change(kept, "self.head", "self.top")
    assert main(["compare", "net.py:Net", "net.json"]) == 1
    out = capfd.readouterr().out
    assert "missing-key (2)" in out
    assert "top.weight" in out


def test_code_that_a_snapshot_does_not_hold_is_said_on_either_side(
    kept: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change(kept, "class Net", "class Net")
    with (kept / "net.py").open("a") as file:
        file.write(CUSTOM)
    assert main(["snapshot", "net.py:Custom", "-o", "custom.json"]) == 0
    capfd.readouterr()
    assert main(["compare", "custom.json", "good.safetensors"]) == 0
    assert "uncertain" in capfd.readouterr().out
    assert main(["compare", "net.json", "custom.json"]) == 0
    assert " ".join(capfd.readouterr().out.split()).count("which a snapshot does not hold") == 1
    assert main(["compare", "net.json", "custom.json", "--fail-on", "warning"]) == 1


def test_init_writes_a_config_that_check_takes(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from ckptdiff.gate.config import load

    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        (desk / name).write_bytes(b"")
    (desk / "model.safetensors.index.json").write_text("{}")
    hidden = desk / ".venv" / "lib"
    hidden.mkdir(parents=True)
    (hidden / "other.py").write_text("class Other(nn.Module): pass\n")
    (desk / "broken.py").write_text("def (:\n")
    (desk / "ci").mkdir()
    (desk / "ci" / "good.pth").write_bytes(b"")
    assert main(["init", "--out", "ci/ckptdiff.toml"]) == 0
    targets = load(desk / "ci" / "ckptdiff.toml").targets
    assert {target.model for target in targets} == {"net.py:Net"}
    found = {target.checkpoint for target in targets}
    assert {"good.safetensors", "model.safetensors.index.json"} <= found
    assert not [name for name in found if "-of-" in name]
    names = [target.name for target in targets]
    assert {"good", "good-2", "wrapped"} <= set(names)
    assert len(set(names)) == len(names)
    assert main(["init", "--out", "ci/ckptdiff.toml"]) == 2
    assert "is there already" in capfd.readouterr().err
    assert main(["init", "--out", "ci/ckptdiff.toml", "--force"]) == 0


def test_init_in_an_empty_folder_proposes_without_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    assert main(["check"]) == 2
    assert "lists no targets" in capfd.readouterr().err


@pytest.mark.parametrize("format", ["markdown", "github", "junit", "sarif", "html"])
def test_a_report_can_be_the_output(kept: Path, format: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("ckptdiff.toml").write_text('[[targets]]\nname = "a"\nmodel = "net.json"\ncheckpoint = "good.safetensors"\n')
    for command in (["compare", "net.json", "headless.safetensors"], ["check"]):
        main([*command, "--format", format, "--report", f"{format}=report"])
        assert capfd.readouterr().out == Path("report").read_text(encoding="utf-8")
    assert main(["inspect", "good.safetensors", "--format", format]) == 2
