r"""Reports and Checkpoints as JSON, for programs: complete, unfolded, uncapped, versioned.

`schemas/` holds the JSON Schema of each document. Fields may be added within a schema version; a change of meaning or a
removal makes a new version. Everything is ASCII: what a terminal could obey leaves as `\u....`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import CkptdiffError
from ckptdiff.garbage import uncollected
from ckptdiff.judging.report import Report
from ckptdiff.printable import json_text
from ckptdiff.render.checkpoint_outline import in_order, matching
from ckptdiff.render.view import View
from ckptdiff.tensors import ObjectInfo, TensorInfo

if TYPE_CHECKING:
    from ckptdiff.tracing.trace import Trace

SCHEMA_VERSION = 1


def report(report: Report, view: View) -> str:  # noqa: ARG001 - programs get everything
    """The report on a comparison, ending with a newline."""
    outcome, coverage = report.outcome, report.coverage
    model, source = outcome.model, outcome.checkpoint
    return _dump(
        {
            "schema_version": SCHEMA_VERSION,
            "outcome": report.verdict,
            "fail_on": report.fail_on,
            "loads": {"strict": report.loads(True), "non_strict": report.loads(False)},
            "model": {
                "reference": model.reference,
                "class": model.root.class_name,
                "built": model.built,
                "torch_version": model.torch_version,
                "keys": coverage.total_keys,
                "parameters": coverage.total_parameters,
            },
            "checkpoint": {
                "path": source.path,
                "format": source.format,
                "state_dict_key": source.state_dict_key,
                "alternatives": [{"key": other.key, "tensors": other.tensors} for other in source.alternatives],
                "keys": len(source.entries),
                "bytes": source.nbytes,
                "saved_on": list(dict.fromkeys(place.device for place in source.saved_on)),
                "warnings": list(source.warnings),
            },
            "summary": {
                "matched": sum(1 for _ in outcome.loaded()),
                "missing": len(report.missing_keys),
                "unexpected": len(report.unexpected_keys),
                "mismatched": len(report.mismatched_keys),
                "ignored": sum(why == "ignored" for why in outcome.unused.values()),
            },
            "coverage": {
                "keys": coverage.keys,
                "parameters": coverage.parameters,
                "supplied": coverage.supplied,
            },
            "missing_keys": report.missing_keys,
            "unexpected_keys": report.unexpected_keys,
            "mismatched_keys": [
                {"key": key, "checkpoint_shape": list(theirs), "model_shape": list(ours)}
                for key, theirs, ours in report.mismatched_keys
            ],
            "error_message": report.error_message(),
            "loader": {"name": report.loader.name, "version": report.loader.version, "call": report.loader.call},
            "raises": report.raises,
            "complete": report.complete,
            "conversions": [
                {"sources": list(sources), "targets": list(targets), "operation": operation}
                for sources, targets, operation in report.conversions
            ],
            "findings": [
                {
                    "rule": finding.rule,
                    "level": finding.level,
                    "key": finding.key,
                    "module": finding.module,
                    **{
                        name: list(value) if isinstance(value, tuple) else value
                        for name, value in finding.arguments.items()
                    },
                }
                for finding in report.findings
            ],
            **helping(report),
        }
    )


def helping(report: Report) -> dict[str, Any]:
    """What would help: advice, rename rules, whole requests, and the Python that loads."""
    # Not for `inspect`, which has none of it and starts in a tenth of a second.
    from ckptdiff.render.advised import sentence
    from ckptdiff.render.commands import command_of, commands
    from ckptdiff.render.loading_code import file_words, python

    left = report.repair.left
    return {
        "file": file_words(report),
        "advice": [
            {
                "kind": advice.kind,
                "text": sentence(advice),
                "options": [{"name": name, "value": value} for name, value in advice.options],
                "command": command_of(advice, report) or None,
            }
            for advice in report.advice
        ],
        "rules": [
            {"pattern": rule.pattern, "replacement": rule.replacement, "confidence": rule.confidence, "keys": rule.keys}
            for rule in (left.renames.rules if left else ())
        ],
        "idle": list(report.question.idle) if report.question else [],
        "commands": list(commands(report)),
        "python": python(report) or None,
    }


def trace(trace: Trace, view: View) -> str:  # noqa: ARG001
    """What a program loads, ending with a newline."""
    return _dump(
        {
            "schema_version": SCHEMA_VERSION,
            "program": trace.program,
            "verdict": trace.verdict,
            "ended": trace.ended,
            "line": trace.line,
            "source": trace.source,
            "said": trace.said,
            "raised": trace.raised,
            "errors": [asdict(error) for error in trace.errors],
            "models": [
                {
                    "class": model.kind,
                    "made_at": model.made_at,
                    "asked": model.asked,
                    "complete": model.complete,
                    "keys": len(model.outcome.filled),
                    "filled": {key: [list(source) for source in sources] for key, sources in model.filled.items()},
                    "initial": list(model.initial),
                    "partial": {item.key: [list(rows) for rows in item.rows or ()] for item in model.partial},
                    "overwritten": list(model.overwritten),
                    "overwritten_by": dict(model.overwritten),
                    "allowed": sorted(model.allowed),
                }
                for model in trace.models
            ],
            "optimizers": [
                {
                    "class": state.kind,
                    "restored": state.restored,
                    "entries": state.entries,
                    "line": state.line,
                    "sources": list(state.sources),
                    "raised": state.raised,
                }
                for state in trace.states
            ],
            "files": [
                {"file": file.file, "tensors": file.tensors, "unused": list(file.unused)} for file in trace.files
            ],
            "saved": [
                {
                    "file": save.file,
                    "line": save.line,
                    "tensors": {key: [list(source) for source in sources] for key, sources in save.tensors.items()},
                }
                for save in trace.saved
            ],
            "unopened": list(trace.unopened),
            "lost": list(trace.lost),
            "children": list(trace.children),
            "notes": list(trace.notes),
            "looked_at": [list(source) for source in trace.looked_at],
            "doubts": [*trace.unread, *trace.doubts],
        }
    )


@uncollected()
def checkpoint(checkpoint: Checkpoint, view: View) -> str:
    """What is in a file, ending with a newline: of its tensors those that the view chooses, in its order."""
    chosen = in_order(matching(checkpoint, view.tensors), view.sort or "file")
    return _dump(
        {
            "schema_version": SCHEMA_VERSION,
            "path": checkpoint.path,
            "format": checkpoint.format,
            "bytes": checkpoint.nbytes,
            "state_dict_key": checkpoint.state_dict_key,
            "alternatives": [{"key": other.key, "tensors": other.tensors} for other in checkpoint.alternatives],
            "tensors": [_tensor(key, tensor) | _digest(key, view) for key, tensor in chosen],
            **({} if view.digests is None else {"digest": view.digests.whole}),
            "objects": [
                {"key": key, "type": entry.type_name, "summary": entry.summary}
                for key, entry in checkpoint.entries.items()
                if isinstance(entry, ObjectInfo)
            ],
            "container": dict(checkpoint.container),
            "saved_on": list(dict.fromkeys(place.device for place in checkpoint.saved_on)),
            "metadata": dict(checkpoint.file_metadata),
            "module_versions": None
            if checkpoint.metadata is None
            else {module: entry.get("version") for module, entry in checkpoint.metadata.items()},
            "unsafe_globals": list(checkpoint.unsafe_globals),
            "weights_only": checkpoint.weights_only,
            "warnings": list(checkpoint.warnings),
        }
    )


def error(error: CkptdiffError) -> str:
    """An error in place of a result, ending with a newline."""
    return _dump(
        {
            "schema_version": SCHEMA_VERSION,
            "outcome": "error",
            "error": {
                "kind": error.kind,
                "message": error.message,
                "detail": error.detail,
                "hint": error.hint,
            },
        }
    )


def _digest(key: str, view: View) -> dict[str, str]:
    return {} if view.digests is None else {"digest": view.digests.tensors[key]}


def _tensor(key: str, tensor: TensorInfo) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "key": key,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "nbytes": tensor.nbytes,
        "layout": tensor.layout,
        "device": tensor.device,
    }
    if tensor.storage is not None:
        entry["storage"] = {
            "id": tensor.storage.id,
            "file": tensor.storage.file,
            "nbytes": tensor.storage.nbytes,
            "offset": tensor.offset,
            "stride": None if tensor.stride is None else list(tensor.stride),
        }
    return entry


@uncollected()
def _dump(value: object) -> str:
    return json_text(value, indent=2, default=str) + "\n"
