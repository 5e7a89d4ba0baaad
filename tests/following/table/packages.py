"""Packages that read, each in its own way, a file that their own models saved."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.following.table.rows import Row, Save, in_folder, pth

SNAC = {
    "sampling_rate": 44100, "encoder_dim": 8, "encoder_rates": [2, 2], "decoder_dim": 16, "decoder_rates": [2, 2],
    "attn_window_size": None, "codebook_size": 8, "codebook_dim": 4, "vq_strides": [2, 1],
}  # fmt: skip


def snac_net() -> nn.Module:
    from snac import SNAC as Codec

    return Codec(**SNAC)


def snac_folder(state: Mapping[str, Any], folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(SNAC))
    return in_folder("pytorch_model.bin", pth)(state, folder)


def snac_load(p):
    from snac import SNAC as Codec

    return Codec.from_pretrained(str(p))


def named_by_its_hash(name: str, save: Save) -> Save:
    """A file whose name ends in what its bytes hash to, in a folder."""

    def saved(state: Mapping[str, Any], folder: Path) -> Path:
        made = save(state, folder)
        made.rename(folder / f"{name}-{hashlib.sha256(made.read_bytes()).hexdigest()[:8]}.th")
        return folder

    return saved


def encodec_net() -> nn.Module:
    from encodec import EncodecModel

    return EncodecModel._get_model(
        [1.5, 3.0], 24000, 1, causal=True, model_norm="weight_norm", audio_normalize=False, name="x"
    )


def encodec_load(p):
    from encodec import EncodecModel

    model = encodec_net()
    model.load_state_dict(EncodecModel._get_pretrained(next(p.glob("*.th")).name, p))
    return model.eval()


DEMUCS = {"sources": ["drums", "bass"], "channels": 4, "depth": 2, "lstm_layers": 0}


def demucs_net() -> nn.Module:
    from demucs.demucs import Demucs

    return Demucs(**DEMUCS)


def demucs_file(state: Mapping[str, Any], folder: Path) -> Path:
    from demucs.demucs import Demucs

    return pth({"klass": Demucs, "args": [], "kwargs": {**DEMUCS, "gone": 1}, "state": state}, folder)


def demucs_load(p):
    from demucs.states import load_model

    return load_model(p)


def demucs_of_a_folder(p):
    from demucs.repo import LocalRepo

    return LocalRepo(p).get_model("abc")


def tabnet() -> Any:
    from pytorch_tabnet.tab_model import TabNetClassifier

    classifier = TabNetClassifier(n_d=4, n_a=4, n_steps=2, verbose=0, device_name="cpu", input_dim=5, output_dim=3)
    classifier.group_matrix, classifier.preds_mapper = None, {"0": 0}
    classifier._set_network()
    return classifier


def tabnet_file(state: Mapping[str, Any], folder: Path) -> Path:
    classifier = tabnet()
    parameters = {
        name: value
        for name, value in classifier.get_params().items()
        if isinstance(value, (int, float, str, list, dict, type(None)))
    }
    params = {"init_params": parameters, "class_attrs": {"preds_mapper": classifier.preds_mapper}}
    weights = io.BytesIO()
    torch.save(state, weights)
    with zipfile.ZipFile(folder / "w.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model_params.json", json.dumps(params))
        archive.writestr("network.pt", weights.getvalue())
    return folder / "w.zip"


def tabnet_load(p):
    from pytorch_tabnet.tab_model import TabNetClassifier

    classifier = TabNetClassifier(device_name="cpu", verbose=0)
    classifier.load_model(str(p))
    return classifier.network


def ppo() -> Any:
    from stable_baselines3 import PPO

    return PPO("MlpPolicy", "CartPole-v1", device="cpu", policy_kwargs={"net_arch": [8]})


def ppo_file(state: Mapping[str, Any], folder: Path) -> Path:
    """As `save` writes, with other weights."""
    ppo().save(folder / "saved.zip")
    weights = io.BytesIO()
    torch.save(state, weights)
    with zipfile.ZipFile(folder / "saved.zip") as saved, zipfile.ZipFile(folder / "w.zip", "w") as archive:
        for name in saved.namelist():
            archive.writestr(name, weights.getvalue() if name == "policy.pth" else saved.read(name))
    (folder / "saved.zip").unlink()
    return folder / "w.zip"


def ppo_load(p):
    from stable_baselines3 import PPO

    return PPO.load(str(p), device="cpu").policy


def ppo_parameters(p):
    model = ppo()
    model.set_parameters(str(p), exact_match=False, device="cpu")
    return model.policy


def gaussian_process() -> nn.Module:
    import gpytorch

    class Process(gpytorch.models.ApproximateGP):
        def __init__(self) -> None:
            variational = gpytorch.variational.CholeskyVariationalDistribution(4)
            super().__init__(gpytorch.variational.VariationalStrategy(self, torch.rand(4, 2), variational))
            self.mean_module = gpytorch.means.ConstantMean()
            self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

    return Process()


def strictly(m, p):
    return m.load_state_dict(torch.load(p))


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))


def gguf_file(quantised: bool) -> Save:
    def save(state: Mapping[str, Any], folder: Path) -> Path:
        from gguf import GGMLQuantizationType, GGUFWriter, quants

        writer = GGUFWriter(str(folder / "w.gguf"), "llama")
        for name, value in state.items():
            array, kind = value.detach().float().numpy(), GGMLQuantizationType.Q8_0
            if quantised and array.ndim == 2:
                writer.add_tensor(name, quants.quantize(array, kind), raw_dtype=kind)
            else:
                writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return folder / "w.gguf"

    return save


def gguf_mapped(m, p):
    from gguf import GGUFReader

    return m.load_state_dict({found.name: torch.from_numpy(found.data) for found in GGUFReader(p).tensors})


def gguf_dequantised(m, p):
    from gguf import GGUFReader, quants

    state = {}
    for found in GGUFReader(p).tensors:
        array = quants.dequantize(found.data, found.tensor_type)
        state[found.name] = torch.from_numpy(array.copy()).reshape([int(size) for size in reversed(found.shape)])
    return m.load_state_dict(state)


def onnx_file(state: Mapping[str, Any], folder: Path) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Gemm", ["x", "0.weight", "0.bias"], ["hidden"], transB=1),
        helper.make_node("Relu", ["hidden"], ["positive"]),
        helper.make_node("Gemm", ["positive", "2.weight", "2.bias"], ["y"], transB=1),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name, size in (("x", 32), ("y", 8))]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in state.items()]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(made, str(folder / "w.onnx"))
    return folder / "w.onnx"


def onnx_load(p):
    from onnx2torch import convert

    return convert(str(p))


def lmdb_folder(state: Mapping[str, Any], folder: Path) -> Path:
    import lmdb

    with lmdb.open(str(folder), map_size=1 << 20) as database, database.begin(write=True) as transaction:
        for name, value in state.items():
            transaction.put(name.encode(), value.detach().numpy().tobytes())
    return folder


def lmdb_load(m, p):
    import lmdb

    with lmdb.open(str(p), readonly=True, lock=False) as database, database.begin() as transaction:
        for name, value in m.state_dict().items():
            array = np.frombuffer(transaction.get(name.encode()), "f4").copy()
            value.copy_(torch.from_numpy(array).reshape(value.shape))


def makes(name: str, load: Callable[..., Any], save: Save, template: Callable[[], nn.Module], *needs: str, **more: Any):
    return Row(name, load, save, template, makes_model=True, needs=needs, only=more.pop("only", SITUATIONS), **more)


SITUATIONS = ("good", "missing", "extra", "mismatch", "prefix", "dtype")
HASHED = ("good", "missing", "extra", "prefix")
PLAINLY = ("good", "missing", "extra", "mismatch", "prefix")
ROWS = [
    makes("snac", snac_load, snac_folder, snac_net, "snac"),
    makes("encodec", encodec_load, named_by_its_hash("encodec", pth), encodec_net, "encodec", only=HASHED),
    makes("demucs", demucs_load, demucs_file, demucs_net, "demucs.states", trust=True),
    makes(
        "demucs LocalRepo",
        demucs_of_a_folder,
        named_by_its_hash("abc", demucs_file),
        demucs_net,
        "demucs.repo",
        trust=True,
        only=HASHED,
    ),
    makes("pytorch-tabnet", tabnet_load, tabnet_file, lambda: tabnet().network, "pytorch_tabnet.tab_model"),
    makes("stable-baselines3 load", ppo_load, ppo_file, lambda: ppo().policy, "stable_baselines3", trust=True),
    makes("stable-baselines3 set_parameters", ppo_parameters, ppo_file, lambda: ppo().policy, "stable_baselines3"),
    Row("gpytorch", strictly, pth, gaussian_process, needs=("gpytorch",), only=SITUATIONS),
    Row("gguf, mapped", gguf_mapped, gguf_file(False), two_layers, needs=("gguf",), only=PLAINLY),
    Row("gguf, dequantised", gguf_dequantised, gguf_file(True), two_layers, needs=("gguf",), only=PLAINLY, coarse=True),
    makes("onnx2torch", onnx_load, onnx_file, two_layers, "onnx2torch", only=("good",)),
    Row("lmdb", lmdb_load, lmdb_folder, two_layers, needs=("lmdb",), only=("good", "extra", "prefix")),
]
