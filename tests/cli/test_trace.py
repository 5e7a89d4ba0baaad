"""`ckptdiff trace` on a command line: how programs are named, stopped, kept from harm and answered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ckptdiff.cli import main
from tests.tracing.programs import MODELS, prepare

LOADS = "model = Net(); model.load_state_dict(torch.load('plain.pth')); model.eval()\n"
START = "import os, sys, torch\nfrom models import *\n"


pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path, 1)
    (tmp_path / "models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)


def traced(text: str, capfd: pytest.CaptureFixture[str], *options: str, start: str = START) -> tuple[int, Any, str]:
    Path("program.py").write_text(start + text)
    words = options if "program.py" in options or "-m" in options else (*options, "program.py")
    code = main(["trace", "--format", "json", *words])
    out, err = capfd.readouterr()
    return code, json.loads(out), err


def test_what_a_program_prints_goes_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    text = "print('hello'); os.system('echo from a shell')\n" + LOADS + "model(torch.rand(2, 4))"
    code, answer, err = traced(text, capfd)
    assert code == 0
    assert answer["ended"] == "first call of Net"
    assert answer["line"] == "program.py:5"
    assert "hello\n" in err
    assert "from a shell\n" in err


def test_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = traced("print('hello'); os.system('echo from a shell')\n" + LOADS, capfd, "--quiet")
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    "words",
    [
        ["program.py", "--weights", "plain.pth", "-m", "x"],
        ["-m", "program", "--weights", "plain.pth", "-m", "x"],
        ["python", "-u", "program.py", "--weights", "plain.pth", "-m", "x"],
        ["python3", "-m", "program", "--weights", "plain.pth", "-m", "x"],
        ["torchrun", "--nproc-per-node", "8", "program.py", "--weights", "plain.pth", "-m", "x"],
        ["torchrun", "--standalone", "-m", "program", "--weights", "plain.pth", "-m", "x"],
    ],
    ids=" ".join,
)
def test_programs_are_named_as_they_are_started(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    text = "assert sys.argv[1:] == ['--weights', 'plain.pth', '-m', 'x'] and __name__ == '__main__'\n"
    if words[0] == "torchrun":
        text += "assert (os.environ['RANK'], os.environ['WORLD_SIZE']) == ('0', '1')\n"
    Path("program.py").write_text(START + text + LOADS)
    code = main(["trace", "--format", "json", *words])
    answer = json.loads(capfd.readouterr().out)
    assert (answer["raised"], code) == (None, 0)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["absent.py"], "absent.py does not exist"),
        (["-m"], "-m names no module"),
        (["python", "-c", "1"], "Code given with -c cannot be traced"),
        (["--until", "nowhere", "program.py"], "no place to stop at"),
        (["--map", "x", "program.py"], "is not OLD=NEW"),
        (["--against", "models.py", "program.py"], "models.py is no recorded trace"),
    ],
)
def test_what_is_no_program(words: list[str], sentence: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("program.py").write_text("")
    assert main(["trace", *words]) == 2
    assert sentence in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "ended", "sentence"),
    [
        ("", "end", "stopped before it opened a checkpoint"),
        ("sys.exit(3)", "exit 3", "stopped before it opened a checkpoint: it raised SystemExit"),
        ("open('data.txt')", "raised", "it raised FileNotFoundError, in program.py:3"),
        ("input()", "raised", "it raised EOFError"),
    ],
)
def test_no_answer_before_a_checkpoint_is_opened(
    text: str, ended: str, sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code, answer, _ = traced(text, capfd)
    assert (code, answer["ended"]) == (2, ended)
    assert main(["trace", "program.py", "--weights=plain.pth"]) == 2
    out = capfd.readouterr().out
    assert "plain.pth was opened" in out
    assert sentence.partition(": ")[2] in out


@pytest.mark.parametrize("code", [0, 1])
def test_a_program_that_ends_its_process_gives_no_answer(code: int, capfd: pytest.CaptureFixture[str]) -> None:
    Path("program.py").write_text(START + LOADS + f"os._exit({code})")
    assert main(["trace", "program.py"]) == 2
    assert f"ended with exit code {code} and no answer" in capfd.readouterr().err


def test_a_program_that_never_ends_says_where_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    code, answer, _ = traced(LOADS + "import time\nwhile True: time.sleep(0.1)", capfd, "--timeout", "4")
    assert (code, answer["ended"], answer["line"]) == (2, "time limit", "program.py:5")


@pytest.mark.parametrize(("until", "ended"), [("end", "end"), ("program.py:5", "program.py:5")])
def test_until(until: str, ended: str, capfd: pytest.CaptureFixture[str]) -> None:
    text = LOADS + "x = model(torch.rand(2, 4))\nmodel.head.weight.data.zero_()\n"
    code, answer, _ = traced(text, capfd, "--until", until)
    (model,) = answer["models"]
    assert answer["ended"] == ended
    assert (code, model["overwritten"]) == ((1, ["head.weight"]) if until == "end" else (0, []))


def test_weights_are_not_written_and_other_files_are(capfd: pytest.CaptureFixture[str]) -> None:
    before = Path("plain.pth").read_bytes()
    text = LOADS + (
        "torch.save(model.state_dict(), 'plain.pth'); torch.save(model, open('second.pth', 'wb'))\n"
        "from safetensors.torch import save_file; save_file(model.state_dict(), 'new.safetensors')\n"
        "open('notes.txt', 'w').write('mine')\n"
    )
    second = Path("second.pth").read_bytes()
    code, answer, _ = traced(text, capfd)
    assert code == 0
    assert Path("plain.pth").read_bytes() == before
    assert Path("second.pth").read_bytes() == second
    assert not Path("new.safetensors").exists()
    assert Path("notes.txt").read_text() == "mine"
    assert [save["file"] for save in answer["saved"]] == ["plain.pth", "second.pth", "new.safetensors"]
    assert answer["saved"][0]["tensors"]["head.bias"] == [["plain.pth", "head.bias"]]


def test_scratch_keeps_the_folder_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    before = sorted(os.listdir())
    code, _, _ = traced("open('notes.txt', 'w').write('mine')\n" + LOADS, capfd, "--scratch")
    assert code == 0
    assert sorted(os.listdir()) == sorted({*before, "program.py"})


def test_keys_that_are_meant_to_be_new(capfd: pytest.CaptureFixture[str]) -> None:
    text = (
        "model = Net(7)\nmodel.load_state_dict({k: v for k, v in torch.load('plain.pth').items() if 'head' not in k}, "
        "strict=False)\nmodel.eval(); model(torch.rand(2, 4))"
    )
    assert traced(text, capfd)[0] == 1
    code, answer, _ = traced(text, capfd, "--allow", "head.*", "--save", "good.json")
    assert (code, answer["models"][0]["initial"]) == (0, ["head.weight", "head.bias"])
    assert traced(text, capfd, "--against", "good.json")[0] == 0
    prepare(Path(), 1, damaged=True)
    assert traced(text, capfd, "--against", "good.json")[0] == 1


def test_a_path_written_into_the_script(capfd: pytest.CaptureFixture[str]) -> None:
    text = (
        "assert os.path.exists('/data/weights/plain.pth') and 'plain.pth' in os.listdir('/data/weights')\n"
        "from safetensors import safe_open; safe_open('/data/weights/plain.safetensors', 'pt').keys()\n"
        "open('/data/weights/models.py').read()\n"
    ) + LOADS.replace("plain.pth", "/data/weights/plain.pth")
    code, answer, _ = traced(text, capfd, "--map", "/data/weights=.")
    assert (answer["raised"], code) == (None, 0)


def test_what_stands_before_the_weights(capfd: pytest.CaptureFixture[str]) -> None:
    text = (
        "import wandb, flash_attn\nfrom tensorboardX import SummaryWriter\nfrom mpi4py import MPI\n"
        "from torch.utils.tensorboard import SummaryWriter as Writer; Writer('runs').add_scalar('a', 1)\n"
        "wandb.init(project='x'); SummaryWriter('runs').add_scalar('a', 1); rank = MPI.COMM_WORLD.Get_rank()\n"
        "from torch.utils.cpp_extension import load; load('fused', ['a.cu'])\n"
        "import torch.distributed as dist; dist.init_process_group('nccl')\n"
        "assert (dist.get_rank(), dist.get_world_size(), dist.get_backend()) == (0, 1, 'nccl'); dist.barrier()\n"
    ) + LOADS
    code, answer, _ = traced(text, capfd)
    assert (answer["raised"], code) == (None, 0)
    for name in ("wandb", "flash_attn", "tensorboardX", "mpi4py", "fused", "process group"):
        assert any(name in note for note in answer["notes"]), name


def test_a_program_that_insists_on_a_gpu(capfd: pytest.CaptureFixture[str]) -> None:
    text = (
        "import torch.backends.cudnn as cudnn; cudnn.benchmark = True; torch.cuda.manual_seed_all(1)\n"
        "model = Net().cuda(); run = torch.load('run.ckpt', map_location='cuda:0'); torch.cuda.set_device(0)\n"
        "model.load_state_dict(run['model']); assert next(model.parameters()).is_cuda\n"
        "optimizer = torch.optim.Adam(model.parameters()); optimizer.load_state_dict(run['optimizer'])\n"
        "scaler = torch.amp.GradScaler('cuda'); torch.cuda.reset_peak_memory_stats(); torch.cuda.empty_cache()\n"
        "with torch.autocast('cuda'): model(torch.rand(2, 4, device='cuda'))\n"
    )
    code, answer, err = traced(text, capfd)
    assert (answer["raised"], code, answer["ended"]) == (None, 0, "first call of Net")
    assert "as where there is one" in err
    code, answer, _ = traced(text, capfd, "--device", "cuda")
    assert (answer["raised"], code) == (None, 0)
    code, answer, _ = traced(text, capfd, "--device", "cpu")
    assert code == 2
    assert "CUDA" in answer["raised"]
    guarded = (
        "device = 'cuda' if torch.cuda.is_available() else 'cpu'\nmodel = Net(5 if device == 'cpu' else 7)\n"
        "model.load_state_dict(torch.load('plain.pth', map_location=device))"
    )
    assert traced(guarded, capfd)[0] == 0
    assert traced(guarded, capfd, "--device", "cuda")[0] == 1


def test_spawned_ranks_run_here_as_the_first(capfd: pytest.CaptureFixture[str]) -> None:
    text = (
        "def work(rank, path):\n    assert rank == 0\n    model = Net(); model.load_state_dict(torch.load(path))\n"
        "    model.eval(); model(torch.rand(2, 4))\n"
        "if __name__ == '__main__':\n    torch.multiprocessing.spawn(work, args=('plain.pth',), nprocs=4)\n"
    )
    code, answer, _ = traced(text, capfd)
    assert (code, answer["ended"]) == (0, "first call of Net")


def test_downloads_are_told_and_no_machine_is_reached(capfd: pytest.CaptureFixture[str]) -> None:
    text = (
        "net = Net(); net.load_state_dict(torch.hub.load_state_dict_from_url('https://example.org/absent.pth'))\n"
        "import urllib.request\n"
        "try: urllib.request.urlopen('http://example.org')\n"
        "except OSError as error: print(error)\n"
    ) + LOADS
    code, answer, _ = traced(text, capfd)
    assert (answer["raised"], code) == (None, 0)
    assert any("absent.pth was not downloaded" in note for note in answer["notes"])
    assert any("example.org was refused" in note for note in answer["notes"])


def test_an_object_of_the_files_own_classes_needs_trust(capfd: pytest.CaptureFixture[str]) -> None:
    Path("make.py").write_text("import torch\nfrom models import Net\ntorch.save(Net(), 'whole.pth')")
    subprocess.run([sys.executable, "make.py"], check=True)
    text = "model = torch.load('whole.pth', weights_only=False); model.eval(); model(torch.rand(2, 4))"
    code, answer, _ = traced(text, capfd)
    assert code != 0
    assert "models.Net" in answer["raised"]
    code, answer, _ = traced(text, capfd, "--trust-checkpoint")
    assert (code, answer["models"][0]["initial"]) == (0, [])


def test_a_reader_of_its_own_is_said_to_be_one(capfd: pytest.CaptureFixture[str]) -> None:
    text = "data = open('plain.pth', 'rb').read(); model = Net()"
    code, answer, _ = traced(text, capfd)
    assert (code, answer["files"]) == (2, [])
    assert "plain.pth was opened by the code itself" in answer["doubts"][0]


@pytest.mark.parametrize("name", ["markdown", "github", "junit", "sarif", "html", "rich", "text"])
@pytest.mark.parametrize("good", [True, False])
def test_every_format(name: str, good: bool, capfd: pytest.CaptureFixture[str]) -> None:
    Path("program.py").write_text(
        START + (LOADS if good else LOADS.replace("plain", "ddp").replace("))", "), strict=False)"))
    )
    assert main(["trace", "--format", name, "program.py"]) == (0 if good else 1)
    assert "complete" in capfd.readouterr().out.lower()
