"""`ckptdiff inspect` of a 2 GB checkpoint behind a URL: what travels, beside downloading the file first.

The server is on loopback, so the times are of the two programs and not of any network.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import once

DOWNLOAD = """
import shutil, subprocess, sys, tempfile, urllib.request
with tempfile.NamedTemporaryFile(dir=sys.argv[2]) as file:
    with urllib.request.urlopen(sys.argv[1]) as answer:
        shutil.copyfileobj(answer, file, 1 << 20)
    file.flush()
    sys.exit(subprocess.call([sys.executable, "-m", "ckptdiff", "inspect", file.name]))
"""


def main() -> None:
    """Print one table. Needs 2 GB in a temporary folder for the downloads; the files served are holes."""
    from tests.loopback import Server, layers, serving, write_legacy, write_safetensors, write_zip

    def row(title: str, server: Server, command: Sequence[str]) -> str:
        sent, asked = server.bytes, server.requests
        cost = once(command)
        return f"| {title} | {server.bytes - sent:,} | {server.requests - asked} | {cost.wall:.2f} |"

    python = sys.executable
    lines = ["### 2 GB behind a URL", "", "| | bytes | requests | wall s |", "|---|--:|--:|--:|"]
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server:
        for tensors, width in ((300, 1850), (5000, 450)):
            state = layers(tensors // 2, width)
            for name, write in (
                ("model.pth", write_zip),
                ("legacy.pth", write_legacy),
                ("model.safetensors", write_safetensors),
            ):
                write(Path(folder, name), state)
                url = f"{server.url}/{name}"
                title = f"{name}, {tensors:,} tensors"
                lines.append(row(f"{title}: ckptdiff inspect URL", server, [python, "-m", "ckptdiff", "inspect", url]))
                if tensors == 300:
                    lines.append(row(f"{title}: download it first", server, [python, "-c", DOWNLOAD, url, folder]))
        shards = {f"model-{number:05}-of-00100.safetensors": layers(10, 700) for number in range(100)}
        weight_map = {}
        for number, (file, state) in enumerate(shards.items()):
            renamed = {f"{number}.{key}": value for key, value in state.items()}
            write_safetensors(Path(folder, file), renamed)
            weight_map |= dict.fromkeys(renamed, file)
        Path(folder, "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        url = f"{server.url}/model.safetensors.index.json"
        lines.append(
            row("100 shards of 20 MB: ckptdiff inspect URL", server, [python, "-m", "ckptdiff", "inspect", url])
        )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
