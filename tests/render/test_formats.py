"""The same reports through every format. Golden files hold what people see; CKPTDIFF_UPDATE_GOLDEN=1 rewrites them."""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptdiff.checkpoint.checkpoint import Alternative, Checkpoint
from ckptdiff.errors import ModelError
from ckptdiff.judging.report import judge
from ckptdiff.render import FORMATS, render_checkpoint, render_report
from ckptdiff.render import json as json_format
from ckptdiff.render.view import View
from ckptdiff.tensors import ObjectInfo
from tests import reports
from tests.golden import check_golden
from tests.reports import EVIL, compared, module, slot, tensor

FILES = {
    "plain": Checkpoint(
        "model.safetensors",
        "safetensors",
        {f"layers.{i}.{leaf}": tensor(4, 4) for i in range(6) for leaf in ("weight", "bias")},
        file_metadata={"format": "pt"},
        nbytes=1_000,
    ),
    "everything": Checkpoint(
        f"dir/{EVIL}.pth",
        "torch-zip",
        {
            "a.weight": tensor(100, storage="0"),
            "b.weight": tensor(100, storage="0"),
            "view.0": tensor(2, dtype="bfloat16", storage="1"),
            "sparse": tensor(3, 3, layout="sparse_coo"),
            "scalar": tensor(dtype="int64"),
            "empty": tensor(0, 5),
            EVIL: tensor(1),
            "epoch": ObjectInfo("int", "3", 3),
        },
        metadata={"": {"version": 1}, "a": {"version": 2}},
        state_dict_key="state_dict",
        alternatives=(Alternative("ema", 3), Alternative(EVIL, 1)),
        container={"optimizer": "dict of 2", EVIL: "int 1"},
        nbytes=123_456,
        unsafe_globals=("os.system", EVIL),
        warnings=("Two entries have one name.",),
    ),
}


def schema(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((resources.files("ckptdiff.render") / "schemas" / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(loaded)
    return loaded


@pytest.mark.parametrize("case", reports.CASES)
@pytest.mark.parametrize("format", ["text", "rich"])
def test_reports(case: str, format: str) -> None:
    check_golden(f"render/{case}.{format}.txt", render_report(format, reports.report(case), View(width=100)))


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("format", ["text", "rich"])
def test_listings(case: str, format: str) -> None:
    check_golden(f"render/file_{case}.{format}.txt", render_checkpoint(format, FILES[case], View(width=100)))


@pytest.mark.parametrize("case", reports.CASES)
def test_json_of_a_report_is_complete_and_follows_its_schema(case: str) -> None:
    report = reports.report(case)
    text = render_report("json", report)
    document = json.loads(text)
    jsonschema.validate(document, schema("compare"), jsonschema.Draft202012Validator)
    assert text.isascii()
    assert document["outcome"] == report.verdict
    assert document["missing_keys"] == report.missing_keys
    assert document["unexpected_keys"] == report.unexpected_keys
    assert document["error_message"] == report.error_message()
    assert document["loads"] == {"strict": report.loads(), "non_strict": report.loads(strict=False)}
    assert [entry["key"] for entry in document["findings"]] == [finding.key for finding in report.findings]


@pytest.mark.parametrize("case", FILES)
def test_json_of_a_listing_is_complete_and_follows_its_schema(case: str) -> None:
    document = json.loads(render_checkpoint("json", FILES[case]))
    jsonschema.validate(document, schema("inspect"), jsonschema.Draft202012Validator)
    assert {entry["key"]: (entry["dtype"], tuple(entry["shape"])) for entry in document["tensors"]} == {
        key: (info.dtype, info.shape) for key, info in FILES[case].tensors.items()
    }


def test_json_of_an_error_follows_both_schemas() -> None:
    document = json.loads(json_format.error(ModelError("It broke.", "Mend it.", detail="line\nline")))
    for name in ("compare", "inspect"):
        jsonschema.validate(document, schema(name), jsonschema.Draft202012Validator)
    assert document["error"] == {"kind": "model", "message": "It broke.", "detail": "line\nline", "hint": "Mend it."}


@pytest.mark.parametrize("format", ["text", "rich"])
@given(key=st.text(st.characters(exclude_categories=()), max_size=30))
def test_no_key_can_reach_the_terminal(format: str, key: str) -> None:
    outcome = compared(module(weight=slot(2)), {key: tensor(1)}, checkpoint={"alternatives": (Alternative(key, 1),)})
    shown = render_report(format, judge(outcome)) + render_checkpoint(format, outcome.checkpoint)
    assert all(char.isprintable() or char == "\n" for char in shown)


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("case", reports.CASES)
def test_rich_stays_within_the_terminal(case: str, width: int) -> None:
    shown = render_report("rich", reports.report(case), View(width=width))
    assert max(map(len, shown.splitlines())) <= width


@pytest.mark.parametrize("case", FILES)
def test_rich_listings_stay_within_the_terminal(case: str) -> None:
    assert max(map(len, render_checkpoint("rich", FILES[case], View(width=60)).splitlines())) <= 60


def test_colour_only_where_asked_for() -> None:
    report = reports.report("bad")
    colored = render_report("rich", report, View(width=100, color=True))
    assert "\x1b[" in colored
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored).split() == render_report("rich", report, View(width=100)).split()


@pytest.mark.parametrize("format", ["text", "rich"])
def test_long_groups_are_capped_with_a_count_unless_all_are_asked_for(format: str) -> None:
    report = reports.report("many")
    assert "... and 30 more in 30 rows (--all shows them)" in render_report(format, report)
    everything = render_report(format, report, View(all=True, width=120))
    assert "more in" not in everything
    assert all(key in everything for key in report.missing_keys)


@pytest.mark.parametrize("format", ["text", "rich"])
@pytest.mark.parametrize("case", ["bad", "prefixed", "raised", "empty_checkpoint", "empty_model", "tied", "many"])
def test_never_compatible_when_it_is_not(case: str, format: str) -> None:
    shown = render_report(format, reports.report(case))
    assert "Compatible" not in shown
    assert "✓" not in shown


def test_verbose_gives_torchs_own_words() -> None:
    report = reports.report("prefixed")
    shown = render_report("text", report, View(verbose=True))
    assert report.error_message() is not None
    assert "Error(s) in loading state_dict for Net:" in shown
    assert "on the meta device" in shown


def test_tensors_can_be_chosen_and_sorted() -> None:
    listing = render_checkpoint("text", FILES["everything"], View(tensors="*.weight", sort="name"))
    assert "a.weight" in listing
    assert "2 tensors matching *.weight" in listing
    rows = json.loads(render_checkpoint("json", FILES["everything"], View(sort="size")))["tensors"]
    sizes = [row["nbytes"] for row in rows]
    assert sizes == sorted(sizes, reverse=True)


def test_every_format_has_both_documents() -> None:
    for format in FORMATS:
        assert render_report(format, reports.report("good")).endswith("\n")
        assert render_checkpoint(format, FILES["plain"]).endswith("\n")
