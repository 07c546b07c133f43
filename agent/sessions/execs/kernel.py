"""What capture needs of this host's kernel: rules, and two sockets. Held while anybody is followed, and given back."""

import contextlib
import logging
import socket
from pathlib import Path
from typing import Protocol

from agent.errors import HostError
from agent.host.kaudit import exits, netlink, rules
from agent.host.kaudit.netns import in_the_hosts

log = logging.getLogger("tidegate")


class Kernel(Protocol):
    """Everything raises HostError ``audit_absent`` where there is no audit."""

    def probe(self) -> None:
        """See whether it is to be had, and take away what a killed daemon left."""

    def take(self) -> tuple[socket.socket, socket.socket | None]:
        """Put the rules in; the sockets of records and of ends (None: not to be had)."""

    def mend(self) -> bool:
        """Put the rules back; True when they were not all there."""

    def limits(self) -> list[str]:
        """Why some execs may not be seen, as this host is set up."""

    def give_back(self) -> None:
        """Take the rules out."""


class HostKernel:
    """The real one. ``mark``: a file that says that auditing was off before us; it outlives a kill, and no reboot."""

    def __init__(self, uid_first: int, uid_last: int, mark: Path) -> None:
        self._uids = uid_first, uid_last
        self._mark = mark

    def probe(self) -> None:
        """See Kernel."""
        with netlink.Audit() as audit:
            audit.status()
            if any(rules.read(rule).key == rules.KEY for rule in audit.rules()):
                with contextlib.suppress(HostError):  # locked until the next boot: then they may serve as they are
                    self._take_out(audit)
        in_the_hosts(lambda: netlink.reader(1 << 16)).close()
        if not rules.ours(*self._uids):
            raise HostError("audit_absent", "the system calls of this machine are not known")

    def take(self) -> tuple[socket.socket, socket.socket | None]:
        """See Kernel."""
        records = in_the_hosts(netlink.reader)
        try:
            self.mend()
        except HostError:
            records.close()
            raise
        try:
            return records, in_the_hosts(exits.listener)
        except HostError as error:
            log.warning("how a tenant's commands end is not known: %s", error)
            return records, None

    def mend(self) -> bool:
        """See Kernel."""
        with netlink.Audit() as audit:
            if rules.are_there(audit, *self._uids):
                return False
            if audit.status().enabled == 0:
                with contextlib.suppress(OSError):
                    self._mark.touch(0o600)
            rules.put(audit, *self._uids)
            return True

    def limits(self) -> list[str]:
        """See Kernel."""
        with netlink.Audit() as audit:
            return sorted({*rules.hidden_by(audit)})

    def give_back(self) -> None:
        """See Kernel."""
        with netlink.Audit() as audit:
            self._take_out(audit)

    def _take_out(self, audit: netlink.Audit) -> None:
        rules.take_out(audit, was_off=self._mark.exists())
        with contextlib.suppress(OSError):
            self._mark.unlink(missing_ok=True)


class NoKernel:
    """Nothing is captured, and this is why."""

    def __init__(self, why: str) -> None:
        self._why = why

    def probe(self) -> None:
        """See Kernel."""
        raise HostError("audit_absent", self._why)

    def take(self) -> tuple[socket.socket, socket.socket | None]:
        """See Kernel."""
        raise HostError("audit_absent", self._why)

    def mend(self) -> bool:
        """See Kernel."""
        return False

    def limits(self) -> list[str]:
        """See Kernel."""
        return []

    def give_back(self) -> None:
        """See Kernel."""
