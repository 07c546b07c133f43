"""A temporary local account: created locked, opened last, locked first, removed last.

What is at REMOVE here is what a live session stands on. The membership of the tenants' group is part of that: were it
dropped at CLOSE, sshd's ``Match Group`` block would stop applying and the tenant's own ~/.ssh/authorized_keys would count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from agent.errors import HostError, InvalidGrantError, UnenforceableError
from agent.host.contract import Account, Config, Reader, RecorderSeen, Writer
from agent.model import AccountWant, Grant, JsonObject, PlanContext, Residue, Step
from agent.model.fields import FieldReader, absolute_path, choice, full_name, group_name, login
from agent.model.plan import Phase, Stage
from enforcers.data import number, text
from enforcers.group import own_groups
from enforcers.tenant_file import ssh_of, tenant_file

_SYSTEMD = Path("/run/systemd/system")
RESERVED = "tidegate-"  # logins of Tidegate's own, such as the probes'


@dataclass(frozen=True, slots=True)
class AccountSeen:
    """What the host has of what an account would take. ``listed_in``: groups that name it though it is no user."""

    config: Config
    user: bool
    group: bool
    home: bool
    listed_in: tuple[str, ...]
    missing_groups: tuple[str, ...]
    shell: bool
    tenant_shell: bool
    systemd: bool
    recorder: RecorderSeen


class AccountEnforcer:
    """``{"type":"account","identifier":...}`` → a user, its group, its home, and the file tidegate-shell reads."""

    type: ClassVar[str] = "account"

    def prepare(self, writer: Writer) -> None:
        """Nothing to put in place. The account backend is chosen at the first account."""

    def retire(self, writer: Writer) -> None:
        """Nothing to take away."""

    def decode(self, body: object, field: str) -> AccountWant:
        """See Enforcer. Codes: those of the field rules, ``login_reserved``."""
        reader = FieldReader(body, field, required=("type", "identifier"), optional=("full_name", "groups", "shell", "home"))
        reader.one("type", choice(self.type))
        name = reader.one("identifier", login)
        if name.startswith(RESERVED):
            raise InvalidGrantError("login_reserved", f"logins {RESERVED}* are Tidegate's own", field=reader.path("identifier"))
        return AccountWant(
            identifier=name,
            full_name=reader.optional("full_name", full_name, ""),
            groups=reader.many("groups", group_name, least=0),
            shell=reader.optional("shell", absolute_path, "/bin/bash"),
            home=reader.optional("home", choice("ephemeral", "archive"), "ephemeral"),
        )

    def observe(self, want: AccountWant, reader: Reader) -> AccountSeen:
        """See Enforcer."""
        config = reader.config
        return AccountSeen(
            config=config,
            user=reader.user(want.identifier) is not None,
            group=reader.group(want.identifier) is not None,
            home=reader.exists(config.paths.home_base / want.identifier),
            listed_in=tuple(sorted(reader.groups_of(want.identifier))),
            missing_groups=tuple(g for g in (config.tenant_group, *want.groups) if reader.group(g) is None),
            shell=reader.tool(want.shell) is not None,
            tenant_shell=reader.tool(str(config.paths.tenant_shell)) is not None,
            systemd=reader.exists(_SYSTEMD),
            recorder=reader.recorder(),
        )

    def plan(self, want: AccountWant, seen: AccountSeen, context: PlanContext) -> Sequence[Step]:
        """See Enforcer. Codes: see :func:`_refuse_taken`."""
        _refuse_taken(want, seen)
        name, uid = want.identifier, context.uids[want.identifier]
        paths, group = seen.config.paths, seen.config.tenant_group
        home = str(paths.home_base / name)
        row: JsonObject = {
            "name": name,
            "uid": uid,
            "full_name": want.full_name,
            "home": home,
            "shell": str(paths.tenant_shell) if seen.tenant_shell else want.shell,
        }
        archive = want.home == "archive"
        kept = "archived, then deleted" if archive else "deleted at the end"
        tenants = str(paths.tenants / f"{name}.json")
        note: JsonObject = {"name": name, "uid": uid, "path": tenants, "text": tenant_file(want, context.grant, uid, seen.recorder)}
        place: JsonObject = {
            "name": name,
            "uid": uid,
            "path": home,
            "archive": archive,
            "label": f"{context.grant.jti}-{context.grant.digest[:8]}",  # a jti alone may be another issuer's too
        }
        create, remove = Stage.CREATE, Phase.REMOVE
        return (
            Step(self.type, "create", create, remove, name, f"account {name} (uid {uid}), locked until all is in place", row),
            Step(self.type, "home", create, remove, home, f"home {home}, {kept}", place),
            self._membership(name, group, create, f"{name} among the tenants (group {group})"),
            *(self._membership(name, g, Stage.GRANT, f"{name} in group {g}") for g in want.groups),
            Step(self.type, "tenant", create, remove, tenants, f"shell {want.shell} for {name}", note),
            *(self._no_manager(name, uid) if seen.systemd and _runs_nothing(want, context.grant) else ()),
            Step(self.type, "unlock", Stage.OPEN, Phase.CLOSE, name, f"account {name} opened", {"name": name, "uid": uid}),
        )

    def apply(self, step: Step, writer: Writer) -> None:
        """See Enforcer."""
        data = step.data
        match step.action:
            case "create":
                row = (text(data, key) for key in ("full_name", "home", "shell"))
                writer.create_account(Account(text(data, "name"), number(data, "uid"), *row))
            case "home":
                writer.create_home(Path(text(data, "path")), number(data, "uid"), number(data, "uid"))
            case "membership":
                writer.add_membership(text(data, "name"), text(data, "group"))
            case "tenant":
                writer.write(Path(text(data, "path")), text(data, "text").encode(), 0o644)
            case "manager":
                writer.write(Path(text(data, "path")), b"", 0o644)
            case "unlock":
                writer.set_locked(text(data, "name"), number(data, "uid"), False)
            case other:
                raise HostError("unknown_step", f"account has no action {other!r}")

    def revert(self, step: Step, writer: Writer) -> None:
        """See Enforcer. Code ``home_left``: parts of the home could not be removed; what is left is named."""
        data = step.data
        match step.action:
            case "create":
                writer.delete_account(text(data, "name"), number(data, "uid"))
            case "home":
                archive = data.get("archive") is True
                gone = writer.dispose_home(Path(text(data, "path")), number(data, "uid"), archive, text(data, "label"))
                if gone.left:
                    raise HostError("home_left", f"{len(gone.left)} left, such as {gone.left[0]}")
            case "membership":
                writer.drop_membership(text(data, "name"), text(data, "group"))
            case "tenant" | "manager":
                writer.remove(Path(text(data, "path")))
            case "unlock":
                writer.set_locked(text(data, "name"), number(data, "uid"), True)
            case other:
                raise HostError("unknown_step", f"account has no action {other!r}")

    def found(self, reader: Reader) -> Sequence[Step]:
        """See Enforcer. What its grant wanted with the home is not known: it is packed away, never just deleted."""
        paths, steps = reader.config.paths, []
        memberships = reader.own_memberships()
        for user in reader.own_accounts():
            row: JsonObject = {"name": user.name, "uid": user.uid, "full_name": "", "home": user.home, "shell": ""}
            what = f"account {user.name} (uid {user.uid})"
            steps.append(Step(self.type, "create", Stage.CREATE, Phase.REMOVE, user.name, what, row))
            if user.home and Path(user.home).parent == paths.home_base:
                place: JsonObject = {"name": user.name, "uid": user.uid, "path": user.home, "archive": True, "label": "found"}
                steps.append(Step(self.type, "home", Stage.CREATE, Phase.REMOVE, user.home, f"home {user.home}", place))
            steps += [
                self._membership(name, group, Stage.GRANT, f"{name} in group {group}")
                for name, group in memberships
                if name == user.name
            ]
            unlock: JsonObject = {"name": user.name, "uid": user.uid}
            steps.append(Step(self.type, "unlock", Stage.OPEN, Phase.CLOSE, user.name, f"account {user.name} opened", unlock))
        for name in reader.names(paths.tenants):
            path = str(paths.tenants / name)
            steps.append(Step(self.type, "tenant", Stage.CREATE, Phase.REMOVE, path, f"shell for {name}", {"path": path}))
        return steps

    def residue(self, steps: Sequence[Step], reader: Reader) -> Sequence[Residue]:
        """See Enforcer. An account of the same name but another uid is somebody else's."""
        found: list[Residue] = []
        for step in steps:
            data = step.data
            if step.action == "create":
                left = reader.account_left(text(data, "name"), number(data, "uid"))
                found += [Residue("account", where, f"uid {data['uid']}") for where in left]
            elif step.action in {"home", "tenant", "manager"} and reader.exists(Path(text(data, "path"))):
                found.append(Residue(step.action, text(data, "path")))
        return found

    def _no_manager(self, name: str, uid: int) -> tuple[Step, ...]:
        """An empty unit file is masked (systemd.unit(5)); in /run it is gone at a reboot, and made again with the rest."""
        unit = f"user@{uid}.service"
        path = f"{_SYSTEMD}/{unit}"
        data: JsonObject = {"name": name, "uid": uid, "path": path}
        summary = f"{unit} masked: {name} may run nothing"
        return (Step(self.type, "manager", Stage.CREATE, Phase.REMOVE, path, summary, data),)

    def _membership(self, name: str, group: str, stage: Stage, summary: str) -> Step:
        return Step(self.type, "membership", stage, Phase.REMOVE, f"{name}:{group}", summary, {"name": name, "group": group})


def _refuse_taken(want: AccountWant, seen: AccountSeen) -> None:
    """Nothing that was there before is adopted, and nothing stale is inherited.

    Raises:
        UnenforceableError: ``account_exists``, ``group_exists``, ``home_exists``, ``group_lists_name``, ``group_missing``,
            ``group_reserved``, ``shell_missing``.
    """
    name = want.identifier
    checks = (
        (seen.user, "account_exists", f"an account {name} is there already"),
        (seen.group, "group_exists", f"a group {name} is there already"),
        (seen.home, "home_exists", f"{seen.config.paths.home_base / name} is there already"),
        (bool(seen.listed_in), "group_lists_name", f"group {', '.join(seen.listed_in)} lists {name}, which is no account"),
        (bool(seen.missing_groups), "group_missing", f"no group {', '.join(seen.missing_groups)} on this host"),
        (bool(own := own_groups(want.groups, seen.config)), "group_reserved", own),
        (not seen.shell, "shell_missing", f"{want.shell} is no executable on this host"),
    )
    for wrong, code, reason in checks:
        if wrong:
            raise UnenforceableError(code, reason)


def _runs_nothing(want: AccountWant, grant: Grant) -> bool:
    """Whether ssh lets the tenant in, but to run neither a shell nor a command: who may place files could have units run them."""
    ssh = ssh_of(want, grant)
    return ssh is not None and not {"login", "exec"}.intersection(ssh.actions)
