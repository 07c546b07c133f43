"""`tidegate-request`: ask for access to a host, wait until it is open, and be in by plain ssh."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click

from agent import settings
from agent.cli.output import EXIT_DONE, EXIT_FAILED, duration, json_option, reporting, show, table
from agent.errors import RefusedError
from examples.control_plane.commands import sshkey
from examples.control_plane.commands.client import Api, Json, objects, shown, text
from examples.control_plane.commands.login import Connection, connect, connection_options, log_out, say
from examples.control_plane.commands.running import run
from examples.control_plane.commands.waiting import Waiting, seconds_left


@dataclass(frozen=True, slots=True)
class Wish:
    """What the options ask for."""

    hosts: tuple[str, ...]
    role: str | None
    seconds: int | None
    reason: str | None
    ticket: str | None
    break_glass: bool

    def body(self) -> Json:
        """As openapi.yaml's Ask has it. Raises UsageError."""
        if not self.hosts or self.role is None or self.seconds is None or not self.reason:
            raise click.UsageError("say HOST, --role NAME, --for TIME and --reason TEXT (--offers shows what you may ask for)")
        body: Json = {"template": self.role, "hosts": list(self.hosts), "duration_s": self.seconds, "reason": self.reason}
        return body | ({"ticket": self.ticket} if self.ticket else {}) | ({"break_glass": True} if self.break_glass else {})


@dataclass(frozen=True, slots=True)
class Manner:
    """What is done once it is open."""

    as_json: bool
    ssh: bool
    wait: bool
    output: Path | None
    agent: bool
    options: tuple[str, ...]
    command: tuple[str, ...]


_MANNERS = ("ssh", "wait", "output", "agent", "options")


def _duration(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else settings.duration(value, "--for")
    except RefusedError as error:
        raise click.BadParameter(error.reason) from error


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option("--role", "--template", metavar="NAME", help="What for: the name of a template.")
@click.option("--for", "seconds", metavar="TIME", callback=_duration, help="How long: 90s, 30m, 8h, 2d.")
@click.option("--reason", metavar="TEXT", help="Why; approvers and the host's log get it.")
@click.option("--ticket", metavar="ID", help="The ticket that it belongs to.")
@click.option(
    "--break-glass", is_flag=True, help="An emergency: open at once where the rule lets it, told to everybody, reviewed later."
)
@click.option("--ssh/--no-ssh", default=True, help="Log in by ssh, or only write the key and its certificate.")
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="With --no-ssh: this folder. Default: a new one here."
)
@click.option(
    "--agent", is_flag=True, help="Give the key to ssh-agent until the access ends; then plain `ssh LOGIN@HOST` works too."
)
@click.option("--ssh-option", "options", multiple=True, metavar="NAME=VALUE", help="For ssh's -o.")
@click.option("--wait/--no-wait", default=True, help="Wait until it is open, or only ask.")
@click.option("--resume", metavar="ID", help="Go on with a request that was asked before.")
@click.option("--withdraw", metavar="ID", help="Take a request back that still waits.")
@click.option("--extend", metavar="ID", help="Ask for more time (--for, --reason) for one that is open; no session is dropped.")
@click.option("--end", metavar="ID", help="End an open one now: the good way to leave early.")
@click.option("--offers", is_flag=True, help="What you may ask for, and where.")
@click.option("--login", "only_login", is_flag=True, help="Only log in to the control plane.")
@click.option("--logout", "only_logout", is_flag=True, help="End the session with it.")
@connection_options
@json_option
@click.pass_obj
@reporting
def cli(command: tuple[str, ...] | None, connection: Connection, as_json: bool, **given: Any) -> None:  # noqa: ANN401  # click's options, one each
    """Ask for access to HOST, wait until it is open, log in by ssh with a key made on the spot.

    \b
      tidegate-request web1 --role restart-web --for 30m --reason "restart nginx" --ticket INC-42
      tidegate-request web1 --role restart-web --for 30m --reason "restart nginx" -- sudo systemctl restart nginx

    What stands behind -- runs on the host instead of a shell. Exit status: 0 done (and ssh ended well), 1 failed, 2 wrong usage,
    3 refused.
    """
    wish = Wish(**{name: given.pop(name) for name in Wish.__dataclass_fields__})
    manner = Manner(as_json, command=command or (), **{name: given.pop(name) for name in _MANNERS})
    acts = [(name, value) for name, value in given.items() if value]
    if len(acts) > 1:
        raise click.UsageError("one of --resume, --withdraw, --extend, --end, --offers, --login, --logout at a time")
    act, value = acts[0] if acts else ("", "")
    if act == "only_logout":
        there = log_out(connection)
        show({"logged_out": there}, as_json, lambda: "logged out" if there else "there was no session")
    elif act in {"offers", "only_login"}:
        found = connect(connection).get("/v1/offers" if act == "offers" else "/v1/me")
        show(found, as_json, lambda: _offered(found) if act == "offers" else _who(found))
    elif act in {"withdraw", "end"}:
        what = _given_back(connect(connection), act, value, wish.reason)
        show(what, as_json, lambda: f"{shown(what.get('id'))} is {shown(what.get('state'))}")
    elif act == "extend":
        _extended(connect(connection), value, wish, manner)
    else:
        body = None if act == "resume" else wish.body()
        _fits(manner, wish.hosts)
        api = connect(connection)
        _go_on(api, api.get(f"/v1/requests/{_ident(value)}") if body is None else _asked(api, body), manner)


def _fits(manner: Manner, hosts: Sequence[object]) -> None:
    """Said before anything is asked. Raises UsageError."""
    if manner.ssh and manner.wait and (manner.as_json or len(hosts) > 1):
        raise click.UsageError("ssh goes to one host, and has the output: add --no-ssh")


def _given_back(api: Api, act: str, ident: str, reason: str | None) -> Json:
    if act == "withdraw":
        return api.post(f"/v1/requests/{_ident(ident)}/withdraw", {})
    return api.post(f"/v1/requests/{_ident(ident)}/revoke", {"reason": reason or "no longer needed"})


def _extended(api: Api, ident: str, wish: Wish, manner: Manner) -> None:
    """More time for a request; whoever is in stays in, by the certificate that they have."""
    if wish.seconds is None or not wish.reason:
        raise click.UsageError("--extend needs --for TIME and --reason TEXT")
    body: Json = {"duration_s": wish.seconds, "reason": wish.reason, "break_glass": wish.break_glass}
    request = api.post(f"/v1/requests/{_ident(ident)}/extend", body | ({"ticket": wish.ticket} if wish.ticket else {}))
    if manner.wait:
        waiting = Waiting(api, say)
        request = waiting.accepted(waiting.opened(request))
    new = shown(request.get("id"))
    ends = f"open until {shown(request.get('ends_at'))}" if manner.wait else shown(request.get("state"))
    show(request, manner.as_json, lambda: f"{new} is {ends}; --resume {new} logs in by it")


def _asked(api: Api, body: Json) -> Json:
    """A new request, or the one that is open already for just this."""
    try:
        return api.post("/v1/requests", body)
    except RefusedError as error:
        if error.code != "already_open":
            raise
        hosts = body["hosts"]
        for found in objects(api.get("/v1/requests", mine=True, state="open"), "requests"):
            if found.get("template") == body["template"] and set(_hosts(found)) == set(hosts if isinstance(hosts, list) else []):
                say(f"{shown(found.get('id'))} is open already, until {shown(found.get('ends_at'))}: going on with it")
                return found
        raise


def _go_on(api: Api, request: Json, manner: Manner) -> None:
    ident = text(request, "id")
    if not manner.wait:
        show(request, manner.as_json, lambda: f"{ident} is {shown(request.get('state'))}; go on with --resume {ident}")
        return
    _fits(manner, _hosts(request))
    try:
        waiting = Waiting(api, say)
        request = waiting.accepted(waiting.opened(request))
    except KeyboardInterrupt:
        say(f"\n{ident} goes on waiting: --resume {ident} goes on with it, --withdraw {ident} takes it back")
        raise
    left = seconds_left(request, time.time())
    say(f"open for {duration(left)}, until {shown(request.get('ends_at'))}")
    if request.get("certificate") is not True:
        show(request, manner.as_json, lambda: "open for the keys that were named: log in with one of them")
        return
    key = sshkey.make()
    answer = api.post(f"/v1/requests/{ident}/certificate", {"public_key": key.public})
    certificate = sshkey.checked_certificate(text(answer, "certificate"), key)
    _used(key, certificate, answer, request, left, manner)


def _used(key: sshkey.Key, certificate: str, answer: Json, request: Json, left: int, manner: Manner) -> None:
    """The certificate is there: by ssh, or into files."""
    logins = objects(answer, "logins")
    if not manner.ssh:
        folder = manner.output or Path(f"tidegate-{text(request, 'id')}")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = sshkey.write(folder, key, certificate)
        if manner.agent:
            sshkey.to_agent(files, left)
        result = {"request": request, "key": str(files.key), "certificate": str(files.certificate), "logins": logins}
        show(result, manner.as_json, lambda: _how_to(files, logins))
        return
    if not logins:
        raise RefusedError("grant_refused", "the request opens no host")
    login, address = text(logins[0], "login"), text(logins[0], "address") or text(logins[0], "host_name")
    with sshkey.for_now(key, certificate) as files:
        if manner.agent:
            sshkey.to_agent(files, left)
        status = _ssh(sshkey.ssh_argv(files, login, address, manner.options, manner.command))
    if status != 0:
        say(f"ssh ended with status {status}")
    sys.exit(EXIT_DONE if status == 0 else EXIT_FAILED)


def _ssh(argv: Sequence[str]) -> int:
    """Run it on this terminal. Ctrl-C is ssh's alone; a signal that ends us ends it too, and the key's folder goes."""
    with subprocess.Popen(argv) as process:

        def ended(_: int, __: FrameType | None) -> None:
            process.terminate()

        before = {number: signal.signal(number, ended) for number in (signal.SIGTERM, signal.SIGHUP)}
        before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _hosts(request: Json) -> list[object]:
    found = request.get("hosts")
    return found if isinstance(found, list) else []


def _ident(value: str | None) -> str:
    if value is None or not value.replace("-", "").isalnum() or not value.isascii():
        raise click.UsageError("a request's id looks like r-abcdefgh23456789")
    return value


def _who(me: Json) -> str:
    return (
        f"{shown(me.get('name'))} ({shown(me.get('subject'))}), {shown(me.get('login'))} on hosts; roles: {shown(me.get('roles'))}"
    )


def _offered(found: Json) -> str:
    rows = [
        [
            shown(offer.get("template")),
            duration(float(str(offer.get("max_duration_s") or 0))),
            shown(offer.get("approvals")),
            shown(offer.get("ticket_required")),
            shown(offer.get("break_glass")),
            shown(offer.get("hosts")),
            shown(offer.get("title")),
        ]
        for offer in objects(found, "offers")
    ]
    headings = ["ROLE", "AT MOST", "APPROVALS", "TICKET", "BREAK-GLASS", "HOSTS", "WHAT"]
    return table(headings, rows) if rows else "nothing: no rule lets you ask for anything"


def _how_to(files: sshkey.Credential, logins: Sequence[Json]) -> str:
    lines = [f"key: {files.key}", f"certificate: {files.certificate}"]
    for login in logins:
        address = text(login, "address") or text(login, "host_name")
        lines.append(f"ssh -i {files.key} -o IdentitiesOnly=yes {text(login, 'login')}@{address}")
    return "\n".join(map(shown, lines))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``tidegate-request``; always exits."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    at = words.index("--") if "--" in words else len(words)
    run(cli, "tidegate-request", words[:at], obj=tuple(words[at + 1 :]))


if __name__ == "__main__":
    main()
