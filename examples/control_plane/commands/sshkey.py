"""A key made on the spot, the certificate for it, and plain ssh with both. The key leaves this machine never, and ends with ssh."""

import base64
import contextlib
import os
import re
import shutil
import stat
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.errors import ConfigError, HostError
from agent.model.fields import LOGIN
from examples.control_plane.people.errors import ProviderError

KIND = b"ssh-ed25519-cert-v01@openssh.com"  # PROTOCOL.certkeys of OpenSSH
_USER = 1
_LINE = re.compile(r"ssh-ed25519-cert-v01@openssh\.com [A-Za-z0-9+/]{100,12000}={0,2}(?: [ -~]*)?\n?")
_ADDRESS = re.compile(r"[A-Za-z0-9:_][A-Za-z0-9.:_-]{0,252}")  # never an option of ssh
_NAME = "tidegate"


@dataclass(frozen=True, slots=True)
class Key:
    """A new Ed25519 key: ``private`` in OpenSSH's own form, ``public`` on one line."""

    private: bytes
    public: str


def make() -> Key:
    """A new key."""
    key = Ed25519PrivateKey.generate()
    encoding, plain = serialization.Encoding, serialization.NoEncryption()
    private = key.private_bytes(encoding.PEM, serialization.PrivateFormat.OpenSSH, plain)
    public = key.public_key().public_bytes(encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return Key(private, public.decode("ascii"))


def checked_certificate(line: str, key: Key) -> str:
    """The certificate on its line, if it is a user's and for our key.

    Raises:
        ProviderError: ``certificate_invalid``.
    """
    try:
        blob = base64.b64decode(line.split()[1], validate=True) if _LINE.fullmatch(line) else b""
        kind, rest = _taken(blob)
        _, rest = _taken(rest)  # nonce
        public, rest = _taken(rest)
        (role,) = struct.unpack_from(">I", rest, 8)  # behind the serial
    except (ValueError, IndexError, struct.error) as error:
        raise ProviderError("certificate_invalid", "the control plane gave something that is no certificate") from error
    ours = base64.b64decode(key.public.split()[1])[-32:]
    if kind != KIND or role != _USER or public != ours:
        raise ProviderError("certificate_invalid", "the control plane gave a certificate for another key or use")
    return line.rstrip("\n") + "\n"


def _taken(data: bytes) -> tuple[bytes, bytes]:
    (length,) = struct.unpack_from(">I", data)
    if length > len(data) - 4:
        raise ValueError("cut short")
    return data[4 : 4 + length], data[4 + length :]


@dataclass(frozen=True, slots=True)
class Credential:
    """Where the two files are."""

    key: Path
    certificate: Path


def write(folder: Path, key: Key, certificate: str) -> Credential:
    """Both into a folder, for their owner alone; never over something else.

    Raises:
        ConfigError: ``file_exists``, ``file_unwritable``.
    """
    found = Credential(folder / _NAME, folder / f"{_NAME}-cert.pub")
    for path, data in ((found.key, key.private), (found.certificate, certificate.encode("ascii"))):
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(data)
        except FileExistsError as error:
            raise ConfigError("file_exists", "is there already: name an empty folder", path=path) from error
        except OSError as error:
            raise ConfigError("file_unwritable", f"can't be written: {error.strerror}", path=path) from error
    return found


@contextlib.contextmanager
def for_now(key: Key, certificate: str) -> Iterator[Credential]:
    """Both in a folder of mode 0700 that is gone afterwards; in memory where this machine keeps such folders for its users."""
    folder = Path(tempfile.mkdtemp(prefix="tidegate-", dir=_runtime()))
    try:
        yield write(folder, key, certificate)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _runtime() -> str | None:
    """``$XDG_RUNTIME_DIR``, a tmpfs of this user's, where it is what it should be; None: the usual temporary folder."""
    named = os.environ.get("XDG_RUNTIME_DIR", "")
    if not re.fullmatch(r"/[A-Za-z0-9._/-]+", named):  # ssh reads % and blanks in its options
        return None
    try:
        status = Path(named).stat()
    except OSError:
        return None
    return named if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) & 0o077 == 0 else None


def to_agent(credential: Credential, seconds: int) -> None:
    """Give both to the running ssh-agent, which forgets them after so many seconds.

    Raises:
        HostError: ``ssh_agent_failed``.
    """
    if not os.environ.get("SSH_AUTH_SOCK"):
        raise HostError("ssh_agent_failed", "no ssh-agent runs here (SSH_AUTH_SOCK is not set)")
    argv = [program("ssh-add"), "-q", "-t", str(max(1, seconds)), str(credential.key)]
    done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise HostError("ssh_agent_failed", f"ssh-add: {done.stderr.strip()[:300]}")


def ssh_argv(credential: Credential | None, login: str, address: str, options: Sequence[str], command: Sequence[str]) -> list[str]:
    """Plain ssh's arguments. ``address`` is a name or address, with ``:PORT`` where there is one colon.

    Raises:
        ProviderError: ``answer_shape``: what the control plane names is no login or address.
    """
    host, colon, port = address.partition(":") if address.count(":") == 1 else (address, "", "")
    if not LOGIN.fullmatch(login) or not _ADDRESS.fullmatch(host) or (colon and not port.isdigit()):
        raise ProviderError("answer_shape", f"the control plane names no login and address: {login!a} {address!a}")
    argv = [program("ssh")]
    if credential is not None:
        argv += ["-i", str(credential.key), "-o", f"CertificateFile={credential.certificate}", "-o", "IdentitiesOnly=yes"]
    for option in options:
        argv += ["-o", option]
    return [*argv, *(["-p", port] if port else []), "-l", login, "--", host, *command]


def program(name: str) -> str:
    """The absolute path of a program of OpenSSH.

    Raises:
        HostError: ``tool_missing``.
    """
    found = shutil.which(name)
    if found is None:
        raise HostError("tool_missing", f"{name} is not on this machine: install OpenSSH's client")
    return found
