"""Writing safetensors: the header's length, the JSON header padded to 8 bytes, and the tensors without gaps.

The Hugging Face conventions for several files: `model-00001-of-00002.safetensors`, and an index of which key is where
(huggingface_hub/serialization/_base.py and _torch.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from ckptdiff.tensors import DTYPES
from ckptdiff.writing.blocks import BlockWriter
from ckptdiff.writing.byte_copying import BLOCK, LARGE, Sink
from ckptdiff.writing.layout import Layout, OutputFile


def write_safetensors(sink: Sink, writer: BlockWriter, file: OutputFile, metadata: Mapping[str, str]) -> dict[str, int]:
    """One file. Returns where each key's first element lies."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offsets: dict[str, int] = {}
    position = 0
    for block in file.blocks:
        (member,) = block.members
        item = member.keep
        shape = list(item.shape)
        if item.dtype == "float4_e2m1fn_x2" and shape:
            shape[-1] *= 2  # the file counts single values, torch pairs of them
        header[item.key] = {
            "dtype": DTYPES[item.dtype].code,
            "shape": shape,
            "data_offsets": [position, position + block.nbytes],
        }
        offsets[item.key] = position
        position += block.nbytes
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    encoded += b" " * _padding(len(encoded), file)
    sink.write(len(encoded).to_bytes(8, "little") + encoded)
    start = sink.position
    writer.write_all(file.blocks, sink)
    return {key: start + offset for key, offset in offsets.items()}


def _padding(length: int, file: OutputFile) -> int:
    """Spaces behind a header of `length` bytes.

    The tensors are to begin at a multiple of 8, and where they are large to lie in blocks as they do in the input, so
    that the file system can share them.
    """
    ranges = file.blocks[0].ranges
    if ranges and file.nbytes >= 16 * LARGE and ranges[0].start % 8 == 0:
        return (ranges[0].start - 8 - length) % BLOCK
    return -length % 8


def metadata_of(layout: Layout) -> dict[str, str]:
    """`__metadata__` of the output: the input's, `format: pt`, and the tied keys written under another name.

    What the input says of tied keys of its own is renamed with them, and left out where they are.
    """
    plan = layout.plan
    names = {item.sources[0]: item.key for item in plan.tensors if len(item.sources) == 1}
    given = plan.checkpoint.entries
    metadata: dict[str, str] = {"format": "pt"}
    for name, value in plan.checkpoint.file_metadata.items():
        if value in given and name not in given:
            # A tied key that is written as `value`.
            if names.get(value) == value:
                metadata[name] = value
        else:
            metadata[name] = value
    for removed, kept in layout.aliases:
        metadata.setdefault(removed, kept)
    return metadata


def index(layout: Layout) -> bytes:
    """The index of a sharded output."""
    weight_map = {
        member.keep.key: file.name for file in layout.files for block in file.blocks for member in block.members
    }
    metadata: dict[str, object] = {"total_size": layout.nbytes, **dict(layout.aliases)}
    order = [item.key for item in layout.plan.tensors if item.key in weight_map]
    text = json.dumps({"metadata": metadata, "weight_map": {key: weight_map[key] for key in order}}, indent=2)
    return text.encode() + b"\n"
