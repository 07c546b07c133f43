"""A few numbers shared by the driver, the tracer and the traced tidegated: one page of memory, inherited by forks."""

import mmap
import struct

_FIELDS = ("armed", "offset_ns", "shift_at", "shift_to_ns", "calls", "agent", "agent_status", "boundary", "commits")


class Flags:
    """``armed``: calls count from now on. ``offset_ns``: by how much tidegated's clocks are ahead. ``shift_at``: at which
    call that becomes ``shift_to_ns``. ``boundary``: at which journal boundary it kills itself (2k-1 before, 2k after the k-th
    commit, of ``commits``). ``calls``: how many were counted. ``agent``: the traced process, ``agent_status``: its wait status,
    plus one.
    """

    armed: int
    offset_ns: int
    shift_at: int
    shift_to_ns: int
    calls: int
    agent: int
    agent_status: int
    boundary: int
    commits: int

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def clear(self) -> None:
        """All zero."""
        self._memory[:] = bytes(mmap.PAGESIZE)

    def __getattr__(self, name: str) -> int:
        return int(struct.unpack_from("q", self._memory, 8 * _FIELDS.index(name))[0])

    def __setattr__(self, name: str, value: object) -> None:
        if name in _FIELDS and isinstance(value, int):
            struct.pack_into("q", self._memory, 8 * _FIELDS.index(name), value)
        else:
            object.__setattr__(self, name, value)
