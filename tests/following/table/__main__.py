"""Does following say what the real calls do? `python -m tests.following.table [--family F] [--only EXPRESSION]`

Each family of loaders runs in a process of its own, and each row of it in a forked one with a time limit.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from tests.following.table.running import FAMILIES, run_family


def main() -> int:
    """Print what came out; 1 where anything is wrong or nothing ran."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=FAMILIES, help="the rows of this module alone, in this process")
    parser.add_argument("--only", default="", help="rows in whose name this regular expression is found")
    parser.add_argument("--situation", default="", help="this situation alone")
    parser.add_argument("--quiet", action="store_true", help="only what does not simply agree")
    options = parser.parse_args()
    if options.family:
        tally = run_family(options.family, options.only, options.situation, quiet=options.quiet)
        print(tally, flush=True)
        return tally.code
    codes = [
        subprocess.run([sys.executable, "-m", "tests.following.table", "--family", family, *sys.argv[1:]]).returncode
        for family in FAMILIES
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
