"""Local accounts, for trying it out: name and password, scrypt (RFC 7914), and no way to tell a wrong name from a wrong password.

Not by the answer, not by the time it takes (an unknown name costs the same scrypt), and not by the rate limit, which counts
names that nobody has too. Limits live in memory: a restart forgets them, which gives an attacker five tries more.
"""

import hashlib
import hmac
import re
import secrets
import sqlite3
import threading
from dataclasses import dataclass, field

from agent.model.text import folded
from examples.control_plane.people.errors import LoginRefusedError

NAME = re.compile(r"[a-z][a-z0-9._-]{0,62}")
PASSWORD_MIN, PASSWORD_MAX = 12, 1024
COST = 1 << 15  # scrypt's N: 32 MiB and about 0.1 s for each try
_BLOCK, _PARALLEL, _SALT = 8, 1, 16
_AT_ONCE = 2  # tries at the same time, 32 MiB each; others wait
FREE_TRIES = 5
WAIT_MAX_S = 300
_NAMES_MAX = 4096
_NOBODY = b"no account has this salt"


@dataclass(frozen=True, slots=True)
class Secret:
    """What is kept of a password."""

    salt: bytes
    digest: bytes
    cost: int


def secret(password: str, *, cost: int = COST) -> Secret:
    """A new password's salted hash.

    Raises:
        LoginRefusedError: ``password_length``: not 12 to 1024 characters.
    """
    if not PASSWORD_MIN <= len(password) <= PASSWORD_MAX:
        raise LoginRefusedError("password_length", f"a password has {PASSWORD_MIN} to {PASSWORD_MAX} characters")
    salt = secrets.token_bytes(_SALT)
    return Secret(salt, _scrypt(password, salt, cost), cost)


def new_password() -> str:
    """One that nobody guesses and that can be typed: 99 random bits in five groups."""
    letters = "abcdefghjkmnpqrstuvwxyz23456789"  # without those that look alike
    return "-".join("".join(secrets.choice(letters) for _ in range(4)) for _ in range(5))


def matches(password: str, kept: Secret | None) -> bool:
    """Whether the password is the one that is kept. Without any the same work is done, and the answer is no."""
    cost = kept.cost if kept is not None else COST
    found = _scrypt(password[:PASSWORD_MAX], kept.salt if kept is not None else _NOBODY, cost)
    return hmac.compare_digest(found, kept.digest if kept is not None else bytes(len(found))) and kept is not None


def _scrypt(password: str, salt: bytes, cost: int) -> bytes:
    # Half of a surrogate pair can come in by JSON, and has no UTF-8.
    data = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(data, salt=salt, n=cost, r=_BLOCK, p=_PARALLEL, maxmem=256 * _BLOCK * cost, dklen=32)


@dataclass(slots=True)
class Tries:
    """Failed logins by name: after five each further one doubles the wait, from a second to five minutes."""

    _failed: dict[str, tuple[int, float]] = field(default_factory=dict)  # name → how often, and when it may try again
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, name: str, now: float) -> None:
        """Before each try; counts it as failed until :meth:`succeeded`, so that tries at the same time count too.

        Raises:
            LoginRefusedError: ``login_rate_limited``.
        """
        with self._lock:
            count, until = self._failed.pop(_key(name), (0, 0.0))
            if now < until:
                self._failed[_key(name)] = (count, until)
                wait = int(until - now) + 1
                raise LoginRefusedError("login_rate_limited", f"too many failed logins: wait {wait} s", retry_after_s=wait)
            over = count + 1 - FREE_TRIES
            wait_s = min(2.0**over, WAIT_MAX_S) if over >= 0 else 0.0
            if len(self._failed) >= _NAMES_MAX:
                del self._failed[next(iter(self._failed))]  # the one that has been quiet for longest
            self._failed[_key(name)] = (min(count + 1, 64), now + wait_s)

    def succeeded(self, name: str) -> None:
        """The right password was given."""
        with self._lock:
            self._failed.pop(_key(name), None)


def _key(name: str) -> str:
    return hashlib.sha256(folded(name[:256]).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(slots=True)
class LocalAccounts:
    """Who logs in with a password."""

    tries: Tries = field(default_factory=Tries)
    _turns: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(_AT_ONCE))

    def check(self, name: str, password: str, kept: tuple[int, Secret] | None, monotonic: float) -> int:
        """The number of the person whose name and password these are. ``kept`` is what :func:`kept_for` found for the name.

        Raises:
            LoginRefusedError: ``login_refused`` for whatever is wrong, ``login_rate_limited``.
        """
        self.tries.begin(name, monotonic)
        with self._turns:
            right = matches(password, kept[1] if kept is not None else None)
        if not right or kept is None:
            raise LoginRefusedError("login_refused", "no such name and password")
        self.tries.succeeded(name)
        return kept[0]


def kept_for(db: sqlite3.Connection, name: str) -> tuple[int, Secret] | None:
    """The number and secret of a local account that may log in."""
    query = (
        "SELECT person.id, salt, digest, cost FROM person JOIN local_account ON person = person.id"
        " WHERE issuer = 'local' AND issuer_subject = ? AND ended IS NULL"
    )
    row = db.execute(query, (name,)).fetchone()
    return (row["id"], Secret(row["salt"], row["digest"], row["cost"])) if row is not None else None


def keep(db: sqlite3.Connection, person: int, value: Secret) -> None:
    """A person's password from now on."""
    query = "INSERT OR REPLACE INTO local_account (person, salt, digest, cost) VALUES (?, ?, ?, ?)"
    db.execute(query, (person, value.salt, value.digest, value.cost))
