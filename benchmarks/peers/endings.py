"""Ending somebody's access without Tidegate: the script that admins queue with at(1), and the bare sequence in C.

Both are of accounts that useradd made, with a key in their own home.
"""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.frame.row import Absent
from benchmarks.peers.compiled import compiled
from tests.hosts.machine import Host

# What runbooks have: lock, take the key, kill by uid, remove.
_SCRIPT = """\
#!/bin/sh
usermod --lock --expiredate 1 "$1"
rm -f "/home/$1/.ssh/authorized_keys"
pkill -KILL -u "$1"
userdel --force --remove "$1" 2>/dev/null
exit 0
"""
_SCRIPT_PATH = "/usr/local/sbin/end-access"
_BARE_PATH = "/usr/local/sbin/end-bare"
_EACH_S = 30.0  # for one, and for a hundred more
# The least that ends everything of one login at a moment: no journal, no check, no receipt. Arguments: uid, key file, ns of T.
_BARE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static int populated(const char *path) {
    char text[256];
    int fd = open(path, O_RDONLY);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return 0;
    text[n] = 0;
    return strstr(text, "populated 1") != NULL;
}
int main(int argc, char **argv) {
    if (argc != 4) return 2;
    uid_t uid = (uid_t)atoi(argv[1]);
    long long at = atoll(argv[3]);
    struct timespec until = {at / 1000000000LL, at % 1000000000LL}, pause = {0, 500000};
    char kill_file[128], events[128];
    snprintf(kill_file, sizeof kill_file, "/sys/fs/cgroup/user.slice/user-%u.slice/cgroup.kill", uid);
    snprintf(events, sizeof events, "/sys/fs/cgroup/user.slice/user-%u.slice/cgroup.events", uid);
    while (clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &until, NULL) == EINTR) {}
    unlink(argv[2]);
    do {
        int fd = open(kill_file, O_WRONLY);
        if (fd >= 0) { if (write(fd, "1", 1) < 0) perror("cgroup.kill"); close(fd); }
        pid_t child = fork();
        if (child == 0) { if (setresuid(uid, uid, uid) == 0) kill(-1, SIGKILL); _exit(0); }
        waitpid(child, NULL, 0);
        for (int tries = 0; tries < 100 && populated(events); tries++) nanosleep(&pause, NULL);
    } while (populated(events));
    return 0;
}
"""


class Endings:
    """Both on one host."""

    def __init__(self, host: Host, folder: Path) -> None:
        """Put the programs in place; ``bare`` says why there is none in C (empty: there is)."""
        self._host = host
        host.write(_SCRIPT_PATH, _SCRIPT, mode=0o755)
        self.no_bare = ""
        try:
            program = compiled(_BARE, folder / "end-bare", "-static")
            shutil.copy(program, f"/proc/{host.leader}/root{_BARE_PATH}")
        except Absent as absent:
            self.no_bare = str(absent)

    def account(self, login: str, public: str) -> int:
        """By useradd, with that key; returns the uid."""
        return self.accounts([login], public)[0]

    def accounts(self, logins: Sequence[str], public: str) -> list[int]:
        """Many of them, one after the other."""
        script = (
            "set -e; while read login; do useradd -m -s /bin/bash -p '*' $login; keys=/home/$login/.ssh; "
            f"install -d -o $login -g $login -m 700 $keys; echo '{public}' > $keys/authorized_keys; "
            "chown $login: $keys/authorized_keys; id -u $login; done"
        )
        return [int(uid) for uid in self._each(script, logins).split()]

    def queue(self, logins: Sequence[str], minute: float, offset_s: float) -> None:
        """An at job for each, for that minute (seconds since the epoch), which sleeps the rest: at knows minutes only."""
        when = time.strftime("%Y%m%d%H%M", time.gmtime(minute))
        job = f'echo "sleep {offset_s:g}; {_SCRIPT_PATH} $login" | TZ=UTC at -t {when}'
        self._each(f"while read login; do {job} 2>/dev/null || exit 1; done", logins)

    def _each(self, script: str, logins: Sequence[str]) -> str:
        given = "".join(f"{login}\n" for login in logins)
        return self._host.run(script, input=given, timeout=_EACH_S + len(logins) * _EACH_S / 100).stdout

    def bare(self, login: str, uid: int, at_ns: int) -> None:
        """The program in C, that waits for its moment by itself; returns at once. Raises Absent."""
        if self.no_bare:
            raise Absent(self.no_bare)
        command = f"{_BARE_PATH} {uid} /home/{login}/.ssh/authorized_keys {at_ns} </dev/null >/dev/null 2>&1 &"
        self._host.run(command)

    def remove(self, login: str, uid: int) -> None:
        """Whatever is left of one of these accounts."""
        slice_ = f"/sys/fs/cgroup/user.slice/user-{uid}.slice/cgroup.kill"
        self._host.run(f"test -e {slice_} && echo 1 > {slice_}; userdel -f -r {login} 2>/dev/null; true", check=False)
