"""From a sudo entry to the text of a sudoers file: sudo's own parser must read the one rule that was asked for, and no other.

``cvtsudoers`` and ``visudo`` are only handed the text; nothing of this machine's own sudoers is read or changed.
"""

import json
import shutil
import subprocess
from collections.abc import Sequence

from agent.errors import InvalidGrantError
from agent.model import SudoWant
from enforcers import sudoers_rule
from enforcers.sudo import SudoEnforcer
from enforcers.sudoers_rule import Rule
from tests.fuzz.source import Source

MAX_LEN = 512
WORDS = ()
TOOLS = ("cvtsudoers", "visudo")
_ENFORCER = SudoEnforcer()
_LOGINS = ("jit-a", "root", "deploy", "all", "www-data", "postgres")
_PATHS = ("/usr/bin/id", "/usr/bin/systemctl", "/bin/ls", "/opt/a.b/c+d_e-f", "/a")
_ARGUMENTS = (
    "restart",
    "nginx.service",
    "-n",
    "--option=1,2:3",
    "a=b",
    "u#0",
    "!x",
    "~",
    "%h",
    "@",
    "{}",
    "a;b|c&d",
    "<>",
    "$HOME",
    "`id`",
)


def check(data: bytes) -> None:
    """Refused when decoded, or its text says exactly that rule to cvtsudoers, and is a file that visudo takes."""
    source = Source(data)
    body = {
        "type": "sudo",
        "identifier": source.mostly(_LOGINS),
        "run_as": [source.mostly(_LOGINS) for _ in range(1 + source.number(2))],
        "commands": [_command(source) for _ in range(1 + source.number(3))],
    }
    until, timeout_s = 1_800_000_000 + source.number(1 << 32), 1 + source.number(90 * 86400)
    try:
        want = _ENFORCER.decode(body, "entry")
    except InvalidGrantError as error:
        assert error.reason.isprintable()
        return
    if not all(map(shutil.which, TOOLS)):
        return
    rule = Rule(want.identifier, want.run_as, want.commands, until, timeout_s)
    text = sudoers_rule.render(rule)
    assert text.count("\n") == 1 and text.isascii() and text.replace("\n", "").isprintable(), text
    _means(rule, want, text)


def _command(source: Source) -> str:
    words = [source.mostly(_PATHS), *(source.mostly(_ARGUMENTS, 60) for _ in range(source.number(4)))]
    return " ".join(words) if source.number(3) else source.choice(("'%s'", '"%s"', "%s ''", " %s ")) % " ".join(words)


def _means(rule: Rule, want: SudoWant, text: str) -> None:
    """By our own reading of cvtsudoers' JSON: this is no call of the proof that the enforcer makes, but its judge."""
    (only,) = json.loads(_said(["cvtsudoers", "-c", "/dev/null", "-f", "json"], text))["User_Specs"]
    assert only["User_List"] == [{"username": want.identifier}] and only["Host_List"] == [{"hostname": "ALL"}], text
    meant = sorted(" ".join([words[0], *(words[1:] or ['""'])]) for words in want.commands)
    said = [found for allowed in only["Cmnd_Specs"] for found in allowed["Commands"]]
    assert sorted(found["command"] for found in said) == meant, (text, said)
    assert all(found.keys() == {"command"} for found in said), text
    for allowed in only["Cmnd_Specs"]:
        assert allowed["runasusers"] == [{"username": name} for name in want.run_as] and "runasgroups" not in allowed, text
        options = {key: value for option in allowed["Options"] for key, value in option.items()}
        assert options.pop("authenticate") is False and options.pop("setenv") is False, text
        assert options.pop("noexec", True) is True and options.pop("notafter") == rule.stamp, text
        assert options.pop("command_timeout") == rule.timeout_s and not options, text
    _said(["visudo", "-c", "-f", "-"], text)
    sudoers_rule.prove(rule, text, _Reader())  # type: ignore[arg-type]  # all of a Reader that the proof asks


def _said(argv: Sequence[str], text: str) -> str:
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0 and (argv[0] == "visudo" or not done.stderr.strip()), (argv, text, done.stdout, done.stderr)
    return done.stdout


class _Reader:
    """Runs the one read-only tool."""

    def check(self, argv: Sequence[str], *, stdin: bytes | None = None) -> object:
        from agent.host.contract import CommandResult

        done = subprocess.run(argv, input=stdin or b"", capture_output=True, check=False, timeout=30)
        return CommandResult(tuple(argv), done.returncode, done.stdout.decode(), done.stderr.decode())
