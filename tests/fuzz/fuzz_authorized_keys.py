"""From an ssh entry to authorized_keys lines: sshd itself must take exactly these keys, for exactly what was asked, until then.

Each accepted entry is read by ``ssh-keygen -l`` (every line one key, that key) and by the real sshd of this machine: what its
log says it allows must be what the entry's actions say.
"""

import base64
import functools
import hashlib
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.errors import InvalidGrantError
from agent.model import SshWant
from enforcers.ssh import SshEnforcer, key_options
from tests.fuzz.source import Source
from tests.fuzz.sshd import Sshd

MAX_LEN = 768
WORDS = ()
TOOLS = ("ssh-keygen", "sshd")
_ENFORCER = SshEnforcer()
_ACTIONS = ("login", "exec", "sftp", "port-forwarding")
_ADDRESSES = (
    "10.0.0.0/8",
    "192.0.2.1",
    "2001:db8::/32",
    "::1",
    "0.0.0.0/0",
    "!10.0.0.1",
    "*",
    "10.0.0.1/8",
    "fe80::1%lo",
    "UNKNOWN",
)
_STRANGER = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(range(32))).decode()


def check(data: bytes) -> None:
    """Refused when decoded, or the lines say the entry and nothing more."""
    source = Source(data)
    body: dict[str, object] = {"type": "ssh", "identifier": "jit-a", "keys": [_key(source) for _ in range(1 + source.number(2))]}
    if source.flag():
        body["actions"] = [source.mostly(_ACTIONS) for _ in range(1 + source.number(3))]
    if source.flag():
        body["principals"] = [source.mostly(("alice@example.com", "a"), 60) for _ in range(source.number(2))]
    if source.flag():
        body["source_address"] = [source.mostly(_ADDRESSES) for _ in range(source.number(3))]
    try:
        want = _ENFORCER.decode(body, "entry")
    except InvalidGrantError as error:
        assert error.reason.isprintable()
        return
    options = key_options(want, int(time.time()) + 3600)
    lines = "".join(f"{options} {key}\n" for key in want.keys)
    principals = "".join(f"{options} {name}\n" for name in want.principals)
    for text, count in ((lines, len(want.keys)), (principals, len(want.principals))):
        assert text.count("\n") == count and text.isascii() and text.replace("\n", "").isprintable() and "#" not in text, text
    if want.keys:
        _keygen_reads(lines, want)
        _sshd_reads(lines, want)


def _key(source: Source) -> str:
    good = source.choice(_keys())
    match source.number(7):
        case 1:
            return source.text(200)
        case 2:
            return f"{source.text(30)}{good}{source.text(30)}"
        case 3:  # a blob with something changed, in its own type's coat
            kind, text = good.split(" ")
            blob = bytearray(base64.b64decode(text))
            for _ in range(1 + source.number(3)):
                blob[source.number(len(blob) - 1)] = source.number(255)
            return f"{kind} {base64.b64encode(bytes(blob) + source.bytes_of(8)).decode()}"
        case _:
            return good


@functools.cache
def _keys() -> tuple[str, ...]:
    """One of each kind, always the same ones."""
    curve = [
        ec.derive_private_key(7 + n, found).public_key() for n, found in enumerate((ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()))
    ]
    made = [key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() for key in curve]
    modulus = (1 << 2047) | int.from_bytes(hashlib.shake_128(b"tidegate").digest(200), "big") | 1  # of the right size; nobody's
    made.append(rsa.RSAPublicNumbers(65537, modulus).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())
    plain = b"\0\0\0\x20" + bytes(32)
    sk = b"\0\0\0\x1ask-ssh-ed25519@openssh.com" + plain + b"\0\0\0\x04ssh:"
    return (
        f"ssh-ed25519 {base64.b64encode(bytes([0, 0, 0, 11]) + b'ssh-ed25519' + plain).decode()}",
        *made,
        f"sk-ssh-ed25519@openssh.com {base64.b64encode(sk).decode()}",
    )


def _keygen_reads(lines: str, want: SshWant) -> None:
    if shutil.which("ssh-keygen") is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "keys")
        file.write_text(lines)
        done = subprocess.run(["ssh-keygen", "-l", "-f", str(file)], capture_output=True, text=True, check=False, timeout=30)
    read = [line.split(" ")[1] for line in done.stdout.splitlines()]
    prints = [hashlib.sha256(base64.b64decode(key.split(" ")[1])).digest() for key in want.keys]
    assert read == ["SHA256:" + base64.b64encode(found).decode().rstrip("=") for found in prints], (lines, done.stdout, done.stderr)


@functools.cache
def _sshd() -> Sshd:
    return Sshd()


def _sshd_reads(lines: str, want: SshWant) -> None:
    """From no address at all (a socketpair has none), so only entries without one can be taken: all others must not be."""
    sshd = _sshd()
    if not sshd.there:
        return
    allowed = {"expires"} | {
        word for action, word in (("login", "pty"), ("port-forwarding", "port-forwarding")) if action in want.actions
    }
    for key in want.keys:
        kind, text = key.split(" ")
        algorithm = "rsa-sha2-512" if kind == "ssh-rsa" else kind
        answer = sshd.would_take(lines, algorithm, base64.b64decode(text))
        assert answer.accepted is (not want.source_address), (lines, answer.log[-3000:])
        if answer.accepted:
            assert answer.options is not None and set(answer.options.split()) == allowed, (
                lines,
                answer.options,
                answer.log[-3000:],
            )
    assert not sshd.would_take(lines, "ssh-ed25519", base64.b64decode(_STRANGER)).accepted or _STRANGER in lines
    late = lines.replace(key_options(want, int(time.time()) + 3600).split(",")[0], 'expiry-time="20200101000000Z"')
    kind, text = want.keys[0].split(" ")
    if late != lines:
        algorithm = "rsa-sha2-512" if kind == "ssh-rsa" else kind
        assert not sshd.would_take(late, algorithm, base64.b64decode(text)).accepted, late
