"""What the benchmarks look with: deaths, unlinked files, wake-ups, the metadata server of the guest agent."""

import http.client
import http.server
import json
import os
import select
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.frame.row import Absent
from benchmarks.ground import cpu_s, pss_kib, woken_by_thread
from benchmarks.peers import metadata_server
from benchmarks.peers.compiled import compiled
from benchmarks.peers.endings import _BARE
from benchmarks.watching import Deaths, Unlinked


def test_each_death_has_its_moment() -> None:
    first, second = subprocess.Popen(["sleep", "60"]), subprocess.Popen(["sleep", "60"])
    try:
        deaths = Deaths([first.pid, second.pid])
        began_ns = time.time_ns()
        first.kill()
        assert not deaths.wait(time.time() + 0.3)
        assert deaths.left == 1
        second.kill()
        assert deaths.wait(time.time() + 5)
        late = {pid: at - began_ns for pid, at in deaths.died_ns.items()}
        assert 0 <= late[first.pid] < 250_000_000 <= late[second.pid]
    finally:
        for process in (first, second):
            process.kill()
            process.wait()


def test_nobody_to_watch_is_said() -> None:
    with pytest.raises(Absent, match="no process"):
        Deaths([])


def test_each_unlinked_file_has_its_moment_and_the_others_stay(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "key" for folder in "abc"]
    for path in paths:
        path.parent.mkdir()
        path.write_text("")
        (path.parent / "other").write_text("")
    watch = Unlinked(paths)
    (paths[0].parent / "other").unlink()
    began_ns = time.time_ns()
    paths[0].unlink()
    paths[1].unlink()
    assert not watch.wait(time.time() + 0.3)
    assert watch.left == 1
    assert set(watch.gone_ns) == set(paths[:2])
    assert all(0 <= at - began_ns < 250_000_000 for at in watch.gone_ns.values())
    paths[2].unlink()
    assert watch.wait(time.time() + 5)


def test_wake_ups_are_counted_by_thread_and_none_of_who_sleeps() -> None:
    sleeping, waking = (
        subprocess.Popen(["sleep", "60"]),
        subprocess.Popen(["sh", "-c", "for n in 1 2 3 4 5; do sleep 0.05; done; sleep 60"]),
    )
    try:
        time.sleep(0.02)
        before = woken_by_thread([sleeping.pid]), woken_by_thread([waking.pid])
        time.sleep(0.6)
        assert woken_by_thread([sleeping.pid]) == before[0]
        assert sum(woken_by_thread([waking.pid]).values()) >= sum(before[1].values()) + 3
        assert pss_kib([sleeping.pid]) > 0
    finally:
        for process in (sleeping, waking):
            process.kill()
            process.wait()
    assert woken_by_thread([sleeping.pid]) == {}, "one that has ended meanwhile is passed over"
    assert cpu_s([sleeping.pid]) == 0


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), metadata_server.Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield served
    served.shutdown()
    served.server_close()


def asked(server: http.server.ThreadingHTTPServer, method: str, path: str, body: str = "") -> tuple[dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, body)
    response = connection.getresponse()
    assert response.status == 200
    found = dict(response.getheaders()), response.read()
    connection.close()
    return found


def test_the_metadata_server_holds_a_request_until_the_keys_change(server: http.server.ThreadingHTTPServer) -> None:
    asked(server, "PUT", "/keys", "alice:ssh-ed25519 A")
    headers, body = asked(server, "GET", "/computeMetadata/v1/?recursive=true")
    assert headers["Metadata-Flavor"] == "Google"
    assert json.loads(body)["instance"]["attributes"]["ssh-keys"] == "alice:ssh-ed25519 A"
    path = f"/computeMetadata/v1/?wait_for_change=true&timeout_sec=60&last_etag={headers['ETag']}"
    timer = threading.Timer(0.3, asked, [server, "PUT", "/keys", ""])
    timer.start()
    began = time.monotonic()
    changed, body = asked(server, "GET", path)
    assert 0.25 < time.monotonic() - began < 5
    assert changed["ETag"] != headers["ETag"]
    assert json.loads(body)["instance"]["attributes"]["ssh-keys"] == ""
    timer.join()


def test_the_metadata_server_answers_the_same_when_the_time_is_over(server: http.server.ThreadingHTTPServer) -> None:
    headers, body = asked(server, "GET", "/computeMetadata/v1/?recursive=true")
    began = time.monotonic()
    again, same = asked(server, "GET", f"/?wait_for_change=true&timeout_sec=0.3&last_etag={headers['ETag']}")
    assert 0.25 < time.monotonic() - began < 5
    assert (again["ETag"], same) == (headers["ETag"], body)


def test_the_bare_sequence_waits_for_its_moment_and_unlinks_the_key(tmp_path: Path) -> None:
    try:
        program = compiled(_BARE, tmp_path / "end-bare")
    except Absent as absent:
        pytest.skip(str(absent))
    key, nobody = tmp_path / "key", 4_000_000
    key.write_text("")
    at_ns = time.time_ns() + 400_000_000
    process = subprocess.Popen([str(program), str(nobody), str(key), str(at_ns)])
    time.sleep(0.2)
    assert key.exists()
    descriptor = os.pidfd_open(process.pid)
    assert select.select([descriptor], [], [], 5)[0]
    os.close(descriptor)
    assert time.time_ns() >= at_ns
    assert process.wait() == 0
    assert not key.exists()
