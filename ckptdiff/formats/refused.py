"""Naming what is no PyTorch checkpoint, by its content: a row each where its first bytes tell."""

from __future__ import annotations

from ckptdiff.errors import CheckpointError
from ckptdiff.formats import compressed, protobuf
from ckptdiff.places import ByteSource

_CONVERT = "Convert it to PyTorch or safetensors first."
# The first bytes → what it is, and what to do.
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a git-lfs pointer, not the weights themselves", "Run git lfs pull."),
    (b"GGUF", "a GGUF file (llama.cpp)", _CONVERT),
    (b"GGML", "a GGML file (llama.cpp)", _CONVERT),
    (b"lmgg", "a GGML file (llama.cpp)", _CONVERT),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras .h5)", _CONVERT),
    (b"\x93NUMPY", "a numpy .npy array", "Save its values with torch.save."),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it first."),
    (b"Rar!", "a RAR archive", "Unpack it first."),
    (b"PK\5\6", "an empty zip archive", "Download or copy the file again."),
    (b"%PDF", "a PDF document", "Give the path of a checkpoint."),
    (b"\x7fELF", "a program", "Give the path of a checkpoint."),
    (b"ftrt", "a TensorRT engine", "Give the checkpoint that it was built from."),
    (b"ZF0x", "a joblib file of before 2016, compressed", compressed.JOBLIB),
    (b"tjgg", "a GGML file (llama.cpp)", _CONVERT),
    (b"model_checkpoint_path:", "the index of a TensorFlow checkpoint", _CONVERT),
)
# FlatBuffers have their identifier after the first four bytes.
_IDENTIFIERS = {
    b"TFL3": ("a TensorFlow Lite model", _CONVERT),
    b"ET12": ("an ExecuTorch program", "Give the checkpoint that it was exported from."),
    b"PTMF": ("a TorchScript model for mobile devices (a FlatBuffer)", "Save it again with torch.jit.save."),
}
_TABLE_END = bytes.fromhex("57fb808b247547db")
"""The last bytes of a TensorFlow checkpoint's `.index` file (a LevelDB table)."""


def unknown(source: ByteSource, head: bytes) -> CheckpointError:
    """The error for a file that is none of the formats read here, naming it where that can be done."""
    name = source.name
    if source.size == 0:
        return CheckpointError(f"{name} is empty", "Download or copy the file again.")
    for signature, what, hint in _SIGNATURES:
        if head.startswith(signature):
            return CheckpointError(f"{name} is {what}", hint)
    if head[4:8] in _IDENTIFIERS:
        what, hint = _IDENTIFIERS[head[4:8]]
        return CheckpointError(f"{name} is {what}", hint)
    packed = compressed.compressed(name, source.read(0, min(source.size, compressed.HEAD if source.local else 1 << 16)))
    if packed is not None:
        return packed
    if head[257:262] == b"ustar":
        return _tar(source)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<?xml") and b"<net " in text:
        return CheckpointError(f"{name} is the graph of an OpenVINO model", _CONVERT)
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<?xml")):
        return CheckpointError(
            f"{name} is a web page, not weights",
            "The download gave an error or login page: open the file in a text editor, then download it again.",
        )
    if source.size >= 48 and source.read(source.size - 8, 8) == _TABLE_END:
        return CheckpointError(f"{name} is the index of a TensorFlow checkpoint", _CONVERT)
    message = protobuf.format_of(source, head)
    if message:
        return CheckpointError(f"{name} is {message}", _CONVERT)
    if _is_msgpack(head):
        return CheckpointError(f"{name} is a msgpack file (Flax)", _CONVERT)
    if text[:1] == b"{":
        return CheckpointError(f"{name} is a JSON text, not weights", "Give the weights file beside it.")
    if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head):
        return CheckpointError(f"{name} is a text file, not weights", "Give the path of a checkpoint.")
    if not head.strip(b"\0"):
        return CheckpointError(f"{name} consists of zero bytes: its download or copy was cut short", "Get it again.")
    return CheckpointError(
        f"{name} is no checkpoint format that ckptdiff knows",
        "It reads safetensors and whatever torch.save writes.",
    )


def _tar(source: ByteSource) -> CheckpointError:
    first = source.read(0, 100).rstrip(b"\0")
    if first.split(b"/")[-1] in (b"storages", b"tensors", b"pickle", b"sys_info", b"."):
        return CheckpointError(
            f"{source.name} is a checkpoint in the tar format that torch wrote before version 0.1.10 (2017)",
            'torch.load(path, map_location="cpu", weights_only=False) still reads it, if you trust the file; the '
            "default refuses it. Save what it gives with torch.save.",
        )
    return CheckpointError(f"{source.name} is a tar archive", "Unpack it first.")


def _is_msgpack(head: bytes) -> bool:
    """A map whose first key is text, as Flax writes its parameter trees."""
    first = head[:1]
    if not first:
        return False
    if 0x81 <= first[0] <= 0x8F:
        key = head[1:2]
    elif first == b"\xde":
        key = head[3:4]
    elif first == b"\xdf":
        key = head[5:6]
    else:
        return False
    return bool(key) and (0xA1 <= key[0] <= 0xBF or key[0] in (0xD9, 0xDA))
