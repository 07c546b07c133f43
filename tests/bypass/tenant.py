"""What a tenant tries from inside the host: ``python3 -I tenant.py ATTACK A B``; the mark is ``A-B``, never written joined.

Standard library only: it runs as the tenant, on the host's own Python. Each attack notes in ~/attack.log what it did, so that
a check can tell an attack that failed from one that never ran.
"""

import array
import contextlib
import ctypes
import fcntl
import os
import pty
import resource
import signal
import socket
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HOME = Path.home()
SOCKET = "/run/tidegate/recorder/sock"
OTHERS = ("/run/tidegate/port.sock", "/run/tidegate/control.sock")
SHELL = "/usr/lib/tidegate/tidegate-shell"
MARK = ("-".join(sys.argv[2:4]) + "\n").encode()
_ATTACH, _SEIZE, _DETACH = 16, 0x4206, 17
_PIDFD_OPEN, _PIDFD_GETFD, _VM_READV = 434, 438, 310
_libc = ctypes.CDLL(None, use_errno=True)


def note(what: str) -> None:
    """One line for the check."""
    with (HOME / "attack.log").open("a") as log:
        log.write(what + "\n")


def tried(what: str, act: Callable[[], object]) -> object:
    """Do it and note how it ended."""
    try:
        found = act()
    except (OSError, ValueError) as error:
        note(f"{what}: {type(error).__name__} {getattr(error, 'errno', '')}")
        return None
    note(f"{what}: done {found!r}"[:200])
    return found


def checked(result: int) -> int:
    """As the kernel says it."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def ptrace(request: int, pid: int) -> int:
    """ptrace(2)."""
    return checked(int(_libc.ptrace(request, pid, None, None)))


def stolen(pid: int, number: int) -> int:
    """Another process's descriptor, by pidfd_getfd(2)."""
    pidfd = checked(int(_libc.syscall(_PIDFD_OPEN, pid, 0)))
    try:
        return checked(int(_libc.syscall(_PIDFD_GETFD, pidfd, number, 0)))
    finally:
        os.close(pidfd)


def memory(pid: int) -> bytes:
    """Some of another process's memory."""
    with Path(f"/proc/{pid}/maps").open() as maps:
        start = int(maps.readline().split("-")[0], 16)
    with Path(f"/proc/{pid}/mem").open("rb") as mem:
        mem.seek(start)
        return mem.read(16)


def commands() -> Iterator[tuple[int, bytes]]:
    """Every process and its words."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry), Path(f"/proc/{entry}/cmdline").read_bytes()


def recorders() -> list[int]:
    """The recorder's processes, by what anybody can see."""
    return [
        pid for pid, words in commands() if b"recorder" in words and b"tenant.py" not in words and os.stat(f"/proc/{pid}").st_uid
    ]


def each_recorder(what: str, act: Callable[[int], object]) -> None:
    """Against every one."""
    for pid in recorders():
        tried(f"{what} recorder", lambda pid=pid: act(pid))  # type: ignore[misc]


def kill() -> None:
    """Signals."""
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP, signal.SIGHUP, signal.SIGABRT):
        each_recorder("kill", lambda pid, number=number: os.kill(pid, number))  # type: ignore[misc]


def trace() -> None:
    """ptrace, memory, descriptors, limits, priority, namespaces."""
    each_recorder("attach", lambda pid: ptrace(_ATTACH, pid))
    each_recorder("seize", lambda pid: ptrace(_SEIZE, pid))
    each_recorder("fd", lambda pid: os.listdir(f"/proc/{pid}/fd"))
    each_recorder("mem", memory)
    each_recorder("getfd", lambda pid: stolen(pid, 3))
    each_recorder("prlimit", lambda pid: resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3)))
    each_recorder("nice", lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 19))
    each_recorder("affinity", lambda pid: os.sched_setaffinity(pid, {0}))
    each_recorder("root", lambda pid: os.listdir(f"/proc/{pid}/root/var"))
    each_recorder("environ", lambda pid: Path(f"/proc/{pid}/environ").read_bytes())


def files() -> None:
    """The recordings and the recorder's own folders."""
    for path in ("/var/lib/tidegate/sessions", "/run/tidegate/recorder", "/run/tidegate/tenants", "/usr/lib/tidegate"):
        tried(f"write {path}", lambda path=path: (Path(path) / "x").write_text("x"))  # type: ignore[misc]
        tried(f"unlink {path}", lambda path=path: [os.unlink(entry) for entry in Path(path).iterdir()])  # type: ignore[misc, func-returns-value]
        tried(f"rename {path}", lambda path=path: os.rename(path, path + ".old"))  # type: ignore[misc]
    tried("read recordings", lambda: [entry.read_bytes()[:10] for entry in Path("/var/lib/tidegate/sessions").iterdir()])


def hunt() -> None:
    """For 15 s: every other process of one's own, from its first moment, by all means at once; marks into what is caught."""
    seen = {pid for pid, _ in commands()}
    caught: list[int] = []
    ends = time.monotonic() + 15
    while time.monotonic() < ends:
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or (pid := int(entry)) in seen:
                continue
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{pid}").st_uid not in (os.getuid(), 0):
                    continue
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"tidegate-shell" not in words:
                    continue
                seen.add(pid)
                caught += pounce(pid)
    for fd in caught:
        tried("write to what was caught", lambda fd=fd: os.write(fd, MARK))  # type: ignore[misc]
    time.sleep(1)


def pounce(pid: int) -> list[int]:
    """All that can be done to a starting tidegate-shell."""
    found: list[int] = []
    for number in range(8):
        with contextlib.suppress(OSError):
            found.append(stolen(pid, number))
        with contextlib.suppress(OSError):
            found.append(os.open(f"/proc/{pid}/fd/{number}", os.O_RDWR | os.O_NOCTTY))
    for what, act in (
        ("attach", lambda: ptrace(_ATTACH, pid)),
        ("mem", lambda: memory(pid)),
        ("environ", lambda: Path(f"/proc/{pid}/environ").read_bytes()),
        ("cwd", lambda: os.readlink(f"/proc/{pid}/cwd")),
        ("prlimit", lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (8, 8))),
        ("limit of file size", lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))),
        ("stop", lambda: os.kill(pid, signal.SIGSTOP)),
    ):
        tried(f"shell {what}", act)
    time.sleep(0.05)
    tried("shell cont", lambda: os.kill(pid, signal.SIGCONT))
    tried("shell detach", lambda: ptrace(_DETACH, pid))
    note(f"hunted a starting shell, caught {len(found)}")
    return found


def terminals() -> None:
    """For 12 s: open every terminal the moment it is there, and keep on writing the mark into all but one's own."""
    own = os.ttyname(0) if os.isatty(0) else ""
    held: dict[str, int] = {}
    ends = time.monotonic() + 12
    while time.monotonic() < ends:
        for name in os.listdir("/dev/pts"):
            path = f"/dev/pts/{name}"
            if name != "ptmx" and path != own and path not in held:
                with contextlib.suppress(OSError):
                    held[path] = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
                    note(f"opened {path}")
        for path, fd in list(held.items()):
            try:
                os.write(fd, MARK)
                with contextlib.suppress(BlockingIOError):
                    os.read(fd, 64)
            except BlockingIOError:
                continue
            except OSError as error:
                note(f"{path} is dead: {error.errno}")
                os.close(held.pop(path))
        time.sleep(0.0005)
    note("watched all terminals")


def old_terminal() -> None:
    """The terminal that sshd gave, now: by name, mode, and every way of pushing input."""
    for name in sorted(os.listdir("/dev/pts")):
        path = f"/dev/pts/{name}"
        if os.isatty(0) and path == os.ttyname(0):
            continue
        tried(f"chmod {path}", lambda path=path: os.chmod(path, 0o666))  # type: ignore[misc]
        fd = tried(f"open {path}", lambda path=path: os.open(path, os.O_RDWR | os.O_NOCTTY))  # type: ignore[misc]
        if isinstance(fd, int):
            tried(f"write {path}", lambda fd=fd: os.write(fd, MARK))  # type: ignore[misc]
            for letter in b"echo pushed\n":
                tried(f"push {path}", lambda fd=fd, letter=letter: fcntl.ioctl(fd, termios.TIOCSTI, bytes([letter])))  # type: ignore[misc]
    note("looked at all terminals")


def push() -> None:
    """TIOCSTI into one's own terminal."""
    for letter in b"echo " + MARK:
        tried("push", lambda letter=letter: fcntl.ioctl(0, termios.TIOCSTI, bytes([letter])))  # type: ignore[misc]


def descriptors() -> None:
    """The mark into everything that is open."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            tried(f"write to {name}", lambda name=name: os.write(int(name), MARK))  # type: ignore[misc]
    note(f"open: {sorted(os.listdir('/proc/self/fd'))}")
    os.closerange(0, 64)
    with contextlib.suppress(OSError):
        os.write(os.open("/dev/tty", os.O_RDWR), MARK)


def away() -> None:
    """A daemon that keeps the session's descriptors and writes into them after the session's end."""
    if os.fork():
        time.sleep(0.5)
        return
    os.setsid()
    note("away in a session of its own")
    for number in range(20):
        time.sleep(0.25)
        with contextlib.suppress(OSError):
            os.write(1, b"late %d " % number + MARK)


def ask(message: bytes, fds: list[int], path: str = SOCKET) -> bytes:
    """One message to the recorder, and its answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(3)
        client.connect(path)
        client.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])
        return client.recv(4096)


def junk() -> None:
    """All that the recorder never wants to hear."""
    null, pipe = os.open("/dev/null", os.O_RDWR), os.pipe()
    messages = (
        b"", b"\0" * 9, b"1", b"1\0", b"1\0pty\0", b"1\0pipe\0", b"1\0sftp\0x", b"2\0pty\0", b"1\0pty\0" + b"A" * 60000,
        b"9" * 100_000, b"\xff" * 500, b"1\0pipe\0\x1b]0;x\x07", b"1\0nothing\0x", b"{}", b"OK\0x\0y", b"GO",
    )  # fmt: skip
    for message in messages:
        for fds in ([], [null], [null] * 3, [*pipe, null], [null] * 200, [pipe[0]] * 3):
            tried("junk", lambda message=message, fds=fds: ask(message, fds))  # type: ignore[misc]
    for path in OTHERS:
        tried(f"ask {path}", lambda path=path: ask(b'{"op":"seal"}', [null], path))  # type: ignore[misc]


def crowd() -> None:
    """As many silent connections as the kernel gives, held for 8 s while others log in."""
    held = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    for _ in range(6000):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.setblocking(False)
        try:
            client.connect(SOCKET)
        except OSError as error:
            note(f"crowd: errno {error.errno}")
            break
        held.append(client)
    note(f"crowd of {len(held)}, soft limit {soft}")
    time.sleep(8)


def half() -> None:
    """Sessions asked for whose other ends are never read, never written, or closed at once."""
    for number in range(60):
        master, slave = os.openpty()
        one, two = os.pipe()
        fds = [[slave] * 3, [one, two, two], [two, one, one]][number % 3]
        tried("half a session", lambda fds=fds: ask((b"1\0pty\0" if fds[0] == fds[1] else b"1\0pipe\0") + MARK, fds))  # type: ignore[misc]
        if number % 2:
            for fd in (master, slave, one, two):
                os.close(fd)


def inner() -> None:
    """tidegate-shell once more, on a terminal and pipes of one's own, under limits that break it."""
    limits = {resource.RLIMIT_NOFILE: 4, resource.RLIMIT_AS: 30_000_000, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_NPROC: 1}
    for kind, value in [(None, 0), *limits.items()]:
        pid, master = pty.fork()
        if pid == 0:
            if kind is not None:
                resource.setrlimit(kind, (value, value))
            os.execv(SHELL, [SHELL, "-c", f"echo {MARK.decode().strip()}"])
        data = b""
        with contextlib.suppress(OSError):
            while piece := os.read(master, 4096):
                data += piece
        os.write(1, data)
        note(f"inner shell under {kind}: status {os.waitpid(pid, 0)[1]}")


def everyone() -> None:
    """Every process of one's own stopped, then killed."""
    note("kill(-1)")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid, _ in list(commands()):
            if pid != os.getpid():
                with contextlib.suppress(OSError):
                    os.kill(pid, number)


ATTACKS: dict[str, Callable[[], None]] = {
    found.__name__: found
    for found in (kill, trace, files, hunt, terminals, old_terminal, push, descriptors, away, junk, crowd, half, inner, everyone)
}

if __name__ == "__main__":
    ATTACKS[sys.argv[1]]()
    note(f"{sys.argv[1]} is over")
