"""What can be wrong with a host at the worst moment: each fault is made for real, and mended again.

``FAULTS`` names them. Each is a context manager that takes the scene and, inside its ``with``, the host is broken that way.
"""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from tests.host.scene import Scene

Fault = Callable[[Scene], AbstractContextManager[object]]
_STATE = "/var/lib/tidegate"
_JOURNAL = tuple(f"{_STATE}/state.db{end}" for end in ("", "-wal", "-shm"))
_WRITES = "write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,ftruncate,fallocate,mkdir,mkdirat,openat"


def _sh(inject: str, mend: str) -> Fault:
    """A fault that root makes by one shell line and mends by another."""

    @contextlib.contextmanager
    def fault(scene: Scene) -> Iterator[None]:
        scene.host.run(inject)
        try:
            yield
        finally:
            scene.host.run(mend)

    return fault


def _read_only(folder: str) -> Fault:
    """Made read-only elsewhere first: a later remount would not reach the mount namespace of a unit."""
    view = "mkdir -p /mnt/view && mount --bind {0} /mnt/view && mount -o remount,ro,bind /mnt/view && mount --bind /mnt/view {0}"
    return _sh(view.format(folder), f"umount -l {folder} /mnt/view")


def _of_daemon(make: str, undo: str) -> Fault:
    """The same, with the daemon's process id as ``$pid``."""

    @contextlib.contextmanager
    def fault(scene: Scene) -> Iterator[None]:
        scene.host.run(f"pid={scene.pid()}; {make}")
        try:
            yield
        finally:
            scene.host.run(f"pid={scene.pid()}; {undo}")

    return fault


def _failing(errno: str, *paths: str, calls: str = _WRITES) -> Fault:
    """Every one of these system calls of the daemon fails like that (default: what would change one of these files)."""

    @contextlib.contextmanager
    def fault(scene: Scene) -> Iterator[None]:
        only = [word for path in paths for word in ("-P", path)]
        argv = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(scene.pid()), *only]
        tracer = scene.host.popen(
            [*argv, "-e", f"inject={calls}:error={errno}"], stdin=None, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        scene.host.wait_for(lambda: _traced(scene), what="strace has the daemon")
        try:
            yield
        finally:
            # By its name in the host: what was started here is the way into the host, not strace itself.
            scene.host.run("pkill -INT -x strace; while pgrep -x strace >/dev/null; do sleep 0.05; done")
            tracer.wait(10)

    return fault


def _traced(scene: Scene) -> bool:
    status = scene.host.run(f"cat /proc/{scene.pid()}/task/*/status").stdout
    tracers = [line.split()[1] for line in status.splitlines() if line.startswith("TracerPid:")]
    return bool(tracers) and "0" not in tracers


_TOOLS = "/usr/bin/systemctl /usr/bin/loginctl /usr/bin/cvtsudoers /usr/sbin/visudo"

FAULTS: dict[str, Fault] = {
    "the disk of the state is full": _sh(
        f"dd if=/dev/zero of={_STATE}/ballast bs=64k status=none || test -s {_STATE}/ballast", f"rm {_STATE}/ballast"
    ),
    "no inode is left for the state": _sh(
        f"mkdir {_STATE}/ballast; n=0; while : >{_STATE}/ballast/$((n+=1)); do :; done 2>/dev/null; df -i {_STATE}",
        f"rm -r {_STATE}/ballast",
    ),
    "the state is read-only": _read_only(_STATE),
    "/etc is read-only": _read_only("/etc"),
    "/run/tidegate is read-only": _read_only("/run/tidegate"),
    "/home is read-only": _read_only("/home"),
    "the quota of the state is used up": _failing("EDQUOT", *_JOURNAL, f"{_STATE}/spool/outbox"),
    "the quota of /etc is used up": _failing("EDQUOT", "/etc", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"),
    "the journal's file system has become read-only": _failing("EROFS", *_JOURNAL),
    "the disk of the state fails": _failing("EIO", *_JOURNAL),
    "no descriptor is left": _of_daemon(
        "prlimit --pid $pid --nofile=$(ls /proc/$pid/fd | wc -l):",
        "prlimit --pid $pid --nofile=$(prlimit --pid $pid --nofile -o HARD --noheadings | tr -d ' '):",
    ),
    "no memory is left": _of_daemon(
        "prlimit --pid $pid --as=$(awk '/^VmSize/ { print $2 * 1024 }' /proc/$pid/status):",
        "prlimit --pid $pid --as=unlimited:",
    ),
    "no process and no thread may be started": _failing("EAGAIN", calls="clone,clone3,fork,vfork"),
    "another tool holds the account files": _sh(
        'python3 -c \'import fcntl,time; f=open("/etc/.pwd.lock","w"); fcntl.lockf(f,fcntl.LOCK_EX); print(1,flush=True);'
        " time.sleep(60)' >/tmp/held 2>&1 & echo $! >/tmp/holder; until grep -q 1 /tmp/held; do sleep 0.05; done",
        "kill $(cat /tmp/holder); rm /tmp/holder /tmp/held",
    ),
    "/etc/passwd.lock is held by a live process": _sh("echo 1 >/etc/passwd.lock; echo 1 >/etc/group.lock", "rm /etc/*.lock"),
    "/etc/passwd.lock is stale and empty": _sh(": >/etc/passwd.lock; : >/etc/group.lock", "rm /etc/*.lock"),
    "systemctl, loginctl, visudo and cvtsudoers are gone": _sh(
        f"mkdir /opt/gone && mv {_TOOLS} /opt/gone", "cd /opt/gone && mv visudo /usr/sbin && mv * /usr/bin && rmdir /opt/gone"
    ),
    "a sibling in sudoers.d is broken": _sh("echo 'this is no rule' >/etc/sudoers.d/broken", "rm /etc/sudoers.d/broken"),
    "sshd's configuration is broken": _sh(
        "echo NoSuchWord yes >/etc/ssh/sshd_config.d/60-broken.conf", "rm /etc/ssh/sshd_config.d/60-broken.conf"
    ),
}


def room_for_state(scene: Scene) -> None:
    """Lay a small disk of its own under the state, so that it can be filled without filling anybody else's."""
    scene.host.run(f"mkdir -p {_STATE} && mount -t tmpfs -o size=16m,nr_inodes=800,mode=755 none {_STATE}")
    scene.host.run("systemd-tmpfiles --create tidegate.conf")
