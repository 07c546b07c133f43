"""The baseline of the host's own files: small, bounded, and every difference that lets somebody in is seen."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config import Config, Paths
from agent.host.account_marks import Rows, account_differences
from agent.host.baseline import Taker, differences
from agent.host.found import Found
from agent.host.remains import HostRemains, _names_in

PASSWD = "root:x:0:0:root:/root:/bin/bash\ndeploy:x:1000:1000::/home/deploy:/bin/bash\n"
GROUP = "root:x:0:\nsudo:x:27:deploy\ngames:x:60:\n"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A small host's files under a folder."""
    for path, text in {
        "etc/passwd": PASSWD,
        "etc/shadow": "root:*:1::::::\ndeploy:!:1::::::\n",
        "etc/group": GROUP,
        "etc/sudoers": "root ALL=(ALL:ALL) ALL\n",
        "etc/sudoers.d/README": "#\n",
        "etc/systemd/system/a.service": "[Service]\n",
        "etc/systemd/system/a.service.d/x.conf": "[Service]\n",
        "etc/cron.d/e2scrub": "0 0 * * * root true\n",
        "home/deploy/.ssh/authorized_keys": "ssh-ed25519 AAAA\n",
        "root/.bashrc": "\n",
    }.items():
        put(tmp_path / path, text)
    yield tmp_path


def put(path: Path, text: str = "x\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def taker(root: Path) -> Taker:
    return Taker(lambda path: path.endswith("/tidegate"), root, list)


def changed(root: Path, before: dict[str, object]) -> list[Found]:
    now = taker(root).take()
    assert json.loads(json.dumps(before)) == before, "a note is JSON"
    found = differences(before, now, lambda _: "")
    return found + account_differences(before, Rows.read(root / "etc", []), frozenset())


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("etc/sudoers.d/evil", "sudoers"),
        ("etc/sudoers", "sudoers"),
        ("etc/systemd/system/a.service.d/evil.conf", "unit"),
        ("etc/systemd/user/evil.service", "unit"),
        ("run/systemd/transient/run-u1.service", "transient-unit"),
        ("etc/cron.d/e2scrub", "cron"),
        ("var/spool/cron/crontabs/root", "cron"),
        ("var/spool/cron/atjobs/a0001", "at"),
        ("var/lib/systemd/linger/deploy", "linger"),
        ("etc/ld.so.preload", "loader"),
        ("etc/pam.d/sshd", "login"),
        ("etc/profile.d/x.sh", "login"),
        ("etc/ssh/sshd_config.d/x.conf", "sshd"),
        ("etc/udev/rules.d/x.rules", "hook"),
        ("home/deploy/.ssh/authorized_keys", "authorized-keys"),
        ("root/.ssh/authorized_keys", "authorized-keys"),
        ("root/.bashrc", "authorized-keys"),
    ],
)
def test_each_way_back_in_is_seen(root: Path, path: str, kind: str) -> None:
    before = taker(root).take()
    assert changed(root, before) == []
    put(root / path, "evil\n")
    assert {(each.kind, each.where) for each in changed(root, before) if each.kind != "at" or kind == "at"} >= {(kind, f"/{path}")}
    assert {each.kind for each in changed(root, before)} <= {kind, "cron"}


def test_mode_owner_and_a_link_count_and_an_equal_file_does_not(root: Path) -> None:
    before = taker(root).take()
    path = root / "etc/cron.d/e2scrub"
    text = path.read_text()
    path.unlink()
    put(path, text)
    assert changed(root, before) == []
    path.chmod(0o666)
    assert [each.where for each in changed(root, before)] == ["/etc/cron.d/e2scrub"]
    path.unlink()
    path.symlink_to("/tmp/x")
    assert [each.detail for each in changed(root, before)] == ["changed since the grant opened"]


def test_a_large_file_is_told_apart_by_its_times(root: Path) -> None:
    path = put(root / "etc/sudoers", "# " + "x" * 100_000)
    before = taker(root).take()
    assert changed(root, before) == []
    path.write_text("# " + "y" * 100_000)
    os.utime(path, (1, 1))
    assert [each.where for each in changed(root, before)] == ["/etc/sudoers"]


def test_new_accounts_and_members_are_seen_and_tidegates_own_are_not(root: Path) -> None:
    before = taker(root).take()
    put(root / "etc/passwd", PASSWD + "jit-alice:x:70001:70001:,,,,tidegate:/home/jit-alice:/bin/sh\n")
    put(root / "etc/group", GROUP.replace("games:x:60:", "games:x:60:jit-alice") + "jit-alice:x:70001:\n")
    assert changed(root, before) == []
    put(root / "etc/passwd", PASSWD + "toor:x:0:0::/root:/bin/bash\n")
    put(root / "etc/group", GROUP.replace("deploy", "deploy,mallory"))
    found = {each.where: each.detail for each in changed(root, before)}
    assert "root by another name" in found["/etc/passwd: toor"]
    assert "mallory" in found["/etc/group: sudo"]


def test_a_membership_that_tidegate_lends_or_takes_back_is_no_change(root: Path) -> None:
    before = taker(root).take()
    rows = Rows.read(put(root / "etc/group", GROUP.replace("games:x:60:", "games:x:60:deploy")).parent, [])
    assert account_differences(before, rows, frozenset({("deploy", "games")})) == []
    assert [each.where for each in account_differences(before, rows, frozenset())] == ["/etc/group: games"]
    during = taker(root).take()
    put(root / "etc/group", GROUP)
    assert account_differences(during, Rows.read(root / "etc", []), frozenset({("deploy", "games")})) == []


def test_what_is_gone_lets_nobody_in(root: Path) -> None:
    before = taker(root).take()
    (root / "etc/cron.d/e2scrub").unlink()
    (root / "home/deploy/.ssh/authorized_keys").unlink()
    assert changed(root, before) == []


def test_a_baseline_is_bounded_and_says_what_it_left_out(root: Path) -> None:
    for number in range(1100):
        put(root / f"etc/systemd/system/u{number:04}.service")
    put(root / "etc/passwd", "".join(f"u{n}:x:{n}:{n}::/home/u{n}:/bin/sh\n" for n in range(1000, 11_000)))
    before = taker(root).take()
    assert len(json.dumps(before)) < 150_000
    told = " ".join(map(str, before["left_out"]))  # type: ignore[call-overload]
    assert "/etc/systemd/system" in told and "10000 rows" in told and "homes" in told


def test_what_is_left_out_names_nobody_as_changed(root: Path) -> None:
    put(root / "etc/passwd", "".join(f"u{n}:x:{n}:{n}::/home/u{n}:/bin/sh\n" for n in range(1000, 11_000)))
    before = taker(root).take()
    assert [each for each in changed(root, before) if each.kind == "account"] == []


def test_what_can_not_be_read_is_left_out_and_nothing_is_raised(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("agent.host.baseline.os.scandir", refuse)
    assert "Input/output error" in str(taker(root).take()["left_out"])


def test_containers_made_since_are_told(root: Path) -> None:
    put(root / "var/lib/docker/containers/old/config.v2.json")
    before = taker(root).take()
    put(root / "var/lib/docker/containers/new/config.v2.json")
    assert [(each.kind, each.where) for each in changed(root, before)] == [("container", "/var/lib/docker/containers/new")]


def test_a_scope_starts_nothing_and_is_not_told(root: Path) -> None:
    before = taker(root).take()
    put(root / "run/systemd/transient/session-7.scope")
    assert changed(root, before) == []


def test_a_note_of_another_shape_tells_too_much_rather_than_too_little(root: Path) -> None:
    assert {each.kind for each in changed(root, {"sudoers": [], "account": "x"})} >= {"sudoers", "account", "cron", "unit"}


def test_the_grants_of_one_second_share_a_baseline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    remains = HostRemains(Config(paths=Paths(state_db=tmp_path / "state.db")))
    now = 100.0
    monkeypatch.setattr("agent.host.remains.time.monotonic", lambda: now)
    first = remains.baseline()
    assert remains.baseline() is first
    now = 101.5
    assert remains.baseline() is not first


def test_a_file_that_speaks_of_the_tenant_says_so(tmp_path: Path) -> None:
    path = put(tmp_path / "x", "jit-alice ALL=(ALL) ALL\n#70001 too\n")
    assert _names_in(str(path), ["jit-alice", "70001", "jit-al"]) == "; names jit-alice, 70001"
    assert _names_in(str(put(path, "jit-alice2 170001")), ["jit-alice", "70001"]) == ""
    assert _names_in(str(tmp_path), ["jit-alice"]) == ""


def test_only_a_timer_that_runs_tidegate_itself_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remains = HostRemains(Config())
    texts = {
        'ExecStart="/usr/bin/tidegate" "close"\n': True,
        "[Timer]\nOnCalendar=now\n": True,
        "ExecStart=/bin/sh -c evil /usr/bin/tidegate\n": False,
        "ExecStart=/usr/bin/tidegate x\nExecStartPost=/bin/evil\n": False,
        "ExecStart=/usr/bin/tidegated-evil\n": False,
    }
    for text, ours in texts.items():
        monkeypatch.setattr("agent.host.remains.files.read_bounded", lambda *_, text=text: text.encode())
        assert remains._is_ours("/run/systemd/transient/tidegate-end-1.service") is ours, text
    assert not remains._is_ours("/run/systemd/transient/evil.service")
    assert remains._is_ours("/etc/sudoers.d/tidegate") and not remains._is_ours("/etc/sudoers.d/tidegate2")
