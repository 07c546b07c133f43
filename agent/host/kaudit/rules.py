"""Our rules in the kernel's audit: every exec whose login uid is a tenant's. Known by their key; nobody else's is touched."""

import functools
import platform
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agent.errors import HostError
from agent.host.kaudit.netlink import Audit

KEY = b"tidegate"
# struct audit_rule_data: flags, action, field_count, mask[64], fields[64], values[64], fieldflags[64], buflen, buf[]
_RULE = struct.Struct("=3I64I64I64I64II")
_FILTER_TASK, _FILTER_EXIT = 0x01, 0x04
_NEVER, _ALWAYS = 0, 2
_FILTER_MASK = 0x0F
_LOGINUID, _ARCH, _EXIT, _FILTERKEY = 9, 11, 103, 210
_EQUAL, _NOT_EQUAL, _AT_MOST, _AT_LEAST = 0x40000000, 0x30000000, 0x50000000, 0x60000000
# A search through PATH tries every folder: a name that is not there is nothing that was run.
_NO_ENTRY = (-2) & 0xFFFFFFFF
_FIELDS_MAX = 64

# machine → (AUDIT_ARCH_* of linux/audit.h, execve, execveat): its own programs, and those of 32 bits that it runs too.
_CALLS: Mapping[str, tuple[tuple[int, int, int], ...]] = {
    "x86_64": ((0xC000003E, 59, 322), (0x40000003, 11, 358)),
    "aarch64": ((0xC00000B7, 221, 281), (0x40000028, 11, 387)),
    "riscv64": ((0xC00000F3, 221, 281),),
    "ppc64le": ((0xC0000015, 11, 362),),
    "s390x": ((0x80000016, 11, 354), (0x00000016, 11, 354)),
}


def ours(uid_first: int, uid_last: int, machine: str = "") -> list[bytes]:
    """One rule for each kind of program this machine runs; none for a machine whose system calls we don't know."""
    found = []
    for arch, *calls in _CALLS.get(machine or platform.machine(), ()):
        mask = [0] * 64
        for call in calls:
            mask[call // 32] |= 1 << (call % 32)
        rows = [
            (_ARCH, _EQUAL, arch),
            (_LOGINUID, _AT_LEAST, uid_first),
            (_LOGINUID, _AT_MOST, uid_last),
            (_EXIT, _NOT_EQUAL, _NO_ENTRY),
            (_FILTERKEY, _EQUAL, len(KEY)),
        ]
        columns = [[*column, *([0] * (_FIELDS_MAX - len(rows)))] for column in zip(*rows, strict=True)]
        fields, operators, values = columns
        found.append(_RULE.pack(_FILTER_EXIT, _ALWAYS, len(rows), *mask, *fields, *values, *operators, len(KEY)) + KEY)
    return found


@dataclass(frozen=True, slots=True)
class Rule:
    """What of a rule matters here: which list it is in, what it does, and its key."""

    list: int
    action: int
    key: bytes


def read(rule: bytes) -> Rule:
    """A rule as the kernel lists it; one that is cut short is nobody's."""
    if len(rule) < _RULE.size:
        return Rule(-1, -1, b"")
    numbers = _RULE.unpack_from(rule)
    count, fields, values = min(numbers[2], _FIELDS_MAX), numbers[67:131], numbers[131:195]
    texts = rule[_RULE.size :]
    key = b""
    for field, value in zip(fields[:count], values[:count], strict=True):
        if field == _FILTERKEY:
            key = texts[:value]
        if field in _WITH_TEXT:
            texts = texts[value:]
    return Rule(numbers[0] & _FILTER_MASK, numbers[1], key)


# Fields whose value is the length of a text in buf: subject and object labels, a watch, a folder, the key, a program.
_WITH_TEXT = frozenset({*range(13, 18), *range(19, 24), 105, 107, 112, _FILTERKEY})


def put(audit: Audit, uid_first: int, uid_last: int) -> bool:
    """Have exactly our rules there, and auditing on; True when it was off, and is for :func:`take_out` to turn off again.

    Raises:
        HostError: ``audit_absent``, with nothing left behind.
    """
    wanted = ours(uid_first, uid_last)
    if not wanted:
        raise HostError("audit_absent", f"the system calls of a {platform.machine()} machine are not known here")
    status = audit.status()
    there = [rule for rule in audit.rules() if read(rule).key == KEY]
    if status.enabled == 2:
        if {*there} >= {*wanted}:
            return False
        raise HostError("audit_absent", "audit's rules are locked until the next boot (enabled 2)")
    try:
        for rule in there:  # of a daemon that was killed, perhaps with other numbers
            if rule not in wanted:
                audit.remove(rule)
        for rule in wanted:
            audit.add(rule)
        if status.enabled == 0:
            audit.enable(True)
    except HostError:
        take_out(audit, was_off=False)
        raise
    return status.enabled == 0


def are_there(audit: Audit, uid_first: int, uid_last: int) -> bool:
    """Whether our rules are all in force. Raises HostError."""
    return audit.status().enabled != 0 and {*audit.rules()} >= {*ours(uid_first, uid_last)}


def take_out(audit: Audit, *, was_off: bool) -> None:
    """Take our rules away, and turn auditing off again where nobody has taken it over meanwhile. Raises HostError."""
    rules = audit.rules()
    for rule in rules:
        if read(rule).key == KEY:
            audit.remove(rule)
    status = audit.status()
    if was_off and status.enabled == 1 and status.pid == 0 and all(read(rule).key == KEY for rule in rules):
        audit.enable(False)


def hidden_by(audit: Audit) -> Iterator[str]:
    """What of the site's own rules may keep execs from being seen. Raises HostError."""
    for found in map(read, audit.rules()):
        if found.action == _NEVER and found.list == _FILTER_TASK:
            yield "a rule `task,never` of this host: no system call is audited"
        elif found.action == _NEVER and found.list == _FILTER_EXIT:
            yield "a rule `exit,never` of this host comes before ours"


@functools.cache
def exec_calls(machine: str = "") -> frozenset[tuple[int, int]]:
    """(arch, number) of every system call that is an exec on this machine."""
    return frozenset((arch, call) for arch, *calls in _CALLS.get(machine or platform.machine(), ()) for call in calls)
