"""The Python that a report on a loader prints is run, and leaves what the report says in the model."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.render.loading_code import python

pytestmark = pytest.mark.filterwarnings("ignore")
NET = """\
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.fc = nn.Linear(width, 2)
        self.more = nn.Linear(2, 2)
made = Net()
def factory(width):
    return Net(width)
"""
LOAD = """\
import torch
from net_that_is_loaded import Net
def fills(model, path):
    model.load_state_dict(torch.load(path, weights_only=True))
def returns(path):
    model = Net()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model
def of_several(path, device="cpu"):
    return 3, returns(path)
class Loads:
    @staticmethod
    def fills(model, path):
        model.load_state_dict(torch.load(path, weights_only=True))
        return model
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / 'it\'s a "folder"'
    (folder / "sub").mkdir(parents=True)
    (folder / "net_that_is_loaded.py").write_text(NET)
    (folder / "load_of_test.py").write_text(LOAD)
    (folder / "sub" / "load_below.py").write_text(
        "import torch\ndef fill(model, path):\n    model.load_state_dict(torch.load(path))\n"
    )
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    monkeypatch.setitem(sys.modules, "net_that_is_loaded", None)
    monkeypatch.delitem(sys.modules, "net_that_is_loaded")
    return folder


def executed(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "printed", "exec"), names)
    return names


def values(seed: int = 5, width: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {
        "fc.weight": torch.rand(2, width), "fc.bias": torch.rand(2), "more.weight": torch.rand(2, 2),
        "more.bias": torch.rand(2),
    }  # fmt: skip


def holds(model: nn.Module, expected: dict[str, torch.Tensor]) -> bool:
    state = model.state_dict()
    return state.keys() == expected.keys() and all(torch.equal(state[key], value) for key, value in expected.items())


@pytest.mark.parametrize("model", ["net_that_is_loaded.py:Net", "net_that_is_loaded.py:made", "net_that_is_loaded:Net"])
@pytest.mark.parametrize(
    "loader", ["load_of_test.py:fills", "load_of_test:fills", "load_of_test.py:Loads.fills", "sub/load_below.py:fill"]
)
def test_a_function_of_model_and_path(model: str, loader: str, folder: Path) -> None:
    torch.save(values(), "a file.pth")
    code = python(ckptdiff.compare(model, "a file.pth", loader=loader))
    assert holds(executed(code)["model"], values()), code


@pytest.mark.parametrize("loader", ["load_of_test.py:returns", "load_of_test.py:of_several"])
def test_a_function_that_makes_the_model(loader: str, folder: Path) -> None:
    torch.save(values(), "a.pth")
    assert holds(executed(python(ckptdiff.compare(None, "a.pth", loader=loader)))["model"], values())


def test_a_model_with_arguments(folder: Path) -> None:
    torch.save(values(width=4), "a.pth")
    asked = {"args": {"width": 4}, "loader": "load_of_test.py:fills"}
    code = python(ckptdiff.compare("net_that_is_loaded.py:factory", "a.pth", **asked))
    assert holds(executed(code)["model"], values(width=4))


def test_what_raises_or_is_a_live_function_is_not_printed(folder: Path) -> None:
    torch.save({}, "a.pth")
    assert python(ckptdiff.compare("net_that_is_loaded.py:Net", "a.pth", loader="load_of_test.py:fills")) == ""
    torch.save(values(), "b.pth")

    def fills(model: nn.Module, path: str) -> None:
        model.load_state_dict(torch.load(path, weights_only=True))

    assert python(ckptdiff.compare("net_that_is_loaded.py:Net", "b.pth", loader=fills)) == ""


@pytest.mark.parametrize("args", [{}, {"key": "model"}, {"allow_partial_load": True}, {"strict": False}])
def test_dcp(args: dict[str, object], folder: Path) -> None:
    import torch.distributed.checkpoint as dcp

    saved: dict[str, Any] = {"model": values()} if "key" in args else values()
    if "allow_partial_load" in args:
        del saved["more.bias"]
    dcp.save(saved, checkpoint_id="dcp")
    report = ckptdiff.compare("net_that_is_loaded.py:Net", "dcp", loader="dcp", loader_args=args)
    state = executed(python(report))["model"].state_dict()
    same = [key for key, value in values().items() if torch.equal(state[key], value)]
    assert same == [key for key in values() if key != "more.bias" or "allow_partial_load" not in args]


@pytest.mark.parametrize("args", [{}, {"key": "model"}, {"strict": False, "full_state_dict": True}])
def test_set_model_state_dict(args: dict[str, object], folder: Path) -> None:
    torch.save({"model": values()} if "key" in args else values(), "a.pth")
    report = ckptdiff.compare("net_that_is_loaded.py:Net", "a.pth", loader="dcp", loader_args=args)
    assert holds(executed(python(report))["model"], values())


@pytest.fixture
def llama(folder: Path) -> nn.Module:
    transformers = pytest.importorskip("transformers", minversion="5")
    torch.manual_seed(1)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 16}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1)
    model: nn.Module = transformers.LlamaForCausalLM(config)
    model.save_pretrained("base")  # type: ignore[operator]
    torch.save(model.state_dict(), "alone.pth")
    torch.save({"run": [model.state_dict()]}, "inside.pth")
    from safetensors.torch import save_file

    save_file(model.state_dict(), "alone.safetensors")
    return model


@pytest.mark.zoo
@pytest.mark.parametrize(
    "checkpoint", ["base", "base/model.safetensors", "alone.pth", "inside.pth", "alone.safetensors"]
)
def test_transformers(checkpoint: str, llama: nn.Module) -> None:
    report = ckptdiff.compare("hf:base", checkpoint, loader="transformers")
    assert report.complete
    made = executed(python(report))["model"]
    assert type(made) is type(llama)
    assert holds(made, llama.state_dict())


@pytest.mark.zoo
def test_transformers_with_arguments(llama: nn.Module) -> None:
    args = {"auto_class": "AutoModel", "dtype": "float16"}
    report = ckptdiff.compare("hf:base", "base", loader="transformers", loader_args=args)
    made = executed(python(report))["model"]
    assert type(made).__name__ == "LlamaModel"
    assert made.dtype is torch.float16
    assert torch.equal(made.embed_tokens.weight, llama.state_dict()["model.embed_tokens.weight"].half())


@pytest.mark.zoo
def test_transformers_of_a_model_of_the_users(llama: nn.Module, folder: Path) -> None:
    (folder / "net_that_is_loaded.py").write_text(
        "import transformers\ndef build():\n"
        "    return transformers.LlamaForCausalLM(transformers.AutoConfig.from_pretrained('base'))\n"
    )
    report = ckptdiff.compare("net_that_is_loaded.py:build", "base", loader="transformers")
    assert holds(executed(python(report))["model"], llama.state_dict())


@pytest.mark.zoo
@pytest.mark.parametrize("named", ["hf:base", None, "net_that_is_loaded.py:build"])
def test_peft(named: str | None, llama: nn.Module, folder: Path) -> None:
    peft = pytest.importorskip("peft")
    import transformers

    (folder / "net_that_is_loaded.py").write_text(
        "import transformers\ndef build():\n    return transformers.LlamaForCausalLM.from_pretrained('base')\n"
    )
    base = transformers.LlamaForCausalLM.from_pretrained("base")
    adapted = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained("adapter")
    report = ckptdiff.compare(named, "adapter", loader="peft")
    assert report.complete
    assert holds(executed(python(report))["model"], adapted.state_dict())


@pytest.mark.zoo
@pytest.mark.parametrize("args", [{}, {"filter_fn": True}, {"pretrained": True}, {"strict": False}])
def test_timm(args: dict[str, object], folder: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(3)
    saved = {
        key: torch.rand_like(value) for key, value in timm.create_model("test_vit", num_classes=5).state_dict().items()
    }
    torch.save({"state_dict": saved}, "a.pth")
    report = ckptdiff.compare("timm:test_vit", "a.pth", args={"num_classes": 5}, loader="timm", loader_args=args)
    code = python(report)
    state = executed(code)["model"].state_dict()
    assert {key for key, value in saved.items() if torch.equal(state[key], value)} == {
        key for key, item in report.outcome.filled.items() if item.by == "file"
    }, code


@pytest.mark.zoo
def test_a_directory_of_timms(folder: Path) -> None:
    timm = pytest.importorskip("timm")
    from timm.models._hub import save_for_hf

    model = timm.create_model("test_resnet")
    save_for_hf(model, "saved", safe_serialization=True)
    assert holds(executed(python(ckptdiff.compare(None, "saved")))["model"], model.state_dict())


@pytest.mark.zoo
@pytest.mark.parametrize("args", [{}, {"torch_dtype": "bfloat16"}])
def test_diffusers(args: dict[str, object], folder: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    unet.save_pretrained("unet")
    vq = diffusers.VQModel(block_out_channels=(8,), norm_num_groups=4, num_vq_embeddings=4, latent_channels=3)
    diffusers.LDMPipeline(vq, unet, diffusers.DDIMScheduler()).save_pretrained("pipe")
    wanted = unet.to(getattr(torch, str(args.get("torch_dtype", "float32")))).state_dict()
    made = executed(python(ckptdiff.compare(None, "unet", loader_args=args)))["model"]
    assert holds(made, wanted)
    report = ckptdiff.compare(None, "pipe", loader_args={**args, "component": "unet"})
    assert holds(executed(python(report))["model"], wanted)
    whole = executed(python(ckptdiff.compare(None, "pipe", loader_args=args)))["pipeline"]
    assert holds(whole.unet, wanted)


@pytest.mark.zoo
@pytest.mark.parametrize("reference", ["net_that_is_loaded.py:Lit", "net_that_is_loaded.py"])
def test_lightning(reference: str, folder: Path) -> None:
    pytest.importorskip("lightning")
    (folder / "net_that_is_loaded.py").write_text(
        "import lightning\nfrom torch import nn\nclass Lit(lightning.LightningModule):\n"
        "    def __init__(self, width=2):\n        super().__init__()\n        self.save_hyperparameters()\n"
        "        self.fc = nn.Linear(width, 2)\n"
    )
    state = {"fc.weight": torch.rand(2, 4), "fc.bias": torch.rand(2)}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.4.0", "hyper_parameters": {"width": 4}}, "a.ckpt")
    code = python(ckptdiff.compare(reference, "a.ckpt", loader="lightning"))
    assert holds(executed(code)["model"], state)
    assert "model = Lit.load_from_checkpoint(path)" in code


@pytest.mark.zoo
def test_accelerate(folder: Path) -> None:
    pytest.importorskip("accelerate")
    torch.save(values(), "a.bin")
    report = ckptdiff.compare("net_that_is_loaded.py:Net", "a.bin", loader="accelerate", loader_args={"strict": True})
    assert holds(executed(python(report))["model"], values())


def test_it_is_on_the_screen(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from ckptdiff.cli import main

    torch.save(values(), "a.pth")
    main(["compare", "net_that_is_loaded.py:Net", "a.pth", "--loader", "load_of_test.py:fills", "--python"])
    shown = capfd.readouterr().out
    code = "\n".join(line[2:] for line in shown.partition("\nin Python\n")[2].partition("\n\n")[0:1][0].splitlines())
    assert "from load_of_test import fills" in shown
    assert "fills(model, path)" in shown
    assert code
    assert os.getcwd() == str(folder)
