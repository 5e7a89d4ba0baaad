"""Checkpoints behind URLs: read right, with little traffic, and clear about whatever goes wrong on the way."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ckptdiff.checkpoint import Checkpoint, read
from ckptdiff.errors import CheckpointError
from ckptdiff.places import is_url, remote, remote_errors
from tests.contents.reading import tensor_bytes
from tests.loopback import Server, layers, serving, write_legacy, write_safetensors, write_zip

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")

MB = 1 << 20
SECRET = "hunter2"
WRITERS: dict[str, Callable[..., Path]] = {
    "model.safetensors": write_safetensors,
    "model.pth": write_zip,
    "legacy.pth": write_legacy,
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path) as running:
        yield running


def facts(checkpoint: Checkpoint) -> list[tuple[object, ...]]:
    return [
        (key, entry.dtype, entry.shape, entry.stride, entry.offset, entry.storage and entry.storage.nbytes)
        for key, entry in checkpoint.tensors.items()
    ]


def failure(url: str) -> CheckpointError:
    """The error that reading the URL ends in, which says nothing secret."""
    with pytest.raises(CheckpointError) as caught:
        read(url)
    error = caught.value
    assert error.message
    assert error.hint
    assert SECRET not in error.message + error.hint
    assert "\n" not in error.message + error.hint
    assert error.__suppress_context__ or error.__context__ is None
    return error


# The least that can be known: a 2 GB file, and what of it travelled.


@pytest.mark.parametrize("name", WRITERS)
def test_of_two_gigabytes_less_than_one_megabyte_travels(name: str, server: Server, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path / name, layers(150, 1850))
    assert path.stat().st_size > 2_000_000_000
    checkpoint = read(f"{server.url}/{name}")
    assert facts(checkpoint) == facts(read(path))
    assert len(checkpoint.tensors) == 300
    assert checkpoint.nbytes == path.stat().st_size
    assert checkpoint.path == f"{server.url}/{name}"
    assert server.bytes < MB / 2
    assert server.requests <= 3


@pytest.mark.parametrize("name", WRITERS)
def test_headers_of_megabytes_take_few_requests(name: str, server: Server, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path / name, layers(4000, 40))
    checkpoint = read(f"{server.url}/{name}")
    assert facts(checkpoint) == facts(read(path))
    assert server.requests <= 6
    assert server.bytes < 2.5 * MB < path.stat().st_size


def test_the_legacy_files_written_here_are_torchs_own(tmp_path: Path) -> None:
    loaded = torch.load(write_legacy(tmp_path / "legacy.pth", layers(3, 4)), weights_only=True)
    assert {key: value.shape for key, value in loaded.items()} == {k: v.shape for k, v in layers(3, 4).items()}


def test_legacy_files_with_more_at_the_end_are_walked(server: Server, tmp_path: Path) -> None:
    path = write_legacy(tmp_path / "legacy.pth", layers(3, 100), trailing=b"more")
    torch.load(path, weights_only=True)
    assert facts(read(f"{server.url}/legacy.pth")) == facts(read(path))


def test_truncated_files_are_refused(server: Server, tmp_path: Path) -> None:
    for name, write in WRITERS.items():
        path = write(tmp_path / name, layers(10, 100))
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 5000)
        assert "truncated" in failure(f"{server.url}/{name}").message


def test_real_files_read_alike_everywhere(server: Server, tmp_path: Path) -> None:
    state = {"state_dict": torch.nn.TransformerEncoderLayer(16, 2, 32).state_dict(), "epoch": 3}
    path = tmp_path / "a file.ckpt"
    torch.save(state, path)
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/a file.ckpt", path.read_bytes())
    expected = read(path)
    urls = (
        f"{server.url}/a%20file.ckpt",
        "memory://bucket/a file.ckpt",
        f"local://{path}",
        path.as_uri(),
        f"file://{path}",
    )
    for url in urls:
        checkpoint = read(url)
        assert facts(checkpoint) == facts(expected)
        assert checkpoint.metadata == expected.metadata
        assert checkpoint.state_dict_key == "state_dict"
        assert checkpoint.container == expected.container
    memory.rm("/bucket", recursive=True)


def test_values_stay_where_they_are(server: Server, tmp_path: Path) -> None:
    for name, write in WRITERS.items():
        write(tmp_path / name, layers(2, 10))
        checkpoint = read(f"{server.url}/{name}")
        with pytest.raises(CheckpointError, match="is remote"):
            tensor_bytes(checkpoint, "model.layers.0.self_attn.q_proj.weight")


def test_a_foreign_format_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(1000))
    (tmp_path / "a.html").write_text("<!DOCTYPE html><title>Log in</title>")
    (tmp_path / "a.pth").write_bytes(b"")
    assert "GGUF" in failure(f"{server.url}/a.gguf").message
    assert "web page" in failure(f"{server.url}/a.html").message
    assert "empty" in failure(f"{server.url}/a.pth").message


@pytest.mark.parametrize("local", [False, True])
def test_a_joblib_file_is_called_so(local: bool, server: Server, tmp_path: Path) -> None:
    """Its first array is in the first block, and what comes behind it is no pickle: neither damaged nor fetched."""
    content = b"\x80\x04cjoblib.numpy_pickle\nNumpyArrayWrapper\n)R" + bytes(range(256)) * 4000
    (tmp_path / "a.joblib").write_bytes(content)
    error = failure(str(tmp_path / "a.joblib") if local else f"{server.url}/a.joblib")
    assert "is a joblib file" in error.message
    assert server.bytes <= remote.BLOCK


# Sharded checkpoints, directories.


def write_shards(folder: Path, count: int, width: int) -> Path:
    weight_map = {}
    for number in range(count):
        state = {f"{number:03}.{key}": value for key, value in layers(10, width).items()}
        file = f"model-{number:05}-of-{count:05}.safetensors"
        write_safetensors(folder / file, state)
        weight_map |= dict.fromkeys(state, file)
    index = folder / "model.safetensors.index.json"
    total = sum(4 * width * (width + 1) for _ in range(10 * count))
    index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return index


def test_a_hundred_shards(server: Server, tmp_path: Path) -> None:
    index = write_shards(tmp_path, 100, 700)
    checkpoint = read(f"{server.url}/{index.name}")
    expected = read(index)
    assert facts(checkpoint) == facts(expected)
    assert checkpoint.warnings == expected.warnings == ()
    assert checkpoint.nbytes > 1_900_000_000
    assert server.requests <= 104
    assert server.bytes < 101 * remote.BLOCK + index.stat().st_size


def test_a_missing_shard_is_named(server: Server, tmp_path: Path) -> None:
    index = write_shards(tmp_path, 3, 10)
    (tmp_path / "model-00001-of-00003.safetensors").unlink()
    assert "model-00001-of-00003.safetensors does not exist" in failure(f"{server.url}/{index.name}").message


@pytest.mark.parametrize(
    "shard",
    [
        "../other.safetensors",
        "/etc/passwd",
        "a/../../b",
        "..\\b",
        "http://127.0.0.1/x",
        "a?x=1",
        "s3://b/k",
        "memory::s3://b/k",
        "a\nb",
        "\ud800",
        "a//b",
        ".",
        "",
    ],
)
@pytest.mark.parametrize("base", ["http://127.0.0.1:9/m/", "memory://m/", "zip://m/::memory://a.zip"])
def test_shards_outside_the_folder_are_refused(shard: str, base: str) -> None:
    with pytest.raises(CheckpointError, match="outside its directory"):
        remote.beside(f"{base}model.index.json", shard)


def test_an_index_that_leads_outside_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_safetensors(tmp_path / "out.safetensors", layers(1, 4))
    (tmp_path / "in" / "m.index.json").write_text(json.dumps({"weight_map": {"a": "../out.safetensors"}}))
    assert "hostile" in failure(f"{server.url}/in/m.index.json").hint
    assert server.requests == 1


def test_where_shards_are_looked_for() -> None:
    beside = remote.beside
    assert beside("https://h/a/m.index.json?token=1", "x y.bin") == "https://h/a/x%20y.bin?token=1"
    assert beside("https://h/a/m.index.json", "%2e%2e/x") == "https://h/a/%252e%252e/x"
    assert beside("s3://b/a/m.index.json", "sub/x.bin") == "s3://b/a/sub/x.bin"
    assert beside("simplecache::s3://b/m.index.json", "x.bin") == "simplecache::s3://b/x.bin"


def test_folders(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    index = write_shards(tmp_path, 3, 10)
    for file in tmp_path.iterdir():
        memory.pipe(f"/models/big/{file.name}", file.read_bytes())
    try:
        for url in ("memory://models/big", "memory://models/big/"):
            assert facts(read(url)) == facts(read(index))
        assert "without a checkpoint" in failure("memory://models").message
    finally:
        memory.rm("/models", recursive=True)
    assert "does not exist" in failure("memory://models/big").message


# Servers that do not do as they should.


@pytest.mark.parametrize("flaw", ["no ranges", "no length"])
def test_a_server_without_ranges_is_refused_before_it_sends_everything(
    flaw: str, server: Server, tmp_path: Path
) -> None:
    write_zip(tmp_path / "big.pth", layers(150, 1850))
    server.flaws["/big.pth"] = flaw
    assert "cannot send parts" in failure(f"{server.url}/big.pth").message
    # What lay in the buffers of both ends, besides.
    assert server.bytes < 64 * MB


@pytest.mark.parametrize("flaw", ["no ranges", "no length"])
def test_a_small_file_needs_no_ranges(flaw: str, server: Server, tmp_path: Path) -> None:
    for name, write in WRITERS.items():
        path = write(tmp_path / name, layers(20, 150))
        server.flaws[f"/{name}"] = flaw
        assert facts(read(f"{server.url}/{name}")) == facts(read(path))
    assert server.requests == len(WRITERS)


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("404", "does not exist"),
        ("401", "access is denied"),
        ("403", "access is denied"),
        ("429", "slow down"),
        ("503", "status 503"),
        ("418", "status 418"),
        ("cut", "connection was cut"),
        ("changes", "was replaced"),
        ("other parts", "other parts than asked"),
        ("to /big.pth?again", "cannot be read"),
        ("to /elsewhere", "does not exist"),
    ],
)
def test_what_the_server_does_is_said(flaw: str, message: str, server: Server, tmp_path: Path) -> None:
    write_zip(tmp_path / "big.pth", layers(20, 500))
    server.flaws["/big.pth"] = flaw
    authority = server.url.removeprefix("http://")
    error = failure(f"http://me:{SECRET}@{authority}/big.pth?X-Amz-Signature={SECRET}")
    assert message in error.message
    assert f"{authority}/big.pth" in error.message


OK = "raw HTTP/1.1 206 Partial Content\r\n"


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("raw it is no HTTP\r\n\r\n", "no HTTP"),
        ("raw HTTP/1.1 abc\r\n\r\n", "no HTTP"),
        (OK + "Content-Length: minus\r\n\r\n", "no HTTP"),
        (OK + "Content-Length: -5\r\n\r\n", "no HTTP"),
        ("raw HTTP/1.1 200 OK\r\nContent-Length: " + "9" * 5000 + "\r\n\r\nabc", "cannot be read"),
        ("range bytes 0-9/" + "9" * 5000, "other parts"),
        ("range bytes 0-\N{ARABIC-INDIC DIGIT NINE}/10".encode().decode("latin-1"), "other parts"),
        ("range bytes 0--5/-10", "other parts"),
        ("range bytes 0-9/0", "other parts"),
        ("range bytes 0-65535/*", "other parts"),
        ("packed", "compresses it ('gzip')"),
        ("to file:///etc/passwd", "redirects to 'file:///etc/passwd', and only http and https are followed"),
        (f"to ftp://u:{SECRET}@there/x?{SECRET}", "only http and https are followed"),
        ("to http://[::bad/", "redirects to what is no URL"),
        ("to /big.pth", "again and again"),
        ("raw HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "status 302"),
    ],
)
def test_an_answer_that_makes_no_sense(flaw: str, message: str, server: Server, tmp_path: Path) -> None:
    write_zip(tmp_path / "big.pth", layers(1, 2000))
    server.flaws["/big.pth"] = flaw
    error = failure(f"{server.url}/big.pth")
    assert message in error.message
    assert "status 400" not in error.message
    assert "digit" not in error.message


@pytest.mark.parametrize("way", ["web", "another protocol"])
def test_a_byte_now_and_then_does_not_go_on_for_ever(
    way: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that come, but too slowly, are given up after the time that the file may take in all."""
    for module in (remote, remote_errors):
        monkeypatch.setattr(module, "PATIENCE", 0.3)
    monkeypatch.setattr(remote, "SLOWEST", 1 << 20)
    write_zip(tmp_path / "a.pth", layers(1, 200))
    server.flaws["/a.pth"] = "drips"
    url = f"{server.url}/a.pth"
    if way != "web":
        monkeypatch.setattr(remote, "_WEB", ())  # as of any other file system of fsspec's
    error = failure(url)
    assert "more slowly than" in error.message
    assert "KB a second" in error.message


def test_a_redirect_to_plain_http_is_refused() -> None:
    def answer(scheme: str) -> object:
        return SimpleNamespace(url=SimpleNamespace(scheme=scheme), history=(), headers={}, status=206)

    file = object.__new__(remote._WebFile)
    file._name = "https://host/a.pth"
    final = answer("http")
    final.history = (answer("https"),)  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="from https to http"):
        file._check_answer(final)
    final.history = (answer("http"),)  # type: ignore[attr-defined]
    file._check_answer(final)


def test_a_server_that_never_answers_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "READ_TIMEOUT", 0.3)
    server.flaws["/a.pth"] = "hangs"
    assert "does not answer" in failure(f"{server.url}/a.pth").message


def test_hosts_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: Any, **options: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert "cannot be read" in failure(f"http://127.0.0.1:{unused.getsockname()[1]}/a.pth?key={SECRET}").message
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "host is not known" in failure(f"https://u:{SECRET}@nowhere.invalid/a.pth").message


def test_redirects_and_mirrors(server: Server, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "big.pth", layers(20, 500))
    server.flaws |= {"/latest": "to /big.pth", "/big.pth": "mirrors"}
    assert facts(read(f"{server.url}/latest")) == facts(read(path))


def test_a_file_that_is_replaced_by_a_longer_one(server: Server, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "big.pth", layers(20, 500))
    source = remote.RemoteSource(f"{server.url}/big.pth")
    write_zip(path, layers(21, 500))
    with pytest.raises(CheckpointError, match="was replaced"):
        source.read(source.size - 100, 100)
    source.close()


def test_headers_too_large_to_fetch_are_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "MAX_TRAFFIC", MB // 4)
    for name, write in WRITERS.items():
        write(tmp_path / name, layers(2500, 4))
        error = failure(f"{server.url}/{name}")
        assert "without fetching more than" in error.message
        assert "Download" in error.hint
    assert server.bytes <= MB


def test_reads_are_exact_and_nothing_is_fetched_twice(server: Server, tmp_path: Path) -> None:
    data = bytes(range(256)) * 2000
    (tmp_path / "data").write_bytes(data)
    source = remote.RemoteSource(f"{server.url}/data")
    assert source.size == len(data)
    for offset, count in ((0, 10), (65_530, 12), (400_000, 100_000), (131_000, 300_000), (len(data) - 1, 1), (5, 0)):
        assert source.read(offset, count) == data[offset : offset + count]
    for offset, count in ((-1, 2), (len(data), 1), (0, len(data) + 1), (0, -1)):
        with pytest.raises(CheckpointError, match="truncated"):
            source.read(offset, count)
    assert source.read(0, len(data)) == data
    assert server.bytes == source.traffic == len(data)
    source.close()


# What is a URL, and what of it may be shown.


def test_what_is_a_url() -> None:
    assert all(map(is_url, ("s3://b/k", "https://h/x", "simplecache::s3://b/k", "hf://u/r/x")))
    assert not any(map(is_url, ("C:\\x.pth", "c://x", "a/b.pth", "://x", "s3:/b", "a b://c", "./s3://x")))


def test_what_is_shown_of_a_url() -> None:
    assert remote.shown("https://u:p@h/x.pth?sig=s#f") == "https://…@h/x.pth?…"
    assert remote.shown("hf://u/r@main/x.pth") == "hf://u/r@main/x.pth"
    assert remote.shown("s3://b/k.pth") == "s3://b/k.pth"
    assert remote.shown("what?#.pth") == "what?#.pth"


def test_the_password_is_sent_and_not_shown(server: Server, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", layers(1, 4))
    authority = server.url.removeprefix("http://")
    checkpoint = read(f"http://me:{SECRET}@{authority}/a.safetensors?sig={SECRET}")
    assert "Authorization" in server.headers[-1]
    assert SECRET not in repr(checkpoint)


# Packages that are not there.


def test_without_fsspec_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    assert "pip install 'ckptdiff[remote]'" in failure("https://127.0.0.1/x.pth").hint


@pytest.mark.parametrize(
    ("scheme", "module"), [("s3", "s3fs"), ("gs", "gcsfs"), ("hf", "huggingface_hub"), ("az", "adlfs")]
)
def test_without_the_protocols_package_it_is_named(scheme: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["fsspec.registry"], "_registry", {})
    monkeypatch.setitem(sys.modules, module, None)
    error = failure(f"{scheme}://a/b/x.pth")
    assert f"pip install {module}" in error.hint
    assert "not installed" in error.message


def test_unknown_protocols_and_archives() -> None:
    assert "nosuch://" in failure("nosuch://a/b").message
    assert "archive" in failure("zip://a.pth::http://127.0.0.1:9/x.zip").message


def test_reading_local_files_imports_no_fsspec(tmp_path: Path) -> None:
    import subprocess

    path = write_safetensors(tmp_path / "a.safetensors", layers(1, 4))
    code = (
        "import sys; from ckptdiff.checkpoint import read; read(sys.argv[1]);"
        "print([name for name in ('fsspec', 'asyncio', 'urllib.request', 'concurrent') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# The Hugging Face hub.


def test_the_hub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": server.url, "skip_instance_cache": True})
    index = write_shards(tmp_path, 3, 700)
    for url in ("hf://hub/repo", f"hf://hub/repo/{index.name}", f"hf://hub/repo@main/{index.name}"):
        assert facts(read(url)) == facts(read(index))
    assert server.bytes < MB
    assert "does not exist" in failure("hf://hub/repo/other.pth").message
    assert "does not exist" in failure("hf://hub/other/x.pth").message


# S3, as moto plays it. Its client library is the last to learn of Python's deprecations.


class S3:
    """A bucket called `bucket` behind moto's server, and the bytes it has sent in answer to how many requests."""

    def __init__(self, url: str, client: Any) -> None:
        self.url = url
        self.client = client
        self.bytes = 0
        self.requests = 0

    def put(self, path: Path, key: str) -> None:
        self.client.put_object(Bucket="bucket", Key=key, Body=path.read_bytes())
        self.bytes = self.requests = 0


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    boto3 = pytest.importorskip("boto3")
    import threading

    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    backend = DomainDispatcherApplication(create_backend_app)
    holder: list[S3] = []

    def application(environ: Any, start_response: Any) -> Any:
        for part in backend(environ, start_response):
            if holder:
                holder[0].bytes += len(part)
            yield part
        if holder:
            holder[0].requests += 1

    http = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{http.server_port}"
    for name, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    holder.append(S3(url, client))
    yield holder[0]
    client.close()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.mark.parametrize("name", WRITERS)
def test_s3_sends_headers_only(name: str, s3: S3, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path / name, layers(40, 500))
    s3.put(path, f"folder/{name}")
    assert path.stat().st_size > 40_000_000
    checkpoint = read(f"s3://bucket/folder/{name}")
    assert facts(checkpoint) == facts(read(path))
    assert checkpoint.path == f"s3://bucket/folder/{name}"
    assert 0 < s3.bytes < 300_000
    assert s3.requests <= 5


def test_s3_folders(s3: S3, tmp_path: Path) -> None:
    index = write_shards(tmp_path, 5, 300)
    for file in tmp_path.iterdir():
        s3.put(file, f"a/b/{file.name}")
    for url in ("s3://bucket/a/b", "s3://bucket/a/b/", f"s3://bucket/a/b/{index.name}"):
        s3.bytes = 0
        assert facts(read(url)) == facts(read(index))
        assert 0 < s3.bytes < 6 * remote.BLOCK + index.stat().st_size
    assert "without a checkpoint" in failure("s3://bucket/a").message


def test_distributed_checkpoints_on_s3(s3: S3, tmp_path: Path) -> None:
    from torch.distributed import checkpoint as distributed

    state = {"model": {"weight": torch.zeros(1000, 1000), "bias": torch.zeros(3)}, "step": 4}
    with pytest.warns(UserWarning, match="single process"):
        distributed.save(state, checkpoint_id=tmp_path / "dcp")
    for file in (tmp_path / "dcp").iterdir():
        s3.put(file, f"dcp/{file.name}")
    checkpoint = read("s3://bucket/dcp")
    expected = read(tmp_path / "dcp")
    assert facts(checkpoint) == facts(expected)
    assert (checkpoint.nbytes, checkpoint.format) == (expected.nbytes, expected.format)
    assert checkpoint.path == "s3://bucket/dcp"
    assert s3.bytes < 100_000
    s3.client.delete_object(Bucket="bucket", Key="dcp/__0_0.distcp")
    assert "__0_0.distcp" in failure("s3://bucket/dcp").message


def test_what_s3_does_not_have(s3: S3) -> None:
    assert "does not exist" in failure("s3://bucket/none.pth").message
    assert "does not exist" in failure("s3://nosuchbucket/none.pth").message


def test_s3_without_credentials(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", layers(1, 4))
    s3.put(path, "a.safetensors")
    s3.client.put_object_acl(Bucket="bucket", Key="a.safetensors", ACL="public-read")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", "/nonexistent")
    error = failure("s3://bucket/a.safetensors")
    assert "needs credentials" in error.message
    assert "FSSPEC_S3_ANON=true" in error.hint
    monkeypatch.delitem(fsspec.config.conf, "s3", raising=False)
    fsspec.config.set_conf_env(fsspec.config.conf, {"FSSPEC_S3_ANON": "true"})
    assert facts(read("s3://bucket/a.safetensors")) == facts(read(path))
    del fsspec.config.conf["s3"]


def test_an_object_that_is_replaced_meanwhile(s3: S3, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.pth", layers(10, 200))
    s3.put(path, "a.pth")
    source = remote.RemoteSource("s3://bucket/a.pth")
    assert source.read(0, 4) == b"PK\3\4"
    path.write_bytes(path.read_bytes().replace(b"layers", b"LAYERS"))
    s3.put(path, "a.pth")
    with pytest.raises(CheckpointError, match="was replaced"):
        source.read(source.size - 100, 100)
    source.close()


def test_an_s3_server_that_is_not_there(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        assert "cannot be read" in failure("s3://bucket/a.pth").message
