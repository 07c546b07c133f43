"""Asks this host's own sshd what it would accept: a program of its own, ``python3 -I asker.py``, that lives for one batch.

Each question goes to a fresh ``sshd -i`` over a socket pair, so no network is needed and the listening sshd knows nothing of it:
a client asks by USERAUTH_REQUEST whether a public key would do (RFC 4252 section 7, no signature), and sshd says yes
(PK_OK) or no. It is a process of its own because paramiko takes 20 MB and a fifth of a second to import.

A ``key`` is asked under the very configuration of this host. A ``principal`` needs a certificate, and the host's CA is not
here to sign one: a CA made for the question and trusted by this one sshd alone signs it, by a configuration that puts that
one setting before all of the host's own. Principal file, its options, Match blocks and clock are then the host's.

stdin: ``{"sshd": path, "config": path, "folder": path, "most_s": n, "questions": [{"login", "kind", "credential"}, ...]}``.
stdout: as many ``{"answer", "why", "ms"}`` in a list. It imports nothing of the package.
"""

import base64
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

# Paramiko wants it for `Match exec` of a client's configuration only, can do without, and starts in a third less time then.
sys.modules["invoke"] = None  # type: ignore[assignment]

import paramiko  # noqa: E402

ACCEPTED, REFUSED, NOT_ASKED = "accepted", "refused", "not asked"
_ELSEWHERE = "with correct key but not from a permitted host"  # auth_authorise_keyopts(), after all else held
_WHY_MAX = 200
_ONE_S = 2.0  # seconds for one login's questions
_LOG_MAX = 1 << 16
_RUN_SSHD = Path("/run/sshd")
_CERT = "ssh-ed25519-cert-v01@openssh.com"
_SERVICE_ACCEPT, _USERAUTH_FAILURE, _USERAUTH_SUCCESS, _USERAUTH_BANNER, _PK_OK = 6, 51, 52, 53, 60
# Before the host's own file, where the first value counts. What is said goes to us (-e), not into the host's log. Ciphers are
# added because a host may allow only some that paramiko lacks: what protects this socket pair does not change the answer.
_OPTIONS = (
    *("LogLevel=VERBOSE", "MaxAuthTries=64", "LoginGraceTime=10", "Banner=none", "UseDNS=no"),
    *("KexAlgorithms=+curve25519-sha256", "Ciphers=+aes256-ctr", "MACs=+hmac-sha2-256"),
)


class _Query:
    """Stands where paramiko has its AuthHandler: takes the answers of user authentication and offers nothing itself."""

    def __init__(self) -> None:
        self._heard = threading.Condition()
        self._answers: list[int] = []
        told = (_SERVICE_ACCEPT, _USERAUTH_FAILURE, _USERAUTH_SUCCESS, _PK_OK)
        # Message number → what takes it. Called with the message; by older versions of paramiko with this object before it.
        self._handler_table: dict[int, Callable[..., None]] = {number: functools.partial(self._take, number) for number in told}
        self._handler_table[_USERAUTH_BANNER] = lambda *_: None

    def wait(self, most_s: float) -> int | None:
        """The next message's number; None when none came in time."""
        with self._heard:
            self._heard.wait_for(lambda: bool(self._answers), most_s)
            return self._answers.pop(0) if self._answers else None

    def is_authenticated(self) -> bool:
        """As paramiko's Transport asks it: never, nothing was proved."""
        return False

    def abort(self) -> None:
        """As paramiko's Transport calls it when the connection is gone."""
        self._note(0)

    def _note(self, number: int) -> None:
        with self._heard:
            self._answers.append(number)
            self._heard.notify_all()

    def _take(self, number: int, *_message: object) -> None:
        self._note(number)


class _Sshd:
    """One ``sshd -i`` and the client's end of it."""

    def __init__(self, argv: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        self._log = os.fdopen(os.memfd_create("sshd"), "w+b")  # no file of any folder: a kill leaves nothing
        with theirs:
            self._process = subprocess.Popen(
                argv, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=self._log, env={"PATH": os.defpath}, cwd="/"
            )
        ours.settimeout(_ONE_S)
        self._end = time.monotonic() + _ONE_S
        self._query = _Query()
        try:
            self._transport = paramiko.Transport(ours)
            self._transport.start_client(timeout=_ONE_S)
            self._transport.auth_handler = self._query  # type: ignore[assignment]
            self._send(b"\x05", "ssh-userauth")
            if self._next() != _SERVICE_ACCEPT:
                raise paramiko.SSHException(f"sshd offers no user authentication: {self.said()[-_WHY_MAX:]}")
        except BaseException:
            ours.close()
            self.close()
            raise

    def ask(self, login: str, algorithm: str, blob: bytes) -> tuple[str, str]:
        """``(answer, why)`` for one public key or certificate."""
        begins = self._log.seek(0, os.SEEK_END)
        self._send(b"\x32", login, "ssh-connection", "publickey", False, algorithm, blob)
        number = self._next()
        if number == _PK_OK:
            return ACCEPTED, ""
        if number != _USERAUTH_FAILURE:
            return NOT_ASKED, f"sshd did not answer: {self.said()[-_WHY_MAX:]}"
        said = self.said(begins)
        if _ELSEWHERE in said:
            return ACCEPTED, "only from the addresses of its from= option, which the question has not"
        return REFUSED, said.partition("Failed publickey")[0].strip()[:_WHY_MAX] or "nothing of it is listed"

    def said(self, begins: int = 0) -> str:
        """What it logged, on one line."""
        return " ".join(os.pread(self._log.fileno(), _LOG_MAX, begins).decode(errors="replace").split())

    def close(self) -> None:
        """Both ends; sshd is killed when it does not go by itself."""
        if hasattr(self, "_transport"):
            self._transport.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.2)
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def _next(self) -> int | None:
        return self._query.wait(max(0.0, self._end - time.monotonic()))

    def _send(self, number: bytes, *parts: str | bytes | bool) -> None:
        message = paramiko.Message()
        message.add_byte(number)
        for part in parts:
            if isinstance(part, bool):
                message.add_boolean(part)
            else:
                message.add_string(part)
        self._transport._send_message(message)  # type: ignore[attr-defined]  # paramiko's own clients sign at once, and have no such question


def answer_all(asked: dict[str, Any]) -> list[dict[str, object]]:
    """Every question's answer, in order. One sshd for each login and kind, four at a time, until the time is up."""
    questions = asked["questions"]
    answers: list[dict[str, object]] = [{"answer": NOT_ASKED, "why": "there was no time left", "ms": 0} for _ in questions]
    together: dict[tuple[str, str], list[int]] = {}
    for index, question in enumerate(questions):
        together.setdefault((question["kind"], question["login"]), []).append(index)
    waiting = iter(list(together.values()))
    lock, ends = threading.Lock(), time.monotonic() + asked["most_s"]

    def work(authority: "_Authority") -> None:
        while time.monotonic() < ends:
            with lock:
                batch = next(waiting, None)
            if batch is None:
                return
            for index, (answer, why, ms) in zip(batch, _of_one_login(asked, [questions[i] for i in batch], authority), strict=True):
                answers[index] = {"answer": answer, "why": why, "ms": ms}

    with _Authority.of_questions(asked) as authority:
        threads = [threading.Thread(target=work, args=(authority,), daemon=True) for _ in range(min(4, len(together)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, ends + _ONE_S + 0.5 - time.monotonic()))
    return answers


def _of_one_login(
    asked: dict[str, Any], questions: Sequence[dict[str, str]], authority: "_Authority"
) -> Iterable[tuple[str, str, int]]:
    begun = time.monotonic()
    found: list[tuple[str, str, int]] = []
    sshd = None
    try:
        of_keys = questions[0]["kind"] == "key"
        config = Path(asked["config"]) if of_keys else authority.config
        options = [word for option in _OPTIONS for word in ("-o", option)]
        sshd = _Sshd([asked["sshd"], "-i", "-e", "-f", str(config), *options])
        for question in questions:
            algorithm, blob = _of_key(question["credential"]) if of_keys else authority.certificate(question["credential"])
            answer, why = sshd.ask(question["login"], algorithm, blob)
            found.append((answer, why, round((time.monotonic() - begun) * 1000)))
            begun = time.monotonic()
    except (OSError, EOFError, ValueError, paramiko.SSHException) as error:
        reason = f"{type(error).__name__}: {error}"[:300]
        found += [(NOT_ASKED, reason, 0)] * (len(questions) - len(found))
    finally:
        if sshd is not None:
            sshd.close()
    return found


def _of_key(line: str) -> tuple[str, bytes]:
    """``type base64`` → the signature algorithm to ask with, and the blob."""
    kind, encoded = line.split(" ")
    return ("rsa-sha2-512" if kind == "ssh-rsa" else kind), base64.b64decode(encoded, validate=True)


class _Authority:
    """A user CA that only these questions know: its private key stays in this process, and one sshd's own file trusts it."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "sshd_config"
        self._key = Ed25519PrivateKey.generate()

    @classmethod
    @contextlib.contextmanager
    def of_questions(cls, asked: dict[str, Any]) -> Iterator["_Authority"]:
        """With its folder (root's alone, gone afterwards) holding the configuration for these logins."""
        logins = dict.fromkeys(question["login"] for question in asked["questions"] if question["kind"] != "key")
        folder = Path(tempfile.mkdtemp(prefix="ask-", dir=asked["folder"]))
        try:
            authority = cls(folder)
            public, first = folder / "ca.pub", folder / "first.conf"
            public.write_text(f"ssh-ed25519 {base64.b64encode(_plain(authority._key)).decode()}\n")
            # A Match block ends with its file (sshd_config(5), Include), and of two that match the first one's values count.
            first.write_text(f"Match User {','.join(logins)}\n    TrustedUserCAKeys {public}\n" if logins else "")
            authority.config.write_text(f"Include {first}\nInclude {asked['config']}\n")
            yield authority
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def certificate(self, principal: str) -> tuple[str, bytes]:
        """A user certificate for that principal (PROTOCOL.certkeys), of a key that nobody will use, good for a minute."""
        now = int(time.time())
        key = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        body = b"".join(
            (
                *(_string(part) for part in (_CERT.encode(), os.urandom(32), key)),
                struct.pack(">QI", 0, 1),
                *(_string(part) for part in (b"tidegate asks", _string(principal.encode()))),
                struct.pack(">QQ", max(0, now - 60), now + 60),
                *(_string(part) for part in (b"", b"", b"", _plain(self._key))),
            )
        )
        signature = _string(b"ssh-ed25519") + _string(self._key.sign(body))
        return _CERT, body + _string(signature)


def _plain(key: Ed25519PrivateKey) -> bytes:
    return _string(b"ssh-ed25519") + _string(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


def _string(data: bytes) -> bytes:
    """RFC 4251 section 5."""
    return struct.pack(">I", len(data)) + data


def main() -> None:
    """One batch, from stdin to stdout."""
    os.umask(0o077)
    os.nice(10)  # the daemon, whose priority it has, may be ending others meanwhile
    if not _RUN_SSHD.exists():  # sshd wants it before ssh.service has started, and, with socket activation, between logins
        _RUN_SSHD.mkdir(mode=0o755, exist_ok=True)
        _RUN_SSHD.chmod(0o755)
    json.dump(answer_all(json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main()
