"""Where things are on this host, and its few numbers. Loaded from tidegate.yaml and conf.d; every path but one can be set."""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from agent.errors import ConfigError, RefusedError
from agent.forms import CONFIGURATION, current
from agent.settings import Section, members, yaml_files
from agent.strictyaml import Node, read_yaml

DEFAULT_PATH = Path("/etc/tidegate/tidegate.yaml")
ENVIRONMENT = "TIDEGATE_CONFIG"
UID_LOW, UID_HIGH = 70000, 99999

# Paths are written into sshd's and sudo's own configuration, so only characters that mean nothing there.
_PATH = re.compile(r"(?:/[A-Za-z0-9._+-]+)+")
_PATH_MAX = 255
_SOCKET_PATH_MAX = 107  # sun_path of unix(7), less its NUL
_HOST_ID = re.compile(r"[!-~]{1,255}")
_GROUP = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True)
class Paths:
    """Every file and folder Tidegate reads or writes. Defaults are the contract's."""

    # No setting: tidegate-shell runs as the tenant, with no configuration that it could trust, and has this path built in.
    tenants: ClassVar[Path] = Path("/run/tidegate/tenants")

    policy_dir: Path = Path("/etc/tidegate/policy.d")
    trust_dir: Path = Path("/etc/tidegate/trust.d")
    ssh_user_ca: Path = Path("/etc/tidegate/ssh_user_ca.pub")
    state_db: Path = Path("/var/lib/tidegate/state.db")
    host_key: Path = Path("/var/lib/tidegate/host.jwk")
    courier: Path = Path("/var/lib/tidegate/courier")
    courier_config: Path = Path("/etc/tidegate/courier.yaml")
    inbox: Path = Path("/var/lib/tidegate/spool/inbox")
    outbox: Path = Path("/var/lib/tidegate/spool/outbox")
    sessions: Path = Path("/var/lib/tidegate/sessions")
    execs: Path = Path("/var/lib/tidegate/execs")
    archive: Path = Path("/var/lib/tidegate/archive")
    run_dir: Path = Path("/run/tidegate")
    control_socket: Path = Path("/run/tidegate/control.sock")
    keys: Path = Path("/run/tidegate/keys")
    principals: Path = Path("/run/tidegate/principals")
    sudoers: Path = Path("/run/tidegate/sudoers.d")
    sshd_config: Path = Path("/etc/ssh/sshd_config")
    sshd_drop_in: Path = Path("/etc/ssh/sshd_config.d/50-tidegate.conf")
    sudoers_drop_in: Path = Path("/etc/sudoers.d/tidegate")
    userdb: Path = Path("/run/userdb")
    home_base: Path = Path("/home")
    tenant_shell: Path = Path("/usr/lib/tidegate/tidegate-shell")


@dataclass(frozen=True, slots=True)
class Config:
    """One host's configuration.

    ``host_id`` None means: derived from the host's own key (``urn:tidegate:`` + its RFC 7638 thumbprint).
    ``uid_first``..``uid_last`` is inclusive, inside 70000-99999, where neither systemd, subuids nor people have theirs.
    """

    host_id: str | None = None
    paths: Paths = field(default_factory=Paths)
    uid_first: int = 70000
    uid_last: int = 99999
    tenant_group: str = "tidegate-tenants"
    admin_group: str = "tidegate"
    account_backend: str = "auto"  # auto, userdb, passwd
    backstop: str = "auto"  # auto: required where systemd is PID 1; required, best-effort


def config_path(option: Path | None, environ: Mapping[str, str] | None = None) -> Path | None:
    """Which file is meant: ``--config`` first, then ``TIDEGATE_CONFIG``; None is the default one, which may be absent."""
    if option is not None:
        return option
    named = (os.environ if environ is None else environ).get(ENVIRONMENT, "")
    return Path(named) if named else None


def load_config(path: Path | None = None, *, default: Path = DEFAULT_PATH) -> Config:
    """Read ``path`` and the ``conf.d/*.yaml`` beside it, by name; a later file replaces a whole top-level setting.

    Without ``path`` the default file is read where there is one.

    Raises:
        ConfigError: whatever :func:`agent.strictyaml.read_yaml`, :func:`agent.forms.current` and :class:`agent.settings.Section`
            refuse, and ``path_invalid``, ``host_id_invalid``, ``group_invalid``, ``groups_equal``, ``uids_invalid``,
            ``unknown_value``.
    """
    main = path if path is not None else default
    chosen: dict[str, Node] = {}
    files = [main] if path is not None or os.path.lexists(main) else []
    for file in (*files, *yaml_files(main.parent / "conf.d")):
        root = current(read_yaml(file), CONFIGURATION)
        Section(root, optional=_SETTINGS)
        chosen.update(members(root))
    return _config(chosen, main)


_SETTINGS = ("host_id", "paths", "uids", "tenant_group", "admin_group", "account_backend", "backstop")


def _config(chosen: Mapping[str, Node], main: Path) -> Config:
    section = Section(Node(chosen, main, 1, ""), optional=_SETTINGS)
    base = Config()
    first, last = _uids(section.member("uids"), base)
    groups = {name: section.optional(name, _group, getattr(base, name)) for name in ("tenant_group", "admin_group")}
    if groups["tenant_group"] == groups["admin_group"]:
        at = section.member("tenant_group") or section.member("admin_group") or section.node
        raise at.error("groups_equal", "tenants would be admins: tenant_group and admin_group must differ")
    return Config(
        host_id=section.optional("host_id", _host_id, base.host_id),
        paths=_paths(section.member("paths"), base.paths),
        uid_first=first,
        uid_last=last,
        account_backend=section.optional("account_backend", _one_of("auto", "userdb", "passwd"), base.account_backend),
        backstop=section.optional("backstop", _one_of("auto", "required", "best-effort"), base.backstop),
        **groups,
    )


def _paths(node: Node | None, base: Paths) -> Paths:
    if node is None:
        return base
    names = [item.name for item in dataclasses.fields(Paths)]
    section = Section(node, optional=names)
    paths = dataclasses.replace(base, **{name: section.one(name, _path) for name in names if section.member(name)})
    if len(str(paths.control_socket)) > _SOCKET_PATH_MAX:
        raise ConfigError("path_invalid", f"a socket's path has at most {_SOCKET_PATH_MAX} characters", path=node.path,
                          line=node.locate("paths.control_socket").line, key="paths.control_socket")  # fmt: skip
    return paths


def _uids(node: Node | None, base: Config) -> tuple[int, int]:
    if node is None:
        return base.uid_first, base.uid_last
    section = Section(node, required=("first", "last"))
    first, last = section.one("first", _uid), section.one("last", _uid)
    if first > last:
        raise node.error("uids_invalid", f"first ({first}) is after last ({last})")
    return first, last


def _uid(value: object, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not UID_LOW <= value <= UID_HIGH:
        raise RefusedError("uids_invalid", f"must be an integer from {UID_LOW} to {UID_HIGH}", field=key)
    return value


def _path(value: object, key: str) -> Path:
    plain = isinstance(value, str) and len(value) <= _PATH_MAX and _PATH.fullmatch(value)
    if not plain or {".", ".."} & set(str(value).split("/")):
        raise RefusedError("path_invalid", "must be a normalised absolute path of A-Z a-z 0-9 . _ + - /", field=key)
    return Path(str(value))


def _matching(pattern: re.Pattern[str], code: str, what: str) -> Callable[[object, str], str]:
    def rule(value: object, key: str) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise RefusedError(code, f"must be {what}", field=key)
        return value

    return rule


def _one_of(*words: str) -> Callable[[object, str], str]:
    def rule(value: object, key: str) -> str:
        if not isinstance(value, str) or value not in words:
            raise RefusedError("unknown_value", f"must be {', '.join(words[:-1])} or {words[-1]}", field=key)
        return value

    return rule


_host_id = _matching(_HOST_ID, "host_id_invalid", "1 to 255 printable ASCII characters without spaces")
_group = _matching(_GROUP, "group_invalid", "a group name of a-z 0-9 _ -, at most 32")
