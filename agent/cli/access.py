"""status, grants, revoke: who can get in, and ending it."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import click

from agent.cli.courier_view import courier_lines, courier_status
from agent.cli.daemon_view import ask, quietly
from agent.cli.output import EXIT_DONE, EXIT_FAILED, duration, json_option, reporting, show, table
from agent.errors import RefusedError
from agent.model.text import printable
from agent.settings import duration as seconds_of

Object = dict[str, object]


class _Duration(click.ParamType):  # type: ignore[type-arg]  # generic only in later versions of click
    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Seconds, a day at most."""
        try:
            found = seconds_of(value, "drain")
        except RefusedError as error:
            self.fail(error.reason, param, ctx)
        if not 1 <= found <= 86400:
            self.fail("at most 24h", param, ctx)
        return found


DURATION = _Duration()


@click.command()
@json_option
@click.pass_obj
@reporting
def status(config_file: Path | None, as_json: bool) -> None:
    """Who can get in now, until when, why; and what is wrong."""
    found = {**cast(Object, ask(config_file, "status")), "courier": courier_status(quietly(config_file))}
    show(found, as_json, lambda: _status_text(found))


@click.group()
def grants() -> None:
    """The grants on this host."""


@grants.command("list")
@click.option("--ended", is_flag=True, help="Also the latest that have ended.")
@json_option
@click.pass_obj
@reporting
def list_grants(config_file: Path | None, ended: bool, as_json: bool) -> None:
    """Every live grant; with --ended also the latest that have ended."""
    found = cast(Object, ask(config_file, "grants", ended=ended))
    show(found, as_json, lambda: _grants_table(cast(list[Object], found["grants"])) or "No grants.")


@grants.command("show")
@click.argument("jti")
@json_option
@click.pass_obj
@reporting
def show_grant(config_file: Path | None, jti: str, as_json: bool) -> None:
    """One grant: what it opened, step by step, and how each step stands."""
    found = cast(Object, ask(config_file, "grant", jti=jti))
    show(found, as_json, lambda: "\n\n".join(_grant_text(grant) for grant in cast(list[Object], found["grants"])))


@click.command()
@click.argument("jti", required=False)
@click.option("--subject", metavar="S", help="End every grant of this subject (the grant's sub).")
@click.option("--all", "everything", is_flag=True, help="End every grant on this host.")
@click.option("--drain", "drain_s", type=DURATION, help="Let no new login in now, and end sessions after that time: 90s, 5m, 1h.")
@click.option("--reason", default="", help="Why; it goes into the receipt and the audit trail.")
@json_option
@click.pass_obj
@reporting
def revoke(
    config_file: Path | None,
    jti: str | None,
    subject: str | None,
    everything: bool,
    drain_s: int | None,
    reason: str,
    as_json: bool,
) -> None:
    """End access now: one grant, a subject's, or all.

    Returns when it is shut, with --drain when no new login is possible: its sessions are told how long is left, and end by then,
    or at the grant's own end if that is sooner; also over a restart of the daemon. Exits 1 when no live
    grant is meant (with --all that is done, not failed), and when something could not be ended: that says NOT OVER, and is tried
    again by itself: see `tidegate status`.
    """
    if sum((jti is not None, subject is not None, everything)) != 1:
        raise click.UsageError("name one JTI, or --subject S, or --all")
    found = cast(Object, ask(config_file, "revoke", jti=jti, subject=subject, all=everything, reason=reason, drain_s=drain_s))
    show(found, as_json, lambda: _revoked_text(found))
    sys.exit(EXIT_DONE if all(entry["ended"] for entry in cast(list[Object], found["revoked"])) else EXIT_FAILED)


def _status_text(found: Object) -> str:
    lines = [printable(f"{found['host_id']}  tidegated {found['version']}  policy: {found['policy']}")]
    problems = cast(list[str], found["problems"])
    lines += [f"  ! {printable(problem)}" for problem in problems]
    live = cast(list[Object], found["grants"])
    later = [entry for entry in live if entry["state"] == "pending"]
    ending = [entry for entry in live if entry["state"] == "shutting" and entry["doors_closed"] and entry["last_process_dead"]]
    suspended = [entry for entry in live if entry["state"] == "suspended"]
    now = [entry for entry in live if entry not in later and entry not in ending and entry not in suspended]
    lines += ["", "Who can get in now:", _grants_table(now)] if now else ["", "Nobody can get in through Tidegate now."]
    if suspended:
        lines += ["", "Suspended (nobody gets in until a fresh bulletin comes):", _grants_table(suspended)]
    if ending:
        lines += ["", "Out, but not cleaned up whole (tried again by itself):", _ending_table(ending)]
    if later:
        lines += ["", "Begins later:", _pending_table(later)]
    refusals = cast(list[Object], found["refusals"])
    if refusals:
        rows = [
            [str(entry["at"])[:19] + "Z", str(entry["code"]), str(entry["source"]), str(entry["reason"])] for entry in refusals[:10]
        ]
        lines += ["", f"Refused lately ({len(refusals)}):", table(["WHEN", "CODE", "FILE", "WHY"], rows)]
    courier = [printable(line) for line in courier_lines(cast(Object | None, found["courier"]))]
    lines += ["", *courier] if courier else []
    return "\n".join(lines)


def _grants_table(found: list[Object]) -> str:
    if not found:
        return ""
    headings = ["WHO", "STATE", "LEFT", "UNTIL (UTC)", "GRANT", "ACCESS", "WHY"]
    rows = []
    for entry in found:
        left = duration(cast(int, entry["seconds_left"])) if entry["state"] != "ended" else str(entry["cause"])
        who, state = str(entry["subject"]), str(entry["state"])
        rows.append([who, state, left, _second(entry["ends"]), str(entry["jti"]), str(entry["access"]), _why(entry)])
    return table(headings, rows)


def _pending_table(found: list[Object]) -> str:
    headings = ["WHO", "IN", "FROM (UTC)", "UNTIL (UTC)", "GRANT", "ACCESS", "WHY"]
    rows = []
    for entry in sorted(found, key=lambda entry: str(entry["begins"])):
        wait = datetime.fromisoformat(str(entry["begins"])) - datetime.now(UTC)
        times = [duration(max(0.0, wait.total_seconds())), _second(entry["begins"]), _second(entry["ends"])]
        rows.append([str(entry["subject"]), *times, str(entry["jti"]), str(entry["access"]), _why(entry)])
    return table(headings, rows)


def _ending_table(found: list[Object]) -> str:
    rows = [
        [str(entry["subject"]), _second(entry["doors_closed"]), str(entry["jti"]), str(entry["access"]), str(entry["error"]) or "-"]
        for entry in found
    ]
    return table(["WHO", "DOORS SHUT (UTC)", "GRANT", "ACCESS", "WHAT IS LEFT"], rows)


def _second(moment: object) -> str:
    return str(moment)[:19].replace("T", " ")


def _why(entry: Object) -> str:
    return (
        " ".join(
            part
            for part in (str(entry["ticket"]), str(entry["reason"]), str(entry.get("suspended", "")), str(entry["error"]))
            if part
        )
        or "-"
    )


def _grant_text(found: Object) -> str:
    steps = cast(list[Object], found["steps"])
    names = (
        "subject",
        "issuer",
        "state",
        "access",
        "suspended",
        "reason",
        "ticket",
        "rule",
        "begins",
        "ends",
        "opened",
        "ended",
        "cause",
        "error",
    )
    lines = [f"grant {printable(str(found['jti']))}"]
    lines += [f"  {name:<9} {printable(str(found[name]))}" for name in names if found.get(name) not in {None, ""}]
    lines += [printable(f"  {entry['state']:<9} {entry['what']}") for entry in steps]
    return "\n".join(lines)


def _revoked_text(found: Object) -> str:
    ended = cast(list[Object], found["revoked"])
    draining = [
        f"{_named(entry)}: no new login; sessions end at {_second(entry['until'])}Z"
        for entry in cast(list[Object], found.get("draining", []))
    ]
    if not ended and not draining:
        return "Nothing to revoke: no grant is live."
    return "\n".join([*(_revoked_line(entry) for entry in ended), *draining])


def _revoked_line(entry: Object) -> str:
    said = [f"{_named(entry)}: {'ended' if entry['ended'] else 'NOT OVER'}"]
    if entry["doors_ms"] is not None:
        said.append(f"doors shut in {entry['doors_ms']} ms")
    if entry["last_process_ms"] is not None:
        said.append(f"last process dead in {entry['last_process_ms']} ms")
    again = "" if entry["ended"] else "; it is tried again by itself, `tidegate status` shows how it stands"
    return ", ".join(said) + (f": {printable(str(entry['error']))}" if entry["error"] else "") + again


def _named(entry: Object) -> str:
    return f"{printable(str(entry['jti']))} ({printable(str(entry['subject']))})"
