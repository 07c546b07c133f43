"""Who somebody is, asked by the HTTP API: logging in, being found, being offboarded. Blocking; called from threads."""

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from agent.strictyaml import Node
from examples.control_plane.events.kinds import Kind
from examples.control_plane.people import local, oidc
from examples.control_plane.people.errors import LoginRefusedError
from examples.control_plane.people.https import Https
from examples.control_plane.people.keyset import KeySource
from examples.control_plane.people.person import LOCAL, Person, by_id, by_issuer, by_subject
from examples.control_plane.people.provisioning import Arrival, arrive
from examples.control_plane.people.sessions import Opened, Sessions
from examples.control_plane.people.settings import PeopleSettings, read
from examples.control_plane.store import Store, audit

Leave: TypeAlias = Callable[[sqlite3.Connection, Person], None]  # what a person without a role no longer holds


@dataclass(slots=True)
class People:
    """``wall`` and ``monotonic`` are clocks in seconds."""

    store: Store
    settings: PeopleSettings
    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    accounts: local.LocalAccounts = field(default_factory=local.LocalAccounts)
    sessions: Sessions = field(init=False)
    keys: KeySource | None = field(init=False)

    def __post_init__(self) -> None:
        """The parts that follow from the settings."""
        provider = self.settings.provider
        self.sessions = Sessions(self.store, self.settings.session_s)
        self.keys = KeySource(provider.issuer, Https(ca_file=provider.ca_file)) if provider is not None else None

    @classmethod
    def configured(cls, store: Store, node: Node | None) -> "People":
        """From the section `people` of the configuration. Raises ConfigError."""
        return cls(store, read(node))

    def find(self, db: sqlite3.Connection, subject: str) -> Person | None:
        """Somebody who may act now; None for whoever is unknown or offboarded, or has no role."""
        found = by_subject(db, subject)
        return found if found is not None and found.ended is None and found.roles and found.subject == subject else None

    def login_local(self, name: str, password: str) -> tuple[Opened, Person]:
        """A session for a name and its password.

        Raises:
            LoginRefusedError: ``login_method_off``, ``login_refused``, ``login_rate_limited``.
        """
        if not self.settings.local:
            raise LoginRefusedError("login_method_off", "there are no local accounts here")
        with self.store.read() as db:
            kept = local.kept_for(db, name)
        ident = self.accounts.check(name, password, kept, self.monotonic())
        with self.store.write() as db:
            person = by_id(db, ident)  # looked at again: the password took its time
            if person is None or person.ended is not None or not person.roles:
                raise LoginRefusedError("login_refused", "no such name and password")
            db.execute("UPDATE person SET seen = ? WHERE id = ?", (int(self.wall()), ident))
            audit.note(db, Kind.LOGGED_IN, actor=person.subject, subject=person.subject, detail={"method": "local"})
            return self.sessions.open(db, ident, self.wall()), person

    def login_oidc(self, token: str, nonce: str | None, leave: Leave) -> tuple[Opened, Person]:
        """A session for an ID token, which is good once. ``leave`` is called, in the same transaction, for whoever has lost roles.

        Raises:
            LoginRefusedError: ``login_method_off``, ``id_token_replayed``, ``no_role``, ``person_ended``, and as oidc.verify;
                ``id_token_nonce`` also for a token of the device flow where that is off.
            ProviderError: the provider's keys can't be had.
        """
        provider, keys = self.settings.provider, self.keys
        if provider is None or keys is None:
            raise LoginRefusedError("login_method_off", "there is no OpenID provider here")
        if nonce is None and not provider.device_flow:  # the device flow's tokens have none, a browser's have
            raise LoginRefusedError("id_token_nonce", "was not made by a login with a browser, which this control plane wants")
        now = self.wall()
        claims = oidc.verify(token, provider, keys, nonce=nonce, now=now, monotonic=self.monotonic())
        with self.store.write() as db:
            self._use(db, claims.fingerprint, claims.expires + oidc.LEEWAY_S, now)
            arrival = arrive(db, claims, self.settings.roles, self.settings.prefix, now)
            person = arrival.person
            self._noted(db, arrival)
            if arrival.lost:
                leave(db, person)
            if person.roles:
                return self.sessions.open(db, person.id, now, sid=claims.sid), person
            self.sessions.end_all(db, person.id)
        raise LoginRefusedError("no_role", "none of your groups gives a role here any more: what you held has been ended")

    def logged_out(self, token: str) -> int:
        """A provider's logout token: the sessions it names are over. How many there were.

        Raises:
            LoginRefusedError, ProviderError: as oidc.verify_logout; ``login_method_off``, ``id_token_replayed``.
        """
        provider, keys = self.settings.provider, self.keys
        if provider is None or keys is None:
            raise LoginRefusedError("login_method_off", "there is no OpenID provider here")
        now = self.wall()
        logout = oidc.verify_logout(token, provider, keys, now=now, monotonic=self.monotonic())
        with self.store.write() as db:
            self._use(db, f"logout {logout.jti}", int(now) + oidc.AGE_MAX_S + oidc.LEEWAY_S, now)
            person = by_issuer(db, logout.issuer, logout.subject) if logout.subject else None
            if person is not None:
                count = self.sessions.end_all(db, person.id, sid=logout.sid)
            else:
                count = self.sessions.end_sid(db, logout.issuer, logout.sid) if not logout.subject else 0
            detail = {"method": "back-channel", "sessions": count}
            audit.note(db, Kind.LOGGED_OUT, subject=person.subject if person is not None else "", detail=detail)
            return count

    def logout(self, bearer: str, person: Person) -> None:
        """End one session of the person's."""
        with self.store.write() as db:
            self.sessions.end(db, bearer)
            audit.note(db, Kind.LOGGED_OUT, actor=person.subject, subject=person.subject)

    def refused(self, method: str, error: LoginRefusedError, name: str = "") -> None:
        """Note a login that was refused; a local ``name`` only where somebody has it: people type passwords there."""
        with self.store.write() as db:
            person = by_issuer(db, LOCAL, name) if name else None
            subject = person.subject if person is not None else ""
            audit.note(db, Kind.LOGIN_REFUSED, subject=subject, code=error.code, detail={"method": method}, ok=False)

    def _use(self, db: sqlite3.Connection, fingerprint: str, expires: int, now: float) -> None:
        db.execute("DELETE FROM used_token WHERE expires < ?", (int(now),))
        query = "INSERT OR IGNORE INTO used_token (fingerprint, expires) VALUES (?, ?)"
        if db.execute(query, (fingerprint, expires)).rowcount != 1:
            raise LoginRefusedError("id_token_replayed", "was used before: log in again")

    def _noted(self, db: sqlite3.Connection, arrival: Arrival) -> None:
        person = arrival.person
        about = {"login": person.login, "roles": sorted(person.roles)}
        if arrival.new:
            audit.note(db, Kind.PERSON_PROVISIONED, subject=person.subject, detail=about)
        if arrival.lost:
            audit.note(db, Kind.PERSON_CHANGED, subject=person.subject, detail={**about, "lost": sorted(arrival.lost)})
        if person.roles:
            audit.note(db, Kind.LOGGED_IN, actor=person.subject, subject=person.subject, detail={"method": "oidc"})
