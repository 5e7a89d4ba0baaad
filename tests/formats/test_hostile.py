"""Nothing named in a file runs. Each payload is first shown to be live under plain pickle."""

from __future__ import annotations

import builtins
import contextlib
import copyreg
import os
import pickle
import runpy
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptdiff.checkpoint import read
from ckptdiff.errors import CkptdiffError


class Calls:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


class CallsEx:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.call


class SetsState:
    """Runs when BUILD hands it its state."""

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        Path(state["marker"]).touch()


class New:
    def __new__(cls, marker: str, *, keyword: str = "") -> New:
        Path(marker).touch()
        return object.__new__(cls)


class NewObject(New):
    def __getnewargs__(self) -> Any:
        return (self.marker,)  # type: ignore[attr-defined]


class NewObjectEx(New):
    def __getnewargs_ex__(self) -> Any:
        return (self.marker,), {"keyword": "x"}  # type: ignore[attr-defined]


def touch(marker: str) -> None:
    Path(marker).touch()


def touch_by_number(marker: str) -> None:
    Path(marker).touch()


def live_object(cls: type, marker: str) -> Any:
    instance = object.__new__(cls)
    instance.marker = marker
    return instance


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def here(name: str) -> bytes:
    return f"{__name__}\n{name}\n".encode()


def script(marker: str, tmp_path: Path) -> str:
    path = tmp_path / "payload.py"
    path.write_text(f"open({marker!r}, 'w').close()\n")
    return str(path)


PAYLOADS: dict[str, Callable[[str, Path], bytes]] = {
    "os.system": lambda m, _: pickle.dumps(Calls(os.system, f"echo > {m}")),
    "exec": lambda m, _: pickle.dumps(Calls(builtins.exec, f"open({m!r}, 'w').close()")),
    "eval": lambda m, _: pickle.dumps(Calls(builtins.eval, f"open({m!r}, 'w').close()")),
    "mkdir": lambda m, _: pickle.dumps(Calls(os.mkdir, m)),
    "runpy": lambda m, d: pickle.dumps(Calls(runpy.run_path, script(m, d))),
    "subprocess": lambda m, _: pickle.dumps(Calls(subprocess.check_call, [sys.executable, "-c", f"open({m!r}, 'w')"])),
    "torch.hub": lambda m, d: pickle.dumps(
        Calls(torch.hub._load_local, str(Path(script(m, d)).rename(d / "hubconf.py").parent), "missing")
    ),
    "nested getattr": lambda m, _: (
        b"cbuiltins\ngetattr\n(cshutil\nos\n" + text("system") + b"tR(" + text(f"echo > {m}") + b"tR."
    ),
    "reduce_ex": lambda m, _: pickle.dumps(CallsEx(touch, m)),
    "protocol 0": lambda m, _: pickle.dumps(Calls(touch, m), protocol=0),
    "protocol 5": lambda m, _: pickle.dumps(Calls(touch, m), protocol=5),
    "INST": lambda m, _: b"(" + text(m) + b"i" + here("touch") + b".",
    "OBJ": lambda m, _: b"(c" + here("touch") + text(m) + b"o.",
    "NEWOBJ": lambda m, _: pickle.dumps(live_object(NewObject, m), protocol=2),
    "NEWOBJ_EX": lambda m, _: pickle.dumps(live_object(NewObjectEx, m), protocol=4),
    "BUILD": lambda m, _: pickle.dumps(live_object(SetsState, m)),
    "EXT": lambda m, _: b"\x80\x02\x82\xf0" + text(m) + b"\x85R.",
    "memo": lambda m, _: b"c" + here("touch") + b"r\xff\xff\xff\x7f0j\xff\xff\xff\x7f" + text(m) + b"\x85R.",
    "in a dict's value": lambda m, _: pickle.dumps({"a": torch.float32, "b": Calls(touch, m)}),
    "in a dict's key": lambda m, _: pickle.dumps({Calls(touch, m): 1}),
}


@pytest.fixture(autouse=True)
def registered() -> Any:
    """The EXT payload needs the victim to have registered the class, as the real opcode does."""
    copyreg.add_extension(__name__, "touch_by_number", 0xF0)
    yield
    copyreg.remove_extension(__name__, "touch_by_number", 0xF0)


def run(data: bytes) -> None:
    with contextlib.suppress(Exception):  # the harm is done by then
        pickle.loads(data)


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("container", ["pickle", "zip", "legacy", "metadata"])
def test_no_payload_runs(name: str, container: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    data = PAYLOADS[name](str(marker), tmp_path)
    # The memo payload is run without its absurd index, for which plain pickle allocates 16 GB.
    run(data.replace(b"r\xff\xff\xff\x7f0j\xff\xff\xff\x7f", b"q\x010h\x01"))
    assert marker.exists(), "the payload is dead even under plain pickle"
    marker.rmdir() if marker.is_dir() else marker.unlink()

    target = tmp_path / "evil"
    if container == "pickle":
        target.write_bytes(data)
    elif container == "zip":
        torch.save({"a": torch.ones(1)}, tmp_path / "good.pth")
        with zipfile.ZipFile(tmp_path / "good.pth") as source, zipfile.ZipFile(target, "w") as archive:
            for item in source.namelist():
                archive.writestr(item, data if item.endswith("data.pkl") else source.read(item))
    elif container == "legacy":
        torch.save({"a": torch.ones(1)}, target, _use_new_zipfile_serialization=False)
        good = target.read_bytes()
        start = pickle_ends(good)[2]
        target.write_bytes(good[:start] + data)
    else:
        target.mkdir()
        (target / ".metadata").write_bytes(data)
    before = set(sys.modules)
    files = set(tmp_path.rglob("*"))
    with pytest.raises(CkptdiffError):
        read(target)
    assert not marker.exists()
    assert all(name.startswith(("ckptdiff", "encodings", "zlib")) for name in set(sys.modules) - before)
    assert set(tmp_path.rglob("*")) == files


def pickle_ends(data: bytes) -> list[int]:
    import io
    import pickletools

    stream = io.BytesIO(data)
    ends = []
    for _ in range(3):
        for _ in pickletools.genops(stream):
            pass
        ends.append(stream.tell())
    return ends


def test_payload_beside_real_weights_is_named_and_does_not_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pth"
    torch.save({"model": {"w": torch.ones(2)}, "x": Calls(touch, str(marker)), "y": Calls(touch, str(marker))}, path)
    checkpoint = read(path)
    assert list(checkpoint.entries) == ["w"]
    assert checkpoint.unsafe_globals == (f"{__name__}.touch",)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_no_torch_or_numpy_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    code = (
        "import sys; from ckptdiff.checkpoint import read; c = read(sys.argv[1]); assert len(c.entries) == 2\n"
        "unwanted = {'torch', 'numpy', 'fsspec', 'rich', 'typer', 'zipfile', 'pickle'} & set(sys.modules)\n"
        "assert not unwanted, unwanted"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, cwd=Path(__file__).parents[2])


def test_names_in_messages_are_escaped(tmp_path: Path) -> None:
    nasty = "a\x1b[31m\n::error::\u202e"
    path = tmp_path / "evil.pth"
    path.write_bytes(b"\x80\x04" + text(nasty) + text("b") + b"\x93)R.")
    with pytest.raises(CkptdiffError) as caught:
        read(path)
    assert caught.value.message.isprintable()
    torch.save({nasty: {"w": torch.ones(1)}, f"{nasty}2": {"w": torch.ones(1)}}, path)
    assert all(warning.isprintable() for warning in read(path).warnings)
    assert read(path).warnings
    with pytest.raises(CkptdiffError) as caught:
        read(path, key="nothing")
    assert (caught.value.message + caught.value.hint).isprintable()
