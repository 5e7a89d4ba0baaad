"""safetensors files read as the safetensors library reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from ckptdiff.checkpoint import read
from ckptdiff.errors import CheckpointError
from ckptdiff.tensors import BY_SAFETENSORS_CODE


@pytest.mark.parametrize("dtype", BY_SAFETENSORS_CODE.values(), ids=str)
def test_every_dtype(dtype: object, tmp_path: Path) -> None:
    torch_dtype = getattr(torch, dtype.name, None)  # type: ignore[attr-defined]
    if torch_dtype is None:
        pytest.skip("this torch does not have it")
    path = tmp_path / "a.safetensors"
    tensor = torch.zeros(48, dtype=torch.uint8).view(torch_dtype)
    try:
        safetensors.torch.save_file({"a": tensor}, path)
        loaded = safetensors.torch.load_file(path)["a"]
    except (KeyError, ValueError, safetensors.SafetensorError) as error:
        pytest.skip(f"this safetensors does not have it: {error}")
    entry = read(path).tensors["a"]
    assert entry.dtype == str(loaded.dtype).removeprefix("torch.")
    assert entry.shape == tuple(loaded.shape)
    assert entry.storage is not None
    assert entry.storage.nbytes == 48


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.dictionaries(
        st.text(max_size=8).filter(lambda k: k != "__metadata__"),
        st.lists(st.integers(0, 5), max_size=4),
        min_size=1,
        max_size=6,
    ),
    metadata=st.none() | st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3),
)
def test_any_file(
    shapes: dict[str, list[int]], metadata: dict[str, str] | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("st") / "a.safetensors"
    safetensors.torch.save_file({key: torch.ones(shape) for key, shape in shapes.items()}, path, metadata=metadata)
    checkpoint = read(path)
    with safe_open(path, "pt") as file:
        assert sorted(checkpoint.entries) == sorted(file.keys())
        assert checkpoint.file_metadata == (file.metadata() or {})
        for key, entry in checkpoint.tensors.items():
            assert list(entry.shape) == file.get_slice(key).get_shape()
    assert checkpoint.metadata is None
    assert checkpoint.nbytes == path.stat().st_size


def test_order_is_that_of_load_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    names = ["z.weight", "a.bias", "m", "b.0", "b.10", "b.9"]
    safetensors.torch.save_file({name: torch.ones(3) for name in names}, path)
    with safe_open(path, "pt") as file:
        assert list(read(path).entries) == list(file.offset_keys())


def test_bytes_are_where_it_says(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    state = {"a": torch.arange(7, dtype=torch.int32), "b": torch.arange(5.0)}
    safetensors.torch.save_file(state, path)
    for key, entry in read(path).tensors.items():
        assert entry.storage is not None
        assert entry.storage.start is not None
        assert path.read_bytes()[entry.storage.start :][: entry.nbytes] == state[key].numpy().tobytes()


def test_a_key_makes_no_sense(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"a": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="no keys inside keys"):
        read(path, key="model")


W = '"dtype":"F32","shape":[4],"data_offsets":[0,16]'
HEADERS = {
    "plain": f'{{"w":{{{W}}}}}',
    "a blank before the brace": f' {{"w":{{{W}}}}}',
    "many blanks before the brace": " \n\t\r" * 200 + f'{{ "w":{{{W}}}}}',
    "blanks after it": f'{{"w":{{{W}}}}}   ',
    "a byte order mark": f'\ufeff{{"w":{{{W}}}}}',
    "NaN": f'{{"w":{{{W},"x":NaN}}}}',
    "Infinity": f'{{"w":{{{W},"x":[-Infinity]}}}}',
    "a float beyond range": f'{{"w":{{{W},"x":1e999}}}}',
    "an integer beyond range": f'{{"w":{{{W},"x":{"9" * 400}}}}}',
    "a large integer": f'{{"w":{{{W},"x":{"9" * 300}}}}}',
    "another field": f'{{"w":{{{W},"x":[1,{{"a":null}}]}}}}',
    "a lone surrogate as key": f'{{"\\ud800":{{{W}}}}}',
    "an integer beyond a double": f'{{"w":{{{W},"x":1{"0" * 309}}}}}',
    "an integer within a double": f'{{"w":{{{W},"x":1{"0" * 308}}}}}',
    "a name of many digits": f'{{"{"9" * 400}":{{{W}}}}}',
    "a pair of surrogates": f'{{"\\ud83d\\ude00":{{{W}}}}}',
    "a lone surrogate elsewhere": f'{{"w":{{{W},"x":"\\udc00"}}}}',
    "a lone surrogate in the metadata": f'{{"__metadata__":{{"a":"\\ud800"}},"w":{{{W}}}}}',
    "minus zero": '{"w":{"dtype":"F32","shape":[4],"data_offsets":[-0,16]}}',
    "minus zero elsewhere": f'{{"w":{{{W},"x":-0}}}}',
    "a float as size": '{"w":{"dtype":"F32","shape":[4.0],"data_offsets":[0,16]}}',
    "a truth value as size": '{"w":{"dtype":"F32","shape":[true],"data_offsets":[0,16]}}',
    "a product beyond range": '{"w":{"dtype":"F32","shape":[4611686018427387904,8,0],"data_offsets":[0,0]},'
    '"v":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
    "no elements": '{"w":{"dtype":"F32","shape":[0,4611686018427387904],"data_offsets":[0,0]},'
    '"v":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
    "deep": f'{{"w":{{{W},"x":{"[" * 100}{"]" * 100}}}}}',
    "too deep": f'{{"w":{{{W},"x":{"[" * 200}{"]" * 200}}}}}',
    "a control character": f'{{"w\x01":{{{W}}}}}',
    "no metadata": f'{{"__metadata__":null,"w":{{{W}}}}}',
}


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "latin-1"])
def test_headers_that_the_library_takes_and_refuses(name: str, encoding: str, tmp_path: Path) -> None:
    header = HEADERS[name].encode(encoding, "replace") + (b"\xff" if encoding == "latin-1" else b"")
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    try:
        loaded = safetensors.torch.load_file(path)
    except Exception:
        with pytest.raises(CheckpointError):
            read(path)
    else:
        found = {key: (tensor.dtype, tensor.shape) for key, tensor in read(path).tensors.items()}
        assert found == {key: (str(v.dtype).removeprefix("torch."), tuple(v.shape)) for key, v in loaded.items()}
