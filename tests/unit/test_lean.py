"""What a process that runs all the time must not have in memory: each of these was, and is megabytes."""

import subprocess
import sys
from pathlib import Path

import pytest

from agent.journal.database import Database

REPOSITORY = Path(__file__).resolve().parents[2]
KEPT_OUT = {
    "agent.sessions.recorder.main": {"asyncio", "ssl", "yaml", "cryptography", "sqlite3", "agent.config"},
    "agent.daemon": {"click", "paramiko", "psutil", "http.client", "urllib.request"},
    "agent.courier.main": {"asyncio", "cryptography", "sqlite3", "click"},
}


@pytest.mark.parametrize("program", KEPT_OUT)
def test_what_it_has_no_use_for_is_not_imported(program: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import {program}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True)
    assert KEPT_OUT[program] & set(done.stdout.split()) == set()


def test_the_daemon_has_no_tls() -> None:
    """asyncio imports it wherever it can; a daemon with no network has no use for it."""
    head = (REPOSITORY / "packaging/bin/tidegated").read_text().partition("from agent")[0]
    code = f"{head}\nsys.path[0] = {str(REPOSITORY)!r}; import agent.daemon; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True)
    assert "_ssl" not in done.stdout.split()
    assert "asyncio" in done.stdout.split()


@pytest.mark.parametrize("unit", ["tidegated", "tidegate-recorder", "tidegate-courier"])
def test_threads_that_wait_share_an_arena(unit: str) -> None:
    assert "\nEnvironment=MALLOC_ARENA_MAX=1\n" in (REPOSITORY / f"systemd/{unit}.service").read_text()


def test_the_journal_keeps_little_of_its_file_in_memory(tmp_path: Path) -> None:
    database = Database(tmp_path / "state.db")
    assert database.rows("PRAGMA cache_size")[0][0] == -512
    database.close()
