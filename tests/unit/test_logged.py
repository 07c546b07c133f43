"""What sshd and sudo log of tenants: read, told once, counted, and none lost over a restart."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from agent.audit import AuditEvent, EventKind, HostIdentity, Trail
from agent.errors import HostError
from agent.expiry import logged, receipt
from agent.expiry.ledger import Ledger
from agent.expiry.live import LiveGrant
from agent.expiry.logged import TOLD_MAX, Hear, Logged
from agent.expiry.shut import Shut
from agent.host import journald, sshd_log, sudo_log
from agent.host.clock import FakeClock
from agent.host.sshd_log import Forward, read
from agent.journal import Journal
from agent.model import Json
from tests.unit.expiry_kit import ALICE, BOB, Host, live

TAG = "debug1: serverloop.c:server_request_direct_tcpip():453 (pid=12798): "
NEWER = "serverloop.c:server_request_direct_tcpip():529 (bin=sshd-session, uid=1000, pid=77): "
REMOTE = "debug1: channels.c:channel_post_port_listener():1902 (pid=5): "
ASKED = "debug1: serverloop.c:server_input_global_request():778 (pid=5): "
DIRECT = TAG + "originator 127.0.0.1 port 5, target db port 5432"

# sshd's words


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (DIRECT, Forward("local", "db", 5432, "127.0.0.1 port 5")),
        (NEWER + "originator ::1 port 5, target 2001:db8::1 port 22", Forward("local", "2001:db8::1", 22, "::1 port 5")),
        (
            TAG + "originator x, target safe port 1 port 2, target evil port 9",
            Forward("local", "evil", 9, "x, target safe port 1 port 2"),
        ),
        (TAG + "originator " + "x" * 900, Forward("local", words="originator " + "x" * 900)),
        (ASKED + "tcpip-forward listen localhost port 3001", Forward("listen", "localhost", 3001)),
        (ASKED + "tcpip-forward listen  port 3001", Forward("listen", "", 3001)),
        (REMOTE + "Connection to port 3001 forwarding to 127.0.0.1 port 0 requested.", Forward("remote", port=3001)),
        (REMOTE + "otherwise", Forward("remote", words="otherwise")),
        (ASKED + "rtype keepalive@openssh.com want_reply 1", None),
        (ASKED + "cancel-tcpip-forward addr localhost port 3001", None),
        ("Accepted publickey for a from 1.2.3.4 port 5", None),
        ("serverloop.c:other():1 (pid=1): originator a port 1, target b port 2", None),
        ("", None),
    ],
)
def test_what_sshd_says_of_a_connection_is_read(message: str, found: Forward | None) -> None:
    assert read(message) == found


def test_only_the_functions_that_speak_of_connections_are_made_to_speak() -> None:
    assert all(f"{name}():*" in sshd_log.VERBOSE for name in (sshd_log.DIRECT, sshd_log.ASKED, sshd_log.REMOTE))
    assert " " not in sshd_log.VERBOSE


SUDO = {
    "submituser": "jit-alice", "command": "/usr/bin/id", "runargv": ["id", "-u", "x y"], "runuser": "root",
    "submitcwd": "/tmp; COMMAND=/bin/fake", "ttyname": "/dev/pts/1",
}  # fmt: skip


def by_sudo(verdict: str = "accept", **more: object) -> str:
    """A line of sudo's."""
    return "@cee:" + json.dumps({"sudo": {verdict: {**SUDO, **more}}})


def test_what_sudo_says_of_a_command_is_read() -> None:
    found = sudo_log.read(by_sudo())
    assert found is not None and (found.login, found.allowed, found.argv) == ("jit-alice", True, ("id", "-u", "x y"))
    assert found.cwd == "/tmp; COMMAND=/bin/fake"
    refused = sudo_log.read(by_sudo("reject", reason="command not allowed"))
    assert refused is not None and (refused.allowed, refused.reason) == (False, "command not allowed")


@pytest.mark.parametrize(
    "message",
    ["", "@cee:", "@cee:[]", '@cee:{"sudo":1}', '@cee:{"sudo":{"exit":{}}}', "jit-alice : TTY=x ; COMMAND=/bin/id", "@cee:{"],
)
def test_other_lines_of_sudo_are_about_no_command(message: str) -> None:
    assert sudo_log.read(message) is None


# The books


@dataclass
class Followed:
    """A journal in memory: what is said is heard by whoever follows, from where it follows."""

    entries: list[dict[str, object]] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)  # cursors that are not in the journal any more
    hear: Hear | None = None
    gone: Callable[[], None] = lambda: None
    starts: list[str] = field(default_factory=list)
    deaf: bool = False

    def follow(self, hear: Hear, gone: Callable[[], None], _threads: Executor, after: str) -> "Followed":
        self.starts.append(after)
        if after in self.lost:
            gone()
            return self
        self.hear, self.gone = hear, gone
        place = [entry["__CURSOR"] for entry in self.entries].index(after) + 1 if after and after[0] != "@" else len(self.entries)
        if after.startswith("@"):
            place = sum(int(str(entry.get("__REALTIME_TIMESTAMP", 0))) < int(after[1:]) for entry in self.entries)
        if place < len(self.entries):
            hear(self.entries[place:])
        return self

    def say(self, message: str, **more: object) -> None:
        number = len(self.entries) + 1
        entry = {"MESSAGE": message, "_UID": str(ALICE), "_EXE": "/usr/sbin/sshd", "_SYSTEMD_SESSION": "7", **more}
        self.entries.append({"__REALTIME_TIMESTAMP": str(1000 + number), **entry, "__CURSOR": f"c{number}"})
        if self.hear is not None:
            self.hear(self.entries[-1:])

    def mark(self, timeout_s: float) -> str | None:
        del timeout_s
        if self.deaf:
            return None
        self.entries.append({"MESSAGE": "", "__CURSOR": f"c{len(self.entries) + 1}"})
        return str(self.entries[-1]["__CURSOR"])

    def stop(self) -> None:
        self.hear = None


class Bed:
    """One daemon's part on a journal that stays."""

    def __init__(self, path: Path, sshd: Followed, required: bool = False) -> None:
        self.clock = FakeClock()
        self.events: list[AuditEvent] = []
        self.trail = Trail(path, HostIdentity("h", "h", "0"), self.clock, tell=lambda event, _ocsf: self.events.append(event))
        self.journal, self.ledger = Journal(path / "state.db"), Ledger(self.clock)
        self.host = Host()
        self.host.files[journald.SYSLOG] = (b"", 0o666)
        self.host.commands = {"journalctl": lambda *_: None}  # type: ignore[dict-item]
        self.logged = Logged(self.host, self.clock, self.journal, self.ledger, self.trail, sshd.follow)
        self.grant = forwarding(live(self.clock), required=required)
        self.ledger.add(self.grant)

    def end(self, kind: str = "forwards") -> Any:
        """The receipt's member."""
        shut = Shut(self.grant, self.clock.wall_ns(), self.clock.wall_ns())
        self.logged.finish([shut])
        found: Any = receipt.claims(shut, host_id="h", receipt_id="r")[kind]
        return found

    @property
    def told(self) -> list[tuple[object, object]]:
        """Host and port of every event."""
        found = [event for event in self.events if event.kind is EventKind.CONNECTION_FORWARDED]
        return [(event.detail["host"], event.detail["port"]) for event in found]

    @property
    def unseen(self) -> int:
        return sum(event.kind is EventKind.LOG_UNSEEN for event in self.events)


def forwarding(grant: LiveGrant, *, required: bool = False) -> LiveGrant:
    data = {"forwards": logged.REQUIRED if required else "told"}
    grant.steps = [*grant.steps, (2, replace(grant.steps[1][1], enforcer="ssh", data=data))]
    return grant


@pytest.fixture
def sshd() -> Followed:
    return Followed()


@pytest.fixture
def bed(tmp_path: Path, sshd: Followed) -> Iterator[Bed]:
    found = Bed(tmp_path, sshd)
    yield found
    found.logged.stop()
    found.journal.close()


def test_each_connection_is_an_event_of_its_grant_and_counted(bed: Bed, sshd: Followed) -> None:
    bed.logged.begin(bed.grant)
    sshd.say(DIRECT)
    sshd.say(REMOTE + "Connection to port 3001 forwarding to 127.0.0.1 port 0 requested.")
    sshd.say("Connection closed by 1.2.3.4 port 5")
    first = bed.events[0]
    assert (first.jti, first.login, first.uid, first.at_ns) == ("g-1", "jit-alice", ALICE, 1002_000)
    assert first.detail["session"] == "7" and first.detail["origin"] == "127.0.0.1 port 5"
    assert bed.told == [("db", 5432), ("", 3001)]
    assert bed.end() == {"absent": "", "count": 2, "told": 2, "gaps": 0}
    assert sshd.hear is None, "nobody follows when nobody forwards"


def test_what_another_program_or_another_user_logs_counts_for_nobody(bed: Bed, sshd: Followed) -> None:
    bed.logged.begin(bed.grant)
    sshd.say(DIRECT, _UID="1000")
    sshd.say(DIRECT, _UID="x")
    sshd.say(DIRECT, _EXE="/usr/bin/logger")
    sshd.say(DIRECT, _EXE="/home/jit-alice/sshd")
    assert bed.told == []
    sshd.say(DIRECT, _EXE=None)  # it was gone before journald could look
    sshd.say("", MESSAGE=[*DIRECT.encode(), 0xFF])
    assert [host for host, _ in bed.told] == ["db", ""]


def test_each_command_by_sudo_is_an_event_of_its_grant_and_counted(bed: Bed, sshd: Followed) -> None:
    rule: dict[str, Json] = {"rule": {"own": True}}
    bed.grant.steps = [*bed.grant.steps, (3, replace(bed.grant.steps[1][1], enforcer="sudo", data=rule))]
    bed.logged.begin(bed.grant)
    who = {"SYSLOG_IDENTIFIER": "sudo", "_EXE": "/usr/bin/sudo"}
    sshd.say(by_sudo(), **who)
    sshd.say(by_sudo("reject", reason="command not allowed"), **who)
    sshd.say(by_sudo(submituser="deploy"), **who)
    sshd.say(by_sudo(), **{**who, "_UID": "0"})
    sshd.say(by_sudo(), **{**who, "_EXE": "/usr/bin/logger"})
    assert [(event.kind, event.ok, event.login, event.detail["command"]) for event in bed.events] == [
        (EventKind.PRIVILEGE_USED, True, "jit-alice", "id -u 'x y'"),
        (EventKind.PRIVILEGE_USED, False, "jit-alice", "id -u 'x y'"),
    ]
    assert bed.events[1].detail["why"] == "command not allowed"
    assert bed.end("sudo") == {"absent": "", "count": 2, "refused": 1, "told": 2, "gaps": 0}


Later = list[Callable[[], None]]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    """What is left to a thread, to be done when the test says so."""
    found: Later = []
    monkeypatch.setattr(logged, "submit", lambda _pool, work: found.append(work))
    return found


def by_sudo_alone(bed: Bed) -> LiveGrant:
    rule: dict[str, Json] = {"rule": {"own": True}}
    bed.grant.steps = [*bed.grant.steps[:-1], (3, replace(bed.grant.steps[1][1], enforcer="sudo", data=rule))]
    return bed.grant


def test_a_grant_with_sudo_alone_has_one_mark_and_does_not_wait_for_it(bed: Bed, sshd: Followed, later: Later) -> None:
    bed.logged.begin(by_sudo_alone(bed))
    bed.logged.begin(bed.grant)
    assert sshd.entries == [] and len(later) == 1
    assert sshd.starts == [f"@{bed.clock.wall_ns() // 1000}"], "read from that moment on, whenever journalctl has begun"
    later[0]()
    bed.logged.begin(bed.grant)
    assert len(sshd.entries) == 1 and len(later) == 1
    assert bed.grant.notes[logged.NOTE]["cursor"] == "c1"  # type: ignore[index, call-overload]
    assert bed.end("forwards") is None


def test_what_is_logged_before_journalctl_has_begun_is_not_lost(bed: Bed, sshd: Followed, later: Later) -> None:
    begun_us = bed.clock.wall_ns() // 1000
    who = {"SYSLOG_IDENTIFIER": "sudo", "_EXE": "/usr/bin/sudo"}
    for at_us in (begun_us - 1, begun_us):
        sshd.say(by_sudo(), **who, __REALTIME_TIMESTAMP=str(at_us))
    bed.logged.begin(by_sudo_alone(bed))
    assert len(bed.events) == 1 and later == [], "by its line the place is known already"


def test_a_kill_before_the_first_mark_loses_nothing(tmp_path: Path, sshd: Followed, later: Later) -> None:
    first = Bed(tmp_path, sshd)
    first.logged.begin(by_sudo_alone(first))
    second_one = live(first.clock, 2, uids={"jit-bob": BOB})
    second_one.steps = list(first.grant.steps)
    first.ledger.add(second_one)
    first.clock.advance(1)
    first.logged.begin(second_one)
    first.journal.close()
    sshd.hear = None  # killed
    begun_us = first.clock.wall_ns() // 1000
    who = {"SYSLOG_IDENTIFIER": "sudo", "_EXE": "/usr/bin/sudo"}
    sshd.say(by_sudo(), **who, __REALTIME_TIMESTAMP=str(begun_us - 1))  # between the two
    second = Bed(tmp_path, sshd)
    by_sudo_alone(second).notes = first.grant.notes
    second.ledger.add(second_one)
    second.logged.ready()
    assert len(second.events) == 1 and later
    second.journal.close()


def test_words_that_never_come_are_told_of_a_grant_that_did_not_wait(bed: Bed, sshd: Followed, later: Later) -> None:
    sshd.deaf = True
    bed.logged.begin(by_sudo_alone(bed))
    later[0]()
    assert "MaxLevelStore" in json.dumps(bed.grant.notes[logged.NOTE])


def test_a_grant_that_gives_no_forwarding_is_not_followed(tmp_path: Path, sshd: Followed) -> None:
    bed = Bed(tmp_path, sshd)
    bed.grant.steps = bed.grant.steps[:-1]
    bed.logged.begin(bed.grant)
    assert sshd.starts == []
    assert bed.end() is None
    bed.journal.close()


def test_a_restart_loses_none_and_tells_none_twice(tmp_path: Path, sshd: Followed) -> None:
    first = Bed(tmp_path, sshd)
    first.logged.begin(first.grant)
    sshd.say(DIRECT)
    first.journal.close()
    sshd.hear = None  # killed
    sshd.say(TAG + "originator a port 1, target meanwhile port 2")
    second = Bed(tmp_path, sshd)
    second.grant.notes = first.grant.notes
    second.logged.ready()
    sshd.say(TAG + "originator a port 1, target later port 3")
    assert second.told == [("meanwhile", 2), ("later", 3)]
    assert second.end() == {"absent": "", "count": 3, "told": 3, "gaps": 0}
    second.journal.close()


def test_what_is_read_for_a_grant_that_ended_meanwhile_is_not_lost_for_the_others(tmp_path: Path, sshd: Followed) -> None:
    first = Bed(tmp_path, sshd)
    other = forwarding(live(first.clock, 2, uids={"jit-bob": BOB}))
    first.ledger.add(other)
    for grant in (first.grant, other):
        first.logged.begin(grant)
    first.journal.close()
    sshd.hear = None  # killed
    sshd.say(DIRECT, _UID=str(BOB))
    sshd.say(DIRECT)
    second = Bed(tmp_path, sshd)
    second.ledger.add(other)
    second.grant.notes = first.grant.notes
    assert second.end()["count"] == 1
    second.ledger.ended(second.grant)
    second.logged.ready()
    assert [event.login for event in second.events] == ["jit-bob", "jit-alice"]
    second.journal.close()


def test_a_place_that_the_journal_has_no_more_is_given_up_and_told(tmp_path: Path, sshd: Followed) -> None:
    first = Bed(tmp_path, sshd)
    first.logged.begin(first.grant)
    first.journal.close()
    sshd.lost = {str(entry["__CURSOR"]) for entry in sshd.entries}
    sshd.hear = None
    second = Bed(tmp_path, sshd)
    second.grant.notes = first.grant.notes
    second.logged.ready()
    sshd.say(DIRECT)
    assert second.told == [("db", 5432)] and second.unseen == 1
    assert second.end() == {"absent": "", "count": 1, "told": 1, "gaps": 1}
    second.journal.close()


def test_lines_that_journald_dropped_are_told_as_unseen(bed: Bed, sshd: Followed) -> None:
    bed.logged.begin(bed.grant)
    sshd.say("Suppressed 3 messages from session-7.scope", MESSAGE_ID=journald.SUPPRESSED, _UID="0")
    assert bed.unseen == 1 and bed.end()["gaps"] == 1


def test_a_journalctl_that_dies_is_started_again_where_it_was(bed: Bed, sshd: Followed) -> None:
    bed.logged.begin(bed.grant)
    sshd.say(DIRECT)
    sshd.hear = None
    sshd.say(DIRECT)
    sshd.gone()
    assert sshd.starts == ["", "c2"] and len(bed.told) == 2 and not bed.unseen


def test_a_thousand_are_told_and_all_are_counted(bed: Bed, sshd: Followed) -> None:
    bed.logged.begin(bed.grant)
    for _ in range(TOLD_MAX + 5):
        sshd.say(DIRECT)
    assert len(bed.told) == TOLD_MAX
    assert bed.end() == {"absent": "", "count": TOLD_MAX + 5, "told": TOLD_MAX, "gaps": 0}


@pytest.mark.parametrize("required", [True, False])
def test_where_they_are_not_seen_only_who_must_be_seen_is_kept_out(tmp_path: Path, sshd: Followed, required: bool) -> None:
    bed = Bed(tmp_path, sshd, required)
    sshd.deaf = True
    bed.logged.begin(bed.grant)
    if required:
        with pytest.raises(HostError, match="MaxLevelStore") as refused:
            bed.logged.insist(bed.grant)
        assert refused.value.code == "forwards_unseen"
    else:
        bed.logged.insist(bed.grant)
    assert "MaxLevelStore" in bed.end()["absent"]
    bed.journal.close()


def test_without_a_journal_the_receipt_says_so(bed: Bed, sshd: Followed) -> None:
    bed.host.files.clear()
    bed.logged.begin(bed.grant)
    assert bed.logged.state() == {"absent": "systemd-journald does not run"}
    assert bed.end()["absent"] == "not to the end: systemd-journald does not run" and sshd.starts == []


def test_a_moment_is_given_to_journalctl_as_it_is_written_there() -> None:
    assert journald.start_of("@1700000000000042") == ["--since=@1700000000.000042", "--no-tail"]
    assert journald.start_of("s=1;i=2") == ["--after-cursor=s=1;i=2", "--no-tail"]
    assert journald.start_of("") == ["--lines=0"]
