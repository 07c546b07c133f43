"""Audit's records of an exec made one value. Pure; whatever bytes come, nothing here raises, and all of it is bounded.

A tenant chooses argv, cwd and file names. The kernel writes such a text in quotes when it has no blank, quote, control or 8-bit
character, and else in hexadecimal digits, so a blank always ends a value, and no text can look like another field.
An argument over 7,500 bytes comes in parts ``aN[i]=``, over several records.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from agent.host.kaudit.rules import exec_calls

SYSCALL, PATH, CWD, EXECVE, EOE = 1300, 1302, 1307, 1309, 1320
ARGV_MAX = 8192  # bytes of all arguments that are kept
_ARGS_MAX = 512
_TEXT_MAX = 4096  # bytes of a path
_OPEN_MAX = 4096  # events whose records are still coming
_WAIT_NS = 1_000_000_000  # a host may leave out the record that ends an event
_HEAD = re.compile(rb"audit\((\d{1,12})\.(\d{3}):(\d{1,20})\): ?")
_ARGUMENT = re.compile(rb"a(\d{1,7})(?:\[\d{1,7}\])?=(\S*)")
_NUMBER = re.compile(rb"-?\d{1,20}")


@dataclass(frozen=True, slots=True)
class Exec:
    """One exec. ``at_ns``: wall clock, to the millisecond. Texts have bytes that are no UTF-8 by ``surrogateescape``.

    ``file`` is what was asked for, ``exe`` what runs by then: the caller where it failed, an interpreter where it is a script.
    ``argc`` counts all arguments; ``cut`` when ``argv`` is not all of them, or not whole. ``error``: errno, 0 when it went well.
    """

    at_ns: int
    serial: int
    ses: int
    auid: int
    uid: int
    euid: int
    pid: int
    ppid: int
    exe: str
    file: str
    cwd: str
    argv: tuple[str, ...]
    argc: int
    cut: bool
    error: int

    @property
    def success(self) -> bool:
        """Whether the program was started."""
        return self.error == 0


@dataclass(slots=True)
class _Open:
    """An event whose records are still coming."""

    at_ns: int
    began_ns: int
    numbers: tuple[int, int, int, int, int, int]  # ses, auid, uid, euid, pid, ppid
    exe: str
    error: int
    cwd: str = ""
    file: str = ""
    argc: int = 0
    arguments: list[tuple[int, bytearray]] = field(default_factory=list)
    room: int = ARGV_MAX
    cut: bool = False


class Assembler:
    """Records in, execs out. ``now_ns`` is any monotonic clock."""

    def __init__(self, uid_first: int, uid_last: int) -> None:
        self._tenants = range(uid_first, uid_last + 1)
        self._open: dict[int, _Open] = {}
        self.dropped = 0  # events that were given up for want of room

    def take(self, kind: int, text: bytes, now_ns: int) -> tuple[int | None, Exec | None]:
        """One record: its event's serial number, and the exec that is whole by it."""
        head = _HEAD.match(text)
        if head is None:
            return None, None
        serial = int(head[3])
        if kind == SYSCALL:
            self._begin(serial, (int(head[1]) * 1000 + int(head[2])) * 1_000_000, text[head.end() :], now_ns)
        elif (found := self._open.get(serial)) is not None:
            match kind:
                case _ if kind == EXECVE:
                    _arguments(found, text[head.end() :])
                case _ if kind == CWD:
                    found.cwd = _text(_fields(text[head.end() :]).get(b"cwd", b""))
                case _ if kind == PATH and not found.file:  # the first is what was asked for, the second its interpreter
                    found.file = _text(_fields(text[head.end() :]).get(b"name", b""))
                case _ if kind == EOE:
                    return serial, _whole(serial, self._open.pop(serial))
        return serial, None

    def late(self, now_ns: int) -> Iterator[Exec]:
        """Those whose end has not come within a second: as far as they are known."""
        while self._open:
            serial, first = next(iter(self._open.items()))
            if now_ns - first.began_ns < _WAIT_NS:
                return
            del self._open[serial]
            yield _whole(serial, first)

    @property
    def waiting(self) -> int:
        """How many events are not whole."""
        return len(self._open)

    def _begin(self, serial: int, at_ns: int, text: bytes, now_ns: int) -> None:
        fields = _fields(text)
        auid = _number(fields, b"auid")
        call = (int(fields.get(b"arch", b"0"), 16) if _is_hex(fields.get(b"arch", b"")) else 0, _number(fields, b"syscall"))
        if auid not in self._tenants or call not in exec_calls():
            return
        if len(self._open) >= _OPEN_MAX:
            self._open.pop(next(iter(self._open)))
            self.dropped += 1
        ses, uid, euid, pid, ppid = (_number(fields, name) for name in (b"ses", b"uid", b"euid", b"pid", b"ppid"))
        error = 0 if fields.get(b"success") == b"yes" else abs(_number(fields, b"exit"))
        self._open[serial] = _Open(at_ns, now_ns, (ses, auid, uid, euid, pid, ppid), _text(fields.get(b"exe", b"")), error)


def _whole(serial: int, found: _Open) -> Exec:
    argv = tuple(bytes(argument).decode("utf-8", "surrogateescape") for _, argument in found.arguments)
    argc = max(found.argc, len(argv))
    cut = found.cut or len(argv) < argc or not (argv or found.error)  # what runs has arguments, and these never came
    return Exec(found.at_ns, serial, *found.numbers, found.exe, found.file, found.cwd, argv, argc, cut, found.error)


def _arguments(found: _Open, text: bytes) -> None:
    """Add what this record has of argv, as far as there is room."""
    if text.startswith(b"argc="):
        found.argc = min(_number(_fields(text[:32]), b"argc"), 1 << 31)
    for match in _ARGUMENT.finditer(text):
        number, value = int(match[1]), _bytes(match[2])
        new = not found.arguments or found.arguments[-1][0] != number
        if found.room <= 0 or (new and len(found.arguments) >= _ARGS_MAX):
            found.cut = True
            return
        if new:
            found.arguments.append((number, bytearray()))
        found.arguments[-1][1].extend(value[: found.room])
        found.cut |= len(value) > found.room
        found.room -= len(value) + 1


def _fields(text: bytes) -> dict[bytes, bytes]:
    """``name=value`` words; of two of one name the first, which is the kernel's own."""
    found: dict[bytes, bytes] = {}
    for word in text.split(b" "):
        name, equals, value = word.partition(b"=")
        if equals:
            found.setdefault(name, value)
    return found


def _bytes(value: bytes) -> bytes:
    """A text of a tenant's, as the kernel wrote it: in quotes, in hexadecimal, or ``(null)``."""
    if value[:1] == b'"':
        return value[1:-1] if value[-1:] == b'"' and len(value) > 1 else value[1:]
    if _is_hex(value) and len(value) % 2 == 0:
        return bytes.fromhex(value.decode("ascii"))
    return b"" if value == b"(null)" else value


def _text(value: bytes) -> str:
    return _bytes(value[: 2 * _TEXT_MAX])[:_TEXT_MAX].decode("utf-8", "surrogateescape")


def _is_hex(value: bytes) -> bool:
    return bool(value) and not value.strip(b"0123456789abcdefABCDEF")


def _number(fields: dict[bytes, bytes], name: bytes) -> int:
    value = fields.get(name, b"")
    return int(value) if _NUMBER.fullmatch(value) else -1
