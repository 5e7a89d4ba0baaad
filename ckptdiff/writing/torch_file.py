"""Writing what `torch.load` reads: a zip archive of a pickle and a record per storage.

The layout is that of torch/serialization.py (`_save`).

Records are named and ordered as torch has them, but for those it can do without: the format version, whose presence
promises the exact layout of its own zip writer, and the serialization id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

from ckptdiff.writing.blocks import BlockWriter
from ckptdiff.writing.byte_copying import Sink
from ckptdiff.writing.layout import Block, OutputFile
from ckptdiff.writing.pickling import Emitter
from ckptdiff.writing.plan import Carry, FilterPlan
from ckptdiff.writing.zipping import ZipWriter

_ROOT = "archive/"


def write_torch(
    sink: Sink, writer: BlockWriter, file: OutputFile, plan: FilterPlan, objects: Mapping[str, object]
) -> dict[str, int]:
    """The whole archive; `objects` are the plain values of the plan's other entries. Returns where each key's first
    element lies."""
    return write_archive(sink, writer, file, state_dict_pickle(file.blocks, plan, objects))


def write_archive(
    sink: Sink,
    writer: BlockWriter,
    file: OutputFile,
    data: bytes,
    others: Sequence[tuple[int, Callable[[Sink], int]]] = (),
) -> dict[str, int]:
    """A pickle, its storages, which are numbered as the blocks are, and further ones: the size of each, and what writes
    it and returns its CRC-32. Returns where each key's first element lies."""
    archive = ZipWriter(sink)
    archive.add(f"{_ROOT}data.pkl", data)
    archive.add(f"{_ROOT}byteorder", b"little")
    starts: dict[str, int] = {}
    for number, block in enumerate(file.blocks):
        start = archive.begin(f"{_ROOT}data/{number}", block.nbytes)
        archive.end(writer.write_with_crc(block, sink))
        for member in block.members:
            starts[member.keep.key] = start
    for number, (nbytes, write) in enumerate(others, len(file.blocks)):
        archive.begin(f"{_ROOT}data/{number}", nbytes)
        archive.end(write(sink))
    archive.add(f"{_ROOT}version", b"3\n")
    archive.finish()
    return starts


def state_dict_pickle(blocks: tuple[Block, ...], plan: FilterPlan, objects: Mapping[str, object]) -> bytes:
    """An OrderedDict with the plan's entries in its order, and `_metadata` as its attribute; storages by number."""
    places = {
        member.keep.key: (number, block, member) for number, block in enumerate(blocks) for member in block.members
    }
    emitter = Emitter()
    emitter.ordered_dict()
    emitter.data += b"("
    for item in plan.kept:
        emitter.text(item.key)
        if isinstance(item, Carry):
            emitter.plain(objects[item.key])
            continue
        number, block, member = places[item.key]
        if member.parameter:
            emitter.open_parameter()
        emitter.tensor(str(number), prod(block.recipe.shape), item.dtype, item.shape, member.stride, member.offset)
        if member.parameter:
            emitter.close_parameter(item.dtype)
    emitter.data += b"u"
    if plan.metadata is not None:
        emitter.data += b"}"
        emitter.text("_metadata")
        emitter.ordered_dict()
        emitter.data += b"("
        for module, local in plan.metadata.items():
            emitter.text(module)
            emitter.plain(local)
        emitter.data += b"usb"
    return emitter.finish()
