"""What `diff` and `verify` show, kept as text: in a wide terminal, in a narrow one, and without any."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckptdiff.cli import main
from tests.golden import check_golden


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def drawn(*shape: int) -> torch.Tensor:
        return (torch.arange(torch.Size(shape).numel()) * 37 % 101).reshape(shape).float() / 64

    a = {f"layers.{i}.attn.{name}.weight": drawn(8, 8) + i for i in range(4) for name in ("q", "k", "v")}
    a |= {"embed.weight": drawn(50, 8), "head.weight": drawn(10, 8), "norm.weight": torch.ones(8), "old": drawn(3)}
    b = {key: value.clone() for key, value in a.items() if key != "old"} | {"new": drawn(2, 2)}
    for i in (1, 2, 3):
        b[f"layers.{i}.attn.k.weight"][2, 3] += 0.5 * i
    b["layers.0.attn.q.weight"] = b["layers.0.attn.q.weight"].flip(0)
    b["layers.0.attn.v.weight"][0, 0] = float("nan")
    b["embed.weight"] = b["embed.weight"].bfloat16()
    b["head.weight"] = b["head.weight"][:7]
    monkeypatch.chdir(tmp_path)
    torch.save({"epoch": 3, "model": a}, "a.pth")
    torch.save({"epoch": 4, "model": b}, "b.pth")
    save_file(a, "a.safetensors")
    damaged = bytearray(Path("a.pth").read_bytes())
    damaged[damaged.find(a["head.weight"].numpy().tobytes()[4:40])] ^= 1
    Path("damaged.pth").write_bytes(damaged)
    save_file({"m.weight": torch.ones(4, 4).to(torch.float8_e4m3fn), "n.weight": torch.zeros(3, 3)}, "odd.safetensors")
    return tmp_path


SCREENS = {
    "diff": "diff a.pth b.pth",
    "diff-same": "diff a.pth a.safetensors",
    "diff-hash": "diff a.pth b.pth --hash --sort change",
    "diff-stat": "diff a.pth b.pth --stat",
    "diff-damaged": "diff a.pth damaged.pth",
    "verify": "verify a.pth",
    "verify-damaged": "verify damaged.pth",
    "verify-odd": "verify odd.safetensors",
}


@pytest.mark.parametrize("name", SCREENS)
def test_screens_without_a_terminal(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(SCREENS[name].split())
    check_golden(f"difference/{name}.txt", capsys.readouterr().out)


@pytest.mark.parametrize("width", [60, 140])
@pytest.mark.parametrize("name", [name for name in SCREENS if name.startswith("diff") and name != "diff-stat"])
def test_screens_of_a_terminal(
    name: str, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    main([*SCREENS[name].split(), "--format", "rich", "--color", "never"])
    shown = capsys.readouterr().out
    assert all(len(line) <= width for line in shown.splitlines())
    check_golden(f"difference/{name}-{width}.txt", shown)
