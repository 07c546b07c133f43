"""SSH access: root-owned key and principal files in /run, read by sshd through one ``Match Group`` block (sshd_match).

Each line carries its own end (``expiry-time``, one second early: sshd accepts until the second after), so that it is over
even with the daemon dead; ``restrict`` first, then only what the grant gives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from agent.errors import InvalidGrantError, UnenforceableError
from agent.host.contract import Config, Reader, Writer
from agent.model import Json, JsonObject, PlanContext, Residue, SshWant, Step
from agent.model.fields import FieldReader, choice, login, principal, source_address
from agent.model.plan import Phase, Stage
from enforcers import sshd_match
from enforcers.data import text
from enforcers.ssh_keys import public_key

BACKSTOP = "sshd refuses every key and principal from the deadline on (expiry-time)"
ACTIONS = ("login", "exec", "sftp", "port-forwarding")


@dataclass(frozen=True, slots=True)
class SshSeen:
    """Whether sshd, tidegate-shell and a user CA are there, and what already has the files' names."""

    config: Config
    sshd: bool
    tenant_shell: bool
    ca: bool
    taken: tuple[str, ...]


class SshEnforcer:
    """``{"type":"ssh","identifier":...,"keys":[...],"principals":[...]}`` → the login may authenticate, until exp."""

    type: ClassVar[str] = "ssh"

    def __init__(self) -> None:
        self._known = sshd_match.Known()

    def decode(self, body: object, field: str) -> SshWant:
        """See Enforcer. Codes: those of the field rules and of ssh_keys, ``ssh_no_credential``."""
        reader = FieldReader(
            body, field, required=("type", "identifier"), optional=("keys", "principals", "source_address", "actions")
        )
        reader.one("type", choice(self.type))
        want = SshWant(
            identifier=reader.one("identifier", login),
            keys=reader.many("keys", public_key, least=0, most=16),
            principals=reader.many("principals", principal, least=0, most=16),
            source_address=reader.many("source_address", source_address, least=0),
            actions=reader.many("actions", choice(*ACTIONS)) if reader.has("actions") else ("login", "exec"),
        )
        if not want.keys and not want.principals:
            raise InvalidGrantError("ssh_no_credential", "needs keys, principals or both", field=field)
        return want

    def observe(self, want: SshWant, reader: Reader) -> SshSeen:
        """See Enforcer."""
        paths = reader.config.paths
        files = (paths.keys / want.identifier, paths.principals / want.identifier)
        return SshSeen(
            config=reader.config,
            sshd=reader.tool("sshd") is not None,
            tenant_shell=reader.tool(str(paths.tenant_shell)) is not None,
            ca=bool(reader.read(paths.ssh_user_ca)),
            taken=tuple(str(path) for path in files if reader.exists(path)),
        )

    def plan(self, want: SshWant, seen: SshSeen, context: PlanContext) -> Sequence[Step]:
        """See Enforcer. Only for an account of this grant: the Match block is for tenants, and nobody else's keys are touched.

        Codes: ``account_not_granted``, ``ssh_missing``, ``ssh_ca_missing``, ``ssh_files_exist``, ``tenant_shell_missing``.
        """
        name = want.identifier
        checks = (
            (not context.creates(name), "account_not_granted", f"ssh access needs an account entry for {name} in the same grant"),
            (not seen.sshd, "ssh_missing", "no sshd on this host"),
            (bool(want.principals) and not seen.ca, "ssh_ca_missing", f"principals need the CA in {seen.config.paths.ssh_user_ca}"),
            (bool(seen.taken), "ssh_files_exist", f"{', '.join(seen.taken)} is there already"),
            (
                not seen.tenant_shell and "exec" not in want.actions,
                "tenant_shell_missing",
                f"without {seen.config.paths.tenant_shell} a login can't be kept from running commands",
            ),
        )
        for wrong, code, reason in checks:
            if wrong:
                raise UnenforceableError(code, reason)
        options = key_options(want, context.grant.exp)
        paths, allowed = seen.config.paths, ", ".join(want.actions)
        told = _forwards(want, required=context.grant.recording_required)
        steps = []
        if want.keys:
            lines = "".join(f"{options} {key}\n" for key in want.keys)
            summary = f"{len(want.keys)} key(s) for {name}: {allowed}"
            more = {"asks": _asks("key", name, want.keys), **told}
            steps.append(self._step(name, "keys", paths.keys / name, lines, summary, more))
        if want.principals:
            lines = "".join(f"{options} {p}\n" for p in want.principals)
            more = {"asks": _asks("principal", name, want.principals), **told}
            summary = f"certificates of {', '.join(want.principals)} for {name}: {allowed}"
            steps.append(self._step(name, "principals", paths.principals / name, lines, summary, more, check=not want.keys))
        return steps

    def apply(self, step: Step, writer: Writer) -> None:
        """See Enforcer. Before the first file, sshd is asked what holds for this login (``sshd -T -C``), unless that is known.

        Raises:
            HostError: ``sshd_conflict``: another setting of this host's sshd would let the tenant in by another door.
        """
        if step.data.get("check") is not False:
            sshd_match.make_run_folder(writer)
        self._known.check(writer, text(step.data, "name"))
        writer.write(Path(text(step.data, "path")), text(step.data, "text").encode(), 0o644)

    def revert(self, step: Step, writer: Writer) -> None:
        """See Enforcer."""
        writer.remove(Path(text(step.data, "path")))

    def found(self, reader: Reader) -> Sequence[Step]:
        """See Enforcer. Both folders hold nothing but what grants put there."""
        paths = reader.config.paths
        return [
            Step(self.type, action, Stage.GRANT, Phase.CLOSE, path, f"{action} of {name}", {"path": path})
            for action, folder in (("keys", paths.keys), ("principals", paths.principals))
            for name in reader.names(folder)
            for path in (str(folder / name),)
        ]

    def residue(self, steps: Sequence[Step], reader: Reader) -> Sequence[Residue]:
        """See Enforcer."""
        paths = (Path(text(step.data, "path")) for step in steps)
        return [Residue("ssh", str(path)) for path in paths if reader.exists(path)]

    def prepare(self, writer: Writer) -> None:
        """Put the Match block in place, proved and loaded (see sshd_match.prepare). Nothing to do without sshd."""
        if writer.tool("sshd") is not None:
            sshd_match.prepare(writer)

    def retire(self, writer: Writer) -> None:
        """Take the Match block away, and have sshd forget it."""
        sshd_match.retire(writer)

    def _step(self, name: str, action: str, path: Path, lines: str, summary: str, more: JsonObject, *, check: bool = True) -> Step:
        data: JsonObject = {"name": name, "path": str(path), "text": lines, "check": check, "backstops": [BACKSTOP], **more}
        return Step(self.type, action, Stage.GRANT, Phase.CLOSE, str(path), summary, data)


def _asks(kind: str, login: str, credentials: Sequence[str]) -> list[Json]:
    """What sshd is asked once this stands, and once it is gone (agent.expiry.proof)."""
    return [{"kind": kind, "login": login, "credential": credential} for credential in credentials]


def _forwards(want: SshWant, *, required: bool) -> dict[str, Json]:
    """Whether the connections that it may forward must be seen (agent.expiry.logged)."""
    return {"forwards": "required" if required else "told"} if "port-forwarding" in want.actions else {}


def key_options(want: SshWant, exp: int) -> str:
    """The options of authorized_keys and of a principals file (sshd(8)). ``exp``: seconds since the epoch, the first refused."""
    until = datetime.fromtimestamp(exp - 1, UTC).strftime("%Y%m%d%H%M%SZ")
    options = [f'expiry-time="{until}"', "restrict"]
    if "login" in want.actions:
        options.append("pty")
    if "port-forwarding" in want.actions:
        options.append("port-forwarding")
    if want.source_address:
        options.append(f'from="{",".join(want.source_address)}"')
    return ",".join(options)
