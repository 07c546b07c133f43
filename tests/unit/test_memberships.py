"""Whose member somebody is: the same answer as Python's own call, however many groups there are."""

import ctypes
import os
import pwd
from types import SimpleNamespace

import pytest

from agent.host import memberships


def test_it_says_what_the_interpreters_own_call_says() -> None:
    for user in pwd.getpwall():
        assert sorted(memberships.gids_of(user.pw_name, user.pw_gid)) == sorted(os.getgrouplist(user.pw_name, user.pw_gid))
    assert memberships.gids_of("nobody-has-this-name", 4_000_000_000) == [4_000_000_000]


def test_a_name_with_a_nul_is_no_name() -> None:
    with pytest.raises(ValueError, match="NUL"):
        memberships.gids_of("root\0x", 0)


@pytest.mark.parametrize("groups", [1, 64, 65, 1000, 65536])
@pytest.mark.parametrize("tells", [True, False])
def test_there_is_room_for_as_many_as_there_are(monkeypatch: pytest.MonkeyPatch, groups: int, tells: bool) -> None:
    """``tells``: glibc says how much room it wants; other C libraries need not."""
    monkeypatch.setattr(memberships, "_LIBC", SimpleNamespace(getgrouplist=_libc(groups, tells)))
    assert memberships.gids_of("jit-a", 7) == [7, *range(1, groups)]


def test_more_than_the_kernel_knows_of_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memberships, "_LIBC", SimpleNamespace(getgrouplist=_libc(70_000, True)))
    with pytest.raises(OSError, match="more than"):
        memberships.gids_of("jit-a", 7)


def _libc(groups: int, tells: bool) -> object:
    """getgrouplist(3) of a host where that many list the name."""

    def getgrouplist(_login: bytes, primary: ctypes.c_uint32, found: "ctypes.Array[ctypes.c_uint32]", count: object) -> int:
        room = count._obj  # type: ignore[attr-defined]  # what byref() was given
        given, all_ = room.value, [primary.value, *range(1, groups)]
        found[: min(given, groups)] = all_[:given]
        room.value = groups if tells or given >= groups else given
        return groups if given >= groups else -1

    return getgrouplist
