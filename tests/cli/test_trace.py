"""`ckptdiff trace` on a command line: how programs are named, stopped, kept from harm and answered."""

from __future__ import annotations

import json
import multiprocessing.context
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
        pytest.param(["-m", "program", "--weights", "plain.pth", "-m", "x"], marks=pytest.mark.long),
        pytest.param(["python", "-u", "program.py", "--weights", "plain.pth", "-m", "x"], marks=pytest.mark.long),
        ["python3", "-m", "program", "--weights", "plain.pth", "-m", "x"],
        pytest.param(
            ["torchrun", "--nproc-per-node", "8", "program.py", "--weights", "plain.pth", "-m", "x"],
            marks=pytest.mark.long,
        ),
        ["torchrun", "--standalone", "-m", "program", "--weights", "plain.pth", "-m", "x"],
    ],
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
    ("text", "lines"),
    [
        ("", ["stopped before plain.pth was opened: it ended (end)"]),
        ("print('no such thing', file=sys.stderr); sys.exit(3)", ["exit 3", "raised SystemExit", "no such thing\n"]),
        ("open('data.txt')", ["raised FileNotFoundError, in program.py:3", "line          open('data.txt')"]),
        ("import argparse; argparse.ArgumentParser().parse_args()", ["error: unrecognized arguments: --weights"]),
    ],
)
def test_no_answer_before_a_checkpoint_is_opened(
    text: str, lines: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    Path("program.py").write_text(START + text)
    assert main(["trace", "--quiet", "program.py", "--weights=plain.pth"]) == 2
    out = capfd.readouterr().out
    for line in (*lines, "stopped before plain.pth was opened"):
        assert line in out


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
        "from torch._six import inf, string_classes; assert isinstance('a', string_classes) and inf > 1\n"
        "import wandb, flash_attn\nfrom tensorboardX import SummaryWriter\nfrom mpi4py import MPI\n"
        "from torch.utils.tensorboard import SummaryWriter as Writer; Writer('runs').add_scalar('a', 1)\n"
        "wandb.init(project='x'); SummaryWriter('runs').add_scalar('a', 1); rank = MPI.COMM_WORLD.Get_rank() % 8\n"
        "assert rank == 0 and MPI.COMM_WORLD.bcast([1], root=0) == [1]\n"
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


@pytest.mark.parametrize("good", [True, False])
def test_every_report(good: bool, capfd: pytest.CaptureFixture[str]) -> None:
    Path("program.py").write_text(
        START + (LOADS if good else LOADS.replace("plain", "ddp").replace("))", "), strict=False)"))
    )
    names = ("markdown", "github", "junit", "sarif", "html", "text", "json")
    reports = [word for name in names for word in ("--report", f"{name}={name}.out")]
    assert main(["trace", *reports, "program.py"]) == (0 if good else 1)
    for name in names:
        assert "complete" in Path(f"{name}.out").read_text().lower(), name


READS_BACK = """
import glob, shutil, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from safetensors.torch import load_file, save_file
model = Net(); model.load_state_dict(torch.load("plain.pth"))
torch.save({"model": model.state_dict(), "epoch": 3}, "new.pth.tmp"); os.replace("new.pth.tmp", "new.pth")
assert os.path.exists("new.pth") and not os.path.exists("new.pth.tmp")
assert Path("new.pth").stat().st_size > 100 and glob.glob("new*") == ["new.pth"] and "new.pth" in os.listdir()
shutil.copyfile("new.pth", "best.pth"); shutil.copy2("best.pth", "best2.pth")
again = Net(); run = torch.load("best2.pth"); assert run["epoch"] == 3; again.load_state_dict(run["model"])
torch.save(Student(), "whole.pt"); assert type(torch.load("whole.pt", weights_only=False)) is Student
save_file(model.state_dict(), "x.safetensors"); third = Net(); third.load_state_dict(load_file("x.safetensors"))
fresh = Critic(); torch.save(fresh.state_dict(), "fresh.pth"); fresh.load_state_dict(torch.load("fresh.pth"))
with open("stream.pth", "wb") as file: torch.save(model.state_dict(), file)
with open("stream.pth", "rb") as file: fourth = Net(); fourth.load_state_dict(torch.load(file))
os.remove("second.pth"); assert not os.path.exists("second.pth")
shutil.rmtree("runs"); assert not os.path.exists("runs"); os.makedirs("runs"); assert os.listdir("runs") == []
scripted = torch.jit.script(nn.Linear(2, 2)); scripted.save("scripted.pt"); torch.jit.load("scripted.pt")
try: torch.save(lambda: 0, "bad.pth")
except Exception as error: print(type(error).__name__)
try: torch.save(1, "nowhere/bad.pth")
except RuntimeError as error: print(error)
"""


def test_what_a_program_writes_it_finds_again_and_nothing_is_written(
    capfd: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    Path("runs").mkdir()
    Path("runs/old.pth").write_bytes(Path("plain.pth").read_bytes())
    before = _contents()
    code, answer, err = traced(READS_BACK, capfd, "--until", "end")
    assert (answer["raised"], code) == (None, 0)
    after = {
        path: path.read_bytes() for path in Path().rglob("*.*") if path.is_file() and "__pycache__" not in str(path)
    }
    assert {**before, Path("program.py"): after[Path("program.py")]} == after
    assert [(model["class"], model["complete"]) for model in answer["models"] if model["asked"]] == [("Net", True)] * 4
    sources = {file for model in answer["models"] for given in model["filled"].values() for file, _ in given}
    assert sources == {"plain.pth"}
    assert {save["file"] for save in answer["saved"]} >= {"new.pth.tmp", "x.safetensors", "stream.pth", "scripted.pt"}
    assert "PicklingError" in err or "AttributeError" in err
    assert "Parent directory nowhere does not exist." in err
    assert "second.pth was not removed." in answer["notes"]
    assert os.listdir(temporary) == []


def test_what_a_program_wrote_itself_fills_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    text = (
        "import tempfile\nmodel, other, third = Net(), Student(), Critic()\n"
        "with open('a.pth', 'wb') as file: torch.save(Net().state_dict(), file)\n"
        "model.load_state_dict(torch.load('a.pth'))\n"
        "with tempfile.NamedTemporaryFile(suffix='.pt') as file:\n"
        "    torch.save(Student().state_dict(), file); file.flush(); other.load_state_dict(torch.load(file.name))\n"
        "torch.save(Critic().state_dict(), 'tmp.pth'); os.replace('tmp.pth', 'b.pth')\n"
        "third.load_state_dict(torch.load('b.pth'))\n"
    )
    code, answer, _ = traced(text, capfd, "--until", "end")
    assert (answer["raised"], code, answer["files"]) == (None, 2, [])
    assert not any(model["filled"] for model in answer["models"])


def _contents() -> dict[Path, bytes]:
    found = (path for path in Path().rglob("*.*") if path.is_file() and path.suffix != ".pyc")
    return {path: path.read_bytes() for path in found}


PROCESSES = {
    "Process": (
        ("def work(rank, size, go): go(load())\ndef go(model): model(torch.rand(1, 4))\n"
        "if __name__ == '__main__':\n"
        "    torch.multiprocessing.set_start_method('spawn')\n"
        "    made = [torch.multiprocessing.Process(target=work, args=(rank, 4, go)) for rank in range(4)]\n"
        "    for one in made: one.start()\n"
        "    for one in made: one.join()\n"),
        0, "A process of work ran here, as the first of its kind.",
    ),
    "queue": (
        ("from multiprocessing import Process, Queue\n"
        "def reads(queue):\n    while queue.get() is not None: pass\n"
        "queue = Queue(2); one = Process(target=reads, args=(queue,), daemon=True); one.start()\n"
        "for item in (1, 2, 3, 4, None): queue.put(item)\n"
        "one.join(); load()(torch.rand(1, 4))\n"),
        0, "A process of reads ran here, as the first of its kind.",
    ),
    "pool": (
        ("from multiprocessing import Pool\n"
        "def work(path): return load()(torch.rand(1, 4)).sum().item()\n"
        "if __name__ == '__main__':\n    with Pool(2) as pool: print(pool.map(work, ['a', 'b']))\n"),
        2, "a pool of processes",
    ),
    "program": ("import subprocess; subprocess.run([sys.executable, 'models.py'])", 2, "models.py"),
    "exec": ("os.execv(sys.executable, [sys.executable, 'models.py'])", 2, "models.py"),
    "fork": (
        ("if (child := os.fork()) == 0: load()(torch.rand(1, 4)); os._exit(3)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3; load()(torch.rand(1, 4))\n"),
        0, "",
    ),
    "loader of data": (
        ("from torch.utils.data import DataLoader\nloader = DataLoader(torch.rand(4, 4), num_workers=1)\n"
        "assert len(list(loader)) == 4\nload()(torch.rand(1, 4))\n"),
        0, "",
    ),
    "alarm": (
        ("import signal, time\ndef late(*_): raise TimeoutError\n"
        "signal.signal(signal.SIGALRM, late); signal.alarm(1)\n"
        "try: time.sleep(9)\nexcept TimeoutError: load()(torch.rand(1, 4))\n"),
        0, "",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [name if name in ("Process", "program") else pytest.param(name, marks=pytest.mark.long) for name in PROCESSES],
)
def test_processes_are_followed_or_named(
    name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, expected, told = PROCESSES[name]
    monkeypatch.setattr(multiprocessing.context._default_context, "_actual_context", None)  # as in a new process
    loads = "def load():\n    model = Net(); model.load_state_dict(torch.load('plain.pth')); return model.eval()\n"
    code, answer, _ = traced(loads + text, capfd)
    assert (answer["raised"], code) == (None, expected)
    assert told in " ".join((*answer["notes"], *answer["children"]))
    assert bool(answer["children"]) == (code == 2)


@pytest.mark.long
def test_a_signal_that_ends_it_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    Path("program.py").write_text("import signal, time; signal.alarm(1); time.sleep(9)")
    assert main(["trace", "program.py"]) == 2
    assert "was ended by SIGALRM" in capfd.readouterr().err


def test_a_program_that_ends_without_a_gpu_is_run_again_as_with_one(capfd: pytest.CaptureFixture[str]) -> None:
    text = (
        "torch.save(Net(), 'first.pth')\nif not torch.cuda.is_available(): print('no GPU'); sys.exit(1)\n"
        + LOADS + "model.cuda()"
    )  # fmt: skip
    code, answer, err = traced(text, capfd)
    assert (answer["raised"], code) == (None, 0)
    assert "It asks for a device of the kind cuda" in err


def test_scripts_are_compiled_as_ever(capfd: pytest.CaptureFixture[str]) -> None:
    text = (
        "import warnings; warnings.simplefilter('ignore')\nimport torch.nn.functional as F\n@torch.jit.script\n"
        "def act(x):\n    return F.silu(x) * torch.tensor([1.0], device=x.device) + torch.zeros(1)\n"
        "class Scripted(nn.Module):\n"
        "    def __init__(self):\n        super().__init__(); self.layer = nn.Linear(5, 1)\n"
        "    def forward(self, x):\n        return self.layer(x) + torch.tensor(1.0)\n"
        "scripted = torch.jit.script(Scripted()); scripted.load_state_dict(torch.load('critic.pth'))\n"
        "print(act(torch.rand(2))); scripted(torch.rand(2, 5))\n"
    )
    code, answer, _ = traced(text, capfd, "--device", "cuda")
    assert (answer["raised"], code) == (None, 0)


def test_a_model_larger_than_memory(capfd: pytest.CaptureFixture[str]) -> None:
    """43 GB by plain constructors, and of a file of holes: initial values are drawn, and files read, when looked at."""
    names, nbytes = [f"layers.{number}.weight" for number in range(40)], 16384 * 16384 * 4
    header = json.dumps({
        name: {"dtype": "F32", "shape": [16384, 16384], "data_offsets": [at * nbytes, (at + 1) * nbytes]}
        for at, name in enumerate(names)
    }).encode()  # fmt: skip
    with Path("large.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 40 * nbytes)
    text = (
        "import resource\nbefore = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "from torch import nn\nfrom safetensors.torch import load_file\n"
        "class Large(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layers = nn.ModuleList(nn.Linear(16384, 16384, bias=False) for _ in range(40))\n"
        "    def forward(self, x):\n"
        "        return self.layers[0](x)\n"
        "model = Large(); model.load_state_dict(load_file('large.safetensors'))\n"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19\n"
        "model(torch.rand(1, 16384))"
    )
    code, answer, _ = traced(text, capfd)
    assert (code, answer["raised"]) == (0, None)
    assert list(answer["models"][0]["filled"]) == names


def test_a_lazy_module_beside_the_model_is_no_hindrance(capfd: pytest.CaptureFixture[str]) -> None:
    """Its parameters refuse nearly every question before the first call."""
    text = "from torch import nn\nlazy = [nn.LazyLinear(3), nn.Sequential(nn.LazyConv2d(2, 3))]\n" + LOADS
    code, answer, _ = traced(text + "model(torch.rand(2, 4))", capfd)
    assert (code, answer["ended"]) == (0, "first call of Net")
    code, answer, _ = traced(text + "model.lazy = lazy[0]\nmodel(torch.rand(2, 4))", capfd)
    assert answer["ended"] == "first call of Net"
