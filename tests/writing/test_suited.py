"""Sizes that an adaptation answers: the printed `--adapt` is run, and its result loaded and compared value by value."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.cli import main

MODELS = """
import torch
from torch import nn


class ViT(nn.Module):
    def __init__(self, tokens=17, channels=3, classes=5):
        super().__init__()
        self.patch_embed = nn.Conv2d(channels, 8, 2)
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, 8))
        self.head = nn.Linear(8, classes)


class GPT(nn.Module):
    def __init__(self, vocab=50, length=16, tied=True):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, 8), nn.Embedding(length, 8)
        self.lm_head = nn.Linear(8, vocab, bias=False)
        if tied:
            self.lm_head.weight = self.wte.weight


def vit_large():
    return ViT(37)


def vit_grey():
    return ViT(channels=1)


def vit_four():
    return ViT(37, 4, 9)


def gpt_more():
    return GPT(64)


def gpt_fewer():
    return GPT(40)


def gpt_short():
    return GPT(length=9)


def gpt_apart():
    return GPT(56, tied=False)
"""


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    Path("models.py").write_text(MODELS)
    defined: dict[str, Any] = {}
    exec(MODELS, defined)
    torch.manual_seed(3)
    torch.save(defined["ViT"]().state_dict(), "vit.pth")
    torch.save(defined["GPT"]().state_dict(), "gpt.pth")
    return defined


def grid(value: torch.Tensor, side: int) -> torch.Tensor:
    """As timm resamples absolute positions (timm/layers/pos_embed.py), written from what it does."""
    first, rest = value[:, :1], value[:, 1:]
    old = int(rest.shape[1] ** 0.5)
    image = rest.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    image = nn.functional.interpolate(image, size=(side, side), mode="bicubic", antialias=True)
    return torch.cat([first, image.permute(0, 2, 3, 1).flatten(1, 2)], 1)


CASES = {
    "vit_large": {"pos_embed=interpolate": lambda state: {"pos_embed": grid(state["pos_embed"], 6)}},
    "vit_grey": {
        "patch_embed.weight=repeat-channels": lambda state: {
            "patch_embed.weight": state["patch_embed.weight"].sum(1, keepdim=True)
        }
    },
    "vit_four": {
        "pos_embed=interpolate": lambda state: {"pos_embed": grid(state["pos_embed"], 6)},
        "patch_embed.weight=repeat-channels": lambda state: {
            "patch_embed.weight": state["patch_embed.weight"][:, [0, 1, 2, 0]] * 0.75
        },
    },
    "gpt_more": {"wte.weight=pad": lambda state: rows(state, 64), "lm_head.weight=pad": lambda _: {}},
    "gpt_fewer": {"wte.weight=slice": lambda state: rows(state, 40), "lm_head.weight=slice": lambda _: {}},
    "gpt_short": {"wpe.weight=slice": lambda state: {"wpe.weight": state["wpe.weight"][:9]}},
    "gpt_apart": {"wte.weight=pad": lambda state: rows(state, 56), "lm_head.weight=pad": lambda _: {}},
}


def rows(state: dict[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
    table = state["wte.weight"]
    more = torch.zeros(max(number - len(table), 0), 8)
    return dict.fromkeys(("wte.weight", "lm_head.weight"), torch.cat([table[:number], more]))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", CASES)
def test_the_printed_adaptation_does_what_it_says(
    name: str, models: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    file = "vit.pth" if name.startswith("vit") else "gpt.pth"
    state = torch.load(file)
    expected = {**state, **{key: value for make in CASES[name].values() for key, value in make(state).items()}}
    out = str(ckptdiff.compare(f"models.py:{name}", file))
    for rule in CASES[name]:
        assert f"adapt='{rule}'" in out
    assert main(["suggest", f"models.py:{name}", file, "--format", "text"]) == 1
    out = capfd.readouterr().out
    command = next(line.strip()[2:] for line in out.splitlines() if line.startswith("  $ ckptdiff fix"))
    words = shlex.split(command)
    assert [word for word in words if "=" in word] == list(CASES[name])
    for rule in CASES[name]:
        assert f"--adapt {rule}\n" in out
    assert main([*words[1:], "--format", "text"]) == 0
    made = torch.load(words[-1])
    model = models[name]()
    missing = model.load_state_dict(made, strict=False).missing_keys
    assert missing == (["head.weight", "head.bias"] if name == "vit_four" else [])
    for key in expected.keys() - set(missing):
        assert torch.allclose(made[key], expected[key], atol=1e-6), key


def test_only_what_names_and_shapes_tell_is_answered(models: dict[str, Any]) -> None:
    """A head of other classes, a wider layer, positions of longer texts: there are no values to be had for those."""

    class Other(nn.Module):
        def __init__(self, classes: int, width: int, length: int) -> None:
            super().__init__()
            self.wpe = nn.Embedding(length, 8)
            self.conv = nn.Conv2d(8, width, 3) if length < 0 else nn.Linear(8, width)
            self.fc, self.output = nn.Linear(8, classes), nn.Linear(8, classes)

    report = ckptdiff.compare(Other(5, 12, 36), Other(9, 16, 16).state_dict())
    assert len(report.mismatched_keys) == 7
    assert not [advice for advice in report.advice if advice.kind == "adapt"]


def test_many_tables_have_one_glob() -> None:
    class Blocks(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 2)
            self.blocks = nn.ModuleList(nn.Module() for _ in range(4))
            for block in self.blocks:
                block.relative_position_bias_table = nn.Parameter(torch.randn(size * size, 2))

    report = ckptdiff.compare(Blocks(7), Blocks(13).state_dict())
    (advice,) = [advice for advice in report.advice if advice.kind == "adapt"]
    assert advice.options == (("adapt", "*.relative_position_bias_table=interpolate"),)
    assert advice.facts["keys"] == 4


def test_suggest_has_them_as_values_beside_the_arguments(models: dict[str, Any]) -> None:
    found = ckptdiff.suggest("models.py:ViT", "vit.pth", args={"tokens": 37})
    assert [(item.rule, item.keys) for item in found.adaptations] == [("pos_embed=interpolate", ("pos_embed",))]
    assert found.arguments is not None
    assert found.arguments.values == {"tokens": 17}
    assert not found.resized
    assert not found.complete


def test_an_alias_is_written_under_each_of_its_names(models: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    state = torch.load("gpt.pth")
    torch.save({key: value for key, value in state.items() if key != "lm_head.weight"}, "alias.pth")
    assert main(["compare", "models.py:GPT", "alias.pth", "--format", "text"]) == 1
    out = capfd.readouterr().out
    assert "With --fill-missing `ckptdiff filter` writes the tied ones under each of their names" in out
    (command,) = [line.strip()[2:] for line in out.splitlines() if line.startswith("  $ ")]
    assert "--fill-missing" in command
    assert main(shlex.split(command)[1:]) == 0
    models["GPT"]().load_state_dict(made := torch.load("alias.fixed.pth"))
    assert torch.equal(made["lm_head.weight"], state["wte.weight"])
