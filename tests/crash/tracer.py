"""ptrace(2) on one process and all it starts: counts the mutating calls, and kills before the n-th of them is made.

A process of its own for each point, forked by the driver, since what is not killed must go on being traced.
"""

import contextlib
import ctypes
import json
import os
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.flags import Flags
from tests.crash.syscalls import Call, Filter, describe

_CONT, _SEIZE, _GET_SYSCALL_INFO, _LISTEN, _GETEVENTMSG = 7, 0x4206, 0x420E, 0x4208, 0x4201
_EVENT_FORK, _EVENT_VFORK, _EVENT_CLONE, _EVENT_SECCOMP, _EVENT_STOP = 1, 2, 3, 7, 128
_OPTIONS = 0x2 | 0x4 | 0x8 | 0x80 | 0x100000  # follow fork, vfork, clone; stop for seccomp; kill all when the tracer dies
_WALL = 0x40000000
_STOPS = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


@dataclass
class Tracer:
    """``kill_at``: the how-manieth counted call is not made any more (0: none). ``only_agent``: what it runs goes on then."""

    filter: Filter
    flags: Flags
    report: int  # descriptor for one JSON line: what was hit, and what went before
    kill_at: int = 0
    only_agent: bool = False
    agent: int = 0
    calls: list[Call] = field(default_factory=list)
    alive: set[int] = field(default_factory=set)  # threads, as ptrace knows them
    groups: dict[int, int] = field(default_factory=dict)  # thread → its process
    killed: bool = False

    def run(self, work: Callable[[], None]) -> None:
        """Trace ``work`` in a fork until nothing of it is left. The driver's fork never returns from here."""
        go, gone = os.pipe(), os.pipe()
        self.agent = os.fork()
        if self.agent == 0:
            os.close(gone[0])
            os.read(go[0], 1)
            self.filter.load()
            _work(work)
        os.close(gone[1])
        self._ptrace(_SEIZE, self.agent, 0, _OPTIONS)
        self.alive.add(self.agent)
        self.groups[self.agent] = self.agent
        self.flags.agent = self.agent
        os.write(go[1], b"g")
        while self.alive:
            try:
                pid, status = os.waitpid(-1, _WALL)
            except ChildProcessError:
                break
            self._on(pid, status)
        if not self.killed:
            self._tell(None)

    def _on(self, pid: int, status: int) -> None:
        if not os.WIFSTOPPED(status):
            self.alive.discard(pid)
            if pid == self.agent:
                self.flags.agent_status = status + 1
                if not self.killed:  # by itself, at a journal boundary
                    self._tell(None)
                    self.killed = True
                    self._kill_the_rest()
            return
        if pid not in self.alive:
            self.alive.add(pid)
            self.groups[pid] = _process_of(pid)
        event, number = status >> 16, os.WSTOPSIG(status)
        if event == _EVENT_SECCOMP:
            self._at_call(pid)
        elif event == _EVENT_STOP and number in _STOPS:
            self._ptrace(_LISTEN, pid, 0, 0)
        else:
            self._ptrace(_CONT, pid, 0, number if event == 0 else 0)

    def _at_call(self, pid: int) -> None:
        call = self._call(pid) if self.flags.armed else None
        if call is not None:
            self.calls.append(call)
            self.flags.calls = len(self.calls)
            if len(self.calls) == self.flags.shift_at:
                self.flags.offset_ns = self.flags.shift_to_ns
            if len(self.calls) == self.kill_at:
                self.kill(call)
                return
        if self.killed and not self.only_agent:
            return
        self._ptrace(_CONT, pid, 0, 0)

    def _call(self, pid: int) -> Call | None:
        info = ctypes.create_string_buffer(96)
        if self._ptrace(_GET_SYSCALL_INFO, pid, 96, ctypes.addressof(info)) <= 0:
            return None
        number, *arguments = struct.unpack_from("7Q", info.raw, 24)
        own = self.groups.get(pid) == self.agent
        name = self.filter.names.get(number, str(number))
        try:
            program = Path(f"/proc/{self.groups.get(pid, pid)}/comm").read_text().strip()  # threads have names of their own
        except OSError:
            return None
        target = describe(pid, name, tuple(arguments), program, own=own)
        return None if target is None else Call(name, target, program, own, len({self.groups[thread] for thread in self.alive}))

    def kill(self, call: Call) -> None:
        """SIGKILL, while the call is not made yet. A unit's other processes go with its first one (systemd.kill(5))."""
        self.killed = True
        victims = {self.agent} if self.only_agent else {self.groups[thread] for thread in self.alive}
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        while any(self.groups[thread] in victims for thread in self.alive):
            pid, status = os.waitpid(-1, _WALL)
            if not os.WIFSTOPPED(status):
                self.alive.discard(pid)
            elif self.groups.setdefault(pid, _process_of(pid)) not in victims:
                if not self.only_agent:  # born meanwhile
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self._ptrace(_CONT, pid, 0, 0)
        self._tell(call)

    def _kill_the_rest(self) -> None:
        for process in {self.groups[thread] for thread in self.alive}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _tell(self, call: Call | None) -> None:
        value = {"hit": str(call) if call else None, "calls": [list(found) for found in self.calls]}
        with os.fdopen(os.dup(self.report), "w") as out:
            out.write(json.dumps(value) + "\n")

    @staticmethod
    def _ptrace(request: int, pid: int, address: int, data: int) -> int:
        return int(_libc.ptrace(request, pid, address, data))


def _process_of(thread: int) -> int:
    try:
        text = Path(f"/proc/{thread}/status").read_text()
    except OSError:
        return thread
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("Tgid:")))


def _work(work: Callable[[], None]) -> None:
    """In the traced process; never returns."""
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
