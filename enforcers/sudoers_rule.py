"""One sudoers rule: the words a grant may ask for, its text, and the proof by sudo's own parser (sudoers(5), cvtsudoers(1)).

``visudo -c`` is no safety check: it passes an injected second rule. So the text is read back as JSON by cvtsudoers, and
must be, member for member, the rule that was asked for.
"""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from agent.errors import HostError, InvalidGrantError
from agent.host.contract import Reader, Writer
from agent.model import Json, JsonObject
from agent.model.fields import absolute_path, string

COMMAND_MAX, WORDS_MAX = 1000, 64
# Printable ASCII but wildcards, backslash, quotes and blank: sudo matches the arguments, joined by blanks, with fnmatch(3).
_ARGUMENT = re.compile(r"[!#-&(-)+->@-Z^-~]+")
_SPECIAL = re.compile(r"([,:=#])")
PROBE = "tidegate-probe"
HEADER = "# Written by tidegated; changes are overwritten.\n"
# Programs that have no business to start another, when they are called as a grant may call them: sudo then keeps them from it
# (NOEXEC: for dynamically linked programs, which these are).
_LEAVES = frozenset({
    "cat", "cut", "date", "df", "dmesg", "du", "egrep", "fgrep", "free", "grep", "head", "id", "journalctl", "last", "ls", "lsblk",
    "lsof", "netstat", "ps", "readlink", "ss", "stat", "systemctl", "tail", "uname", "uptime", "wc", "who", "whoami",
})  # fmt: skip
_BIN = frozenset({"/bin", "/sbin", "/usr/bin", "/usr/sbin"})
# For a login of ours alone: nothing of the tenant's environment gets to the command, whatever the site lets others keep, and
# the command has a terminal of its own. PATH is for what a script of the host's starts by name.
_DEFAULTS: tuple[tuple[str, bool | str | tuple[str, ...]], ...] = (
    ("env_reset", True),
    ("setenv", False),
    ("use_pty", True),
    ("env_editor", False),
    ("env_keep", ("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "LC_TIME")),
    ("secure_path", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("syslog", "authpriv"),
    ("log_format", "json"),  # whatever the site's is; for agent.expiry.logged
    ("log_allowed", True),
    ("log_denied", True),
)


def command(value: object, field: str) -> tuple[str, ...]:
    """A command line as its words (shlex, POSIX): a plain absolute path, then literal arguments.

    Raises:
        InvalidGrantError: ``command_invalid``, or ``path_invalid`` for the first word.
    """
    found = string(value, field)

    def refuse(why: str) -> InvalidGrantError:
        return InvalidGrantError("command_invalid", f"{found[:80]!a}: {why}", field=field)

    if not 1 <= len(found) <= COMMAND_MAX or not found.isascii() or not found.isprintable() or "\\" in found:
        raise refuse(f"must be 1 to {COMMAND_MAX} printable ASCII characters, without backslash")
    try:
        words = tuple(shlex.split(found))
    except ValueError:
        raise refuse("a quote is not closed") from None
    if not 1 <= len(words) <= WORDS_MAX:
        raise refuse(f"must have 1 to {WORDS_MAX} words")
    path = absolute_path(words[0], field)
    if path.rsplit("/", 1)[1] == "sudoedit":
        raise refuse("sudoedit is no command of its own")
    for word in words[1:]:
        if not _ARGUMENT.fullmatch(word):
            raise refuse("an argument must be literal: no wildcard, quote or blank in it, and not empty")
        if ".." in word.split("/"):
            raise refuse("an argument must not have a '..' segment")
    if len(words) > 1 and words[1].startswith("^"):
        raise refuse("arguments that begin with '^' are a regular expression to sudo")
    return words


@dataclass(frozen=True, slots=True)
class Rule:
    """What one file must say. ``until``: the last second it holds, since the epoch; ``timeout_s``: how long a command may run.

    ``own``: the login is of this grant, so that its whole way of using sudo may be set.
    """

    login: str
    run_as: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]
    until: int
    timeout_s: int
    own: bool = False

    @property
    def lists(self) -> tuple[tuple[tuple[tuple[str, ...], ...], bool], ...]:
        """The commands as sudoers lists them, each with whether it is NOEXEC; those that may start others come first."""
        parted = {leaf: tuple(words for words in self.commands if is_leaf(words) is leaf) for leaf in (False, True)}
        return tuple((commands, leaf) for leaf, commands in parted.items() if commands)

    def to_json(self) -> dict[str, Json]:
        """For the journal."""
        return {
            "login": self.login,
            "run_as": list(self.run_as),
            "commands": [list(words) for words in self.commands],
            "until": self.until,
            "timeout_s": self.timeout_s,
            "own": self.own,
        }

    @classmethod
    def from_json(cls, value: JsonObject) -> "Rule":
        """The inverse. Raises HostError ``bad_step``."""
        login, run_as, commands = value.get("login"), value.get("run_as"), value.get("commands")
        until, timeout_s = value.get("until"), value.get("timeout_s")
        if not (isinstance(login, str) and isinstance(run_as, list) and isinstance(commands, list)) or not (
            isinstance(until, int) and isinstance(timeout_s, int)
        ):
            raise HostError("bad_step", "a sudo step's rule is malformed")
        return cls(
            login=login,
            run_as=tuple(str(name) for name in run_as),
            commands=tuple(tuple(str(word) for word in words) for words in commands if isinstance(words, list)),
            until=until,
            timeout_s=timeout_s,
            own=value.get("own") is True,
        )

    def asks(self) -> dict[str, Json]:
        """What ``sudo -l`` is asked once this stands, and once it is gone (agent.expiry.proof)."""
        return {
            "kind": "sudo",
            "login": self.login,
            "run_as": list(self.run_as),
            "commands": [" ".join([words[0], *(words[1:] or ('""',))]) for words in self.commands],
            "not_after": self.stamp,
            "timeout_s": self.timeout_s,
        }

    @property
    def stamp(self) -> str:
        """``until`` as sudoers writes it, always in UTC: without the Z it would be local time."""
        return datetime.fromtimestamp(self.until, UTC).strftime("%Y%m%d%H%M%SZ")


def is_leaf(words: Sequence[str]) -> bool:
    """Whether the command is one that needs no other program, and is kept from starting any."""
    folder, _, name = words[0].rpartition("/")
    return folder in _BIN and name in _LEAVES


def render(rule: Rule) -> str:
    """The sudoers text: for a login of ours its Defaults, then one line with the rule.

    Options stand before the tags, and hold for every command after them, as the tags do. A command without arguments gets
    ``""``, which allows none.
    """
    commands = []
    for listed, leaf in rule.lists:
        texts = [" ".join([words[0], *(_SPECIAL.sub(r"\\\1", word) for word in words[1:] or ['""'])]) for words in listed]
        commands.append(("NOEXEC: " if leaf else "") + ", ".join(texts))
    defaults = f"Defaults:{rule.login} {', '.join(_setting(name, value) for name, value in _DEFAULTS)}\n" if rule.own else ""
    tags = f"NOTAFTER={rule.stamp} TIMEOUT={rule.timeout_s} NOPASSWD:NOSETENV:"
    return f"{defaults}{rule.login} ALL=({','.join(rule.run_as)}) {tags} {', '.join(commands)}\n"


def _setting(name: str, value: bool | str | tuple[str, ...]) -> str:
    if isinstance(value, bool):
        return name if value else f"!{name}"
    return f'{name} = "{value if isinstance(value, str) else " ".join(value)}"'


def prove(rule: Rule, text: str, reader: Reader) -> None:
    """Have cvtsudoers read the text, and compare. Raises HostError ``sudo_rule_unprovable``, ``tool_missing``."""
    result = reader.check(["cvtsudoers", "-c", "/dev/null", "-f", "json"], stdin=text.encode())
    if not result.ok or result.stderr.strip():
        said = (result.stderr.strip().splitlines() or ["no output"])[0]
        raise HostError("sudo_rule_unprovable", f"cvtsudoers does not take the rule: {said[:200]}")
    try:
        found = json.loads(result.stdout)
        for entry in found["User_Specs"][0]["Cmnd_Specs"]:
            entry["Options"] = sorted(entry["Options"], key=str)
    except (ValueError, LookupError, TypeError):
        found = None
    if found != _expected(rule):
        raise HostError("sudo_rule_unprovable", "cvtsudoers reads another rule than the one asked for")


def _expected(rule: Rule) -> dict[str, Json]:
    """The JSON of cvtsudoers for exactly this rule."""
    specifications: list[Json] = []
    for listed, leaf in rule.lists:
        options: list[dict[str, Json]] = [{"authenticate": False}, {"setenv": False}]
        options += [{"notafter": rule.stamp}, {"command_timeout": rule.timeout_s}]
        options += [{"noexec": True}] if leaf else []
        specifications.append(
            {
                "runasusers": [{"username": name} for name in rule.run_as],
                "Options": [*sorted(options, key=str)],
                "Commands": [{"command": " ".join([words[0], *(words[1:] or ('""',))])} for words in listed],
            }
        )
    user: dict[str, Json] = {
        "User_List": [{"username": rule.login}],
        "Host_List": [{"hostname": "ALL"}],
        "Cmnd_Specs": specifications,
    }
    if not rule.own:
        return {"User_Specs": [user]}
    settings: list[Json] = []
    for name, value in _DEFAULTS:
        listed_as: dict[str, Json] = {name: [*value] if isinstance(value, tuple) else value}
        settings.append({"operation": "list_assign", **listed_as} if isinstance(value, tuple) else listed_as)
    return {"Defaults": [{"Binding": [{"username": rule.login}], "Options": settings}], "User_Specs": [user]}


def prepare(writer: Writer) -> None:
    """Put ``/etc/sudoers.d/tidegate`` in place, and prove that sudo really reads the folder it names.

    A rule that lets root run what is not there is put in that folder for a moment, and ``sudo -l`` must list it. Sudo itself
    is asked because ``visudo -c`` lists nothing where a sibling file is broken, past which sudo goes on.

    Raises:
        HostError: ``sudoers_unreached`` (no @includedir of sudoers.d, or another sudoers source); the old file is then back.
    """
    paths = writer.config.paths
    path, probe = paths.sudoers_drop_in, paths.sudoers / PROBE
    text = f"{HEADER}@includedir {paths.sudoers}\n".encode()
    old = writer.read(path)
    if old != text:
        writer.write(path, text, 0o440)
    try:
        writer.write(probe, f"root ALL=(root) /nonexistent/{PROBE}\n".encode(), 0o440)
        _see_probe(writer)
    except HostError:
        if old != text:
            writer.write(path, old, 0o440) if old is not None else writer.remove(path)
        raise
    finally:
        writer.remove(probe)


def retire(writer: Writer) -> None:
    """Take the drop-in away, if it is still ours. Raises HostError."""
    path = writer.config.paths.sudoers_drop_in
    if (writer.read(path) or b"").startswith(HEADER.encode()):
        writer.remove(path)


def _see_probe(reader: Reader) -> None:
    if f"/nonexistent/{PROBE}" not in reader.check(["sudo", "-n", "-l", "-U", "root"]).stdout:
        paths = reader.config.paths
        raise HostError("sudoers_unreached", f"sudo does not read {paths.sudoers_drop_in}, or not {paths.sudoers}")
