"""sudo's own way to record sessions: what a command run by sudo(8) shows goes to a sudo_logsrvd(8), here on the same host.

Whoever is recorded this way is one that may use sudo: a login session of ssh is not, so it has no part in the row about these.
"""

from collections.abc import Sequence

from benchmarks.frame.row import Absent
from tests.hosts.machine import Host

LOGIN = "sue"
AROUND = "sudo -n"  # before a command of hers
PROCESSES = "pgrep -x sudo_logsrvd; pgrep -x sudo"  # the server's, and those that go with a session
_UNIT = "log-server"
_RULES = """\
Defaults:sue log_output, use_pty, log_servers=127.0.0.1
sue ALL=(root) NOPASSWD: ALL
"""


def start(host: Host) -> None:
    """Her rules, and the server, with the settings it comes with but for where it listens. Raises Absent."""
    if host.run("test -x /usr/sbin/sudo_logsrvd", check=False).returncode != 0:
        raise Absent("this host's sudo has no sudo_logsrvd")
    host.write("/etc/sudoers.d/50-log-server", _RULES.encode(), mode=0o440)
    host.write("/etc/sudo_logsrvd.conf", b"[server]\nlisten_address = 127.0.0.1:30343\n")
    host.run(f"systemd-run --quiet --collect --unit {_UNIT} sudo_logsrvd -n")
    host.wait_for(lambda: host.run("ss -Hltn sport = :30343", check=False).stdout, 10, "sudo's log server listens")


def argv(host: Host, command: Sequence[str]) -> list[str]:
    """From this machine's terminal into the host, and there as her by sudo."""
    return ["/usr/bin/env", *host.shell_argv(["runuser", "-u", LOGIN, "--", *AROUND.split(), *command])]
