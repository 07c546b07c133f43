"""What sudo itself says of rendered rules, on a whole host: ``sudo -l -U`` names exactly the commands of the grant."""

import random
from collections.abc import Iterator

import pytest

from agent.errors import InvalidGrantError
from agent.model import SudoWant
from enforcers.sudo import SudoEnforcer
from enforcers.sudoers_rule import Rule, render
from tests.fuzz.source import ODD, Source
from tests.hosts.machine import Host

pytestmark = pytest.mark.host(beside=True)
CASES = 24
FOLDER = "/etc/sudoers.d"


@pytest.fixture(scope="module")
def host(suite: str) -> Iterator[Host]:
    with Host.boot(suite=suite) as found:
        yield found


def wants() -> list[SudoWant]:
    """Entries that the enforcer takes, of words with all that means something to sudo in them; always the same ones."""
    found: list[SudoWant] = []
    chance = random.Random(33)
    pieces = [
        *(odd for odd in ODD if odd.isascii() and odd.isprintable()),
        "restart",
        "--now",
        "a=b,c:d",
        "u#0",
        "!x",
        "%h",
        "~root",
        "@x",
    ]
    while len(found) < CASES:
        source = Source(chance.randbytes(200))
        commands = []
        for number in range(1 + source.number(3)):
            words = ["".join(source.choice(pieces) for _ in range(1 + source.number(2))) for _ in range(source.number(3))]
            commands.append(" ".join([f"/usr/bin/tool{number}", *words]))
        body = {
            "type": "sudo",
            "identifier": f"jit-u{len(found)}",
            "run_as": ["root", "games"][: 1 + source.number(1)],
            "commands": commands,
        }
        try:
            found.append(SudoEnforcer().decode(body, "entry"))
        except InvalidGrantError:
            continue
    return found


@pytest.mark.host(everywhere=True)
def test_sudo_lists_exactly_what_was_granted(host: Host) -> None:
    asked = wants()
    assert any(len(words) > 1 for want in asked for words in want.commands)
    tools = "for n in 0 1 2 3; do printf '#!/bin/sh\\necho ran\\n' > /usr/bin/tool$n; chmod 755 /usr/bin/tool$n; done"
    host.run(f"{tools}; for n in $(seq 0 {CASES - 1}); do useradd jit-u$n; done", timeout=120)
    for number, want in enumerate(asked):
        host.write(f"{FOLDER}/grant-{number}", render(Rule(want.identifier, want.run_as, want.commands, 4_000_000_000, 3600)))
        host.run(["chmod", "0440", f"{FOLDER}/grant-{number}"])
    host.run(["visudo", "-c"])
    for want in asked:
        listed = host.run(["sudo", "-n", "-l", "-U", want.identifier]).stdout
        _, _, rules = listed.partition("may run the following commands")
        (line,) = [line.strip() for line in rules.splitlines()[1:] if line.strip()]
        who, _, said = line.partition(") ")
        assert who == "(" + ", ".join(want.run_as), line
        said = said.partition("NOPASSWD: ")[2].replace("\\", "")
        assert said == ", ".join(" ".join([words[0], *(words[1:] or ('""',))]) for words in want.commands), line


@pytest.mark.host(everywhere=True)
def test_sudo_runs_what_was_granted_word_for_word_and_nothing_else(host: Host) -> None:
    for want in wants()[:5]:
        for words in want.commands:
            as_tenant = ["runuser", "-u", want.identifier, "--", "sudo", "-n"]
            done = host.run([*as_tenant, *words], check=False)
            assert (done.stdout, done.stderr) == ("ran\n", ""), (words, done.returncode)
            for other in ([*words, "more"], [words[0], "other"], ["/usr/bin/id"], ["-u", "daemon", *words]):
                if tuple(other) not in want.commands:
                    assert host.run([*as_tenant, *other], check=False).returncode != 0, other
