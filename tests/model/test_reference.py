"""References and arguments are read as documented, and what is wrong with them is said."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptdiff.errors import UsageError
from ckptdiff.model.reference import moved, parse_args, parse_reference, runs_code


@pytest.mark.parametrize(
    ("text", "kind", "target", "attr"),
    [
        ("model.py", "file", "model.py", ""),
        ("model.py:Net", "file", "model.py", "Net"),
        ("a/b/model.py:zoo.Net", "file", "a/b/model.py", "zoo.Net"),
        (r"C:\x\model.py:Net", "file", r"C:\x\model.py", "Net"),
        (r"C:\x\model.py", "file", r"C:\x\model.py", ""),
        ("C:/x/model.py:Net", "file", "C:/x/model.py", "Net"),
        ("odd:dir/model.py", "file", "odd:dir/model.py", ""),
        ("odd:dir/model.py:Net", "file", "odd:dir/model.py", "Net"),
        ("package.module:factory", "module", "package.module", "factory"),
        ("module:Net.small", "module", "module", "Net.small"),
        ("hf:some/dir", "hf", "some/dir", ""),
        ("hf:dir/config.json", "hf", "dir/config.json", ""),
        (r"hf:C:\models\bert", "hf", r"C:\models\bert", ""),
        ("torchvision:resnet50", "torchvision", "resnet50", ""),
        ("timm:vit_base_patch16_224.augreg_in21k", "timm", "vit_base_patch16_224.augreg_in21k", ""),
        ("model.ckptdiff.json", "snapshot", "model.ckptdiff.json", ""),
        (r"C:\x\snapshot.json", "snapshot", r"C:\x\snapshot.json", ""),
    ],
)
def test_every_form_is_recognised(text: str, kind: str, target: str, attr: str) -> None:
    reference = parse_reference(text)
    assert (reference.kind, reference.target, reference.attr, reference.text) == (kind, target, attr, text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "Write model.py"),
        (":", "Write model.py"),
        ("hf:", "Write model.py"),
        ("torchvision:", "Write model.py"),
        ("model.py:", "`model.py:Net`"),
        ("model.py:a b", "`model.py:Net`"),
        ("model.py:a..b", "`model.py:Net`"),
        ("resnet50", "`torchvision:resnet50`"),
        ("package.module", "`package.module:Net`"),
        ("weights.safetensors", "The model comes first"),
        ("dir/weights.pth", "The model comes first"),
        ("dir/model:Net", "Write model.py"),
        ("package.module:", "Write model.py"),
    ],
)
def test_what_is_no_reference_gets_a_hint(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference(text)
    assert hint in caught.value.hint


def test_hints_know_what_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert").mkdir()
    (tmp_path / "net.py").touch()
    for text, hint in (("bert", "`hf:bert`"), ("net", "`net.py`")):
        with pytest.raises(UsageError) as caught:
            parse_reference(text)
        assert hint in caught.value.hint


@given(st.text())
def test_any_text_is_a_reference_or_a_usage_error(text: str) -> None:
    try:
        reference = parse_reference(text)
    except UsageError:
        return
    assert reference.text == text
    assert reference.target


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("-0.5", -0.5),
        ("1e-3", 1e-3),
        ("True", True),
        ("None", None),
        ("[1, 2]", [1, 2]),
        ("(3, 'a')", (3, "a")),
        ("{'a': 1}", {"a": 1}),
        ("'10'", "10"),
        ("relu", "relu"),
        ("bert-base", "bert-base"),
        ("a/b.c", "a/b.c"),
        ("a=b", "a=b"),
        ("", ""),
        ("007", "007"),
        ("__import__('os')", "__import__('os')"),
    ],
)
def test_values_are_literals_or_bare_words(text: str, value: object) -> None:
    assert parse_args([f"name={text}"]) == {"name": value}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.tuples(inner)
    )
)
def test_every_literal_comes_through(value: object) -> None:
    assert parse_args([f"name={value!r}"]) == {"name": ast.literal_eval(repr(value))}


@pytest.mark.parametrize(
    "items",
    [["name"], ["=3"], ["a b=3"], ["a=1", "a=2"], ["a=[1, 2"], ["a='x"], ["a=true"], ["a=null"], ["a=" + "(" * 9999]],
)
def test_wrong_arguments_are_usage_errors(items: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_args(items)
    assert caught.value.hint


def test_reading_a_reference_imports_no_torch() -> None:
    code = "import sys, ckptdiff.model.reference; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("m.py", "../m.py"),
        ("a/m.py:Net.inner", "../a/m.py:Net.inner"),
        ("C:/m.py:Net", "../C:/m.py:Net"),
        ("m.ckptdiff.json", "../m.ckptdiff.json"),
        ("hf:bert", "hf:../bert"),
        ("torchvision:resnet50", "torchvision:resnet50"),
        ("timm:vit", "timm:vit"),
        ("package.module:factory", "package.module:factory"),
        ("weights.pth", "../weights.pth"),
        ("what is:this", "what is:this"),
    ],
)
def test_the_path_in_a_reference_moves_and_nothing_else_does(text: str, there: str) -> None:
    assert moved(text, lambda path: f"../{path}") == there


@pytest.mark.parametrize(
    ("text", "code"), [("m.json", False), ("M.JSON", False), ("m.py", True), ("hf:x", True), ("?", True)]
)
def test_all_but_a_snapshot_runs_code(text: str, code: bool) -> None:
    assert runs_code(text) == code
