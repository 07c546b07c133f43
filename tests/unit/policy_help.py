"""What the policy tests share: decoders as enforcers will have them, a grant, and one rule's text."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.model import AccountWant, Grant, GroupWant, Signer, SshWant, SudoWant, Want, fields
from agent.policy import Allowed, Denied, LiveGrant, Policy, judge, load_policy_file
from agent.policy.patterns import command

ISSUER = "https://cp.example"
NOW = 1_800_000_000
RESTART = ("/usr/bin/systemctl", "restart", "nginx")


def account(body: Mapping[str, object], field: str) -> Want:
    read = fields.FieldReader(body, field, required=("type", "identifier"), optional=("full_name", "groups", "shell", "home"))
    return AccountWant(
        read.one("identifier", fields.login),
        read.optional("full_name", fields.full_name, ""),
        read.many("groups", fields.group_name, least=0),
        read.optional("shell", fields.absolute_path, "/bin/bash"),
        read.optional("home", fields.choice("ephemeral", "archive"), "ephemeral"),
    )


def ssh(body: Mapping[str, object], field: str) -> Want:
    optional = ("keys", "principals", "source_address", "actions")
    read = fields.FieldReader(body, field, required=("type", "identifier"), optional=optional)
    return SshWant(
        read.one("identifier", fields.login),
        read.many("keys", fields.text, least=0),
        read.many("principals", fields.principal, least=0),
        read.many("source_address", fields.source_address, least=0),
        read.many("actions", fields.choice("login", "exec", "sftp", "port-forwarding"), least=0) or ("login", "exec"),
    )


def sudo(body: Mapping[str, object], field: str) -> Want:
    read = fields.FieldReader(body, field, required=("type", "identifier", "commands"), optional=("run_as",))
    run_as = read.many("run_as", fields.login, least=0) or ("root",)
    return SudoWant(read.one("identifier", fields.login), run_as, read.many("commands", command))


def group(body: Mapping[str, object], field: str) -> Want:
    read = fields.FieldReader(body, field, required=("type", "identifier", "groups"))
    return GroupWant(read.one("identifier", fields.login), read.many("groups", fields.group_name))


DECODERS = {"account": account, "ssh": ssh, "sudo": sudo, "group": group}

ACCOUNT = AccountWant("jit-alice")
SSH = SshWant("jit-alice", keys=("ssh-ed25519 AAAA",))


def signer(name: str, *issuers: str, approver: str | None = None) -> Signer:
    return Signer(name, f"print-{name}", issuers or (ISSUER,), approver)


def grant(*wants: Want, **changes: Any) -> Grant:
    base = Grant(
        iss=ISSUER,
        aud="host",
        sub="alice@example.com",
        iat=NOW,
        nbf=NOW,
        exp=NOW + 3600,
        jti="g1",
        wants=wants or (ACCOUNT,),
        signers=(signer("a"),),
        digest="0" * 64,
    )
    return replace(base, **changes)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)
    return path


def rule_text(more: str = "", *, accounts: str = "{}") -> str:
    lines = "".join(f"    {line}\n" for line in more.splitlines())
    head = f"rules:\n  - name: r\n    issuers: [{ISSUER}]\n"
    return head + (f"    accounts: {accounts}\n" if accounts else "") + lines


def policy(folder: Path, text: str) -> Policy:
    return load_policy_file(write(folder / "policy.yaml", text), DECODERS)


def decide(
    found: Policy, asked: Grant, *, now_s: int = NOW, live: Sequence[LiveGrant] = (), ours: Sequence[str] = ()
) -> Allowed | Denied:
    return judge(asked, found, now_s=now_s, live=live, is_ours=lambda login: login in ours)
