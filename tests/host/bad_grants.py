"""Grants that are signed well and ask for what must not be: one line each, with the one code it is refused with."""

import base64
import functools
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from tests.host.scene import ALLOWED, ISSUER, OTHER_ISSUER, Entry, Scene, account, group, role, ssh, sudo

# Every ceiling has a subject of its own, so that the rule that comes closest is the one meant.
POLICY = f"""\
roles:
  web:
    entries:
      - {{ type: account }}
  many:
    entries:
{"".join(f"      - {{ type: group, groups: [games{number}] }}{chr(10)}" for number in range(32))}
rules:
  - name: contractors
    issuers: [{ISSUER}]
    subjects: [alice@example.com]
    max_duration: 1h
    max_ahead: 1d
    accounts:
      prefix: jit-
      shells: [/bin/bash, /bin/nonesuch]
      groups: [games, docker, nonesuch, tidegate-tenants]
      existing: [clerk]
    ssh: {{ keys: true, principals: ["alice@example.com"] }}
    sudo: {{ run_as: [root, nonesuch], commands: ["{ALLOWED}", /bin/bash, /usr/bin/nonesuch, /usr/bin/vim /etc/motd] }}
    groups: [games, docker, nonesuch]
    roles: [web, many]
  - name: no-ssh
    issuers: [{ISSUER}]
    subjects: [no-ssh@example.com]
    accounts: {{ prefix: jit- }}
  - name: no-account
    issuers: [{ISSUER}]
    subjects: [no-account@example.com]
    ssh: {{ keys: true }}
  - name: certificates
    issuers: [{ISSUER}]
    subjects: [certificates@example.com]
    accounts: {{ prefix: jit- }}
    ssh: {{ keys: false, principals: ["alice@example.com"] }}
  - name: office
    issuers: [{ISSUER}]
    subjects: [office@example.com]
    accounts: {{ prefix: jit- }}
    ssh: {{ source_networks: [10.1.0.0/16] }}
  - name: tickets
    issuers: [{ISSUER}]
    subjects: [tickets@example.com]
    accounts: {{ prefix: jit- }}
    ticket: {{ required: true, pattern: "INC-#" }}
  - name: reasons
    issuers: [{ISSUER}]
    subjects: [reasons@example.com]
    accounts: {{ prefix: jit- }}
    reason: {{ required: true }}
  - name: two-keys
    issuers: [{ISSUER}]
    subjects: [two-keys@example.com]
    accounts: {{ prefix: jit- }}
    approvals: {{ threshold: 2, distinct: keys }}
  - name: recorded
    issuers: [{ISSUER}]
    subjects: [recorded@example.com]
    accounts: {{ prefix: jit-, existing: [clerk] }}
    groups: [games]
    recording: required
  - name: one-of-all
    issuers: [{ISSUER}]
    subjects: [one-of-all@example.com, second@example.com]
    max_concurrent: 1
    accounts: {{ prefix: jit- }}
  - name: one-each
    issuers: [{ISSUER}]
    subjects: [one-each@example.com]
    max_concurrent_per_subject: 1
    accounts: {{ prefix: jit- }}
"""

# What the host has that such grants run into.
PREPARE = """
useradd --create-home clerk
useradd --no-create-home jit-taken
groupadd jit-a-group
mkdir /home/jit-a-home
groupadd --force games
sed -i 's/^games:.*/&,jit-listed/; s/:,/:/' /etc/group
"""

BAD_LOGINS = (
    "", "a\nb", "jit-a\n", "jit-a\nroot::0:0::/:/bin/sh", "jit:a", "-rf", "--help", "1234", "0", "jit-ålice", "jit-\u202ealice",
    "j" * 40, "ALL", "Jit-a", "..", "../jit-a", "jit-a/b", "jit a", "jit-a$", "%sudo", "#0", "*", "jit.a", "jit_a", "jit-a\0",
)  # fmt: skip
NOT_LITERAL = (
    "/usr/bin/cat /var/log/*", "/usr/bin/cat /var/log/?", "/usr/bin/cat /var/log/[a-z]", "/usr/bin/cat /var/log/../../etc/shadow",
    "/usr/bin/cat\n/bin/sh", "/bin/sh\\", "/usr/bin/cat ^..$", "/usr/bin/cat '^.*$'", "/usr/bin/cat 'a b'", "/usr/bin/cat ''",
    '/usr/bin/cat "a', "/usr/bin/cat 'it'\"'\"'s'", "/usr/bin/sudoedit /etc/motd", "", " ", "/usr/bin/cat\t\x07", "/usr/bin/cät",
    "/usr/bin/true " + "x" * 1000,
)  # fmt: skip
NO_PATH = (
    "ALL", "sudoedit /etc/motd", "systemctl restart cron", "./x", "../bin/sh", "~/x", "!/bin/sh", "/usr/bin/../bin/sh", "/usr//id",
    "/usr/bin/", "/usr/bin/*", "^/usr/bin/.*$ x", "%sudo", "sha224:x /bin/ls", "NOPASSWD:/bin/sh", "/bin/ls,/bin/sh", "/bin/a=b",
)  # fmt: skip


class Case(NamedTuple):
    """A token to make, and its refusal. ``field`` where it says more than the code."""

    name: str
    code: str
    make: Callable[[Scene], bytes]
    field: str | None = None


def asks(name: str, code: str, *entries: Entry, field: str | None = None, **claims: Any) -> Case:
    """A good grant but for these entries and claims."""
    return Case(name, code, lambda scene: scene.grant(*entries, **claims), field)


def blob(*parts: bytes) -> str:
    """An SSH wire encoding of strings, as base64."""
    return base64.b64encode(b"".join(struct.pack(">I", len(part)) + part for part in parts)).decode()


@functools.cache
def public_key() -> str:
    """A good key."""
    return _openssh(ed25519.Ed25519PrivateKey.generate().public_key())


def _openssh(key: ed25519.Ed25519PublicKey | rsa.RSAPublicKey) -> str:
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def names() -> Iterator[Case]:
    identifier = "authorization_details[0].identifier"
    for login in BAD_LOGINS:
        yield asks(f"login {login[:20]!a}", "login_invalid", account(login), field=identifier)
        yield asks(f"sudo login {login[:20]!a}", "login_invalid", sudo(login), field=identifier)
    for login in ("tidegate-probe", "tidegate-x"):
        yield asks(f"login {login}", "login_reserved", account(login), field=identifier)
    for login in ("root", "tidegate"):
        yield asks(f"login {login}", "login_reserved", account(login), field=identifier)
        yield asks(f"sudo for {login}", "login_reserved", sudo(login), field=identifier)
    for login in ("daemon", "www-data", "nobody", "sshd", "clerk", "jit", "jit-"):
        yield asks(f"login {login}", "prefix_required", account(login), field=identifier)
    for login in ("daemon", "nobody", "jit-taken", "jit-nobody"):
        yield asks(f"sudo for {login}", "existing_not_allowed", sudo(login), field=identifier)
        yield asks(f"group for {login}", "existing_not_allowed", group(login, "games"), field=identifier)
    yield asks("ssh for a user who is there", "ssh_needs_account", ssh("clerk", public_key()), field=identifier)
    for login, code in {
        "taken": "account_exists",
        "a-group": "group_exists",
        "a-home": "home_exists",
        "listed": "group_lists_name",
    }.items():
        yield asks(f"login jit-{login}", code, account(f"jit-{login}"))
    for text in ("a:b", "a,b"):
        yield asks(f"full name {text!a}", "full_name_invalid", account(full_name=text))
    for text in ("a\nroot::0:0:::", "a\u202eb", "\x1b]0;x\x07"):
        yield asks(f"full name {text!a}", "text_unprintable", account(full_name=text))


def shells_and_homes() -> Iterator[Case]:
    yield asks("a shell outside the list", "shell_not_allowed", account(shell="/bin/dash"))
    yield asks("a shell that is missing", "shell_missing", account(shell="/bin/nonesuch"))
    for shell in ("bash", "/bin/../bin/bash", "/bin//bash", "/bin/bash\n", "/bin/bash -c id", "/bin/bash:", "", "/", "/bin/bash/"):
        yield asks(f"shell {shell!a}", "path_invalid", account(shell=shell))
    yield asks("home archive", "home_not_allowed", account(home="archive"))
    for home in ("/root", "/", "../x", "", "EPHEMERAL"):
        yield asks(f"home {home!a}", "unknown_value", account(home=home))
    yield asks("uid in the entry", "unknown_member", account(uid=0))


def groups() -> Iterator[Case]:
    yield asks("a group outside the list", "group_not_allowed", account(groups=["users"]))
    yield asks("docker without its explicit line", "group_privileged", account(groups=["docker"]))
    yield asks("docker by a group entry", "group_privileged", account(), group("jit-alice", "docker"))
    yield asks("sudo", "group_not_allowed", account(groups=["sudo"]))
    yield asks("tidegate's own group", "group_privileged", account(groups=["tidegate-tenants"]))
    yield asks("a group that is missing", "group_missing", account(groups=["nonesuch"]))
    yield asks("two entries for one membership", "same_target", account(groups=["games"]), group("jit-alice", "games"))
    for name in ("games\n", "GAMES", "a b", "0", "a" * 33, "../x", "games,docker", ""):
        yield asks(f"group {name[:12]!a}", "group_invalid", account(groups=[name]))


def commands() -> Iterator[Case]:
    for command in NOT_LITERAL:
        yield asks(f"command {command[:40]!a}", "command_invalid", account(), sudo("jit-alice", command))
    for command in NO_PATH:
        yield asks(f"command {command!a}", "path_invalid", account(), sudo("jit-alice", command))
    yield asks("a command that is not listed", "command_not_allowed", account(), sudo("jit-alice", "/usr/bin/id"))
    yield asks("one word more than listed", "command_not_allowed", account(), sudo("jit-alice", f"{ALLOWED} --now"))
    yield asks("a shell without its explicit line", "command_root_equivalent", account(), sudo("jit-alice", "/bin/bash"))
    yield asks(
        "an editor without its explicit line", "command_root_equivalent", account(), sudo("jit-alice", "/usr/bin/vim /etc/motd")
    )
    yield asks("a command that is missing", "command_missing", account(), sudo("jit-alice", "/usr/bin/nonesuch"))
    yield asks("run as somebody else", "run_as_not_allowed", account(), sudo(run_as=["daemon"]))
    yield asks("run as nobody there", "run_as_missing", account(), sudo(run_as=["nonesuch"]))
    for name in ("ALL", "#0", "%sudo", "root,daemon"):
        yield asks(f"run as {name!a}", "login_invalid", account(), sudo(run_as=[name]))


def keys() -> Iterator[Case]:
    good = public_key()
    kind, data = good.split()
    raw = base64.b64decode(data)[-32:]
    nonce, number = b"n" * 32, (1).to_bytes(8, "big")
    certificate = blob(b"ssh-ed25519-cert-v01@openssh.com", nonce, raw, number, b"", b"root")
    dsa = blob(b"ssh-dss", *[b"\x01" + bytes(20)] * 4)
    weak = _openssh(rsa.generate_private_key(65537, 1024).public_key())
    for name, code, key in (
        ("an option before", "key_invalid", f'command="/bin/sh" {good}'),
        ("options without quotes", "key_invalid", f"no-pty,cert-authority {good}"),
        ("a newline and a second key", "key_invalid", f"{good}\n{good}"),
        ("a carriage return", "key_invalid", f"{good}\rx"),
        ("a newline in the comment", "key_invalid", f"{good} a\ncert-authority {good}"),
        ("a comment sign", "key_invalid", f"# {good}"),
        ("two blanks", "key_invalid", f"{kind}  {data}"),
        ("empty", "key_invalid", ""),
        ("longer than a line of sshd", "key_invalid", f"{kind} {'A' * 9000}"),
        ("a certificate", "key_type", f"ssh-ed25519-cert-v01@openssh.com {certificate}"),
        ("a certificate's blob under a key's name", "key_blob", f"{kind} {certificate}"),
        ("a key's blob under an RSA name", "key_blob", f"ssh-rsa {data}"),
        ("bytes after the key", "key_blob", f"{kind} {blob(b'ssh-ed25519', raw, b'more')}"),
        ("a key cut short", "key_blob", f"{kind} {blob(b'ssh-ed25519', raw[:31])}"),
        ("base64 that is another spelling", "key_blob", f"{kind} {data}=="),
        ("DSA", "key_type", f"ssh-dss {dsa}"),
        ("RSA of 1024 bits", "key_blob", weak),
        ("an unknown type", "key_type", f"ssh-none {data}"),
    ):
        yield asks(f"key: {name}", code, account(), ssh("jit-alice", key))
    yield asks("ssh without a credential", "ssh_no_credential", account(), ssh("jit-alice"))
    yield asks("ssh without its account", "ssh_needs_account", ssh("jit-alice", good))
    yield asks("an action outside the list", "action_not_allowed", account(), ssh("jit-alice", good, actions=["sftp"]))
    yield asks("an action nobody knows", "unknown_value", account(), ssh("jit-alice", good, actions=["agent"]))
    yield asks(
        "a principal outside the list", "principal_not_allowed", account(), ssh("jit-alice", principals=["root@example.com"])
    )
    for principal in ("a b", "a,b", 'a"b', "a\nb", "*", ""):
        yield asks(f"principal {principal!a}", "principal_invalid", account(), ssh("jit-alice", principals=[principal]))
    yield asks("a principal without a CA here", "ssh_ca_missing", account(), ssh("jit-alice", principals=["alice@example.com"]))
    for address in ("10.1.0.1/16", "*", "!10.0.0.1", "10.0.0.0/8\n", '0.0.0.0/0",command="x', "fe80::1%eth0", "localhost"):
        where = ssh("jit-alice", good, source_address=[address])
        yield asks(f"source {address[:16]!a}", "source_address_invalid", account(), where)


def ceilings() -> Iterator[Case]:
    def by(subject: str, code: str, *entries: Entry, **claims: Any) -> Case:
        return asks(f"{subject}: {code}", code, *(entries or (account(),)), sub=f"{subject}@example.com", **claims)

    key = ssh("jit-alice", public_key())
    yield asks("longer than the rule lets", "duration_too_long", account(), lifetime=3601)
    yield Case("too far ahead", "too_far_ahead", lambda scene: scene.grant(**_shifted(scene, 2 * 86400)))
    yield asks("another subject", "subject_not_allowed", account(), sub="mallory@example.com")
    yield Case("an issuer without a rule", "issuer_not_allowed", lambda scene: scene.sign(scene.claims(iss=OTHER_ISSUER), "other"))
    yield by("no-ssh", "ssh_not_allowed", account(), key)
    yield by("no-ssh", "sudo_not_allowed", account(), sudo())
    yield by("no-account", "account_not_allowed")
    yield by("certificates", "keys_not_allowed", account(), key)
    yield by("office", "source_required", account(), key)
    for address in ("10.2.0.0/16", "0.0.0.0/0", "::/0", "10.0.0.0/8"):
        yield by("office", "source_not_allowed", account(), {**key, "source_address": [address]})
    yield by("tickets", "ticket_required")
    for ticket in ("INC-", "INC-1 ", "inc-1", "INC-1;id"):
        yield by("tickets", "ticket_invalid", ticket=ticket)
    yield by("reasons", "reason_required", reason=" ")
    yield by("two-keys", "approvals_missing")
    yield by("recorded", "recording_unavailable", account(), group("clerk", "games"))
    yield asks("what is typed recorded", "input_not_allowed", account(), recording={"required": True, "input": True})
    yield asks("supersedes", "supersedes_unknown", account(), supersedes="g-0")
    yield asks("a role outside the rule", "role_unknown", role("dba"))
    yield by("no-ssh", "role_not_allowed", role("web"))
    yield asks("an account by role and by entry", "entry_twice", account(), role("web"))
    yield asks("roles that grow too large", "too_many_entries", *(role("many", f"jit-{n}") for n in range(3)))


def _shifted(scene: Scene, seconds: int) -> dict[str, Any]:
    claims = scene.claims()
    return {"nbf": claims["nbf"] + seconds, "exp": claims["exp"] + seconds}


GRANTS = [*names(), *shells_and_homes(), *groups(), *commands(), *keys(), *ceilings()]
