"""Accounts in a tmp /etc and a tmp userdb: byte-identical afterwards, and no usable login after a kill at any point."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.config import Config
from agent.errors import ConfigError, HostError
from agent.host import accounts, command, files, rows
from agent.host.contract import Account, CommandResult
from agent.host.fake import KilledError
from agent.host.passwd import LOCKED, UNLOCKED, PasswdAccounts
from agent.host.userdb import UserdbAccounts

ALICE = Account("jit-alice", 70001, "Alice Ng", "/home/jit-alice", "/bin/bash")
BASES = ("passwd", "shadow", "group", "gshadow")


def make_etc(root: Path, *, tail: str = "\n", nis: str = "", gshadow: bool = True) -> Path:
    etc = root / "etc"
    etc.mkdir(parents=True, exist_ok=True)
    content = {
        "passwd": "root:x:0:0:root:/root:/bin/bash\n# a comment: with colons\ndeploy:x:1001:1001::/home/deploy:/bin/sh",
        "shadow": "root:*:19000:0:99999:7:::\ndeploy:$y$hash:19000:0:99999:7:::",
        "group": "root:x:0:\nadm:x:4:syslog,deploy\naudio:x:29:\ndeploy:x:1001:",
        "gshadow": "root:*::\nadm:*::syslog,deploy\naudio:*::\ndeploy:!::",
    }
    for base, text in content.items():
        if base != "gshadow" or gshadow:
            (etc / base).write_text(text + (f"\n{nis}" if nis else "") + tail)
            (etc / base).chmod(0o640 if "shadow" in base else 0o644)
            (etc / f"{base}-").write_text("backup")
    return etc


def snapshot(etc: Path) -> dict[str, tuple[bytes, int, int, int]]:
    found = {}
    for path in etc.iterdir():
        info = path.stat()
        found[path.name] = (path.read_bytes(), info.st_mode, info.st_uid, info.st_gid)
    found.pop(".pwd.lock", None)
    return found


def backend(etc: Path) -> PasswdAccounts:
    return PasswdAccounts(etc, state=etc.parent / "state", lock_wait_s=0.3)


def field(etc: Path, base: str, index: int, name: str = "jit-alice") -> bytes:
    row = rows.get((etc / base).read_bytes(), name)
    assert row is not None
    return row[index]


@pytest.mark.parametrize("tail", ["\n", "", "\n\n"])
@pytest.mark.parametrize("nis", ["", "+::::::", "+:::\n-bad"])
@pytest.mark.parametrize("gshadow", [True, False])
def test_rows_added_and_removed_leave_every_file_byte_identical(tmp_path: Path, tail: str, nis: str, gshadow: bool) -> None:
    etc = make_etc(tmp_path, tail=tail, nis=nis, gshadow=gshadow)
    before, host = snapshot(etc), backend(etc)
    for _ in range(2):
        host.create(ALICE)
    assert host.owns("jit-alice", 70001)
    assert not host.owns("jit-alice", 70002)
    assert not host.owns("deploy", 1001)
    for user, group in (("jit-alice", "adm"), ("jit-alice", "audio"), ("deploy", "audio"), ("deploy", "adm")):
        for _ in range(2):
            host.add_membership(user, group)
    host.set_locked("jit-alice", 70001, False)
    assert (etc / "passwd").read_bytes().count(b"\njit-alice:") == 1
    if nis:
        assert (etc / "passwd").read_text().index("jit-alice") < (etc / "passwd").read_text().index("+:")
    for group in ("audio", "adm"):
        host.drop_membership("deploy", group)
    host.set_locked("jit-alice", 70001, True)
    for _ in range(2):
        host.delete("jit-alice", 70001)
    assert snapshot(etc) == before
    assert list((tmp_path / "state").iterdir()) == []


def test_a_new_account_is_locked_and_has_no_password(tmp_path: Path) -> None:
    etc = make_etc(tmp_path)
    host = backend(etc)
    host.create(ALICE)
    assert (field(etc, "shadow", 1), field(etc, "shadow", 7)) == (b"!*", LOCKED)
    host.set_locked("jit-alice", 70001, False)
    assert field(etc, "shadow", 7) == UNLOCKED
    host.set_locked("jit-alice", 70001, True)
    assert field(etc, "shadow", 7) == LOCKED


def test_locking_the_absent_is_done_and_unlocking_it_is_an_error(tmp_path: Path) -> None:
    for host in (backend(make_etc(tmp_path)), UserdbAccounts(tmp_path / "userdb")):
        host.set_locked("jit-alice", 70001, True)
        with pytest.raises(HostError, match="account_missing"):
            host.set_locked("jit-alice", 70001, False)


@pytest.mark.parametrize("locked", [True, False])
def test_a_record_is_read_once_to_lock_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locked: bool) -> None:
    records = UserdbAccounts(tmp_path)
    records.create(Account("jit-alice", 70001, "Alice", "/home/jit-alice", "/bin/bash"))
    records.set_locked("jit-alice", 70001, not locked)
    reads: list[Path] = []
    read = files.read_bounded

    def counted(path: Path, limit: int) -> bytes | None:
        reads.append(path)
        return read(path, limit)

    monkeypatch.setattr(files, "read_bounded", counted)
    records.set_locked("jit-alice", 70001, locked)
    assert reads == [tmp_path / "jit-alice.user"]
    assert json.loads(reads[0].read_text())["locked"] is locked


@pytest.mark.parametrize("base", BASES)
def test_a_row_that_was_there_is_neither_adopted_nor_removed(tmp_path: Path, base: str) -> None:
    etc = make_etc(tmp_path)
    width = {"passwd": 7, "shadow": 9, "group": 4, "gshadow": 4}[base]
    with (etc / base).open("a") as file:
        file.write("jit-alice:" + ":".join(["5"] * (width - 1)) + "\n")
    before, host = snapshot(etc), backend(etc)
    with pytest.raises(HostError, match="account_taken"):
        host.create(ALICE)
    assert snapshot(etc) == before
    try:
        host.delete("jit-alice", 70001)
    except HostError as error:
        assert error.code == "account_not_ours"
    assert snapshot(etc) == before


def test_only_its_own_membership_is_taken_out(tmp_path: Path) -> None:
    etc = make_etc(tmp_path)
    before, host = snapshot(etc), backend(etc)
    host.add_membership("deploy", "adm")  # was in it
    host.drop_membership("deploy", "adm")
    assert snapshot(etc) == before


def test_a_name_that_a_tool_put_into_groups_leaves_them_with_the_account(tmp_path: Path) -> None:
    etc = make_etc(tmp_path)
    before, host = snapshot(etc), backend(etc)
    host.create(ALICE)
    for base in ("group", "gshadow"):  # what usermod -aG audio jit-alice does, for userdb accounts too
        data = (etc / base).read_bytes()
        files.atomic_write(etc / base, rows.add_member(data, "audio", "jit-alice"), 0o640 if base == "gshadow" else 0o644)
    host.delete("jit-alice", 70001)
    assert snapshot(etc) == before


def _usable(etc: Path) -> bool:
    passwd, shadow = (rows.get((etc / base).read_bytes(), "jit-alice") for base in ("passwd", "shadow"))
    return passwd is not None and (shadow is None or shadow[7] != LOCKED)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_a_kill_between_files_leaves_no_login_and_the_next_try_repairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int, after: bool
) -> None:
    etc = make_etc(tmp_path, tail="")
    before, host = snapshot(etc), backend(etc)
    _kill_at(monkeypatch, nth, after, lambda: host.create(ALICE))
    assert not _usable(etc)
    host.delete("jit-alice", 70001)
    assert snapshot(etc) == before
    _kill_at(monkeypatch, nth, after, lambda: host.create(ALICE))
    host.create(ALICE)
    whole = snapshot(etc)
    _kill_at(monkeypatch, nth, after, lambda: host.delete("jit-alice", 70001))
    assert not _usable(etc)
    host.create(ALICE)
    assert snapshot(etc) == whole
    _kill_at(monkeypatch, nth, after, lambda: host.delete("jit-alice", 70001))
    host.delete("jit-alice", 70001)
    assert snapshot(etc) == before


def _kill_at(monkeypatch: pytest.MonkeyPatch, nth: int, after: bool, act: Callable[[], None]) -> None:
    calls = 0
    write = files.atomic_write

    def dying(path: Path, data: bytes, mode: int = 0o644, **more: int) -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            (path.parent / f"{files.TEMPORARY}{path.name}.dead").write_bytes(b"half")  # what SIGKILL leaves of a write
            if after:
                write(path, data, mode, **more)
            raise KilledError
        write(path, data, mode, **more)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(files, "atomic_write", dying)
        act()


def test_locking_needs_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    etc = make_etc(tmp_path)
    host = backend(etc)
    host.create(ALICE)
    host.set_locked("jit-alice", 70001, False)
    unlocked = (etc / "shadow").read_bytes()

    def full(path: Path, *args: object, **more: object) -> None:
        raise HostError("write_failed", f"{path}: no space left on device")

    monkeypatch.setattr(files, "atomic_write", full)
    host.set_locked("jit-alice", 70001, True)
    assert (etc / "shadow").read_bytes() == unlocked.replace(UNLOCKED, LOCKED).replace(b":0:00001:7", b":0:99999:7")
    with pytest.raises(HostError):
        host.set_locked("jit-alice", 70001, False)


@contextlib.contextmanager
def another_holds_the_lock(etc: Path) -> Iterator[None]:
    hold = f"""
import fcntl, time
file = open({str(etc / ".pwd.lock")!r}, "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print(1, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield
        holder.kill()


def test_another_holder_of_the_lock_is_waited_for_and_then_reported(tmp_path: Path) -> None:
    etc = make_etc(tmp_path)
    with another_holds_the_lock(etc):
        begun = time.monotonic()
        with pytest.raises(HostError, match="accounts_busy"):
            backend(etc).create(ALICE)
        assert 0.25 < time.monotonic() - begun < 10
    backend(etc).create(ALICE)


def test_an_account_is_locked_though_another_tool_holds_the_lock_and_then_looked_at_again(tmp_path: Path) -> None:
    etc = make_etc(tmp_path)
    one = backend(etc)
    one.create(ALICE)
    one.set_locked(ALICE.name, ALICE.uid, False)
    before = snapshot(etc)
    with another_holds_the_lock(etc):
        with pytest.raises(HostError, match="accounts_busy"):
            one.set_locked(ALICE.name, ALICE.uid, True)
        assert field(etc, "shadow", 7) == LOCKED
        with pytest.raises(HostError, match="accounts_busy"):
            one.set_locked(ALICE.name, ALICE.uid, False)
        assert field(etc, "shadow", 7) == LOCKED, "what opens never goes past the lock"
    one.set_locked(ALICE.name, ALICE.uid, True)
    one.set_locked(ALICE.name, ALICE.uid, False)
    assert snapshot(etc) == before


def test_a_batch_that_shuts_waits_once_for_a_lock_that_is_held(tmp_path: Path) -> None:
    etc = make_etc(tmp_path)
    one = backend(etc)
    for group in ("adm", "audio"):
        one.add_membership("root", group)
    waits = []
    with another_holds_the_lock(etc):
        for group in ("adm", "audio"):
            waits.append(one._shut_wait_s())
            with pytest.raises(HostError, match="accounts_busy"):
                one.drop_membership("root", group)
    assert waits[0] > waits[1] == 0
    for group in ("adm", "audio"):
        one.drop_membership("root", group)
    assert b"root" not in (etc / "group").read_bytes().partition(b"\n")[2]


def test_a_stale_lock_file_of_shadows_is_nothing_to_us(tmp_path: Path) -> None:
    etc = make_etc(tmp_path)
    (etc / "passwd.lock").write_text("")
    backend(etc).create(ALICE)


def test_the_lock_is_the_one_lckpwdf_takes(tmp_path: Path) -> None:
    etc = make_etc(tmp_path)
    with backend(etc)._locked():
        probe = f"import fcntl; fcntl.lockf(open({str(etc / '.pwd.lock')!r},'w'), fcntl.LOCK_EX|fcntl.LOCK_NB)"
        assert subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False).returncode == 1


def test_ten_thousand_rows_are_quick(tmp_path: Path) -> None:
    etc = make_etc(tmp_path)
    for base, row in (
        ("passwd", "u{0}:x:{0}:{0}::/home/u{0}:/bin/sh\n"),
        ("shadow", "u{0}:!:19000:0:99999:7:::\n"),
        ("group", "u{0}:x:{0}:\n"),
    ):
        with (etc / base).open("a") as file:
            file.writelines(row.format(number) for number in range(10_000, 20_000))
    before, host = snapshot(etc), backend(etc)
    begun = time.monotonic()
    host.create(ALICE)
    host.set_locked("jit-alice", 70001, False)
    host.delete("jit-alice", 70001)
    assert time.monotonic() - begun < 10
    assert snapshot(etc) == before


LINE = st.text(st.characters(codec="latin-1", exclude_characters="\n"), max_size=20).map(lambda text: text.encode("latin-1"))


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(LINE, max_size=8), st.booleans())
def test_any_file_at_all_comes_back_as_it_was(lines: list[bytes], newline: bool) -> None:
    data = b"\n".join(lines) + (b"\n" if newline else b"")
    if rows.find(data, "jit-alice") is None:
        added = rows.add(data, (b"jit-alice", b"x", b"70001", b""))
        assert rows.get(added, "jit-alice") == (b"jit-alice", b"x", b"70001", b"")
        assert rows.drop(added, "jit-alice") == data


@settings(max_examples=300)
@given(st.sampled_from([b"", b"bob", b"bob,eve", b"bob,", b",", b"a,,b", b"jit-alic,jit-alicee"]), st.booleans())
def test_any_member_list_comes_back_as_it_was(names: bytes, newline: bool) -> None:
    data = b"adm:x:4:" + names + (b"\n" if newline else b"")
    added = rows.add_member(data, "adm", "jit-alice")
    assert b"jit-alice" in rows.members(rows.get(added, "adm") or ())
    assert rows.add_member(added, "adm", "jit-alice") == added
    assert rows.drop_member(added, "adm", "jit-alice") == data


def test_a_userdb_record_is_made_locked_and_goes_without_a_trace(tmp_path: Path) -> None:
    root = tmp_path / "userdb"
    host = UserdbAccounts(root)
    host.create(ALICE)
    record = json.loads((root / "jit-alice.user").read_text())
    assert (record["locked"], record["uid"], record["realName"]) == (True, 70001, "Alice Ng")
    assert json.loads((root / "70001.user").read_text()) == record
    host.set_locked("jit-alice", 70001, False)
    assert json.loads((root / "jit-alice.user").read_text())["locked"] is False
    host.set_locked("jit-alice", 70001, True)
    assert json.loads((root / "jit-alice.user").read_text()) == record
    host.add_membership("jit-alice", "adm")
    host.add_membership("deploy", "adm")
    assert (root / "deploy:adm.membership").read_text() == '{"_tidegate": true}\n'
    host.drop_membership("deploy", "adm")
    for _ in range(2):
        host.delete("jit-alice", 70001)
    assert list(root.iterdir()) == []


def test_a_userdb_lock_needs_no_space_and_a_name_can_not_confuse_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = UserdbAccounts(tmp_path)
    host.create(Account("jit-alice", 70001, '"locked": true ', "/home/jit-alice", "/bin/bash"))
    host.set_locked("jit-alice", 70001, False)
    monkeypatch.setattr(files, "atomic_write", None)
    host.set_locked("jit-alice", 70001, True)
    record = json.loads((tmp_path / "jit-alice.user").read_text())
    assert (record["locked"], record["realName"]) == (True, '"locked": true ')


def test_a_foreign_userdb_record_is_neither_adopted_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "jit-alice.user").write_text('{"userName":"jit-alice","uid":70001}')
    host = UserdbAccounts(tmp_path)
    with pytest.raises(HostError, match="account_taken"):
        host.create(ALICE)
    with pytest.raises(HostError, match="account_not_ours"):
        host.delete("jit-alice", 70002)
    assert [p.name for p in tmp_path.iterdir()] == ["jit-alice.user"]


@pytest.mark.parametrize("nth", [1, 2])
def test_a_kill_while_a_userdb_account_is_made_is_repaired_or_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    host = UserdbAccounts(tmp_path / "userdb")
    _kill_at(monkeypatch, nth, True, lambda: host.create(ALICE))
    host.create(ALICE)
    assert host.owns("jit-alice", 70001)
    host.delete("jit-alice", 70001)
    assert list((tmp_path / "userdb").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("passwd: files systemd\ngroup: files systemd\n", True),
        ("passwd:files systemd # x\n group :\tfiles [SUCCESS=merge] systemd\ninitgroups: files systemd", True),
        ("passwd: files systemd\ngroup: files\n", False),
        ("passwd: files systemd\ngroup: files systemd\ninitgroups: files\n", False),
        ("passwd: files # systemd\ngroup: files systemd\n", False),
        ("", False),
    ],
)
def test_userdb_is_only_thought_of_where_nsswitch_names_it(text: str, expected: bool) -> None:
    assert accounts.nsswitch_has_systemd(text.encode()) is expected


def test_an_unknown_backend_is_the_admins_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown_backend"):
        accounts.choose_backend(Config(account_backend="ldap"), tmp_path)
    assert accounts.choose_backend(Config(account_backend="auto"), tmp_path).name == "passwd"


def test_a_probe_that_a_kill_left_is_cleared_and_userdb_is_chosen_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, userdb = Config(), UserdbAccounts(tmp_path / "userdb")

    def getent(argv: list[str], **_: object) -> CommandResult:
        there = userdb.owns(accounts.PROBE, config.uid_last)
        asked = {accounts.PROBE: f"{accounts.PROBE}:x:", str(config.uid_last): "taken"} if there and argv[1] == "passwd" else {}
        said = asked.get(argv[2], "")
        return CommandResult(tuple(argv), 0 if said else 2, said, "")

    monkeypatch.setattr(command, "run", getent)
    monkeypatch.setattr(command, "find_tool", Path)
    userdb.create(Account(accounts.PROBE, config.uid_last, "", "/nonexistent", "/usr/sbin/nologin"))
    assert accounts.resolves(config, userdb)
    assert list(userdb.root.iterdir()) == []
