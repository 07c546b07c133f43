"""sessions list --recorded, verify, export: recordings on disk, read straight from their folder."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import click

from agent import trust
from agent.cli.daemon_view import ask, configured
from agent.cli.output import EXIT_DONE, EXIT_FAILED, duration, json_option, reporting, show, table
from agent.errors import ConfigError, HostError
from agent.model.text import counted, one_line, printable
from agent.sessions.recording import Damage, Frame, Seal, Verdict, read
from agent.sessions.recording import verify as verify_recording
from agent.sessions.recording.catalogue import IDENT, SUFFIX, Summary, being_written, identities, summary
from agent.sessions.recording.export import FORMATS
from agent.sessions.recording.reader import opened
from agent.sessions.recording.sealing import seal_key

_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
_NAMED_MAX = 5  # of an ambiguous prefix's recordings
_GOOD = ("sound", "running")
_BEING_WRITTEN = ("cut", "no_end", "unsealed")  # how a file looks whose next record, or final seal, is on its way


def folder(config_file: Path | None) -> Path:
    """Where this host's recordings are. Raises ConfigError as :func:`agent.cli.daemon_view.configured`."""
    return configured(config_file, "looking in the default folder").paths.sessions


def locate(config_file: Path | None, ident: str) -> Path:
    """The one recording whose id begins so.

    Raises:
        HostError: ``recording_not_found``, ``recording_ambiguous``.
        OSError: the folder can't be read.
    """
    where = folder(config_file)
    found = identities(where, ident)
    if len(found) == 1 or ident in found:
        return where / f"{ident if ident in found else found[0]}{SUFFIX}"
    if found:
        named = ", ".join(found[:_NAMED_MAX]) + (", ..." if len(found) > _NAMED_MAX else "")
        raise HostError("recording_ambiguous", f"{counted(len(found), 'recording')} begin with {one_line(ident, 64)!r}: {named}")
    reason = f"no recording's id begins with {one_line(ident, 64)!r}; `tidegate sessions list --recorded` shows those there are"
    raise HostError("recording_not_found", reason)


class Recording:
    """An open recording for one pass. ``damage``: what was met on the way."""

    def __init__(self, path: Path) -> None:
        self.ident = path.name.removesuffix(SUFFIX)
        self.file = opened(path)
        self.running = being_written(self.file) is True
        self.damage: list[Damage] = []

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def items(self) -> Iterator[Frame | Seal | Damage]:
        """All of it; of a running one, up to what is whole now."""
        for item in read(self.file):
            if isinstance(item, Damage):
                if self.running and item.code == "cut":
                    return
                self.damage.append(item)
            yield item

    def check(self) -> None:
        """Raises HostError ``recording_damaged`` when it was."""
        if self.damage:
            first, more = self.damage[0], len(self.damage) - 1
            others = f", and {counted(more, 'place')} more" if more else ""
            reason = f"{self.ident} is damaged at byte {first.offset}: {first.what}{others}; `tidegate sessions verify` tells all"
            raise HostError("recording_damaged", reason)


def recorded(config_file: Path | None, as_json: bool) -> None:
    """Show the list of all recordings, newest first."""
    where = folder(config_file)
    found = [entry for ident in reversed(identities(where)) if (entry := _listed(where, ident))]
    shown = [
        {
            "id": entry.ident,
            "login": entry.meta.get("login"),
            "subject": entry.meta.get("sub"),
            "jti": entry.meta.get("jti"),
            "from": entry.meta.get("remote"),
            "kind": entry.meta.get("kind"),
            "command": entry.meta.get("command"),
            "began": entry.meta.get("began"),
            "lasted_s": round(entry.lasted_us / 1e6, 6),
            "size": entry.size,
            "state": entry.state,
            "end": dict(entry.end),
        }
        for entry in found
    ]
    show({"recordings": shown}, as_json, lambda: _table(found) if found else "No recordings.")


def _listed(where: Path, ident: str) -> Summary | None:
    """None when it was shipped and removed meanwhile."""
    try:
        return summary(where / f"{ident}{SUFFIX}")
    except FileNotFoundError:
        return None


def _table(found: list[Summary]) -> str:
    rows = []
    for entry in found:
        who = [one_line(str(entry.meta.get(name, "-")), 64) for name in ("sub", "login", "jti")]
        began = str(entry.meta.get("began", "-"))[:19].replace("T", " ")
        rows.append([entry.ident, *who, began, duration(entry.lasted_us / 1e6), _bytes(entry.size), entry.state])
    return table(["ID", "WHO", "LOGIN", "GRANT", "BEGAN (UTC)", "LASTED", "SIZE", "STATE"], rows)


def _bytes(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"


@click.command()
@click.argument("recording", metavar="ID|FILE")
@click.option(
    "--key",
    "--keys",
    "keys",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JWK Set of the host's public key (`tidegate receipts key`, there); without it, this host's own.",
)
@json_option
@click.pass_obj
@reporting
def verify(config_file: Path | None, recording: str, keys: Path | None, as_json: bool) -> None:
    """Is a recording as it was written, and by this host?

    Every hash and every seal of it. Exits 0 when it is whole, or sound so far and still being written; else 1, and says where.
    """
    named = Path(recording)
    path = named if "/" in recording or recording.endswith(SUFFIX) else locate(config_file, recording)
    ring = trust.read_jwks(keys, guarded=False) if keys else _own_keys(config_file)
    ident = path.name.removesuffix(SUFFIX)
    with opened(path) as file:
        writing = being_written(file) is True
    found = verify_recording(path, seal_key(ring), ident=ident if IDENT.fullmatch(ident) else None)
    running = writing and not found.ok and all(problem.code in _BEING_WRITTEN for problem in found.problems)
    state = "sound" if found.ok else "running" if running else "unfinished" if found.unfinished else "damaged"
    show(_view(path, found, state), as_json, lambda: _verdict(path, found, state))
    sys.exit(EXIT_DONE if state in _GOOD else EXIT_FAILED)


def _own_keys(config_file: Path | None) -> trust.KeyRing:
    """The running daemon's public key; root reads it from disk where no daemon answers."""
    try:
        return trust.keyring(cast(dict[str, object], ask(config_file, "host_key")))
    except HostError as error:
        if error.code != "agent_unreachable":
            raise
        config = configured(config_file, "looking for the default key")
        try:
            key = trust.HostKey.load(config.paths.host_key)
        except ConfigError:
            raise error from None
        return trust.keyring({"keys": [key.public_jwk(config.host_id)]})


def _view(path: Path, found: Verdict, state: str) -> dict[str, object]:
    code = "recording_unfinished" if state == "unfinished" else "recording_damaged"
    return {
        "ok": state in _GOOD,
        "state": state,
        "code": None if state in _GOOD else code,
        "id": found.meta.get("id"),
        "file": str(path),
        "meta": dict(found.meta),
        "size": found.size,
        "lasted_s": round(found.lasted_us / 1e6, 6),
        "ended": found.ended,
        "blocks": found.blocks,
        "seals": found.seals,
        "sealed_through": found.sealed_through,
        "sealed_bytes": found.sealed_bytes,
        "gaps": found.gaps,
        "problems": [{"offset": problem.offset, "code": problem.code, "what": problem.what} for problem in found.problems],
        "problems_unlisted": found.unlisted,
    }


def _verdict(path: Path, found: Verdict, state: str) -> str:
    who = f"{found.meta.get('id', path)} of {found.meta.get('login', '?')} ({found.meta.get('sub', '?')})"
    sealed = f"sealed by the host up to byte {found.sealed_bytes} of {found.size}"
    if found.sealed_through is None:
        sealed = "under no valid seal, so nothing shows who wrote it"
    heading = {
        "sound": f"sound: {who}, {duration(found.lasted_us / 1e6)}, {counted(found.blocks, 'block')}, whole from begin to end",
        "running": f"sound so far: {who} is still being written; {sealed}",
        "unfinished": f"NOT WHOLE: {who} has no end, and nobody is known to be writing it: cut at byte {found.size}; {sealed}",
        "damaged": f"DAMAGED: {who}; {sealed}",
    }[state]
    problems = found.problems if state == "damaged" else ()
    lines = [heading, *(f"  byte {problem.offset}: {problem.what} [{problem.code}]" for problem in problems)]
    if found.unlisted:
        lines.append(f"  and {found.unlisted} more")
    if found.gaps:
        lines.append(f"  it says itself that {counted(found.gaps, 'time')} something was not recorded (gap)")
    return "\n".join(map(printable, lines))


@click.command()
@click.argument("ident", metavar="ID")
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="asciicast-v2", show_default=True, help="Which form.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write it here instead of to stdout.")
@json_option
@click.pass_obj
@reporting
def export(config_file: Path | None, ident: str, form: str, output: Path | None, as_json: bool) -> None:
    """A recording for other programs: asciinema's and its player, grep, jq.

    ndjson is what was done (each exec, file, resize, the end) without what was shown. Of a damaged recording what can be read is
    exported, with a mark where it is damaged, and the exit status is 1.
    """
    if as_json and output is None:
        raise click.UsageError("--json needs --output FILE: without it the export itself goes to stdout")
    with Recording(locate(config_file, ident)) as recording:
        lines = FORMATS[form](recording.items())
        count = _written(lines, output) if output else _echoed(lines)
        recording.check()
    if output:
        result = {"id": recording.ident, "format": form, "file": str(output), "lines": count, "running": recording.running}
        show(result, as_json, lambda: printable(f"{output}: {counted(count, 'line')} of {recording.ident}"))


def _echoed(lines: Iterator[str]) -> int:
    count = 0
    for line in lines:
        sys.stdout.write(line + "\n")
        count += 1
    return count


def _written(lines: Iterator[str], output: Path) -> int:
    """How many lines. The file is for its owner alone, as the recording is. Raises ConfigError ``file_unwritable``."""
    count = 0
    try:
        with os.fdopen(os.open(output, _NEW, 0o600), "w", encoding="utf-8") as file:
            for line in lines:
                file.write(line + "\n")
                count += 1
    except OSError as error:
        raise ConfigError("file_unwritable", f"can't be written: {error.strerror}", path=output) from error
    return count
