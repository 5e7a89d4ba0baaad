"""Programs of the libraries by which people train: the trace says what really happens. And a cell of a notebook."""

from __future__ import annotations

import json
import random
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptdiff.cli import main
from tests.tracing.programs import MODELS, START, prepare
from tests.tracing.truth import really

pytestmark = [pytest.mark.zoo, pytest.mark.filterwarnings("ignore")]

QUIET = "import logging, warnings; warnings.simplefilter('ignore'); logging.disable(logging.CRITICAL)\n"

LIGHTNING = """
import lightning

class Lit(lightning.LightningModule):
    def __init__(self, classes=5):
        super().__init__()
        self.save_hyperparameters(); self.net = Net(classes)
    def forward(self, x):
        return self.net(x)
    def training_step(self, batch, _):
        return self(batch).sum()
    def test_step(self, batch, _):
        self.log("loss", self(batch).sum())
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)

data = torch.utils.data.DataLoader(torch.rand(8, 4), batch_size=4)
options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
           "enable_model_summary": False, "max_epochs": 3, "devices": 1}
"""

PROGRAMS: dict[str, str] = {
    "lightning, load_from_checkpoint": LIGHTNING
    + """
model = Lit.load_from_checkpoint("lit.ckpt", map_location="cpu", weights_only=False).eval()
model(torch.rand(2, 4))
""",
    "lightning, not strict": LIGHTNING
    + """
model = Lit.load_from_checkpoint("lit.ckpt", map_location="cpu", weights_only=False, strict=False, classes=5).eval()
model(torch.rand(2, 4))
""",
    "lightning, test": LIGHTNING
    + """
lightning.Trainer(**options).test(Lit(), data, ckpt_path="lit.ckpt", weights_only=False)
""",
    "lightning, from a state dict": LIGHTNING
    + """
model = Lit(); model.net.load_state_dict(torch.load("plain.pth"), strict=False)
lightning.Trainer(**options).fit(model, data)
""",
    "Trainer": """
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments
model = AutoModelForSequenceClassification.from_pretrained("bert")
rows = [{"input_ids": torch.tensor([1, 2, 3]), "labels": torch.tensor(1)}] * 4
options = TrainingArguments("out", report_to=[], use_cpu=True, max_steps=2, save_strategy="no")
Trainer(model, options, train_dataset=rows).train()
""",
    "Trainer, another head": """
from transformers import AutoModelForTokenClassification, Trainer, TrainingArguments
model = AutoModelForTokenClassification.from_pretrained("bert", num_labels=7)
rows = [{"input_ids": torch.tensor([1, 2, 3]), "labels": torch.tensor([1, 1, 1])}] * 4
Trainer(model, TrainingArguments("out", report_to=[], use_cpu=True, max_steps=2), train_dataset=rows).train()
""",
    "accelerate, load_state": """
from accelerate import Accelerator
accelerator = Accelerator(cpu=True)
model = Net(); optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
model, optimizer = accelerator.prepare(model, optimizer)
accelerator.load_state("state")
model.train(); accelerator.backward(model(torch.rand(4, 4)).sum()); optimizer.step()
""",
    "accelerate, load_checkpoint_in_model": """
import accelerate
with accelerate.init_empty_weights():
    model = Net()
accelerate.load_checkpoint_and_dispatch(model, "plain.safetensors", device_map={"": "cpu"}).eval()(torch.rand(2, 4))
""",
    "hydra": """
import hydra
@hydra.main(config_path="conf", config_name="config", version_base=None)
def main(config):
    model = Net(config.model.classes)
    model.load_state_dict(torch.load(hydra.utils.to_absolute_path(config.weights)), strict=config.strict)
    model.eval()(torch.rand(2, 4))
main()
""",
    "omegaconf and instantiate": """
from omegaconf import OmegaConf
from hydra.utils import instantiate
config = OmegaConf.create({"model": {"_target_": "models.Net", "classes": 5}, "weights": "second.pth"})
model = instantiate(config.model); print(model.load_state_dict(torch.load(config.weights), strict=False))
model.eval()(torch.rand(2, 4))
""",
    "yaml": """
import yaml
from pathlib import Path
config = yaml.safe_load(Path("conf/config.yaml").read_text())
model = globals()[config["model"]["name"]](config["model"]["classes"])
own = model.state_dict()
own.update({k: v for k, v in torch.load(config["weights"]).items() if k in own})
model.load_state_dict(own); model.eval()(torch.rand(2, 4))
""",
    "timm": """
import timm
model = timm.create_model("test_vit", num_classes=3, checkpoint_path="vit.safetensors").eval()
model(torch.rand(1, 3, 160, 160))
""",
    "peft": """
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
model = PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained("bert"), "adapter").eval()
model(input_ids=torch.tensor([[1, 2]]))
""",
}

FAST = ("lightning, load_from_checkpoint", "hydra")
"""Those that `make test-zoo` runs."""


def prepare_more(folder: Path, seed: int, *, damaged: bool) -> None:
    """Beside what every program loads, the files of the libraries; `damaged` lacks a bias everywhere."""
    prepare(folder, seed, damaged=damaged)
    run = torch.load(folder / "run.ckpt", weights_only=True)
    lit = {"state_dict": {f"net.{key}": value for key, value in run["model"].items()}, "epoch": 1, "global_step": 3,
           "hyper_parameters": {"classes": 5}, "pytorch-lightning_version": "2.4.0", "loops": {},
           "optimizer_states": [run["optimizer"]], "lr_schedulers": []}  # fmt: skip
    torch.save(lit, folder / "lit.ckpt")
    (folder / "state").mkdir()
    save_file({key: value.clone() for key, value in run["model"].items()}, folder / "state/model.safetensors")
    torch.save(run["optimizer"], folder / "state/optimizer.bin")
    random_states = {"random_state": random.getstate(), "torch_manual_seed": torch.get_rng_state()}
    torch.save({**random_states, "numpy_random_seed": np.random.get_state()}, folder / "state/random_states_0.pkl")
    (folder / "conf").mkdir()
    text = "model: {name: Net, classes: 5}\nweights: plain.pth\nstrict: false\n"
    (folder / "conf/config.yaml").write_text(text)
    _bert(folder, seed, damaged=damaged)
    import timm

    torch.manual_seed(seed)
    _saved(timm.create_model("test_vit", num_classes=3), folder / "vit.safetensors", seed, damaged=damaged)


def _bert(folder: Path, seed: int, *, damaged: bool) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    torch.manual_seed(seed)
    model = BertForSequenceClassification(config)
    model.save_pretrained(folder / "bert")
    _saved(model, folder / "bert/model.safetensors", seed, damaged=damaged)
    adapted = get_peft_model(model, LoraConfig(target_modules=["query"], r=2))
    adapted.save_pretrained(folder / "adapter")
    file = folder / "adapter/adapter_model.safetensors"
    save_file({key: value + seed for key, value in load_file(file).items()}, file)


def _saved(model: torch.nn.Module, file: Path, seed: int, *, damaged: bool) -> None:
    state = {key: torch.rand_like(value) + seed if value.is_floating_point() else value + seed
             for key, value in model.state_dict().items()}  # fmt: skip
    if damaged:
        del state[[key for key in state if key.endswith("bias")][3]]
    save_file(state, file, metadata={"format": "pt"})


@pytest.fixture
def folders(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    made = (tmp_path / "one", tmp_path / "two")
    for seed, folder in enumerate(made, 1):
        prepare_more(folder, seed, damaged=request.param)
        (folder / "models.py").write_text(MODELS)
    return made


@pytest.mark.parametrize("folders", [False, True], ids=["good", "damaged"], indirect=True)
@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in PROGRAMS]
)
def test_what_a_program_fills(
    name: str, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    text = QUIET + START + textwrap.dedent(PROGRAMS[name])
    for folder in folders:
        (folder / "program.py").write_text(text)
    truth = really(Path("program.py"), folders)
    monkeypatch.chdir(folders[0])
    code = main(["trace", "--format", "json", "program.py"])
    answer = json.loads(capfd.readouterr().out)
    told = _by_class(answer, "filled", "partial")
    assert told == truth.filled, (answer["raised"], answer["doubts"])
    lacking = {kind: keys for kind, keys in _by_class(answer, "initial", "overwritten").items() if kind in truth.filled}
    assert lacking == {kind: keys for kind, keys in truth.initial.items() if kind in truth.filled}
    assert answer["raised"] == truth.raised
    loaded = truth.raised is None and bool(truth.filled) and not any(lacking.values())
    assert code == (0 if loaded else 1), (answer["verdict"], answer["errors"], answer["doubts"])


def _by_class(answer: Any, *fields: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for model in answer["models"]:
        keys = set().union(*(model[name] for name in fields))
        if keys:
            found.setdefault(model["class"], set()).update(keys)
    return found


@pytest.mark.parametrize(
    "words",
    [
        ["accelerate", "launch", "--cpu"],
        pytest.param(["python", "-m", "accelerate.commands.launch"], marks=pytest.mark.slow),
    ],
)
def test_accelerate_launch(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path, 1)
    monkeypatch.chdir(tmp_path)
    Path("models.py").write_text(MODELS)
    Path("program.py").write_text(
        QUIET + START + "assert sys.argv[1:] == ['--weights', 'plain.pth']\n"
        "from accelerate import Accelerator; accelerator = Accelerator(cpu=True)\n"
        "assert (accelerator.num_processes, accelerator.process_index) == (1, 0)\n"
        "model = accelerator.prepare(Net()); model = accelerator.unwrap_model(model)\n"
        "model.load_state_dict(torch.load(sys.argv[2])); model.eval()(torch.rand(2, 4))\n"
    )
    code = main(["trace", "--format", "json", *words, "program.py", "--weights", "plain.pth"])
    answer = json.loads(capfd.readouterr().out)
    assert (answer["raised"], code, answer["ended"]) == (None, 0, "first call of Net")


def test_a_cell_of_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell_module = pytest.importorskip("IPython.core.interactiveshell")
    prepare(tmp_path, 1, damaged=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("models.py").write_text(MODELS)
    shell = shell_module.InteractiveShell.instance()
    block = """with ckptdiff.trace() as t:
    model = Net()
    model.load_state_dict(torch.load('plain.pth'), strict=False)
    model(torch.rand(2, 4))
    after = 1
"""
    cells = ["import torch, ckptdiff\nfrom models import Net", block, "t"]
    results = [shell.run_cell(cell, store_history=True) for cell in cells]
    assert [result.success for result in results] == [True, True, True]
    traced = shell.user_ns["t"]
    assert traced.of(shell.user_ns["model"]).initial == ("body.0.bias",)
    assert "after" not in shell.user_ns
    data, _ = shell.display_formatter.format(results[2].result)
    assert "1 of 9 keys keeps initial values" in data["text/html"]
    assert traced.models[0].made_at.endswith(":2")
