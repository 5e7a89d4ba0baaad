"""Programs of the kinds people write: the same small model, got and loaded in forty ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

MODELS = '''
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.body(x))


class Student(Net):
    pass


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 1)

    def forward(self, x):
        return self.layer(x)


class Low(nn.Module):
    """A linear layer with a low-rank part beside it."""

    def __init__(self, base, rank=2):
        super().__init__()
        self.base = base
        self.a = nn.Parameter(torch.randn(rank, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + x @ self.a.T @ self.b.T
'''


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def prepare(folder: Path, seed: int, *, damaged: bool = False) -> None:
    """Everything the programs load, with the values of a seed; `damaged` lacks a bias everywhere."""
    torch.manual_seed(seed)
    net = _Net()
    for tensor in (*net.parameters(), net.body[1].running_mean, net.body[1].running_var):
        tensor.data = torch.rand(tensor.shape) + seed
    net.body[1].num_batches_tracked += seed
    state = dict(net.state_dict())
    if damaged:
        del state["body.0.bias"]
    other = {key: value.clone() + seed for key, value in state.items()}
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    net(torch.rand(3, 4)).sum().backward()
    optimizer.step()
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "plain.pth")
    save_file({key: value.clone() for key, value in state.items()}, folder / "plain.safetensors")
    torch.save({f"module.{key}": value for key, value in state.items()}, folder / "ddp.pth")
    torch.save({f"net.{key}": value for key, value in state.items()}, folder / "foreign.pth")
    torch.save({f"_orig_mod.{key}": value for key, value in state.items()}, folder / "compiled.pth")
    training = {
        "model": state, "ema": other, "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(),
        "epoch": 3, "args": {"classes": 5},
    }  # fmt: skip
    torch.save(training, folder / "run.ckpt")
    torch.save(other, folder / "second.pth")
    torch.save({"layer.weight": torch.rand(1, 5) + seed, "layer.bias": torch.rand(1) + seed}, folder / "critic.pth")
    torch.save({"a": torch.rand(2, 8) + seed, "b": torch.rand(5, 2) + seed}, folder / "lora.pth")
    np.savez(folder / "plain.npz", **{key: value.detach().numpy() for key, value in state.items()})
    torch.save(
        {"body": {key[5:]: value for key, value in state.items() if key.startswith("body.")}}, folder / "body.pth"
    )


START = "import sys, torch\nfrom torch import nn\nfrom models import *\n"
CALL = "model.eval()\nmodel(torch.rand(2, 4))\n"

PROGRAMS: dict[str, str] = {
    "resume": """
        model = Net(); optimizer = torch.optim.Adam(model.parameters())
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
        run = torch.load("run.ckpt", map_location="cpu")
        model.load_state_dict(run["model"]); optimizer.load_state_dict(run["optimizer"])
        scheduler.load_state_dict(run["scheduler"])
        for epoch in range(run["epoch"], 5):
            loss = model(torch.rand(4, 4)).sum(); optimizer.zero_grad(); loss.backward(); optimizer.step()
        """,
    "fine-tune": """
        model = Net(7)
        state = {k: v for k, v in torch.load("plain.pth").items() if not k.startswith("head.")}
        print(model.load_state_dict(state, strict=False))
        """,
    "distillation": """
        teacher = Net(); teacher.load_state_dict(torch.load("plain.pth")); teacher.eval()
        model = Student()
        x = torch.rand(2, 4)
        loss = (teacher(x) - model(x)).pow(2).sum()
        """,
    "gan": """
        model, critic = Net(), Critic()
        model.load_state_dict(torch.load("plain.pth")); critic.load_state_dict(torch.load("critic.pth"))
        critic(model(torch.rand(2, 4)))
        """,
    "gan, one forgotten": """
        model, critic = Net(), Critic()
        model.load_state_dict(torch.load("plain.pth"))
        critic.load_state_dict({k.replace("layer", "l"): v for k, v in torch.load("critic.pth").items()}, strict=False)
        critic(model(torch.rand(2, 4)))
        """,
    "ema": """
        import copy
        class Average(Net): pass
        model = Net(); ema = Average(); ema.load_state_dict(copy.deepcopy(model.state_dict()))
        run = torch.load("run.ckpt")
        model.load_state_dict(run["model"])
        for (k, e), (_, p) in zip(ema.state_dict().items(), model.state_dict().items()):
            e.copy_(p)
        """,
    "ema of the file": """
        model = Net(); run = torch.load("run.ckpt")
        model.load_state_dict(run["ema"] if "ema" in run else run["model"])
        """,
    "lora": """
        model = Net(); model.load_state_dict(torch.load("plain.pth"))
        model.head = Low(model.head)
        model.head.load_state_dict(torch.load("lora.pth"), strict=False)
        """,
    "lora merged": """
        model = Net(); model.load_state_dict(torch.load("plain.pth"))
        low = torch.load("lora.pth")
        model.head.weight.data += low["b"] @ low["a"]
        """,
    "mean of checkpoints": """
        states = [torch.load(name) for name in ("plain.pth", "second.pth")]
        model = Net()
        model.load_state_dict({k: sum(s[k] for s in states) / len(states) for k in states[0]})
        """,
    "ddp file into a plain model": """
        model = Net()
        model.load_state_dict({k.removeprefix("module."): v for k, v in torch.load("ddp.pth").items()})
        """,
    "ddp": """
        import torch.distributed as dist
        dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0" if False else "env://")
        model = nn.parallel.DistributedDataParallel(Net())
        model.load_state_dict(torch.load("ddp.pth"))
        """,
    "data parallel": """
        model = nn.DataParallel(Net())
        model.load_state_dict(torch.load("ddp.pth"))
        """,
    "compiled": """
        model = torch.compile(Net())
        model.load_state_dict(torch.load("compiled.pth"))
        """,
    "compiled after loading": """
        model = Net(); model.load_state_dict(torch.load("plain.pth")); model = torch.compile(model)
        """,
    "argparse": """
        import argparse
        parser = argparse.ArgumentParser(); parser.add_argument("--weights"); parser.add_argument("--classes", type=int)
        options = parser.parse_args(["--weights", "plain.pth", "--classes", "5"])
        model = Net(options.classes); model.load_state_dict(torch.load(options.weights, weights_only=True))
        """,
    "config file": """
        import json, pathlib
        pathlib.Path("config.json").write_text('{"classes": 5, "weights": "plain.safetensors"}')
        from safetensors.torch import load_file
        config = json.loads(pathlib.Path("config.json").read_text())
        model = Net(config["classes"]); model.load_state_dict(load_file(config["weights"]))
        """,
    "initialised again": """
        model = Net(); model.load_state_dict(torch.load("plain.pth"))
        def init(module):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight); nn.init.zeros_(module.bias)
        model.apply(init)
        """,
    "another head afterwards": """
        model = Net(); model.load_state_dict(torch.load("plain.pth")); model.head = nn.Linear(8, 3)
        """,
    "a swallowed error": """
        model = Net(7)
        try:
            model.load_state_dict(torch.load("plain.pth"))
        except Exception as error:
            print("could not load", error)
        """,
    "a swallowed file": """
        model = Net(); model.load_state_dict(torch.load("plain.pth"))
        extra = nn.Linear(3, 3)
        try:
            extra.load_state_dict(torch.load("plain.pth"))
        except:
            print("Oops")
        """,
    "strict, then not": """
        model = Net(); state = torch.load("plain.pth")
        try:
            model.load_state_dict({**state, "more": torch.zeros(1)})
        except RuntimeError:
            model.load_state_dict({**state, "more": torch.zeros(1)}, strict=False)
        """,
    "a prefix and strict=False": """
        model = Net(); print(model.load_state_dict(torch.load("foreign.pth"), strict=False))
        """,
    "filtered to nothing": """
        model = Net(); own = model.state_dict()
        model.load_state_dict({k: v for k, v in torch.load("foreign.pth").items() if k in own}, strict=False)
        """,
    "updated with nothing": """
        model = Net(); own = model.state_dict()
        own.update({k: v for k, v in torch.load("foreign.pth").items() if k in own})
        model.load_state_dict(own)
        """,
    "updated": """
        model = Net(); own = model.state_dict()
        own.update({k: v for k, v in torch.load("plain.pth").items() if k in own and v.shape == own[k].shape})
        model.load_state_dict(own)
        """,
    "two files": """
        model = Net()
        body = torch.load("body.pth")["body"]; model.body.load_state_dict(body)
        state = torch.load("plain.pth")
        model.head.load_state_dict({k[5:]: v for k, v in state.items() if k[:5] == "head."})
        """,
    "a body alone": """
        model = Net(); model.body.load_state_dict(torch.load("body.pth")["body"])
        """,
    "half of the rows": """
        model = Net(); model.load_state_dict(torch.load("plain.pth"))
        model.head = nn.Linear(8, 10)
        with torch.no_grad():
            model.head.weight[:5] = torch.load("plain.pth")["head.weight"]
            model.head.bias[:5] = torch.load("plain.pth")["head.bias"]
        """,
    "from torch import load": """
        from torch import load as read
        model = Net(); model.load_state_dict(read("plain.pth"))
        """,
    "partial": """
        import functools
        read = functools.partial(torch.load, map_location="cpu", weights_only=True)
        model = Net(); model.load_state_dict(read("plain.pth"))
        """,
    "through numpy": """
        import numpy as np
        with np.load("plain.npz") as arrays:
            state = {k: torch.from_numpy(arrays[k]) for k in arrays.files}
        model = Net(); model.load_state_dict(state)
        """,
    "safe_open, one by one": """
        from safetensors import safe_open
        model = Net(); own = dict(model.named_parameters()) | dict(model.named_buffers())
        with safe_open("plain.safetensors", "pt") as file, torch.no_grad():
            for key in file.keys():
                own[key].copy_(file.get_tensor(key))
        """,
    "parameters by order": """
        model = Net(); values = list(torch.load("plain.pth").values())
        for tensor, value in zip(model.state_dict().values(), values):
            tensor.copy_(value)
        """,
    "a model built by a function with a cache": """
        import functools
        @functools.lru_cache
        def build():
            net = Net(); net.load_state_dict(torch.load("plain.pth")); return net.eval()
        model = build()
        """,
    "a class that loads itself": """
        class Detector:
            def __init__(self, path):
                self.net = Net(); self.net.load_state_dict(torch.load(path)); self.net.requires_grad_(False)
            def __call__(self, x):
                return self.net(x)
        detector = Detector("plain.pth"); model = detector.net; detector(torch.rand(2, 4))
        """,
    "assign on meta": """
        with torch.device("meta"):
            model = Net()
        model.load_state_dict(torch.load("plain.pth"), assign=True)
        """,
    "half precision": """
        model = Net().half(); model.load_state_dict(torch.load("plain.pth")); model.float()
        """,
    "a thread loads": """
        import threading
        model = Net()
        thread = threading.Thread(target=lambda: model.load_state_dict(torch.load("plain.pth")))
        thread.start(); thread.join()
        """,
    "called before it is loaded": """
        model = Net(); model.eval(); model(torch.rand(2, 4)); model.load_state_dict(torch.load("plain.pth"))
        """,
    "forward called directly": """
        model = Net(); model.load_state_dict(torch.load("plain.pth")); model.eval()
        model.forward(torch.rand(2, 4)); model.head.weight.data.zero_()
        """,
    "a cache made later": """
        model = Net(); model.load_state_dict(torch.load("plain.pth"))
        model.register_buffer("cache", torch.zeros(2, 3))
        """,
    "converted and saved": """
        state = torch.load("plain.pth")
        torch.save({f"net.{k}": v.half() for k, v in state.items()}, "out.pth"); sys.exit(0)
        """,
    "raises afterwards": """
        model = Net(); model.load_state_dict(torch.load("plain.pth"))
        raise FileNotFoundError("data/train.txt")
        """,
    "wrong key of the file": """
        model = Net(); model.load_state_dict(torch.load("plain.pth")["state_dict"])
        """,
    "a bare except around everything": """
        try:
            model = Net(); model.load_state_dict(torch.load("plain.pth")); model.eval(); model(torch.rand(2, 4))
        except:
            print("never mind")
        """,
    "main guard": """
        def main():
            model = Net(); model.load_state_dict(torch.load("plain.pth")); model.eval()
            return model(torch.rand(2, 4))
        if __name__ == "__main__":
            main(); sys.exit(0)
        """,
    "weights as attributes": """
        model = Net(); state = torch.load("plain.pth")
        for name, module in model.named_modules():
            for own in ("weight", "bias"):
                if f"{name}.{own}" in state and hasattr(module, own):
                    setattr(module, own, nn.Parameter(state[f"{name}.{own}"]))
        for own in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(model.body[1], own, state[f"body.1.{own}"])
        """,
}
