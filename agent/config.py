"""Where things are on this host, and its few numbers. Loaded from tidegate.yaml and conf.d; every path can be set."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Paths:
    """Every file and folder Tidegate reads or writes. Defaults are the contract's."""

    policy_dir: Path = Path("/etc/tidegate/policy.d")
    trust_dir: Path = Path("/etc/tidegate/trust.d")
    ssh_user_ca: Path = Path("/etc/tidegate/ssh_user_ca.pub")
    state_db: Path = Path("/var/lib/tidegate/state.db")
    host_key: Path = Path("/var/lib/tidegate/host.jwk")
    inbox: Path = Path("/var/lib/tidegate/spool/inbox")
    outbox: Path = Path("/var/lib/tidegate/spool/outbox")
    sessions: Path = Path("/var/lib/tidegate/sessions")
    archive: Path = Path("/var/lib/tidegate/archive")
    run_dir: Path = Path("/run/tidegate")
    control_socket: Path = Path("/run/tidegate/control.sock")
    keys: Path = Path("/run/tidegate/keys")
    principals: Path = Path("/run/tidegate/principals")
    sudoers: Path = Path("/run/tidegate/sudoers.d")
    tenants: Path = Path("/run/tidegate/tenants")
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
