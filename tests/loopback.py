"""An HTTP server on loopback that counts what it sends, and big files that take no room on the disk."""

from __future__ import annotations

import json
import os
import pickle
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

CHUNK = 1 << 16


class Server:
    """Serves a folder at `url`. `bytes` is the bodies sent so far, in answer to `requests` requests.

    `flaws` makes it misbehave: path → one of the words that `_Handler.do_GET` knows.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"
        self.flaws: dict[str, str] = {}
        self.requests = 0
        self.bytes = 0
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()
        self.released = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        server = self.state
        path = self.path.partition("?")[0]
        with server.lock:
            server.requests += 1
            number = server.requests
            server.headers.append(dict(self.headers.items()))
        flaw = server.flaws.get(path, "")
        if flaw.isdecimal():
            return self.send(int(flaw), b"secret: no")
        if flaw.startswith("to "):
            return self.send(302, b"", {"Location": flaw[3:]})
        if flaw == "hangs":
            server.released.wait(20)
            return None
        if flaw.startswith("raw "):
            self.wfile.write(flaw[4:].encode("latin-1"))
            self.close_connection = True
            return None
        if path.startswith("/api/"):
            return self.hub(path)
        file = server.folder / re.sub(r"^/hub/repo/resolve/main/", "/", path)[1:].replace("%20", " ")
        if not file.is_file():
            return self.send(404, b"not here")
        size = file.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None or flaw in ("no ranges", "no length"):
            start, stop, status = 0, size, 200
        else:
            start, stop, status = int(wanted[1]), min(int(wanted[2]) + 1, size), 206
            if start >= size:
                return self.send(416, b"", {"Content-Range": f"bytes */{size}"})
        self.send_response(status)
        if status == 206:
            shifted = flaw == "other parts"
            given = f"bytes {start + shifted}-{stop - 1 + shifted}/{size}"
            self.send_header("Content-Range", flaw[6:] if flaw.startswith("range ") else given)
        self.send_header("ETag", f'"{number}"' if flaw in ("changes", "mirrors") else '"1"')
        if flaw == "packed":
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Last-Modified", f"{number if flaw == 'changes' else 1}")
        if flaw == "no length":
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if flaw == "cut":
            stop = start + (stop - start) // 2
            self.close_connection = True
        if flaw == "drips":
            while not server.released.wait(0.05):
                try:
                    self.wfile.write(b"\0")
                except OSError:
                    break
            self.close_connection = True
            return None
        with file.open("rb") as opened:
            opened.seek(start)
            while start < stop:
                data = opened.read(min(CHUNK, stop - start))
                with server.lock:  # before it is sent: who has read it may ask at once
                    server.bytes += len(data)
                try:
                    self.wfile.write(data)
                except OSError:  # the client has had enough
                    self.close_connection = True
                    with server.lock:
                        server.bytes -= len(data)
                    return None
                start += len(data)
        return None

    def hub(self, path: str) -> None:
        """As much of the Hugging Face hub as it takes to read the repository hub/repo, which is the folder."""
        if path in ("/api/models/hub/repo", "/api/models/hub/repo/revision/main"):
            content: object = {"id": "hub/repo", "sha": "0" * 40, "private": False, "tags": [], "downloads": 0}
        elif path.startswith("/api/models/hub/repo/tree/main"):
            content = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}
                for file in sorted(self.state.folder.iterdir())
            ]
        else:
            return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        return self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with self.state.lock:
            self.state.bytes += len(body)
        self.wfile.write(body)


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A running server for the files of `folder`."""
    handler = type("Handler", (_Handler,), {})
    http = _Http(("127.0.0.1", 0), handler)
    server = handler.state = Server(folder, http.server_port)  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        http.shutdown()
        http.server_close()
        thread.join()


def layers(count: int, width: int) -> OrderedDict[str, torch.Tensor]:
    """A state dict of `count` square weights and their biases. Its memory is reserved and never touched."""
    state = OrderedDict()
    for index in range(count):
        state[f"model.layers.{index}.self_attn.q_proj.weight"] = torch.empty(width, width)
        state[f"model.layers.{index}.self_attn.q_proj.bias"] = torch.empty(width)
    return state


def write_zip(path: Path, state: dict[str, torch.Tensor]) -> Path:
    """What torch.save writes, with holes for the values."""
    with torch.serialization.skip_data():
        torch.save(state, path)
    return path


def write_safetensors(path: Path, state: dict[str, torch.Tensor]) -> Path:
    """A safetensors file with holes for the values."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, value in state.items():
        begin, end = end, end + value.nbytes
        header[key] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


class _Storage:
    def __init__(self, key: str, numel: int) -> None:
        self.id = ("storage", torch.FloatStorage, key, "cpu", numel, None)


class _Saved:
    def __init__(self, storage: _Storage, value: torch.Tensor) -> None:
        self.made = (storage, 0, tuple(value.shape), value.stride(), False, OrderedDict())

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, self.made


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: object) -> object:
        return value.id if isinstance(value, _Storage) else None


def write_legacy(path: Path, state: dict[str, torch.Tensor], *, trailing: bytes = b"") -> Path:
    """What torch.save wrote before 1.6, with holes for the values."""
    saved = {
        key: _Saved(_Storage(str(index), value.numel()), value) for index, (key, value) in enumerate(state.items())
    }
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    with path.open("wb") as file:
        for value in (0x1950A86A20F9469CFC6C, 1001, system):
            pickle.dump(value, file, 2)
        _Pickler(file, 2).dump(saved)
        pickle.dump([str(index) for index in range(len(state))], file, 2)
        for value in state.values():
            file.write(value.numel().to_bytes(8, "little"))
            file.seek(value.nbytes, os.SEEK_CUR)
        file.write(trailing)
        file.truncate()
    return path
