"""This machine's own sshd as a parser: asked over a socketpair whether it would take a key, it changes nothing and lets nobody in.

It runs as an unprivileged user (nobody, where we are root) with a configuration and a host key of its own, and is only ever
sent publickey queries without a signature (RFC 4252 section 7). What it read of the line that matched stands in its debug log.
"""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paramiko.auth_handler import AuthHandler
from paramiko.message import Message

_CONFIG = """\
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/keys
StrictModes no
UsePAM yes
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxAuthTries 100
LogLevel DEBUG3
"""
_MATCHED = re.compile(r"key options: ?(.*)")
_PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Answer:
    """``options``: what sshd says the matching line leaves allowed, such as ``pty`` (empty: nothing); None where none matched."""

    accepted: bool
    options: str | None
    log: str


class Sshd:
    """One folder with sshd's files; :meth:`would_take` starts an sshd for each question."""

    def __init__(self) -> None:
        self._sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        self._user, self._as = ("nobody", {"user": 65534, "group": 65534, "extra_groups": []}) if os.geteuid() == 0 else (_me(), {})
        self._folder = tempfile.TemporaryDirectory(prefix="tidegate-sshd-")
        self._path = Path(self._folder.name)
        self._path.chmod(0o711)
        key = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        host_key = self._path / "host_key"
        host_key.write_bytes(key)
        host_key.chmod(0o600)
        if self._as:
            os.chown(host_key, 65534, 65534)
        (self._path / "config").write_text(_CONFIG.format(folder=self._path))

    @property
    def there(self) -> bool:
        """Whether this machine has an sshd to ask."""
        return self._sshd is not None

    def would_take(self, keys: str, algorithm: str, blob: bytes) -> Answer:
        """Whether sshd, with this authorized_keys file, would go on with the key."""
        assert self._sshd is not None
        (self._path / "keys").write_text(keys)
        ours, theirs = socket.socketpair()
        argv = [self._sshd, "-i", "-e", "-f", str(self._path / "config")]
        with (
            tempfile.TemporaryFile() as log,
            subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=log, **self._as) as process,  # type: ignore[call-overload]
        ):
            theirs.close()
            try:
                accepted = _query(ours, self._user, algorithm, blob)
            finally:
                ours.close()
                process.kill()
                process.wait()
            log.seek(0)
            said = log.read().decode(errors="replace")
        found = _MATCHED.findall(said) if "matching key found" in said else []
        return Answer(accepted, found[-1].strip() if found else None, said)


def _query(connection: socket.socket, user: str, algorithm: str, blob: bytes) -> bool:
    transport = paramiko.Transport(connection)
    try:
        transport.start_client(timeout=_PATIENCE_S)
        asking = _Asking(transport, user, algorithm, blob)
        transport.auth_handler = asking
        request = Message()
        request.add_byte(b"\x05")  # SSH_MSG_SERVICE_REQUEST
        request.add_string(b"ssh-userauth")
        transport._send_message(request)  # type: ignore[attr-defined]
        assert asking.done.wait(_PATIENCE_S), "sshd says nothing"
        return asking.accepted
    finally:
        transport.close()


class _Asking(AuthHandler):
    """Asks once the service is there, and notes the answer."""

    def __init__(self, transport: paramiko.Transport, user: str, algorithm: str, blob: bytes) -> None:
        super().__init__(transport)
        self.done = threading.Event()
        self.accepted = False
        self._ask = (user.encode(), b"ssh-connection", b"publickey", algorithm.encode(), blob)

    @property
    def _handler_table(self) -> dict[int, Callable[[Message], None]]:
        return {6: self._serve, 51: self._answer(False), 60: self._answer(True)}

    def _serve(self, _: Message) -> None:
        user, service, method, algorithm, blob = self._ask
        message = Message()
        message.add_byte(b"\x32")  # SSH_MSG_USERAUTH_REQUEST
        for text in (user, service, method):
            message.add_string(text)
        message.add_boolean(False)
        message.add_string(algorithm)
        message.add_string(blob)
        transport: Any = self.transport
        transport._send_message(message)

    def _answer(self, accepted: bool) -> Callable[[Message], None]:
        def note(_: Message) -> None:
            self.accepted = accepted
            self.done.set()

        return note


def _me() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name
