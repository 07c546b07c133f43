"""The real courier process against a real TLS server: what it carries, how it dies, and what it never does."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.courier_certificates import Authority
from tests.courier_peer import Peer
from tests.unit.courier_kit import RECORDING, ROOT, URI, Ground, as_somebody, ground, interpreter, running, wait_for

__all__ = ["ground"]
IDLE_PSS_KIB = 30 * 1024  # near 25 MB; some room for other versions of Python and OpenSSL


def record(ground: Ground, data: bytes, *, runs: bool = False) -> Path:
    """A recording, or more of one."""
    path = ground.places.sessions / f"{RECORDING}.tgr"
    mark = ground.places.sessions / f"{RECORDING}.open"
    if runs:
        mark.touch()
    with path.open("ab") as file:
        file.write(data)
    if not runs:
        mark.unlink(missing_ok=True)
    return path


def test_tokens_come_in_byte_for_byte_and_everything_goes_out_once(ground: Ground) -> None:
    with Peer() as peer, running(ground, peer) as courier:
        token = b'{"payload":"\xc3\xa9  x","signatures":[]} ' + b"y" * 60_000
        peer.push(token)
        peer.push(b"b")
        names = [ground.receipt(1), ground.receipt(2)]
        ground.events(1, 1500)
        record(ground, b"x" * 100, runs=True)
        wait_for(lambda: bytes(peer.recordings.get(RECORDING, b"")) == b"x" * 100)
        assert RECORDING not in peer.complete
        whole = record(ground, os.urandom(3 << 20))
        peer.wait(lambda: RECORDING in peer.complete and len(peer.records) == 1502)
        wait_for(lambda: (ground.places.shipped / RECORDING).exists() and ground.inbox() == [token, b"b"])
        assert peer.recordings[RECORDING] == whole.read_bytes()
        wait_for(lambda: not list(ground.places.outbox.glob("*.jws")))
        assert {key for key, found in peer.records.items() if found["kind"] == "receipt"} == set(names)
        assert peer.records["uid-7"]["body"]["metadata"]["sequence"] == 7
        assert (ground.places.outbox / "events.ndjson").exists()
        assert not [key for key in set(peer.seen) if peer.seen.count(key) > 1]
        said = ground.said()
        assert said["connected"] and said["last_token"] == 2 and said["losses"] == {}
        assert all(re.fullmatch(r"\d{20}-[0-9a-f]{16}\.jws", path.name) for path in ground.places.inbox.iterdir())
        pss = re.search(r"Pss: +(\d+)", Path(f"/proc/{courier.process.pid}/smaps_rollup").read_text())
        assert pss and int(pss[1]) < IDLE_PSS_KIB
        assert courier.stop() < 1.5
        assert not [line for line in courier.log.read_text().splitlines() if "Traceback" in line or "WARNING" in line]


def test_idle_it_costs_no_cpu_and_sigterm_ends_it_at_once(ground: Ground) -> None:
    with Peer() as peer, running(ground, peer) as courier:
        wait_for(lambda: ground.said().get("connected"))

        def ticks() -> int:
            return sum(map(int, Path(f"/proc/{courier.process.pid}/stat").read_text().split()[13:15]))

        time.sleep(0.3)
        before = ticks()
        time.sleep(1.0)
        assert ticks() - before <= 1  # hundredths of a second; two heartbeats came
        assert courier.stop() < 1.0


def test_root_is_refused() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to show")
    done = subprocess.run(
        [sys.executable, "-m", "agent.courier.main"], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 2
    assert "must not be run by root" in done.stderr


def test_without_its_file_or_enrolment_it_waits_and_then_goes_on_by_itself(ground: Ground) -> None:
    with Peer() as peer, running(ground) as courier:
        wait_for(lambda: "file_missing" in str(ground.said().get("problems")))
        ground.configure("url: https://x y\n")
        wait_for(lambda: "url_invalid" in str(ground.said().get("problems")))
        ground.configure(f"url: {peer.url}\n")
        wait_for(lambda: "not_enrolled" in str(ground.said().get("problems")))
        assert courier.process.poll() is None
        peer.enrol(ground.places.folder, URI)
        ground.give()
        wait_for(lambda: ground.said().get("connected"))
        peer.push(b"a")
        wait_for(ground.inbox)


def test_a_bad_courier_yaml_changes_nothing_and_a_good_one_is_taken_up(ground: Ground) -> None:
    with Peer() as first, Peer(authority=first.authority) as second, running(ground, first) as courier:
        wait_for(lambda: ground.said().get("connected"))
        ground.configure("url: nonsense\n")
        wait_for(lambda: "url_invalid" in str(ground.said().get("problems")))
        first.push(b"still")
        wait_for(ground.inbox)
        second.stream = "another"
        second.push(b"new")
        pid = courier.process.pid
        ground.configure(f"url: {second.url}\n")
        wait_for(lambda: b"new" in ground.inbox())
        assert courier.process.poll() is None and courier.process.pid == pid
        courier.process.send_signal(signal.SIGHUP)
        asked = len(second.asked("/v1/host/stream"))
        wait_for(lambda: len(second.asked("/v1/host/stream")) > asked)
        assert courier.stop() < 1.5


def test_it_renews_at_two_thirds_of_the_life_by_a_new_key_and_goes_on_with_it(ground: Ground) -> None:
    with Peer() as peer:
        peer.enrol(ground.places.folder, URI, began_s=200.0, ends_s=99.0)
        ground.configure(f"url: {peer.url}\n")
        old = ground.places.key.read_bytes(), ground.places.certificate.read_bytes()
        with running(ground):
            wait_for(lambda: ground.places.certificate.read_bytes() != old[1], 15)
            wait_for(lambda: ground.places.key.read_bytes() != old[0])
            wait_for(lambda: ground.said().get("connected"))
            peer.push(b"a")
            wait_for(ground.inbox)
            time.sleep(0.3)
            assert peer.renewed == 1  # the new one has a day
            assert ground.places.key.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("wrong", ["another host's", "another key's", "junk"])
def test_a_renewal_that_brings_the_wrong_certificate_changes_nothing(ground: Ground, wrong: str) -> None:
    with Peer() as peer:
        good = peer.renew_with

        def bad(csr: str) -> dict[str, str]:
            answer = good(csr)
            if wrong == "another host's":
                return {**answer, "certificate": peer.authority.sign_request(csr, "urn:tidegate:host:other")}
            return {**answer, "certificate": "junk" if wrong == "junk" else peer.authority.client(URI).pem.decode()}

        peer.renew_with = bad
        peer.enrol(ground.places.folder, URI, began_s=200.0, ends_s=60.0)
        ground.configure(f"url: {peer.url}\n")
        old = ground.places.key.read_bytes(), ground.places.certificate.read_bytes()
        with running(ground):
            wait_for(lambda: "courier_certificate" in str(ground.said().get("problems")))
            assert (ground.places.key.read_bytes(), ground.places.certificate.read_bytes()) == old
            peer.push(b"a")
            wait_for(ground.inbox)


def test_a_server_of_another_ca_is_told_nothing(ground: Ground) -> None:
    with Peer() as peer, Peer(authority=Authority("another")) as wrong:
        peer.enrol(ground.places.folder, URI)
        ground.configure(f"url: {wrong.url}\n")
        ground.receipt(1)
        with running(ground):
            wait_for(lambda: "courier_server_untrusted" in str(ground.said().get("last_error")))
            assert not wrong.requests
            assert len(list(ground.places.outbox.glob("*.jws"))) == 1


def test_a_control_plane_that_was_away_gets_and_gives_what_was_missed(ground: Ground) -> None:
    with Peer() as peer, running(ground, peer):
        peer.push(b"a")
        wait_for(lambda: ground.inbox() == [b"a"])
        peer.faults["*"] = "hangup"
        peer.hang_up()
        ground.receipt(1)
        ground.events(1, 5)
        wait_for(lambda: not ground.said()["connected"])
        peer.push(b"b")
        peer.faults.clear()
        wait_for(lambda: ground.inbox() == [b"a", b"b"], 20)
        peer.wait(lambda: len(peer.records) == 6, 20)
        assert peer.asked("/v1/host/stream")[-1]["Last-Event-ID"] == "1"


def test_another_epoch_makes_it_begin_anew(ground: Ground) -> None:
    with Peer() as peer, running(ground, peer):
        for token in (b"a", b"b", b"c"):
            peer.push(token)
        wait_for(lambda: len(ground.inbox()) == 3)
        with peer.lock:
            peer.tokens = [(1, b"restored")]
            peer.stream = "epoch-2"
        peer.hang_up()
        wait_for(lambda: b"restored" in ground.inbox())
        wait_for(lambda: ground.said()["last_token"] == 1)


def test_a_full_inbox_makes_it_wait_and_nothing_is_lost(ground: Ground) -> None:
    with Peer() as peer:
        peer.enrol(ground.places.folder, URI)
        ground.configure(f"url: {peer.url}\nlimits: {{inbox_files: 10}}\n")
        with running(ground):
            for number in range(25):
                peer.push(b"token %d" % number)
            wait_for(lambda: "inbox_full" in str(ground.said().get("problems")))
            assert len(ground.inbox()) == 10
            taken: list[bytes] = []
            while len(taken) < 25:
                wait_for(lambda: list(ground.places.inbox.glob("*.jws")))
                for path in sorted(ground.places.inbox.glob("*.jws")):
                    taken.append(path.read_bytes())
                    path.unlink()
            assert taken == [b"token %d" % number for number in range(25)]


def test_a_token_that_is_too_long_is_dropped_and_told_and_the_cursor_goes_on(ground: Ground) -> None:
    with Peer() as peer, running(ground, peer):
        peer.push(b"x" * (64 * 1024 + 1))
        peer.push(b"y" * 64 * 1024)
        wait_for(lambda: ground.inbox() == [b"y" * 64 * 1024])
        wait_for(lambda: ground.said()["losses"] == {"tokens_too_long": 1})


# Killed at any step


@contextmanager
def zygote() -> Iterator[subprocess.Popen[str]]:
    python, env = interpreter()
    argv = [python, "-m", "tests.courier_zygote"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(argv, env=env, text=True, **pipes, **as_somebody())  # type: ignore[call-overload]  # as given
    try:
        yield process
    finally:
        process.communicate(timeout=5)


def say(process: subprocess.Popen[str], line: str) -> int:
    assert process.stdin and process.stdout
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def carried(peer: Peer, ground: Ground) -> bool:
    return (
        len(peer.records) == 7
        and RECORDING in peer.complete
        and (ground.places.shipped / RECORDING).exists()
        and len(ground.inbox()) == 3
    )


def one_life(starter: subprocess.Popen[str], last: int) -> bool:
    """A courier that dies before its step ``last``, and one that comes after it; False when there are not so many steps."""
    root = Path(tempfile.mkdtemp(prefix="tidegate-courier-"))
    root.chmod(0o755)
    ground = Ground(root)
    try:
        with Peer() as peer:
            peer.enrol(ground.places.folder, URI)
            ground.configure(f"url: {peer.url}\n")
            tokens = [b"token %d" % number for number in range(3)]
            for token in tokens:
                peer.push(token)
            ground.receipt(1)
            ground.receipt(2)
            ground.events(1, 3, "events.000000000003.ndjson")
            ground.events(4, 5)
            data = record(ground, bytes(range(256)) * 5000).read_bytes()
            ground.give()
            config = ground.root / "etc/tidegate.yaml"
            pid = say(starter, f"run {config} {last}")
            wait_for(lambda: carried(peer, ground) or not alive(pid))
            time.sleep(0.05 if alive(pid) else 0)  # the rest of its steps
            os.kill(pid, signal.SIGTERM)
            status = say(starter, f"reap {pid}")
            killed = status == -signal.SIGKILL
            assert killed or status == 0
            if killed:
                ground.places.status.unlink(missing_ok=True)
                pid = say(starter, f"run {config} 0")
                wait_for(lambda: carried(peer, ground) and ground.said().get("connected"))
                wait_for(lambda: not list(ground.places.outbox.glob("*.jws")))
                os.kill(pid, signal.SIGTERM)
                assert say(starter, f"reap {pid}") == 0
            assert ground.inbox() == tokens
            assert peer.recordings[RECORDING] == data
            assert set(peer.records) == {f"uid-{number}" for number in range(1, 6)} | {
                key for key in peer.records if "receipt" in key
            }
            assert not list(ground.places.inbox.glob(".*"))
            assert ground.said()["losses"] == {}
            return killed
    finally:
        shutil.rmtree(root)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_killed_before_any_step_nothing_is_lost_and_nothing_doubled_by_key() -> None:
    """Every 15th step here, another one of fifteen each hour; all of them with TIDEGATE_KILL_ALL=1."""
    every, first = (1, 1) if os.environ.get("TIDEGATE_KILL_ALL") else (15, 1 + int(time.time() / 3600) % 15)
    with zygote() as starter:
        steps = first
        while one_life(starter, steps):
            steps += every
    assert steps > 40, "there are more steps than that"


def test_it_renews_though_no_record_is_taken(ground: Ground) -> None:
    with Peer() as peer:
        peer.faults["records"] = "status:503"
        peer.enrol(ground.places.folder, URI, began_s=200.0, ends_s=60.0)
        ground.configure(f"url: {peer.url}\n")
        ground.receipt(1)
        old = ground.places.certificate.read_bytes()
        with running(ground):
            wait_for(lambda: ground.places.certificate.read_bytes() != old)
