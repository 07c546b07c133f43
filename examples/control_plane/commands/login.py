"""Options that both commands share, and logging in by whichever way the server offers."""

import functools
import json
import sys
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from agent.errors import RefusedError
from agent.model.text import printable
from examples.control_plane.commands import flows
from examples.control_plane.commands.client import Api, checked, text
from examples.control_plane.commands.profile import Profile, Server
from examples.control_plane.people.errors import ProviderError
from examples.control_plane.people.https import Https
from examples.control_plane.people.keyset import discover

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach the server and to log in, as the options say."""

    url: str | None
    ca_file: Path | None
    ca_fingerprint: str | None
    user: str | None
    password_file: str | None
    device: bool
    browser: bool
    provider_ca: Path | None


def connection_options(command: Callable[..., R]) -> Callable[..., R]:
    """The options of :class:`Connection`, given to the command as ``connection``."""
    path = click.Path(path_type=Path, exists=True, dir_okay=False)
    options = (
        click.option("--url", envvar="TIDEGATE_URL", help="The control plane; remembered, so once is enough."),
        click.option("--ca-file", type=path, envvar="TIDEGATE_CA_FILE", help="Trust this TLS authority (PEM) for it; remembered."),
        click.option("--ca-fingerprint", metavar="SHA256", help="Or fetch the authority, and trust it if this is its fingerprint."),
        click.option("--user", metavar="NAME", help="Log in by a local account."),
        click.option("--password-file", metavar="FILE", help="Its password; - reads a line from stdin."),
        click.option("--device", is_flag=True, help="Log in by a code that you type into a browser elsewhere."),
        click.option("--browser/--no-browser", default=True, help="Open the browser, or only show the address."),
        click.option(
            "--provider-ca", type=path, envvar="TIDEGATE_PROVIDER_CA", help="Trust this authority for the OpenID provider."
        ),
    )

    @functools.wraps(command)
    def wrapped(**kwargs: Any) -> R:  # noqa: ANN401  # wraps commands of any signature
        names = Connection.__dataclass_fields__
        connection = Connection(**{name: kwargs.pop(name) for name in names})
        return command(connection=connection, **kwargs)

    found: Callable[..., R] = wrapped
    for option in reversed(options):
        found = option(found)
    return found


def connect(connection: Connection) -> Api:
    """The API, as whoever has a session, or logs in now (at the first call that needs it).

    Raises:
        ConfigError, RefusedError, ProviderError: as :meth:`Profile.server`.
    """
    profile = Profile.of_this_user()
    server = profile.server(connection.url, connection.ca_file, connection.ca_fingerprint)
    return Api(server, profile.session(server), lambda: log_in(profile, server, connection))


def log_in(profile: Profile, server: Server, connection: Connection) -> str:
    """A new session's bearer, kept for the next command.

    Raises:
        RefusedError: with the server's or the provider's reason.
        ProviderError: one of them can't be asked.
    """
    https = server.https()
    offered = checked(https.get(f"{server.url}/v1/login"))
    methods = offered.get("methods")
    oidc = offered.get("oidc")
    if not isinstance(methods, list):
        raise ProviderError("answer_shape", "the control plane does not say how to log in")
    if connection.user is None and "oidc" in methods and isinstance(oidc, dict):
        path, body = "/v1/login/oidc", _by_provider(oidc, connection)
    elif "local" in methods:
        path, body = "/v1/login/local", _by_password(connection)
    else:
        raise RefusedError("login_method_off", "this control plane has no local accounts: log in without --user")
    answer = checked(https.ask("POST", server.url + path, json.dumps(body).encode()))
    bearer, expires = text(answer, "session"), text(answer, "expires")
    try:
        profile.keep_session(server, bearer, int(datetime.fromisoformat(expires).timestamp()))
    except ValueError as error:
        raise ProviderError("answer_shape", "the control plane does not say when the session ends") from error
    return bearer


def log_out(connection: Connection) -> bool:
    """End the session there and forget it here. Whether there was one."""
    profile = Profile.of_this_user()
    server = profile.server(connection.url, connection.ca_file, connection.ca_fingerprint)
    bearer = profile.session(server)
    profile.forget_session(server)
    if bearer:
        server.https(bearer).ask("DELETE", f"{server.url}/v1/session")
    return bool(bearer)


def _by_provider(oidc: Mapping[str, object], connection: Connection) -> Mapping[str, object]:
    scopes = oidc.get("scopes")
    https = Https(connection.provider_ca)
    metadata = discover(text(oidc, "issuer"), https)
    words = [str(scope) for scope in scopes] if isinstance(scopes, list) else ["openid"]
    client = flows.Client(metadata, text(oidc, "client_id"), words, https)
    if connection.device:
        if oidc.get("device") is not True:
            raise RefusedError("login_method_off", "this control plane wants a login by browser, without --device")
        proof = flows.by_device(client, _tell_code)
    else:
        proof = flows.by_browser(client, functools.partial(_tell_address, opens=connection.browser))
    return {"id_token": proof.id_token, **({"nonce": proof.nonce} if proof.nonce is not None else {})}


def _tell_address(url: str, *, opens: bool) -> None:
    say(f"Log in with your browser at\n{printable(url)}")
    if opens:
        webbrowser.open(url)


def _tell_code(code: flows.Code) -> None:
    say(f"With a browser anywhere, go to {printable(code.uri)} and type {printable(code.user_code)}")
    if code.complete:
        say(f"or go straight to {printable(code.complete)}")
    say("Only do so for a login that you have started yourself.")


def _by_password(connection: Connection) -> Mapping[str, object]:
    if connection.password_file == "-":  # noqa: S105  # a file's name
        password = sys.stdin.readline().rstrip("\r\n")
    elif connection.password_file is not None:
        password = Path(connection.password_file).read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    elif sys.stdin.isatty():
        name = connection.user or click.prompt("Name", err=True)
        return {"name": name, "password": click.prompt(f"Password of {printable(name)}", hide_input=True, err=True)}
    else:
        raise RefusedError("login_needed", "there is no session, and no terminal to ask for a password: see --password-file")
    if connection.user is None:
        raise click.UsageError("--password-file needs --user NAME")
    return {"name": connection.user, "password": password}


def say(words: str) -> None:
    """To the person, beside the result."""
    click.echo(words, err=True)
