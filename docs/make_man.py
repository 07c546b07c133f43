"""Writes docs/man: ``tidegate(1)`` and ``tidegated(8)`` from the commands themselves, those of section 5 from the documentation.

Run it after a change of a command's help, docs/CONFIGURATION.md or docs/POLICY.md; the tests compare. ``--completions`` also has
click write packaging/completions again, which only another way of click's to complete makes necessary.
"""

import argparse
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent import VERSION  # noqa: E402
from agent.arguments import parser as daemon_parser  # noqa: E402
from agent.cli.main import cli  # noqa: E402
from agent.courier.main import parser as courier_parser  # noqa: E402
from agent.daemon import main as daemon  # noqa: E402
from agent.sessions.recorder.main import parser as recorder_parser  # noqa: E402

TARGET = ROOT / "docs/man"
COMPLETIONS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}

_EXIT_STATUS = """\
.SH EXIT STATUS
.TP
.B 0
Done.
.TP
.B 1
Failed: the daemon does not answer, a file is bad, or what was to be ended is not over yet.
.TP
.B 2
Wrong usage.
.TP
.B 3
Refused, with code and reason.
.TP
.B 130
Interrupted.
"""
_FILES = """\
.SH FILES
.TP
.I /etc/tidegate/tidegate.yaml
Configuration, with conf.d/*.yaml beside it; see
.BR tidegate.yaml (5).
.TP
.I /etc/tidegate/policy.d/*.yaml
What may be granted on this host; see
.BR tidegate\\-policy (5).
.TP
.I /etc/tidegate/trust.d/*.jwks
Whose signature counts, and for which issuer.
.TP
.I /var/lib/tidegate/spool/inbox
Where signed grants, revocations and bulletins are dropped in.
.TP
.I /var/lib/tidegate/spool/outbox
Answers, receipts and events.
.TP
.I /var/lib/tidegate/sessions
Recordings.
.TP
.I /var/lib/tidegate/archive
Homes that a grant had packed away.
"""
_ENVIRONMENT = """\
.SH ENVIRONMENT
.TP
.B TIDEGATE_CONFIG
Another configuration file than
.IR /etc/tidegate/tidegate.yaml .
"""
_DAEMON = """\
It verifies each file that is dropped into the inbox, judges it by this host's policy, makes the accounts, keys, sudo rules and
memberships that it grants, and at its end shuts the doors, kills every process, puts everything back as it was and signs a receipt.
It opens no network socket.

Stopping it leaves open grants open: a systemd timer behind each of them ends it on time all the same. Restarting it ends no
session and moves no deadline.
"""
_SIGNALS = """\
.SH SIGNALS
.TP
.B SIGHUP
Read configuration, policy and keys again, and prepare sshd and sudo again.
.TP
.BR SIGTERM ", " SIGINT
Stop. What is open stays open, with its timer.
"""
_RECORDER = """\
It holds the terminals and streams of tenants whose grant asks for a recording, and writes what passes, sealed, into its
folder. tidegate-shell, the tenants' login shell, hands each session over to it before the real shell runs. It has no privilege
and no network.

A restart ends no session: systemd keeps its descriptors.
"""
_COURIER = """\
It brings grants, revocations and bulletins from a control plane into the inbox, and carries answers, receipts, events and
recordings there, over https with mutual TLS, or over NATS where the package tidegate-courier-nats is installed. It has no
privilege and can make nothing that tidegated believes; access ends on time without it.

`tidegate enroll` makes this host known to a control plane and writes /etc/tidegate/courier.yaml, which tidegate.yaml(5)
describes. Until then it waits. `tidegate status` and `tidegate doctor` show how it stands.

SIGHUP has it read courier.yaml again at once.
"""


def pages() -> dict[str, str]:
    """File name → text."""
    return {
        "tidegate.1": _command_page(),
        "tidegated.8": _daemon_page(),
        "tidegate-recorder.8": _program_page(
            "tidegate-recorder",
            "records the sessions of Tidegate's tenants",
            _RECORDER,
            recorder_parser(),
            "tidegate(1), tidegated(8)",
        ),
        "tidegate-courier.8": _program_page(
            "tidegate-courier",
            "carries Tidegate's signed files to and from a control plane",
            _COURIER,
            courier_parser(),
            "tidegate(1), tidegate.yaml(5), tidegated(8)",
        ),
        "tidegate.yaml.5": _converted(
            "tidegate.yaml", "configuration of Tidegate", "CONFIGURATION.md", "tidegate-policy(5), tidegated(8)"
        ),
        "tidegate-policy.5": _converted(
            "tidegate-policy", "what may be granted on this host", "POLICY.md", "tidegate.yaml(5), tidegate(1)"
        ),
    }


def _head(name: str, section: int, about: str) -> str:
    return (
        f'.\\" Written by docs/make_man.py.\n.TH {_escaped(name).upper()} {section} "" "Tidegate {VERSION}" "Tidegate"\n'
        f".SH NAME\n{_escaped(name)} \\- {_escaped(about)}\n"
    )


def _see_also(names: str) -> str:
    shown = [f".BR {_escaped(name)} ({section})" for name, section in re.findall(r"([\w.-]+)\((\d)\)", names)]
    return ".SH SEE ALSO\n" + " ,\n".join(shown) + "\n"


# Commands


def _command_page() -> str:
    parts = [_head("tidegate", 1, "who can get into this host, why, and until when")]
    parts.append(".SH SYNOPSIS\n.B tidegate\n[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGS\\fR]...\n.SH DESCRIPTION\n")
    parts += [_help(cli.help or ""), ".SH OPTIONS\n", _options(cli), ".SH COMMANDS\n"]
    for words, command in _leaves(cli, ("tidegate",)):
        parts += [f".SS {_usage(words, command)}\n", _help(command.help or ""), _options(command)]
    return "".join([*parts, _EXIT_STATUS, _ENVIRONMENT, _FILES, _see_also("tidegate.yaml(5), tidegate-policy(5), tidegated(8)")])


def _daemon_page() -> str:
    parser = daemon_parser(daemon.__doc__)
    parts = [_head("tidegated", 8, "opens access by signed grants, and shuts it on the second")]
    parts += [".SH SYNOPSIS\n.B tidegated\n[\\fIOPTIONS\\fR]\n.SH DESCRIPTION\n", _help(parser.description or ""), _help(_DAEMON)]
    parts += [".SH OPTIONS\n", *_arguments(parser), _SIGNALS, _ENVIRONMENT, _FILES]
    return "".join([*parts, _see_also("tidegate(1), tidegate.yaml(5), tidegate-policy(5), tidegate-recorder(8)")])


def _program_page(name: str, about: str, text: str, parser: argparse.ArgumentParser, see: str) -> str:
    """Of a program beside the daemon, by its own parser."""
    parts = [_head(name, 8, about), f".SH SYNOPSIS\n.B /usr/lib/tidegate/{_escaped(name)}\n[\\fIOPTIONS\\fR]\n.SH DESCRIPTION\n"]
    return "".join([*parts, _help(text), ".SH OPTIONS\n", *_arguments(parser), _see_also(see)])


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        value = "" if action.nargs == 0 else f" \\fI{_escaped(str(action.metavar or action.dest.upper()))}\\fR"
        names = ", ".join(f"\\fB{_escaped(name)}\\fR" for name in action.option_strings)
        yield f".TP\n{names}{value}\n{_escaped(action.help or f'Default {action.default}.')}\n"


def subcommands(group: click.Group) -> list[tuple[str, click.Command]]:
    """By name, each imported now."""
    context = click.Context(group)
    found = [(name, group.get_command(context, name)) for name in group.list_commands(context)]
    return [(name, command) for name, command in found if command is not None]


def _leaves(group: click.Group, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in subcommands(group):
        if isinstance(command, click.Group):
            yield from _leaves(command, (*words, name))
        elif not command.hidden:
            yield (*words, name), command


def _usage(words: tuple[str, ...], command: click.Command) -> str:
    arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    shown = [f"{(one.metavar or one.name or '').upper()}{'...' if one.nargs == -1 else ''}".strip("[]") for one in arguments]
    shown = [name if one.required else f"[{name}]" for name, one in zip(shown, arguments, strict=True)]
    return _escaped(" ".join([*words, *shown]))


def _options(command: click.Command) -> str:
    lines = []
    for option in command.params:
        if not isinstance(option, click.Option) or option.hidden:
            continue
        names = ", ".join(f"\\fB{_escaped(name)}\\fR" for name in (*option.opts, *option.secondary_opts))
        value = "" if option.is_flag or option.count else f" \\fI{_escaped(_value(option))}\\fR"
        lines.append(f".TP\n{names}{value}\n{_inline(option.help or '')}\n")
    return "".join(lines)


def _value(option: click.Option) -> str:
    if option.metavar:
        return option.metavar
    return "|".join(map(str, option.type.choices)) if isinstance(option.type, click.Choice) else option.type.name.upper()


def _help(text: str) -> str:
    """Click's help, indented as in its source: paragraphs, of which those that begin with a backspace stand as they are."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text).strip()):
        if paragraph.startswith("\b"):
            parts.append(f".PP\n.nf\n{_lines(paragraph[1:].strip(chr(10)))}\n.fi\n")
        else:
            parts.append(f".PP\n{_inline(' '.join(paragraph.split()))}\n")
    return "".join(parts)


# Markdown, as far as our pages use it


def _converted(name: str, about: str, page: str, see: str) -> str:
    _, _, body = (ROOT / "docs" / page).read_text(encoding="utf-8").partition("\n")
    return _head(name, 5, about) + ".SH DESCRIPTION\n" + "".join(_blocks(body.strip().splitlines())) + _see_also(see)


def _blocks(lines: list[str]) -> Iterator[str]:
    while lines:
        line = lines.pop(0)
        if line.startswith("```"):
            end = next(number for number, one in enumerate(lines) if one.startswith("```"))
            code, lines[:] = lines[:end], lines[end + 1 :]
            yield f".PP\n.in +4n\n.nf\n{_lines(chr(10).join(code))}\n.fi\n.in\n"
        elif found := re.match(r"(#+) (.*)", line):
            yield f".{'SH' if len(found[1]) == 2 else 'SS'} {_inline(found[2].upper() if len(found[1]) == 2 else found[2])}\n"
        elif line.startswith("|"):
            rows = [line]
            while lines and lines[0].startswith("|"):
                rows.append(lines.pop(0))
            yield from _table(rows)
        elif found := re.match(r"(?:- |\d+\. )(.*)", line):
            yield f".IP \\(bu 2\n{_inline(_joined(found[1], lines))}\n"
        elif line.strip():
            yield f".PP\n{_inline(_joined(line, lines))}\n"


def _joined(first: str, lines: list[str]) -> str:
    """A paragraph or item with the lines that go on with it."""
    parts = [first]
    while lines and lines[0].strip() and not re.match(r"```|#|\||- |\d+\. ", lines[0]):
        parts.append(lines.pop(0).strip())
    return " ".join(parts)


def _table(rows: list[str]) -> Iterator[str]:
    """Each row an item: a terminal is too narrow for a table of sentences."""
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    heads = cells[0]
    for row in cells[2:]:
        rest = [
            f"{head}: {cell}" if head and head != "meaning" else cell
            for head, cell in list(zip(heads, row, strict=True))[1:]
            if cell
        ]
        yield f".TP\n{_inline(row[0])}\n" + "\n.br\n".join(_inline(text.replace("\\|", "|")) for text in rest) + "\n"


def _inline(text: str) -> str:
    """Links lose their target, code and strong words become bold."""
    text = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text)
    parts = re.split(r"(`[^`]+`|\*\*[^*]+\*\*)", text)
    marks = {"`": 1, "*": 2}
    for number in range(1, len(parts), 2):
        cut = marks[parts[number][0]]
        parts[number] = f"\\fB{_escaped(parts[number][cut:-cut])}\\fR"
    shown = [part if number % 2 else _escaped(part) for number, part in enumerate(parts)]
    return _guarded("".join(shown))


def _lines(text: str) -> str:
    return "\n".join(_guarded(_escaped(line)) for line in text.splitlines())


def _guarded(line: str) -> str:
    """A line that begins like a request of roff's is text all the same."""
    return f"\\&{line}" if line[:1] in {".", "'"} else line


def _escaped(text: str) -> str:
    for plain, roff in (("\\", "\\e"), ("-", "\\-"), ("~", "\\(ti"), ("^", "\\(ha"), ("`", "\\(ga")):
        text = text.replace(plain, roff)
    return text


def completion(shell: type[ShellComplete]) -> str:
    """What click has a user source."""
    made = shell(cli, {}, "tidegate", "_TIDEGATE_COMPLETE")
    return (made.source_template % made.source_vars()).strip() + "\n"


def main() -> None:
    """Write all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--completions", action="store_true", help="packaging/completions too")
    chosen = parser.parse_args()
    TARGET.mkdir(exist_ok=True)
    for name, text in pages().items():
        (TARGET / name).write_text(text, encoding="utf-8")
    if chosen.completions:
        for name, shell in COMPLETIONS.items():
            (ROOT / f"packaging/completions/tidegate.{name}").write_text(completion(shell), encoding="utf-8")


if __name__ == "__main__":
    main()
