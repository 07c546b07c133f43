"""sshd's one ``Match Group`` block for tenants: what it says, and the proof that it is what holds for a login.

A tenant authenticates by the root-owned files of a grant and by nothing else. The proof is sshd's own: ``sshd -T -C``
prints the values that count for a user; an earlier Match of the admin's, or an Include that is missing, shows there.
"""

import contextlib
import weakref
from pathlib import Path

from agent.errors import HostError
from agent.host.contract import Account, CommandResult, Config, Reader, Writer
from agent.host.sshd_log import VERBOSE
from enforcers import sshd_files

PROBE = "tidegate-probe"
_RUN_SSHD, _PID_FILE = Path("/run/sshd"), Path("/run/sshd.pid")
HEADER = "# Written by tidegated; changes are overwritten. Only members of the group below are affected.\n"
# What the dynamic linker or libc would take from a tenant's environment before tidegate-shell runs its first line. SetEnv
# is applied last, over AcceptEnv, ~/.ssh/environment and pam_env's ~/.pam_environment (measured: Debian 12 reads that one).
EMPTIED = ("BASH_ENV", "ENV", "LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH", "GLIBC_TUNABLES", "GCONV_PATH", "LOCPATH")


def settings(config: Config, *, tenant_shell: bool) -> list[tuple[str, tuple[str, ...]]]:
    """Keywords and values, in the order they are written (sshd_config(5))."""
    paths = config.paths
    no = (
        "PasswordAuthentication",
        "KbdInteractiveAuthentication",
        "PermitEmptyPasswords",
        "HostbasedAuthentication",
        "GSSAPIAuthentication",
        "KerberosAuthentication",
        "PermitUserRC",
        "X11Forwarding",
        "AllowAgentForwarding",
        "AllowStreamLocalForwarding",
        "PermitTunnel",
        "GatewayPorts",
    )
    return [
        ("AuthorizedKeysFile", (f"{paths.keys}/%u",)),
        ("AuthorizedPrincipalsFile", (f"{paths.principals}/%u",)),
        # Read at each login: a CA file that comes or goes needs no reload, and a missing one trusts nobody.
        ("TrustedUserCAKeys", (str(paths.ssh_user_ca),)),
        ("AuthorizedKeysCommand", ("none",)),
        ("AuthorizedPrincipalsCommand", ("none",)),
        ("AuthenticationMethods", ("publickey",)),
        ("PubkeyAuthentication", ("yes",)),
        *((keyword, ("no",)) for keyword in no),
        ("PermitTTY", ("yes",)),  # each key's own options say who gets one
        ("AllowTcpForwarding", ("yes",)),
        ("LogVerbose", (VERBOSE,)),  # so that each connection is told (agent.expiry.logged)
        ("AcceptEnv", ("LANG", "LC_*")),
        ("SetEnv", tuple(f"{name}=" for name in EMPTIED)),
        *([("ForceCommand", (str(paths.tenant_shell),))] if tenant_shell else []),
    ]


def drop_in(config: Config, *, tenant_shell: bool) -> bytes:
    """The drop-in file, whole."""
    lines = [f"Match Group {config.tenant_group}"]
    for keyword, values in settings(config, tenant_shell=tenant_shell):
        shown = (f'{value}""' if keyword == "SetEnv" else value for value in values)
        lines.append(f"    {keyword} {' '.join(shown)}")
    return (HEADER + "\n".join(lines) + "\n").encode()


def has_shell(reader: Reader) -> bool:
    """Whether tidegate-shell is installed, so that sshd can be told to run it."""
    return reader.tool(str(reader.config.paths.tenant_shell)) is not None


class Known:
    """Under which files sshd's answer about a tenant was right: while these are the same, it holds for every other tenant too.

    ``sshd -T -C`` costs some 15 ms for each login. What it says depends on nothing but those files, where the only Match block in
    them is ours (sshd_files), and on the login being in our group, which is asked about each time.
    """

    def __init__(self) -> None:
        self._right: tuple[weakref.ref[Reader], bytes, bool] | None = None

    def check(self, reader: Reader, login: str) -> None:
        """As :func:`check`, which asks sshd, where the answer is not known. Raises as that."""
        right = self._now(reader)
        if right is not None and right == self._last(reader) and reader.config.tenant_group in reader.groups_of(login):
            return
        self._right = None
        check(reader, login)
        if right is not None and right == self._now(reader):  # it was of these files that sshd spoke
            self._right = weakref.ref(reader), *right

    def _now(self, reader: Reader) -> tuple[bytes, bool] | None:
        found = sshd_files.fingerprint(reader)
        return None if found is None else (found, has_shell(reader))

    def _last(self, reader: Reader) -> tuple[bytes, bool] | None:
        if self._right is None or self._right[0]() is not reader:
            return None
        return self._right[1:]


def check(reader: Reader, login: str) -> None:
    """Ask sshd what holds for this login, which must exist and be a tenant. Read-only, about 15 ms.

    Raises:
        HostError: ``sshd_conflict`` naming the first keyword that is not ours, ``sshd_failed``.
    """
    spec = f"user={login},host=client.invalid,addr=192.0.2.1,laddr=192.0.2.2,lport=22"
    config = reader.config
    asked = reader.check(["sshd", "-T", "-f", str(config.paths.sshd_config), "-C", spec])
    result = _said(asked, "its configuration could not be read")
    effective: dict[str, list[str]] = {}
    for line in result.stdout.splitlines():
        keyword, _, value = line.partition(" ")
        effective.setdefault(keyword.lower(), []).append(value.strip())
    for keyword, values in settings(config, tenant_shell=has_shell(reader)):
        found = effective.get(keyword.lower())
        if found is None and keyword in {"GSSAPIAuthentication", "KerberosAuthentication"}:
            continue  # this sshd was built without it
        if found != list(values) and found != [" ".join(values)]:
            now = " ".join(found or ["unset"])
            raise HostError("sshd_conflict", f"for {login} sshd has {keyword} {now}, not {' '.join(values)}")


def prepare(writer: Writer) -> None:
    """Put the drop-in in place: candidate tested alone, then in place with all the rest, then proved for a probe login.

    Only then is sshd reloaded (never restarted). Nothing is written where it stands already; a proof that fails brings
    the file back byte for byte.

    Raises:
        HostError: ``sshd_conflict``, ``sshd_failed``, ``group_missing`` (the tenants' group).
    """
    config = writer.config
    path, candidate = config.paths.sshd_drop_in, config.paths.run_dir / "sshd-candidate.conf"
    if writer.group(config.tenant_group) is None:
        raise HostError("group_missing", f"the tenants' group {config.tenant_group} does not exist")
    text, old = drop_in(config, tenant_shell=has_shell(writer)), writer.read(path)
    make_run_folder(writer)
    if text != old:
        try:
            writer.write(candidate, text)
            _said(writer.check(["sshd", "-t", "-f", str(candidate)]), "the drop-in is not understood")
        finally:
            writer.remove(candidate)
        writer.write(path, text)
    try:
        _said(writer.check(["sshd", "-t", "-f", str(config.paths.sshd_config)]), "its configuration has an error")
        _probe(writer)
    except HostError:
        if text != old:
            writer.write(path, old) if old is not None else writer.remove(path)
        raise
    if text != old:
        _reload(writer)


def retire(writer: Writer) -> None:
    """Take the drop-in away, if it is still ours, and reload sshd.

    Raises:
        HostError: ``sshd_failed``: the file is gone; sshd, whose other files have an error, was left alone: SIGHUP would end it.
    """
    config = writer.config
    if not (writer.read(config.paths.sshd_drop_in) or b"").startswith(HEADER.encode()):
        return
    writer.remove(config.paths.sshd_drop_in)
    if writer.tool("sshd") is not None:
        make_run_folder(writer)
        _said(
            writer.check(["sshd", "-t", "-f", str(config.paths.sshd_config)]), "not reloaded, since its configuration has an error"
        )
        _reload(writer)


def _probe(writer: Writer) -> None:
    """Check a throwaway, locked tenant; it is removed again whatever happens."""
    config = writer.config
    _clear_probe(writer)
    uid = next(
        number
        for number in range(config.uid_last, config.uid_first, -1)
        if writer.user_by_uid(number) is None and writer.group_by_gid(number) is None
    )
    try:
        writer.create_account(Account(PROBE, uid, "Tidegate probe", "/nonexistent", "/usr/sbin/nologin"))
        writer.add_membership(PROBE, config.tenant_group)
        check(writer, PROBE)
    finally:
        with contextlib.suppress(HostError):
            writer.drop_membership(PROBE, config.tenant_group)
        writer.delete_account(PROBE, uid)


def _clear_probe(writer: Writer) -> None:
    """What a kill left of it. The group is made first and removed last, so it may be there with no user of that name."""
    user, group = writer.user(PROBE), writer.group(PROBE)
    left = {user.uid} if user is not None and user.ours else set()
    if group is not None and writer.config.uid_first <= group.gid <= writer.config.uid_last:
        left.add(group.gid)
    for uid in left:
        writer.delete_account(PROBE, uid)


def make_run_folder(writer: Writer) -> None:
    """sshd -t and -T want their privilege separation folder, which is not there before ssh.service has started, nor, with
    socket activation, while nobody is connected.
    """
    if not writer.exists(_RUN_SSHD):
        writer.run(["install", "-d", "-m", "0755", str(_RUN_SSHD)])


def _reload(writer: Writer) -> None:
    """Make the running sshd read its files again; with socket activation every new connection does, and none runs.

    By signal, not by ``systemctl reload``: that job would wait for tidegated's own start job, which is ordered before ssh
    and may be what is waiting for us.
    """
    if writer.tool("systemctl") is not None:
        for unit in ("ssh.service", "sshd.service"):
            if writer.check(["systemctl", "is-active", "--quiet", unit]).ok:
                signalled = writer.run(["systemctl", "kill", "--signal=HUP", "--kill-who=main", unit])
                _said(signalled, "it could not be reloaded")
                return
    number = (writer.read(_PID_FILE) or b"").strip()
    if number.isdigit():
        writer.run(["kill", "-HUP", number.decode()])


def _said(result: CommandResult, what: str) -> CommandResult:
    if not result.ok:
        said = (result.stderr.strip() or result.stdout.strip()).splitlines() or ["no output"]
        raise HostError("sshd_failed", f"sshd: {what}: {said[-1][:300]}")
    return result
