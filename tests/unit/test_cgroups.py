"""Cgroups on a tree of plain files: what is written where, and what never is."""

import errno
import os
from pathlib import Path

import pytest

from agent.host.cgroups import Cgroups

OWN = "/system.slice/agent.service"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for group in ("", "init.scope", "system.slice", "system.slice/agent.service", "user.slice/user-70001.slice/s.scope", "a/b"):
        folder = tmp_path / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in (("cgroup.kill", ""), ("cgroup.freeze", "0"), ("cgroup.events", "populated 0\nfrozen 1\n")):
            (folder / name).write_text(value)
    return tmp_path


def state(tree: Path, group: str, name: str = "cgroup.freeze") -> str:
    return (tree / group.lstrip("/") / name).read_text()


def test_a_slice_is_killed_whole_by_one_write(tree: Path) -> None:
    cgroups = Cgroups(tree, [OWN])
    (tree / "user.slice/user-70001.slice/cgroup.kill").write_text("")
    assert cgroups.kill(cgroups.user_slice(70001))
    assert state(tree, cgroups.user_slice(70001), "cgroup.kill") == "1"
    assert not cgroups.kill(cgroups.user_slice(70002)), "an absent one is said so"
    assert not (tree / "user.slice/user-70002.slice").exists()


def test_who_is_in_a_slice_is_read_from_the_top_and_of_so_many_groups_only(tree: Path) -> None:
    """Below its own manager a tenant makes as many as it likes, and as deep."""
    group = "/user.slice/user-70001.slice"
    folder = tree / group.lstrip("/")
    (folder / "cgroup.procs").write_text("")
    (folder / "s.scope/cgroup.procs").write_text("11\n12\n")
    deep = folder
    for number in range(200):
        deep /= "d"
        deep.mkdir()
        (deep / "cgroup.procs").write_text(f"{1000 + number}\n")
    cgroups = Cgroups(tree)
    assert sorted(cgroups.pids(group)) == [11, 12, *range(1000, 1200)]
    assert {11, 12} < set(cgroups.pids(group, 10)) and len(cgroups.pids(group, 10)) == 10
    assert cgroups.pids("/none") == [] == Cgroups(None).pids(group)


@pytest.mark.parametrize("name", ["\\000", "a\\040b", "a b", "tab\tbed"])
def test_a_group_is_found_whatever_a_tenant_calls_it(tree: Path, name: str) -> None:
    group = "/user.slice/user-70001.slice"
    folder = tree / group.lstrip("/") / name
    folder.mkdir()
    (folder / "cgroup.procs").write_text("17\n")
    assert 17 in Cgroups(tree).pids(group)


@pytest.mark.parametrize("group", ["", "/", "/system.slice", OWN, OWN + "/"])
def test_no_group_that_holds_this_process_is_killed_or_frozen(tree: Path, group: str) -> None:
    cgroups = Cgroups(tree, [OWN])
    assert not cgroups.kill(group)
    with cgroups.frozen(group) as frozen:
        assert not frozen
        assert state(tree, group) == "0"
    assert state(tree, group, "cgroup.kill") == ""


@pytest.mark.parametrize(
    "group",
    [
        *(
            "/init.scope",
            "/system.slice/dbus.service",
            "/system.slice/systemd-logind.service",
            "/system.slice/systemd-journald.service",
        ),
        *("/system.slice/ssh.service", "/system.slice/sshd.service", "/system.slice/tidegated.service"),
        *("/system.slice/tidegate-courier.service",),
    ],
)
def test_what_the_host_itself_runs_in_is_never_frozen(tree: Path, group: str) -> None:
    (tree / group.lstrip("/")).mkdir(exist_ok=True)
    (tree / group.lstrip("/") / "cgroup.freeze").write_text("0")
    with Cgroups(tree).frozen(group) as frozen:
        assert not frozen
        assert state(tree, group) == "0"


def test_a_frozen_group_is_thawed_at_the_end_also_after_an_error(tree: Path) -> None:
    cgroups = Cgroups(tree, [OWN])
    with pytest.raises(ZeroDivisionError), cgroups.frozen("/a/b") as frozen:
        assert frozen
        assert state(tree, "/a/b") == "1"
        _ = 1 / 0
    assert state(tree, "/a/b") == "0"


def test_thawing_needs_no_new_descriptor(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    cgroups = Cgroups(tree, [OWN])
    with cgroups.frozen("/a/b"):
        monkeypatch.setattr("agent.host.cgroups.os.open", none_left)
    assert state(tree, "/a/b") == "0"
    with cgroups.frozen("/a/b") as frozen:
        assert not frozen, "and without one nothing is frozen"


@pytest.mark.parametrize("group", ["/..", "/../a", "/a/../system.slice", "/.."])
def test_a_group_outside_our_view_is_not_reached(tree: Path, group: str) -> None:
    cgroups = Cgroups(tree / "a", [OWN])
    with cgroups.frozen(group) as frozen:
        assert not frozen
    assert not cgroups.kill(group) and not cgroups.populated(group)


def test_a_group_is_populated_while_the_kernel_says_so_and_an_absent_one_is_empty(tree: Path) -> None:
    cgroups = Cgroups(tree, [OWN])
    assert not cgroups.populated("/a/b")
    (tree / "a/b/cgroup.events").write_text("populated 1\nfrozen 0\n")
    assert cgroups.populated("/a/b")
    assert not cgroups.populated("/none")


@pytest.mark.parametrize(("code", "populated"), [(errno.EMFILE, True), (errno.ENOMEM, True), (errno.ENODEV, False)])
def test_a_group_that_cant_be_looked_at_may_not_be_empty(
    tree: Path, monkeypatch: pytest.MonkeyPatch, code: int, populated: bool
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise OSError(code, "no")

    monkeypatch.setattr(Path, "read_text", fail)
    assert Cgroups(tree).populated("/a/b") == populated


def test_a_name_in_no_utf8_is_reached(tree: Path) -> None:
    (tree / "a/\udcff").mkdir()
    (tree / "a/\udcff/cgroup.freeze").write_text("0")
    (tree / "a/\udcff/cgroup.events").write_text("frozen 1\n")
    with Cgroups(tree).frozen("/a/\udcff") as frozen:
        assert frozen


def test_a_host_without_cgroups_kills_and_freezes_nothing() -> None:
    none = Cgroups(None)
    assert not none.available and not none.kill("/a") and not none.populated("/a")
    with none.frozen("/a") as frozen:
        assert not frozen


def test_the_host_this_runs_on_is_looked_at_without_an_error() -> None:
    assert Cgroups.find().available in {True, False}


def test_a_group_with_a_blank_in_its_name_is_found_as_proc_shows_it(tree: Path) -> None:
    (tree / "user.slice/a b").mkdir()
    (tree / "user.slice/a b/cgroup.kill").write_text("")
    assert Cgroups(tree, [OWN]).kill("/user.slice/a\\040b")
    assert state(tree, "user.slice/a b", "cgroup.kill") == "1"
    assert not Cgroups(tree, [OWN]).kill("/user.slice/\\056\\056/\\056\\056/x")


def test_a_group_that_two_hold_is_thawed_by_the_last(tree: Path) -> None:
    cgroups = Cgroups(tree, [OWN])
    with cgroups.frozen("/a/b"):
        with cgroups.frozen("/a/b"):
            pass
        assert state(tree, "/a/b") == "1"
    assert state(tree, "/a/b") == "0"


def test_one_that_is_too_slow_to_stand_still_is_told_as_such_and_thawed(tree: Path) -> None:
    (tree / "a/b/cgroup.events").write_text("populated 1\nfrozen 0\n")
    with Cgroups(tree, [OWN]).frozen("/a/b") as frozen:
        assert not frozen
        assert state(tree, "/a/b") == "1"
    assert state(tree, "/a/b") == "0"


def test_where_users_programs_run_are_the_groups_that_are_there_and_none_of_the_hosts_own(tree: Path) -> None:
    (tree / "system.slice/cron.service").mkdir()
    (tree / "system.slice/cron.service/cgroup.freeze").write_text("0")
    assert Cgroups(tree).of_people() == ["/system.slice/cron.service"]
    (tree / "user.slice/cgroup.freeze").write_text("0")
    assert Cgroups(tree).of_people() == ["/user.slice", "/system.slice/cron.service"]
    assert Cgroups(None).of_people() == []


def test_what_a_killed_agent_left_frozen_is_thawed_at_the_next_start_and_nothing_else(tree: Path) -> None:
    for group in ("a/b", "init.scope"):
        (tree / group / "cgroup.freeze").write_text("1")
    try:
        os.setxattr(tree / "a/b", "trusted.tidegate-frozen", b"1")
    except OSError:
        pytest.skip("no trusted attributes on this file system")
    assert Cgroups(tree).thaw_left() == [str(tree / "a/b")]
    assert (state(tree, "/a/b"), state(tree, "/init.scope")) == ("0", "1")
    assert Cgroups(tree).thaw_left() == []
    with Cgroups(tree).frozen("/a/b"):
        assert os.getxattr(tree / "a/b", "trusted.tidegate-frozen") == b"1"
    assert os.listxattr(tree / "a/b") == []
    assert Cgroups(None).thaw_left() == []
