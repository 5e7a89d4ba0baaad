"""What lies around a build, however odd: finders, random states, libraries asked for a device, names."""

from __future__ import annotations

import importlib.machinery
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptdiff
from ckptdiff.errors import UsageError
from ckptdiff.model.build import build
from ckptdiff.model.extract import extract
from ckptdiff.model.reference import parse_reference
from tests.model.oracle import schema

Write = Callable[..., Path]

NET = """
import sys
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layer = nn.Linear(3, width)
"""


class _Equal:
    """Compares equal to everything, as `unittest.mock.ANY` does."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def find_spec(self, *args: object) -> None: ...


class _OldLoader:
    def load_module(self, name: str) -> Any:
        return sys.modules.setdefault(name, type(sys)(name))


class _OldFinder:
    def find_spec(self, name: str, *args: object) -> importlib.machinery.ModuleSpec | None:
        if name != "of_the_old_kind":
            return None
        spec = importlib.machinery.ModuleSpec(name, _OldLoader(), origin="/somewhere/else.py")  # type: ignore[arg-type]
        spec.has_location = True
        return spec


@pytest.mark.parametrize("odd", [None, "text", object(), _Equal(), 3], ids=lambda odd: type(odd).__name__)
def test_odd_finders(write: Write, monkeypatch: pytest.MonkeyPatch, odd: Any) -> None:
    write("WIDTH = 5", "sizes.py")
    write(NET + "\nfrom sizes import WIDTH\nmodel = Net(WIDTH)")
    finders: list[Any] = [odd, *sys.meta_path]
    monkeypatch.setattr(sys, "meta_path", finders)
    before = finders[:]
    module: Any = build("model.py").module
    assert module.layer.out_features == 5
    assert sys.meta_path is finders
    assert all(one is other for one, other in zip(finders, before, strict=True))


@pytest.mark.parametrize(
    "code", ["sys.meta_path.clear()", "sys.meta_path = []", "sys.meta_path = sys.meta_path[1:]", "sys.meta_path.pop()"]
)
def test_code_that_takes_finders_away(write: Write, code: str) -> None:
    before = sys.meta_path[:]
    write(NET + f"\nfound = {code if '=' not in code else 'None'}\n{code if '=' in code else ''}\nmodel = Net()")
    assert build("model.py").how == "meta"
    assert sys.meta_path == before


def test_a_finder_that_code_adds_stays(write: Write) -> None:
    write(
        NET + "\nclass F:\n    @staticmethod\n    def find_spec(*args): ...\nsys.meta_path.insert(0, F)\nmodel = Net()"
    )
    before = sys.meta_path[:]
    build("model.py")
    assert [finder for finder in sys.meta_path if getattr(finder, "__name__", "") != "F"] == before
    sys.meta_path[:] = before


def test_a_loader_of_the_old_kind(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [_OldFinder(), *sys.meta_path])
    write(
        NET
        + "\ntry:\n    import of_the_old_kind\n    width = 6\nexcept ImportError:\n    width = 7\nmodel = Net(width)"
    )
    module: Any = build("model.py").module
    # Python itself has given such loaders up.
    assert module.layer.out_features == (6 if sys.version_info < (3, 12) else module.layer.out_features)


@pytest.mark.parametrize("way", ["", "torch.ones(()).item()", "torch.get_rng_state(); torch.ones(()).item()"])
def test_random_numbers_go_on_as_if_nothing_had_been_built(write: Write, way: str) -> None:
    write(
        "import random, numpy\n" + NET + f"\ndef get_model():\n    {way or 'pass'}\n"
        "    random.random(); numpy.random.rand(); torch.rand(2); torch.rand(2, device='cpu')\n    return Net()"
    )
    import numpy as np

    def drawn() -> list[object]:
        return [random.random(), float(np.random.rand()), torch.rand(3).tolist()]

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = drawn()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    build("model.py")
    assert drawn() == expected


def test_numpy_imported_by_the_model_is_not_left_seeded(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import numpy\nnumpy.random.seed(0)\n" + NET + "\nmodel = Net()")
    code = (
        "import sys; sys.modules['numpy'] = None; import torch; del sys.modules['numpy']\n"
        "from ckptdiff.model.build import build; build('model.py'); import numpy\n"
        "print(numpy.random.randint(1 << 30))"
    )
    done = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        for _ in range(2)
    ]
    assert all(run.returncode == 0 for run in done), done[0].stderr
    assert done[0].stdout != done[1].stdout


@pytest.mark.parametrize("asked", ["bert.device", "next(bert.parameters()).device", "torch.get_default_device()"])
def test_a_library_asked_for_a_device(write: Write, asked: str) -> None:
    pytest.importorskip("transformers")
    write(
        NET + "\nimport transformers\ndef get_model():\n    config = transformers.BertConfig(hidden_size=8, "
        "num_attention_heads=2, num_hidden_layers=1, intermediate_size=8, vocab_size=9)\n"
        f"    bert = transformers.BertModel(config)\n    return Net(5 if str({asked}) == 'cpu' else 6)"
    )
    built = build("model.py")
    module: Any = built.module
    assert module.layer.out_features == 5
    assert built.how == ("meta" if "default" in asked else "uninitialized")


def test_a_model_of_ones_own_out_of_a_librarys_is_built_on_meta(write: Write) -> None:
    pytest.importorskip("transformers")
    write(
        """
        import transformers
        from torch import nn

        class Own(transformers.BertPreTrainedModel):
            def __init__(self):
                config = transformers.BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1,
                                                 intermediate_size=8, vocab_size=9)
                super().__init__(config)
                self.bert = transformers.AutoModel.from_config(config)
                self.head = nn.Linear(8, 3)
                self.post_init()
        """
    )
    built = build("model.py:Own")
    assert built.how == "meta", built.notes
    assert schema(built.module) == schema(build("model.py:Own", with_values=True).module)


def test_reading_where_a_meta_tensor_lies_does_not_end_the_process(write: Write) -> None:
    write(
        NET + "\nimport ctypes\ndef get_model():\n    t = torch.full((2,), 5.0)\n"
        "    return Net(int(ctypes.c_float.from_address(t.data_ptr()).value))"
    )
    built = build("model.py")
    module: Any = built.module
    assert (built.how, module.layer.out_features) == ("uninitialized", 5)


def test_a_line_break_in_a_name_is_told_on_one_line(write: Write) -> None:
    for text in ("a\nb", "a\nb.py:1", "nothing\n::error::x.py:Net", "x\u202e.py:Net"):
        with pytest.raises(ckptdiff.CkptdiffError) as caught:
            build(parse_reference(text))
        assert caught.value.message.isprintable()
        assert caught.value.hint.isprintable()
    write(NET, "a\nb.py")
    built = build("a\nb.py:Net")
    assert extract(built.module).root.qualified_name == "a\nb.Net"


@pytest.mark.parametrize("seed", [1 << 70, -(1 << 63) - 1, 1 << 64])
def test_a_seed_beyond_64_bits(write: Write, seed: int) -> None:
    write(NET)
    torch.save({"layer.bias": torch.ones(4)}, "half.pt")
    with pytest.raises(UsageError, match="64 bits"):
        ckptdiff.filter("model.py:Net", "half.pt", "out.pt", fill_missing=True, seed=seed)
    ckptdiff.filter("model.py:Net", "half.pt", "out.pt", fill_missing=True, seed=(1 << 64) - 1)
    assert Path("out.pt").stat().st_size > 0
