"""Whatever lies in the inbox: it is never followed, never waited for, never believed, and always answered."""

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.spool import shown
from tests.host.scene import ALLOWED, OUTBOX, Scene, State, account, changes, ssh, sudo
from tests.hosts.ssh import make_key

pytestmark = pytest.mark.host(beside=True)

JUNK = 10_000
JUNK_LINES = (b"junk", b"a.b.c", b"{}", b"eyJhbGciOiJub25lIn0.e30.", b"\x00" * 40)


@pytest.fixture(scope="module")
def state(scene: Scene) -> State:
    return scene.state()


@pytest.fixture(autouse=True)
def nothing_changes(scene: Scene, state: State) -> Iterator[None]:
    yield
    assert changes(state, scene.state()) == []


def refused(scene: Scene, name: str, code: str) -> None:
    """Answered so, listed so, and gone."""
    answer = scene.answer_for(name)
    assert (answer["verdict"], answer["code"]) == ("refused", code), answer
    latest = scene.status()["refusals"][0]
    assert (latest["source"], latest["code"]) == (shown(name), code)


def in_host(scene: Scene, command: str) -> None:
    """A command in the host, in its inbox."""
    scene.host.run(f"cd /var/lib/tidegate/spool/inbox && {command}")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("ln -s /etc/shadow {}", "file_not_regular"),
        ("ln -s /dev/zero {}", "file_not_regular"),
        ("ln -s {} {}", "file_not_regular"),
        ("ln -s /nonesuch {}", "file_not_regular"),
        ("ln -s /proc/self/environ {}", "file_not_regular"),
        ("ln /etc/shadow {}", "file_linked"),
        ("ln /etc/sudoers {}", "file_linked"),
        ("mkfifo {}", "file_not_regular"),
        ("mkfifo -m 0 {}", "file_not_regular"),
        ("mkdir {}", "file_not_regular"),
        ("mkdir {} && touch {}/x", "file_not_regular"),
        ("mknod {} c 1 5", "file_not_regular"),
        ("truncate --size 100M {}", "file_too_large"),
        ("head --bytes 65537 /dev/zero > {}", "file_too_large"),
        ("touch {}", "file_empty"),
        ("install -m 0 /etc/hostname {}", "token_shape"),
        ("install -m 0 -o nobody /etc/hostname {}", "token_shape"),
        ("install -m 4755 /bin/true {}", "token_not_ascii"),
    ],
)
def test_what_is_no_plain_file_is_refused_unopened(scene: Scene, command: str, code: str) -> None:
    name = f"odd-{time.time_ns()}"
    in_host(scene, f"{command.replace('{}', f'.{name}')} && mv --no-target-directory .{name} {name}")  # whole when it is seen
    refused(scene, name, code)


def test_a_socket_is_refused(scene: Scene) -> None:
    folder = os.open(scene.inbox, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{folder}/odd-socket")  # the whole path is longer than sun_path
            refused(scene, "odd-socket", "file_not_regular")
    finally:
        os.close(folder)


@pytest.mark.parametrize(
    "name",
    [
        b"a\nb",
        b"a\x1b[2Jb",
        b"a b",
        b"-rf",
        b"--help",
        b"$(id)",
        b"'; id #",
        b"\xff\xfe.jwt",
        b"\xe2\x80\xae.jwt",
        b"%s%n",
        b"x" * 255,
        b"*",
        b"a\\b",
    ],
    ids=repr,
)
def test_a_name_is_only_a_name(scene: Scene, name: bytes) -> None:
    refused(scene, scene.drop(b"junk", name), "token_shape")
    listed = scene.tidegate("status")
    assert listed.returncode == 0
    assert all(line.isprintable() for line in listed.stdout.splitlines())
    assert not [path for path in (scene.host.root / OUTBOX[1:]).iterdir() if not path.name.isprintable()]


@pytest.mark.parametrize("name", [".hidden.jwt", "half.tmp", "half.part"])
def test_a_name_that_says_not_yet_is_left_alone(scene: Scene, name: str) -> None:
    grant = scene.grant(account("jit-hidden"))
    (scene.inbox / name).write_bytes(grant)
    scene.answer_for(scene.drop(b"junk"))
    assert (scene.inbox / name).read_bytes() == grant
    assert not scene.status()["grants"]
    (scene.inbox / name).unlink()


def test_a_file_written_slowly_is_taken_when_it_is_closed_and_not_before(scene: Scene) -> None:
    grant = scene.grant(account("jit-slow"))
    with (scene.inbox / "slow.jwt").open("wb", buffering=0) as file:
        for start in range(0, len(grant), len(grant) // 8 + 1):
            file.write(grant[start : start + len(grant) // 8 + 1])
            time.sleep(0.08)
        scene.answer_for(scene.drop(b"junk"))  # others need not wait for it
        assert not [answer for answer in scene.answers() if answer["source"] == "slow.jwt"]
    answer = scene.answer_for("slow.jwt")
    assert answer["verdict"] == "accepted"
    scene.tidegate("revoke", answer["jti"])


def test_a_file_whose_writer_died_half_way_is_refused(scene: Scene) -> None:
    grant = scene.grant(account("jit-slow"))
    with (scene.inbox / "half.jwt").open("wb", buffering=0) as file:
        file.write(grant[: len(grant) - 30])
    refused(scene, "half.jwt", "signature_length")


def test_a_token_altered_anywhere_is_refused(scene: Scene) -> None:
    """A sample on the host; that every single byte counts is a unit test."""
    grant = scene.grant()
    names = []
    for index in range(0, len(grant), len(grant) // 40):
        altered = bytearray(grant)
        altered[index] ^= 1
        names.append(scene.drop(bytes(altered), f"altered-{index}"))
    answers = [scene.answer_for(name) for name in names]
    assert {answer["verdict"] for answer in answers} == {"refused"}
    assert scene.status()["grants"] == []


def test_a_flood_of_junk_neither_stops_the_host_nor_holds_up_a_real_grant(scene: Scene, tmp_path: Path) -> None:
    key = make_key(tmp_path / "id").with_suffix(".pub").read_text().split()
    real = scene.grant(account("jit-flood"), ssh("jit-flood", " ".join(key[:2])), sudo("jit-flood", ALLOWED))
    hidden = [scene.inbox / f".flood-{number}" for number in range(JUNK)]
    for number, path in enumerate(hidden):
        path.write_bytes(JUNK_LINES[number % len(JUNK_LINES)])
    began = time.monotonic()
    for number, path in enumerate(hidden):
        path.rename(scene.inbox / f"flood-{number}")
    dropped = time.monotonic()
    name = scene.drop(real, "real.jwt")
    slowest = 0.0

    def opened() -> bool:
        nonlocal slowest
        asked = time.monotonic()
        live = [grant["state"] for grant in scene.status()["grants"]]
        slowest = max(slowest, time.monotonic() - asked)
        return live == ["open"]

    scene.host.wait_for(opened, timeout=20, what="the real grant is open")
    opened_s = time.monotonic() - dropped
    left = len(list(scene.inbox.iterdir()))
    assert scene.answer_for(name)["verdict"] == "accepted"
    scene.tidegate("revoke", "--all")
    scene.host.wait_for(lambda: not list(scene.inbox.glob("flood-*")), timeout=120, what="the inbox is empty")
    whole_s = time.monotonic() - began
    outbox = list((scene.host.root / OUTBOX[1:]).iterdir())
    print(json.dumps({"opened_s": opened_s, "left_when_open": left, "status_s": slowest, "all_s": whole_s, "outbox": len(outbox)}))
    assert opened_s < 5
    assert slowest < 2
    assert len(outbox) <= 4096 + 40
    assert sum(path.stat().st_size for path in outbox) <= 128 << 20
