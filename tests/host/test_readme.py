"""README's five minutes, letter by letter: each marked block is run where it says, on a bare booted host."""

from pathlib import Path

import pytest

from tests.host.laptop import ROOT, Laptop
from tests.hosts.machine import Host
from tests.pages import marked

pytestmark = pytest.mark.host(beside=True)


def test_the_five_minutes_of_the_readme_work_letter_by_letter(host: Host, tmp_path: Path) -> None:
    laptop = Laptop(tmp_path, host)
    said = []
    for where, commands in marked(ROOT / "README.md"):
        if where == "here":
            said.append(laptop.run(commands))
        else:
            done = host.run(["bash", "-euo", "pipefail", "-c", f"cd /root\n{commands}"], check=False, timeout=120)
            assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
            said.append(done.stdout)
        print(said[-1])
    assert "Nobody can get in" in said[1]
    assert "jit-alice" in said[-4]
    assert "/usr/bin/systemctl restart cron.service" in said[-3]
    assert "ended, doors shut" in said[-2]
    assert said[-1].startswith("valid: ")
