"""torch, safetensors and numpy, as people load with them."""

from __future__ import annotations

import io
import json
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.following.oracle import Net
from tests.following.table.rows import Row, Save, flat, pth, safetensors, under


def strict(m, p):
    return m.load_state_dict(torch.load(p))


def not_strict(m, p):
    return m.load_state_dict(torch.load(p, map_location="cpu", weights_only=False), strict=False)


def mapped(m, p):
    return m.load_state_dict(torch.load(p, mmap=True), assign=True)


def from_open_file(m, p):
    with open(p, "rb") as file:
        m.load_state_dict(torch.load(file))


def from_bytes(m, p):
    m.load_state_dict(torch.load(io.BytesIO(Path(p).read_bytes())))


def legacy(state: Mapping[str, Any], folder: Path) -> Path:
    torch.save(state, folder / "w.pth", _use_new_zipfile_serialization=False)
    return folder / "w.pth"


def whole_module(p):
    return torch.load(p, weights_only=False)


def saved_module(state: Mapping[str, Any], folder: Path) -> Path:
    model = Net()
    model.load_state_dict(state, strict=False)
    return pth(model, folder)


def by_hub(m, p):
    return m.load_state_dict(torch.hub.load_state_dict_from_url(f"file://{p}", model_dir=str(p.parent / "cache")))


def unwrapped(m, p):
    """As research code does: whatever it lies under, without DataParallel's prefix."""
    checkpoint = torch.load(p, map_location="cpu")
    for name in ("state_dict", "model"):
        if name in checkpoint:
            checkpoint = checkpoint[name]
    clean = OrderedDict((key[7:] if key.startswith("module.") else key, value) for key, value in checkpoint.items())
    return m.load_state_dict(clean, strict=False)


def own_state(m, p):
    """The loop of countless repositories."""
    own = m.state_dict()
    for name, param in torch.load(p).items():
        if name not in own:
            continue
        if isinstance(param, nn.Parameter):
            param = param.data
        try:
            own[name].copy_(param)
        except Exception as error:
            raise RuntimeError(f"While copying {name}: {own[name].size()} and {param.size()}") from error


def what_fits(m, p):
    own = m.state_dict()
    fitting = {k: v for k, v in torch.load(p).items() if k in own and v.shape == own[k].shape}
    own.update(fitting)
    m.load_state_dict(own)
    return len(fitting), sorted(set(own) - set(fitting))


def by_parameters(m, p):
    state = torch.load(p)
    with torch.no_grad():
        for name, parameter in m.named_parameters():
            parameter.copy_(state[name])
        for name, buffer in m.named_buffers():
            buffer.data = state[name].to(buffer.dtype)


def transposed(m, p):
    """As nanoGPT takes GPT-2's Conv1D weights."""
    state = torch.load(p)
    own = m.state_dict()
    with torch.no_grad():
        for key in own:
            if key.endswith("second.weight"):
                assert state[key].shape[::-1] == own[key].shape, f"{key}: {state[key].shape} {own[key].shape}"
                own[key].copy_(state[key].t())
            else:
                own[key].copy_(state[key])


def resized(m, p):
    """As vision transformers resample their position embeddings."""
    state = torch.load(p)
    for key in ("second.weight",):
        if key in state:
            state[key] = nn.functional.interpolate(
                state[key].float()[None, None], size=(16, 16), mode="bicubic", align_corners=False
            )[0, 0]
    return m.load_state_dict(state, strict=False)


def grown(m, p):
    state = torch.load(p)
    weight = state.pop("embed.weight")
    state.pop("head.weight", None)
    with torch.no_grad():
        m.embed.weight[: min(len(weight), 10)] = weight[:10].to(m.embed.weight.dtype)
    return m.load_state_dict(state, strict=False)


def averaged(m, p):
    """The same file twice, as weights are averaged."""
    first, second = torch.load(p), torch.load(p)
    m.load_state_dict({k: (first[k] + second[k]) / 2 if first[k].is_floating_point() else first[k] for k in first})


def scripted(state: Mapping[str, Any], folder: Path) -> Path:
    model = Net()
    model.load_state_dict(state)
    torch.jit.save(torch.jit.trace(Passed(model), torch.ones(2, 8)), folder / "w.pt")
    return folder / "w.pt"


class Passed(nn.Module):
    """A Net that can be traced."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (
            self.net.second(self.net.norm(self.net.first(x))).sum() + self.net.head.weight.sum() + self.net.scale.sum()
        )


def from_script(m, p):
    return m.load_state_dict(
        {k.removeprefix("net."): v for k, v in torch.jit.load(p).state_dict().items()}, strict=False
    )


def load_file(m, p):
    from safetensors.torch import load_file

    return m.load_state_dict(load_file(p))


def load_model(m, p):
    from safetensors.torch import load_model

    return load_model(m, p)


def saved_model(state: Mapping[str, Any], folder: Path) -> Path:
    return safetensors({key: value for key, value in state.items() if key != "head.weight"}, folder)


def load_model_loosely(m, p):
    from safetensors.torch import load_model

    return load_model(m, p, strict=False)


def key_by_key(m, p):
    from safetensors import safe_open

    own = m.state_dict()
    with safe_open(p, framework="pt", device="cpu") as file:
        for key in file.keys():  # noqa: SIM118
            own[key].copy_(file.get_tensor(key))


def by_slices(m, p):
    """A rank's rows, and columns, of each matrix."""
    from safetensors import safe_open

    with safe_open(p, framework="pt") as file:
        for key, value in m.state_dict().items():
            part = file.get_slice(key)
            shape = part.get_shape()
            if len(shape) == 2:
                value[: shape[0] // 2].copy_(part[: shape[0] // 2])
                value[shape[0] // 2 :, :3].copy_(part[shape[0] // 2 :, :3])
            else:
                value.copy_(part[:] if shape else file.get_tensor(key))


def whole_bytes(m, p):
    from safetensors.torch import load

    return m.load_state_dict(load(Path(p).read_bytes()))


def as_numpy(m, p):
    from safetensors.numpy import load_file

    m.load_state_dict({key: torch.from_numpy(value) for key, value in load_file(p).items()})


def sharded(state: Mapping[str, Any], folder: Path) -> Path:
    from safetensors.torch import save_file

    tensors = dict(flat(state))
    names = list(tensors)
    places = {key: f"part-{index % 2}.safetensors" for index, key in enumerate(names)}
    for name in sorted(set(places.values())):
        save_file({key: tensors[key] for key in names if places[key] == name}, folder / name)
    (folder / "index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def by_index(m, p):
    from safetensors.torch import load_file

    state = {}
    for name in sorted(set(json.loads((p / "index.json").read_text())["weight_map"].values())):
        state.update(load_file(p / name))
    return m.load_state_dict(state, strict=True)


def npz(state: Mapping[str, Any], folder: Path) -> Path:
    np.savez(folder / "w.npz", **{key: value.float().numpy() for key, value in flat(state)})
    return folder / "w.npz"


def from_npz(m, p):
    with np.load(p) as file:
        return m.load_state_dict({key: torch.from_numpy(file[key]) for key in file.files}, strict=False)


def arrays(state: Mapping[str, Any], folder: Path) -> Path:
    (folder / "w.pkl").write_bytes(pickle.dumps({key: value.float().numpy() for key, value in flat(state)}))
    return folder / "w.pkl"


def from_pickle(m, p):
    """As Detectron's converted weights are read."""
    with open(p, "rb") as file:
        content = pickle.load(file)
    return m.load_state_dict({key: torch.as_tensor(value) for key, value in content.items()}, strict=False)


def by_joblib(compress: int) -> Save:
    def save(state: Mapping[str, Any], folder: Path) -> Path:
        import joblib

        joblib.dump({key: value.float().numpy() for key, value in flat(state)}, folder / "w.joblib", compress=compress)
        return folder / "w.joblib"

    return save


def from_joblib(m, p):
    import joblib

    return m.load_state_dict({key: torch.as_tensor(value) for key, value in joblib.load(p).items()})


def from_joblib_mapped(m, p):
    import joblib

    content = joblib.load(p, mmap_mode="r")
    return m.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in content.items()})


def distributed(state: Mapping[str, Any], folder: Path) -> Path:
    import torch.distributed.checkpoint as dcp

    dcp.save(dict(flat(state)), checkpoint_id=folder / "dcp", no_dist=True)
    return folder / "dcp"


def dcp_load(m, p):
    import torch.distributed.checkpoint as dcp

    state = m.state_dict()
    dcp.load(state, checkpoint_id=p, no_dist=True)
    return m.load_state_dict(state)


def dcp_partially(m, p):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

    state = {key: torch.empty_like(value) for key, value in m.state_dict().items()}
    with torch.no_grad():
        for value in state.values():
            value.zero_()
    dcp.load(state, checkpoint_id=p, planner=DefaultLoadPlanner(allow_partial_load=True), no_dist=True)
    return m.load_state_dict(state)


def set_state(m, p):
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    return set_model_state_dict(m, torch.load(p), options=StateDictOptions(strict=False))


def set_full_state(m, p):
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    return set_model_state_dict(m, torch.load(p), options=StateDictOptions(full_state_dict=True))


TRACEABLE = ("good", "dtype", "shuffled", "truncated", "absent")

ROWS = [
    Row("torch.load, strict", strict, pth),
    Row("torch.load, not strict", not_strict, pth),
    Row("torch.load, mapped and assigned", mapped, pth),
    Row("torch.load of an open file", from_open_file, pth),
    Row("torch.load of bytes", from_bytes, pth),
    Row("torch.load, legacy file", strict, legacy),
    Row(
        "torch.load of a whole module",
        whole_module,
        saved_module,
        makes_model=True,
        trust=True,
        skip=("mismatch", "prefix", "nested", "nested_model", "empty"),
    ),
    Row("torch.hub.load_state_dict_from_url", by_hub, pth),
    Row("unwrapped by hand", unwrapped, pth),
    Row("unwrapped by hand, DataParallel", unwrapped, under("state_dict", epoch=3)),
    Row("own_state[name].copy_", own_state, pth),
    Row("what fits", what_fits, pth),
    Row("parameter by parameter", by_parameters, pth),
    Row("transposed", transposed, pth),
    Row("position embeddings resampled", resized, pth),
    Row("vocabulary grown", grown, pth),
    Row("averaged", averaged, pth),
    Row("torch.jit.load", from_script, scripted, only=("good", "truncated", "absent")),
    Row("safetensors load_file", load_file, safetensors),
    Row("safetensors load_model", load_model, saved_model),
    Row("safetensors load_model, not strict", load_model_loosely, saved_model),
    Row("safe_open, key by key", key_by_key, safetensors),
    Row("safe_open, slices", by_slices, safetensors),
    Row("safetensors load of bytes", whole_bytes, safetensors),
    Row("safetensors as numpy", as_numpy, safetensors),
    Row("safetensors, sharded with an index", by_index, sharded),
    Row("numpy .npz", from_npz, npz),
    Row("pickled arrays", from_pickle, arrays),
    Row("joblib", from_joblib, by_joblib(0), needs=("joblib",)),
    Row("joblib, compressed", from_joblib, by_joblib(3), needs=("joblib",)),
    Row("joblib, mapped", from_joblib_mapped, by_joblib(0), needs=("joblib",)),
    Row("dcp.load", dcp_load, distributed),
    Row("dcp.load, partial", dcp_partially, distributed),
    Row("set_model_state_dict, not strict", set_state, pth),
    Row("set_model_state_dict, full", set_full_state, pth),
]
