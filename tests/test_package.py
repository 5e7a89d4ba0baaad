"""The package as it is published: built, checked, and used from a copy that is not the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytest.importorskip("build", reason="needs build, hatchling and twine")
pytestmark = pytest.mark.slow


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env={**os.environ, "PYTHONPATH": "", **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two files that are uploaded; the wheel is built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, folder=folder)
    return folder


@pytest.fixture(scope="module")
def away(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed in `site` and the sdist's fixtures, and nothing of the repository."""
    folder = tmp_path_factory.mktemp("away")
    (wheel,) = published.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, "--target", folder / "site", wheel, folder=folder)
    (sdist,) = published.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            _, _, member.name = member.name.partition("/")
            if member.name.startswith("fixtures/"):
                archive.extract(member, folder, filter="data")
    return folder


def test_the_wheel_is_the_package_and_its_description_is_sound(published: Path) -> None:
    (wheel,) = published.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (listed,) = [name for name in archive.namelist() if name.endswith("/entry_points.txt")]
        entry_points = ConfigParser()
        entry_points.read_string(archive.read(listed).decode())
    package = {path for path in (ROOT / "ckptdiff").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    manual = {name for name in names if name.endswith(".data/data/share/man/man1/ckptdiff.1")}
    assert len(manual) == 1
    assert names - manual == {path.relative_to(ROOT).as_posix() for path in package}
    assert entry_points["console_scripts"]["ckptdiff"] == "ckptdiff.cli:main"
    assert entry_points["pytest11"]["ckptdiff"] == "ckptdiff.pytest_plugin"
    run(sys.executable, "-m", "twine", "check", "--strict", *published.iterdir(), folder=published)


def test_the_sdist_can_be_tested(published: Path) -> None:
    (sdist,) = published.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("tests", "fixtures", "docs", "benchmarks"):
        kept = {path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts}
        assert {path.relative_to(ROOT).as_posix() for path in kept} <= names
    assert {"action.yml", ".pre-commit-hooks.yaml", "Makefile", "constraints.txt", "LICENSE"} <= names


def test_what_is_installed_runs_the_demo_and_every_entry_point(away: Path) -> None:
    script, site = away / "site" / "bin" / "ckptdiff", str(away / "site")
    shown = run("sh", "fixtures/demo.sh", folder=away, PYTHONPATH=site, BIN=str(script.parent))
    assert "[exit code 1]" in shown
    assert "loads" in shown
    code = (
        "import ckptdiff, sys; print(ckptdiff.__file__)\n"
        "from ckptdiff.cli import main; from ckptdiff.cli.app import COMMANDS\n"
        "sys.exit(any([main([*name, '--help']) for name in ([], *([name] for name in COMMANDS))]))"
    )
    shown = run(sys.executable, "-c", code, folder=away, PYTHONPATH=site)
    assert shown.startswith(site)
    version = run(script, "--version", folder=away, PYTHONPATH=site)
    assert version == run(sys.executable, "-m", "ckptdiff", "--version", folder=away, PYTHONPATH=site)
    assert "complete_bash" in run(script, "--show-completion", "bash", folder=away, PYTHONPATH=site)


def test_the_pytest_plugin_comes_with_it(away: Path) -> None:
    (away / "test_it.py").write_text(
        "import sys\n"
        "def test_it(assert_loads):\n"
        f"    assert sys.modules['ckptdiff'].__file__.startswith({str(away / 'site')!r})\n"
        "    assert_loads('fixtures/models.py:Net', 'fixtures/files/net.pth')\n"
    )
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py")
    assert "1 passed" in run(*command, folder=away, PYTHONPATH=str(away / "site"))
