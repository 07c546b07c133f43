"""A whole virtual machine under QEMU's own emulation: with a clock, a power switch and a kernel of its own.

What test hosts (tests.hosts) share with the machine that carries them is what a test here is about: the wall clock may be set,
the machine suspended, the power cut. It takes some 15 s to boot, so a machine that is ready can be frozen, and thawed as often
as wanted, each in about a second and on disks of its own.

What a power cut takes away. :meth:`Machine.power_cut` kills QEMU. All that the machine's kernel had not written to its disks is
lost with its memory: every page that was written and not synced, the file system's own journal as far as it was not committed.
What was written and flushed stays, since QEMU hands a flush on to the file below (``cache=writeback``) and this machine's
kernel outlives it. What was written and not flushed may stay or go, as in a disk's own cache: the file of a qcow2 disk learns
of newly used clusters at a flush only. A disk that lies about flushing, or tears a sector, is not played.

Time. A machine's clock counts what its processor does (4 ns an instruction), and real time while that idles: on a busy machine
everything in it takes longer, and nothing in it times out for that. It stops while the machine is frozen. Only the clock chip,
which a kernel reads when it boots or wakes, goes by real time; :meth:`start` sets it, so that a reboot may find any time on it.
Nothing in the machine asks the network for the time.
"""

import atexit
import contextlib
import functools
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.hosts import cache, tools
from tests.hosts.errors import HostFailed
from tests.hosts.ports import free_port
from tests.hosts.ssh import Network
from tests.vm import image
from tests.vm.channel import PATIENCE_S, Channel, Unreachable
from tests.vm.qmp import Qmp

T = TypeVar("T")
MEMORY_MB = 384
BOOT_S = 600.0  # how long a boot may take on a machine that others use too
_KERNEL = (
    "root=/dev/vda rw rootfstype=ext4 console=ttyS0 quiet loglevel=3 systemd.show_status=0 mitigations=off nokaslr "
    "tsc=reliable no_timer_check random.trust_cpu=on net.ifnames=0"
)
_PARTS = ("disk.qcow2", "state.qcow2")
_live: "set[Machine]" = set()


@functools.cache
def run_folder() -> Path:
    """A folder for all machines of this process. What killed runs left is removed first: nobody holds their locks any more."""
    run = cache.folder() / "machines" / "run"
    run.mkdir(parents=True, exist_ok=True)
    for lock in run.glob("*.lock"):
        fd = cache.lock(lock, wait=False)
        if fd is not None:
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
            os.close(fd)
    found = run / secrets.token_hex(6)
    cache.lock(found.with_suffix(".lock"), wait=True)  # its descriptor stays open, and goes with this process
    found.mkdir()
    return found


@dataclass(frozen=True, slots=True)
class Frozen:
    """A machine that stood still: its memory and disks, in a folder. Any number may be thawed from it, side by side."""

    folder: Path
    wall_ns: int  # what its clock showed

    def thaw(self) -> "Machine":
        """Another machine that goes on from there."""
        machine = Machine([self.folder / part for part in _PARTS], "qcow2")
        try:
            machine.start(incoming=self.folder / "memory")
        except BaseException:
            machine.stop()
            raise
        return machine


@dataclass(eq=False)
class Machine(Network):
    """One machine. Made by :meth:`boot` or :meth:`Frozen.thaw`; a context manager; it ends with this process at the latest.

    ``ssh`` and ``paramiko`` reach its sshd through a port of this machine's loopback.
    """

    below: Sequence[Path]
    below_format: str = "raw"
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="machine-", dir=run_folder())))
    _process: "subprocess.Popen[bytes] | None" = None
    _qmp: Qmp | None = None
    _channel: Channel | None = None
    _clock: tuple[int, float] = (0, 0.0)  # a wall time of the machine's, and this machine's monotonic time then
    port: int = 0

    def __post_init__(self) -> None:
        _live.add(self)
        for part, below in zip(_PARTS, self.below, strict=True):
            tools.run(
                ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(below), "-F", self.below_format, str(self.folder / part)]
            )

    @classmethod
    def boot(cls, clock: int | None = None) -> Self:
        """A machine of the cached image that has come up. ``clock``: what its clock chip shows, seconds since the epoch.

        Raises:
            HostUnavailable: this machine can't run one.
            BuildFailed: there was no image yet, and it could not be made.
            HostFailed: it did not come up.
        """
        tools.need("qemu-system-x86_64", "qemu-img", "ssh-keygen")
        made = image.ensure()
        machine = cls([made.disk, made.state_disk])
        try:
            machine.start(clock)
            machine.wait_up()
        except BaseException:
            machine.stop()
            raise
        return machine

    # Power

    def start(self, clock: int | None = None, incoming: Path | None = None) -> None:
        """Power on; returns when the agent answers, which is early in the boot. ``incoming``: go on from frozen memory."""
        if self._process is not None:
            raise HostFailed("the machine is on")
        self.port = free_port()
        for name in ("qmp", "agent"):
            (self.folder / name).unlink(missing_ok=True)
        with (self.folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*tools.DIE_WITH_PARENT, *self._argv(clock, incoming)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=tools.environment(), start_new_session=True,
            )  # fmt: skip
        try:
            self._qmp = Qmp(self.folder / "qmp")
            self._channel = Channel(self.folder / "agent")
            if incoming:
                self._go_on()
            self._wait_for_agent(incoming is not None)
        except HostFailed as failure:
            said = (self.folder / "qemu.log").read_text(errors="replace")[-2000:]
            raise HostFailed(f"{failure}; console and QEMU: {said}{self.console()[-2000:]}") from failure
        self._note_clock()

    def wait_up(self, timeout: float = BOOT_S) -> None:
        """Until its systemd has done all it does at a boot. Raises HostFailed."""
        self.run(["systemctl", "is-system-running", "--wait"], check=False, timeout=timeout)

    def power_cut(self) -> None:
        """Take the power away; the disks are kept. Returns at once: nothing of the machine runs any more."""
        self._end()

    def reboot(self, clock: int | None = None) -> None:
        """Power on after a cut (or at once), and wait until it has come up. ``clock``: seconds since the epoch."""
        self._end()
        self.start(clock)
        self.wait_up()

    def stop(self) -> None:
        """Take it down and remove its disks. Harmless when that is done."""
        self._end()
        _live.discard(self)
        shutil.rmtree(self.folder, ignore_errors=True)

    def freeze(self, folder: Path) -> Frozen:
        """Stand still for ever, kept in ``folder``; this machine is over, its disks are there now."""
        qmp = self.qmp
        wall_ns = self.wall_ns()
        qmp.call("stop")
        qmp.call("migrate", uri=f"exec:cat > {folder / 'memory'}")
        while (status := qmp.call("query-migrate").get("status")) != "completed":
            if status in {"failed", "cancelled"}:
                raise HostFailed("the machine's memory could not be written")
            time.sleep(0.02)
        self._end()
        for part in _PARTS:
            shutil.move(self.folder / part, folder / part)
        self.stop()
        return Frozen(folder, wall_ns)

    def suspend(self) -> None:
        """Let the machine's kernel suspend to RAM (S3), as a lid does; returns when it sleeps."""
        self._note_clock()
        with contextlib.suppress(Unreachable):
            self.channel.run(["systemd-run", "--quiet", "--no-block", "/bin/sh", "-c", "echo mem > /sys/power/state"])
        self.qmp.wait_for("SUSPEND", 60.0)

    def wake(self) -> None:
        """End the suspend; returns when QEMU has woken it, before its kernel is through."""
        self.qmp.call("system_wakeup")
        self.qmp.wait_for("WAKEUP", 30.0)

    # Clock

    def wall_ns(self) -> int:
        """What its wall clock shows."""
        now: int = self.python("import time\nresult = time.time_ns()")
        return now

    def step_clock(self, seconds: float) -> None:
        """Set its wall clock by so many seconds, as an admin does with date(1)."""
        self.python("import time\ntime.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns() + arguments[0])", int(seconds * 1e9))
        self._note_clock()

    def set_clock(self, wall_s: float) -> None:
        """Set its wall clock to so many seconds since the epoch."""
        self.python("import time\ntime.clock_settime_ns(time.CLOCK_REALTIME, arguments[0])", int(wall_s * 1e9))
        self._note_clock()

    def clock_now(self) -> float:
        """About what its wall clock shows, without asking: also when it is off or asleep. Seconds since the epoch.

        It may be ahead of the truth by as long as the machine was kept waiting for a processor since it was set or looked at.
        """
        wall_ns, at = self._clock
        return wall_ns / 1e9 + time.monotonic() - at

    # Inside

    @property
    def qmp(self) -> Qmp:
        """QEMU's control. Raises HostFailed when the machine is off."""
        if self._qmp is None:
            raise HostFailed("the machine is off")
        return self._qmp

    @property
    def channel(self) -> Channel:
        """The agent in it. Raises Unreachable when the machine is off."""
        if self._channel is None:
            raise Unreachable("the machine is off")
        return self._channel

    def run(
        self,
        command: str | Sequence[str],
        check: bool = True,
        timeout: float = PATIENCE_S,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """An argv, or a string by bash, as root. Raises as Channel.run."""
        argv = ["bash", "--noprofile", "--norc", "-c", command] if isinstance(command, str) else command
        return self.channel.run(argv, check, timeout, stdin, env)

    def python(self, source: str, *arguments: Any, timeout: float = PATIENCE_S) -> Any:
        """Source run in it, in a process of its own; what it leaves in ``result``. Raises HostFailed with its traceback."""
        return self.channel.python(source, *arguments, timeout=timeout)

    def write(self, path: str, data: bytes | str, mode: int = 0o644) -> None:
        """Put a file in it, whole or not at all, synced."""
        content = data.encode() if isinstance(data, str) else data
        self.python(_WRITE, path, content.hex(), mode)

    def push(self, source: Path, target: str, *leave_out: str) -> None:
        """Copy a folder into the folder ``target``."""
        packed = subprocess.run(
            ["tar", "-C", str(source), "-cz", "--owner=0", "--group=0", *(f"--exclude={name}" for name in leave_out), "."],
            capture_output=True, check=True, timeout=60,
        ).stdout  # fmt: skip
        self.run(["mkdir", "-p", target])
        self.run(["tar", "-C", target, "-xz"], stdin=packed, timeout=120)

    def wait_for(self, predicate: Callable[[], T], timeout: float = PATIENCE_S, what: str = "", step: float = 0.2) -> T:
        """Call until it returns something true, and return that. Raises HostFailed."""
        end = time.monotonic() + timeout
        while not (value := predicate()):
            if time.monotonic() > end:
                raise HostFailed(f"not so within {timeout} s: {what or predicate}")
            time.sleep(step)
        return value

    def console(self) -> str:
        """What its kernel said on the serial console."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "console").read_text(errors="replace")
        return ""

    @property
    def address(self) -> str:
        """Where its sshd is reached."""
        return "127.0.0.1"

    @property
    def known_hosts(self) -> Path:
        """A known_hosts file with its keys and no others."""
        path = self.folder / "known_hosts"
        if not path.exists():
            lines = self.run("cat /etc/ssh/ssh_host_*_key.pub").stdout.splitlines()
            path.write_text("".join(f"[127.0.0.1]:{self.port} {' '.join(line.split()[:2])}\n" for line in lines))
        return path

    def ssh_argv(self, user: str, key: Path | None, command: str | None = None, options: Sequence[str] = ()) -> list[str]:
        """See Network."""
        return super().ssh_argv(user, key, command, ("-p", str(self.port), *options))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _argv(self, clock: int | None, incoming: Path | None) -> list[str]:
        base = datetime.fromtimestamp(clock if clock is not None else int(time.time()), UTC).strftime("%Y-%m-%dT%H:%M:%S")
        made = image.ensure()
        drives = [f"file={self.folder / part},format=qcow2,if=virtio,cache=writeback,discard=unmap" for part in _PARTS]
        argv = ["qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "1", "-m", str(MEMORY_MB)]
        argv += ["-nodefaults", "-display", "none", "-vga", "none", "-no-user-config", "-no-reboot"]
        argv += ["-rtc", f"base={base},clock=host", "-icount", "shift=2,sleep=on"]
        argv += ["-kernel", str(made.kernel), "-initrd", str(made.initrd), "-append", _KERNEL]
        argv += [word for drive in drives for word in ("-drive", drive)]
        argv += ["-serial", f"file:{self.folder / 'console'}"]
        argv += ["-qmp", f"unix:{self.folder / 'qmp'},server=on,wait=off", "-device", "virtio-serial-pci"]
        argv += ["-chardev", f"socket,id=agent,path={self.folder / 'agent'},server=on,wait=off"]
        argv += ["-device", "virtserialport,chardev=agent,name=agent"]
        argv += ["-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22"]
        argv += ["-device", "virtio-net-pci,netdev=net,romfile="]
        return [*argv, "-incoming", f"exec:cat {incoming}"] if incoming else argv

    def _go_on(self) -> None:
        """It was stopped when it was frozen, and is so still."""
        self.wait_for(lambda: self.qmp.call("query-status")["status"] != "inmigrate", 60.0, "the memory is read", 0.01)
        self.qmp.call("cont")

    def _wait_for_agent(self, thawed: bool) -> None:
        """A thawed one does not say hello: it has long begun."""
        if not thawed:
            end = time.monotonic() + BOOT_S
            while not self.channel.hello.wait(0.2):
                if self._process is not None and self._process.poll() is not None:
                    raise HostFailed("QEMU has ended")
                if time.monotonic() > end:
                    raise HostFailed(f"no agent answered within {BOOT_S} s")
        self.python("result = 1")

    def _note_clock(self) -> None:
        self._clock = self.wall_ns(), time.monotonic()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        for part in (self._qmp, self._channel):
            if part is not None:
                part.close()
        self._qmp = self._channel = None
        (self.folder / "known_hosts").unlink(missing_ok=True)


_WRITE = """
import os, secrets
path, content, mode = arguments
temporary = os.path.join(os.path.dirname(path), ".tmp-" + secrets.token_hex(6))
fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
os.fchmod(fd, mode)
os.write(fd, bytes.fromhex(content))
os.fsync(fd)
os.rename(temporary, path)
os.fsync(os.open(os.path.dirname(path), os.O_RDONLY))
"""


@atexit.register
def _stop_all() -> None:
    for machine in list(_live):
        machine.stop()
    if run_folder.cache_info().currsize:
        folder = run_folder()
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".lock").unlink(missing_ok=True)
