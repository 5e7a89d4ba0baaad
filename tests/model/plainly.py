"""The oracle of the builds: sources run as anybody would, each in a process of its own.

Run as `-m tests.model.plainly`, it reads a JSON object of sources from standard input and writes one of what became of
their `Net()`: its schema as text, or the error it raised.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path


def plain_schemas(sources: Mapping[str, str]) -> dict[str, str]:
    """What became of each source's `Net()` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.model.plainly"],
        input=json.dumps(sources),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])},
    )
    result: dict[str, str] = json.loads(done.stdout.rpartition("\n")[2])
    return result


def _become_of(source: str, directory: str) -> str:
    from tests.model.oracle import schema

    try:
        path = Path(directory) / "model.py"
        path.write_text(source, encoding="utf-8")
        sys.path.insert(0, directory)
        return repr(schema(importlib.import_module("model").Net()))
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


def _main() -> None:
    import numpy  # noqa: F401 - once for all of them
    import torch  # noqa: F401

    found: dict[str, str] = {}
    for name, source in json.load(sys.stdin).items():
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            os.close(read)
            with os.fdopen(write, "w", encoding="utf-8") as stream:
                with tempfile.TemporaryDirectory() as directory:
                    stream.write(_become_of(source, directory))
                stream.flush()
            os._exit(0)
        os.close(write)
        with os.fdopen(read, encoding="utf-8") as stream:
            found[name] = stream.read()
        os.waitpid(child, 0)
    print("\n" + json.dumps(found), end="")


if __name__ == "__main__":
    _main()
