"""The loaders of diffusers, timm and PEFT against the real ones: `python -m tests.zoo.libraries [LIBRARY…] [--only A]`.

Prints every case that does not agree, and how many do.
"""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
from pathlib import Path
from typing import Any

LIBRARIES = {"diffusers": "tests.zoo.diffusion", "timm": "tests.zoo.timm_filters", "peft": "tests.zoo.adapters"}


def main() -> int:
    """Exits with 1 where a case does not agree."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("libraries", nargs="*", choices=[*LIBRARIES, []], default=[])
    parser.add_argument("--only", default="", help="classes, architectures or bases, with commas between them")
    given = parser.parse_args()
    wrong = 0
    for library in given.libraries or LIBRARIES:
        module: Any = importlib.import_module(LIBRARIES[library])
        names = tuple(filter(None, given.only.split(",")))
        total = agree = 0
        with tempfile.TemporaryDirectory() as folder:
            for case, found in module.tried(Path(folder), names):
                total += 1
                agree += not found
                if found:
                    print(f"{library} {case}: {'; '.join(found)}", flush=True)
        print(f"{library}: {agree} of {total} agree", flush=True)
        wrong += total - agree
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
