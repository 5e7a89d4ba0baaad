"""Which loader answers where none is named, as the verdict says it, and bare load_state_dict where that differs."""

from __future__ import annotations

import copy
import shlex
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

import ckptdiff
from ckptdiff.cli import main
from ckptdiff.errors import CheckpointError, UsageError

pytestmark = [pytest.mark.zoo, pytest.mark.filterwarnings("ignore")]

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
"""
LIGHTNING = """
import lightning
from torch import nn

class Base(lightning.LightningModule):
    pass

class Lit(Base):
    def __init__(self, width=3, more=None):
        super().__init__()
        self.save_hyperparameters()
        self.fc = nn.Linear(width, 2)
        self.more = more and more()
"""


def said(capfd: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[str]]:
    """The exit code, and the lines of the report."""
    code = main(["compare", *map(str, words)])
    return code, capfd.readouterr()[0].splitlines()


def commands_in(lines: list[str]) -> list[list[str]]:
    """The comparisons that a report offers, as the words that follow."""
    start = "  $ ckptdiff compare "
    return [shlex.split(line.removeprefix(start)) for line in lines if line.startswith(start)]


@pytest.fixture
def net(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    torch.manual_seed(0)
    torch.save({"fc.weight": torch.rand(2, 3), "fc.bias": torch.rand(2)}, tmp_path / "w.pth")
    return tmp_path / "net.py"


def test_a_plain_file_is_torchs(net, capfd):
    code, lines = said(capfd, f"{net}:Net", net.parent / "w.pth")
    assert (code, lines[0]) == (0, "Compatible: load_state_dict succeeds.")
    assert not any(line.startswith("  loader") for line in lines)


def test_a_directory_of_transformers(tmp_path, capfd):
    transformers = pytest.importorskip("transformers", minversion="5")
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=20, n_positions=8)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    code, lines = said(capfd, f"hf:{tmp_path}")
    name = f"transformers {transformers.__version__}"
    assert code == 0
    assert lines[0] == f"Complete, as {name}'s GPT2LMHeadModel.from_pretrained would load it."
    assert lines[2:4] == [
        f"  loader      {name} GPT2LMHeadModel.from_pretrained", "              bare load_state_dict: 1 missing, tied",
    ]  # fmt: skip
    code, lines = said(capfd, f"hf:{tmp_path}", tmp_path / "model.safetensors", "--loader", "torch")
    assert (code, lines[0].partition(":")[0]) == (1, "Not compatible")


def test_a_directory_that_is_named_without_its_kind(tmp_path, capfd):
    assert main(["compare", str(tmp_path)]) == 2
    assert f"write `hf:{tmp_path}`" in capfd.readouterr()[1]


def test_a_pipeline_and_a_model_of_diffusers(tmp_path, capfd):
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    name = f"diffusers {diffusers.__version__}"
    code, lines = said(capfd, tmp_path)
    assert (code, lines[0]) == (0, f"Complete, as {name}'s DiffusionPipeline.from_pretrained(path) would load it.")
    code, lines = said(capfd, tmp_path / "unet")
    assert (code, lines[0]) == (0, f"Complete, as {name}'s UNet2DModel.from_pretrained(path) would load it.")
    config = tmp_path / "unet" / "config.json"
    config.write_text(config.read_text().replace('"layers_per_block": 1', '"layers_per_block": 2'))
    code, lines = said(capfd, tmp_path)
    assert code == 1
    assert lines[0].startswith(f"Not complete, as {name}'s DiffusionPipeline.from_pretrained(path) would load it: ")


def test_weights_of_timm(tmp_path, capfd):
    timm = pytest.importorskip("timm")
    state = timm.create_model("test_resnet").state_dict()
    torch.save({"state_dict_ema": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "w.pth")
    code, lines = said(capfd, "timm:test_resnet", tmp_path / "w.pth")
    assert (code, lines[0]) == (
        0,
        f"Complete, as timm {timm.__version__}'s load_checkpoint(model, path) would load it.",
    )
    assert lines[3].startswith("              bare load_state_dict: ")
    assert "missing" in lines[3]


def test_an_adapter(tmp_path, capfd):
    peft = pytest.importorskip("peft")
    (tmp_path / "net.py").write_text(NET)
    model = nn.Sequential()
    model.add_module("fc", nn.Linear(3, 2))
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["fc"])).save_pretrained(tmp_path / "adapter")
    code, lines = said(capfd, f"{tmp_path / 'net.py'}:Net", tmp_path / "adapter")
    call = f"peft {peft.__version__}'s PeftModel.from_pretrained(model, path)"
    assert (code, lines[0]) == (0, f"Complete, as {call} would load it.")


def test_a_module_of_lightnings(tmp_path, capfd):
    lightning = pytest.importorskip("lightning")
    (tmp_path / "lit.py").write_text(LIGHTNING)
    space: dict[str, type] = {}
    exec(compile(LIGHTNING, "lit.py", "exec"), space)
    module = space["Lit"](5)
    trainer = lightning.Trainer(max_epochs=0, logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    code, lines = said(capfd, f"{tmp_path / 'lit.py'}:Lit", tmp_path / "last.ckpt")
    call = f"lightning {lightning.__version__}'s Lit.load_from_checkpoint(path)"
    assert (code, lines[0]) == (0, f"Complete, as {call} would load it.")
    torch.save(module.state_dict(), tmp_path / "plain.pth")
    assert said(capfd, f"{tmp_path / 'lit.py'}:Lit", tmp_path / "plain.pth")[1][0].startswith("Not compatible")


def test_what_is_trusted_is_trusted_with_the_usual_loader_too(tmp_path, capfd):
    pytest.importorskip("lightning")
    (tmp_path / "lit.py").write_text(LIGHTNING)
    space: dict[str, type] = {}
    exec(compile(LIGHTNING, "lit.py", "exec"), space)
    state = space["Lit"](5).state_dict()
    content = {
        "state_dict": state,
        "hyper_parameters": {"width": 5, "more": nn.ReLU},
        "pytorch-lightning_version": "2.5",
    }
    torch.save(content, tmp_path / "last.ckpt")
    words = (f"{tmp_path / 'lit.py'}:Lit", tmp_path / "last.ckpt")
    assert said(capfd, *words, "--loader-arg", "weights_only=False")[0] == 2
    code, lines = said(capfd, *words, "--loader-arg", "weights_only=False", "--trust-checkpoint")
    assert (code, lines[0].partition(",")[0]) == (0, "Complete")
    code, lines = said(capfd, *words)
    assert (code, "raises UnpicklingError" in lines[0]) == (1, True)
    (command,) = commands_in(lines)
    assert said(capfd, *command)[0] == 0
    content["state_dict"] = {f"old_{key}": value for key, value in state.items()}
    torch.save(content, tmp_path / "old.ckpt")
    with pytest.raises(CheckpointError, match="no copy of it can be written to try rules on"):
        ckptdiff.suggest(
            words[0],
            tmp_path / "old.ckpt",
            loader="lightning",
            loader_args={"weights_only": False},
            trust_checkpoint=True,
        )


def test_what_a_loader_lacked_is_said_as_it_is_to_be_given(net, tmp_path, capfd):
    dcp.save({"model": torch.load(tmp_path / "w.pth")}, checkpoint_id=tmp_path / "run")
    code, lines = said(capfd, f"{net}:Net", tmp_path / "run", "--loader", "dcp")
    assert (code, "raises CheckpointException" in lines[0]) == (1, True)
    assert said(capfd, *commands_in(lines)[0])[0] == 0


def test_an_error_of_a_loader_is_followed_by_the_comparison_that_says_more(net, tmp_path, capfd):
    torch.save({"fc.weight": torch.rand(5, 5)}, tmp_path / "other.pth")
    words = ["convert", f"{net}:Net", tmp_path / "other.pth", "-o", tmp_path / "out.pth"]
    words += ["--loader", "dcp", "--loader-arg", "strict=False"]
    assert main(list(map(str, words))) == 2
    hint = capfd.readouterr()[1].splitlines()[-1]
    code, lines = said(capfd, *shlex.split(hint.split("`")[1])[2:])
    assert (code, "set_model_state_dict" in lines[0]) == (1, True)


def test_a_path_that_is_not_there_is_said_before_a_loader_is_asked(net, tmp_path):
    for ask in (ckptdiff.compare, ckptdiff.snapshot, partial(ckptdiff.convert, out=tmp_path / "b.pth")):
        with pytest.raises(CheckpointError, match="nowhere does not exist"):
            ask(f"{net}:Net", tmp_path / "nowhere", loader="dcp")


def test_arguments_that_no_model_takes_are_refused(tmp_path):
    """Of a function, and of a loader of a name that makes its model by itself."""
    torch.save({}, tmp_path / "a.pth")
    (tmp_path / "model_index.json").write_text("{}")
    for ask in (ckptdiff.compare, partial(ckptdiff.convert, out=tmp_path / "b.pth")):
        with pytest.raises(UsageError, match="here the loader makes it"):
            ask(None, tmp_path / "a.pth", loader=lambda path: nn.Linear(2, 2), args={"width": 3})
    if find_spec("diffusers") is not None:
        with pytest.raises(UsageError, match="here the loader makes it"):
            ckptdiff.compare(None, tmp_path, args={"width": 3})


def test_a_directory_of_dcp(net, tmp_path, capfd):
    state = torch.load(tmp_path / "w.pth")
    dcp.save(copy.deepcopy(state), checkpoint_id=tmp_path / "plain")
    dcp.save({"model": state, "epoch": 3}, checkpoint_id=tmp_path / "whole")
    dcp.save({**state, "more": torch.ones(2)}, checkpoint_id=tmp_path / "more")
    call = f"dcp {torch.__version__}'s dcp.load(model.state_dict(), checkpoint_id=path)"
    code, lines = said(capfd, f"{net}:Net", tmp_path / "plain")
    assert (code, lines[0]) == (0, f"Complete, as {call} would load it.")
    code, lines = said(capfd, f"{net}:Net", tmp_path / "more")
    assert (code, lines[0]) == (0, f"Complete, as {call} would load it, with 1 warning.")
    assert "              bare load_state_dict: 1 unexpected" in lines
    assert said(capfd, f"{net}:Net", tmp_path / "whole")[1][0] == "Compatible: load_state_dict succeeds."
