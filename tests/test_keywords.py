"""What Python callers may say to each public function, and that a slip of the pen writes nothing."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckptdiff

VERBS: dict[str, Callable[..., Any]] = {
    "compare": lambda path, out, **options: ckptdiff.compare(net(), path, **options),
    "inspect": lambda path, out, **options: ckptdiff.inspect(path, **options),
    "suggest": lambda path, out, **options: ckptdiff.suggest(net(), path, **options),
    "filter": lambda path, out, **options: ckptdiff.filter(net(), path, out, **options),
    "fix": lambda path, out, **options: ckptdiff.fix(net(), path, out, **options),
    "rewrite": lambda path, out, **options: ckptdiff.rewrite(path, out, **options),
    "convert": lambda path, out, **options: ckptdiff.convert(net(), path, out, **options),
    "load": lambda path, out, **options: ckptdiff.load(net(), path, **options),
    "snapshot": lambda path, out, **options: ckptdiff.snapshot(net(), **options),
    "trace": lambda path, out, **options: ckptdiff.trace(**options),
    "diff": lambda path, out, **options: ckptdiff.diff(path, path, **options),
    "digest": lambda path, out, **options: ckptdiff.digest(path, **options),
    "lock": lambda path, out, **options: ckptdiff.lock(path, out, **options),
    "verify": lambda path, out, **options: ckptdiff.verify(path, **options),
    "check": lambda path, out, **options: ckptdiff.check(path.with_name("c.toml"), **options),
}
SLIPS: list[Mapping[str, object]] = [
    {"strip_prefx": "module."}, {"dtpye": "bfloat16"}, {"dryrun": True}, {"dry-run": True}, {"Drop": "bias"},
]  # fmt: skip


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.save(net().state_dict(), tmp_path / "in.pth")
    torch.save({f"module.{key}": value for key, value in net().state_dict().items()}, tmp_path / "ddp.pth")
    return tmp_path / "in.pth"


def loaded(path: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(path, weights_only=True))


def test_every_public_function_is_here() -> None:
    functions = {name for name in ckptdiff.__all__ if inspect.isfunction(getattr(ckptdiff, name))}
    assert functions == set(VERBS)
    for name in functions:
        parameters = inspect.signature(getattr(ckptdiff, name)).parameters.values()
        assert not [one for one in parameters if one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL)], name


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("slip", SLIPS)
def test_an_unknown_keyword_is_an_error_and_nothing_is_written(
    path: Path, verb: str, slip: Mapping[str, object]
) -> None:
    out = path.with_name("out.pth")
    with pytest.raises(TypeError, match=next(iter(slip))):
        VERBS[verb](path, out, **slip)
    assert sorted(os.listdir(path.parent)) == ["ddp.pth", "in.pth"]


@pytest.mark.parametrize("option", ["drop", "keep", "drop_prefix"])
@pytest.mark.parametrize("verb", ["filter", "rewrite"])
def test_a_text_is_one_element(path: Path, verb: str, option: str) -> None:
    out = path.with_name("out.pth")
    given = "1." if option == "drop_prefix" else "0.*"
    for value in (given, [given], (given,), {given}, iter([given])):
        VERBS[verb](path, out, force=True, **{option: value})
        assert {key[0] for key in loaded(out)} == {"1" if option == "drop" else "0"}


@pytest.mark.parametrize("verb", ["compare", "load", "filter", "rewrite"])
@pytest.mark.parametrize("option", ["strip_prefix", "rename"])
def test_renames_are_keywords_everywhere(path: Path, verb: str, option: str) -> None:
    out = path.with_name("out.pth")
    given = "module." if option == "strip_prefix" else "module.{*} -> {*}"
    for value in (given, [given]):
        options = {"force": True} if verb in ("filter", "rewrite") else {}
        answer = VERBS[verb](path.with_name("ddp.pth"), out, **options, **{option: value})
        if options:
            assert list(loaded(out)) == list(net().state_dict())
        else:
            assert answer.loads()


@pytest.mark.parametrize("verb", ["filter", "rewrite"])
def test_prefixes_are_added_and_rules_applied(path: Path, verb: str) -> None:
    rules = path.with_name("r.toml")
    rules.write_text('version = 1\n[[rule]]\nrename = "module.{*} -> {*}"\n')
    out = path.with_name("out.pth")
    VERBS[verb](path.with_name("ddp.pth"), out, rules=rules)
    assert list(loaded(out)) == list(net().state_dict())
    ckptdiff.rewrite(path, out, add_prefix="module.", force=True)
    assert list(loaded(out)) == [f"module.{key}" for key in net().state_dict()]


def test_an_adaptation_may_be_one_text(path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    out = path.with_name("out.pth")
    ckptdiff.filter(model, path, out, adapt="0.*=slice")
    assert loaded(out)["0.weight"].shape == (2, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "torch.bfloat16"])
@pytest.mark.parametrize("verb", ["filter", "rewrite"])
def test_a_dtype_may_be_torchs(path: Path, verb: str, dtype: object) -> None:
    out = path.with_name("out.pth")
    VERBS[verb](path, out, dtype=dtype)
    assert loaded(out)["0.weight"].dtype == torch.bfloat16


def test_a_dry_run_writes_nothing_and_sizes_may_be_numbers(path: Path) -> None:
    out = path.with_name("out")
    job = ckptdiff.rewrite(path, out, max_shard_size=60, dry_run=True)
    assert not out.exists()
    assert len(job.layout.files) > 1  # type: ignore[union-attr]
    for size in (0, -1, "x"):
        with pytest.raises(ckptdiff.CkptdiffError, match="is no size"):
            ckptdiff.rewrite(path, out, max_shard_size=size)
    assert not out.exists()


@pytest.mark.parametrize("option", ["drop", "keep", "drop_prefix", "rename", "strip_prefix"])
@pytest.mark.parametrize("value", [3, b"bias", [3], [None]])
def test_what_is_no_text_is_refused(path: Path, option: str, value: object) -> None:
    out = path.with_name("out.pth")
    with pytest.raises(ckptdiff.CkptdiffError, match=f"{option} takes a text, or a list of them"):
        ckptdiff.rewrite(path, out, **{option: value})  # type: ignore[arg-type]
    assert not out.exists()


@pytest.mark.parametrize("verb", VERBS)
def test_the_api_says_what_it_takes_and_gives(verb: str) -> None:
    """`Any` would have a type checker take everything."""
    signature = inspect.signature(getattr(ckptdiff, verb))
    said = [*(parameter.annotation for parameter in signature.parameters.values()), signature.return_annotation]
    assert inspect.Signature.empty not in said
    assert [text for text in map(str, said) if "Any" in text] == []
