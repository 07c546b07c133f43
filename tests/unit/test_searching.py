"""One search at a time, shared by all who wait; nobody joins one that began before; a stop ends it."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import HostError
from agent.host.found import Found, Search
from agent.host.searching import Searching, run_searcher

Hear = Callable[[bytes], None]


def order(*uids: int, whole: bool = True) -> Search:
    return Search(uids=frozenset(uids), whole=whole)


def test_who_comes_while_one_runs_waits_for_the_next_and_shares_it() -> None:
    ran: list[frozenset[int]] = []
    first_runs, go_on = threading.Event(), threading.Event()

    def run(asked: Search, _: Hear) -> list[Found]:
        ran.append(asked.uids)
        if len(ran) == 1:
            first_runs.set()
            assert go_on.wait(10)
        return [Found("file", f"/tmp/{uid}", uid=uid) for uid in sorted(asked.uids)] + [Found("unsearched", "/x")]

    searching = Searching(run)
    answers: dict[int, list[Found]] = {}
    threads = [threading.Thread(target=lambda uid=uid: answers.update({uid: searching.search(order(uid))})) for uid in (1, 2, 3, 4)]
    threads[0].start()
    assert first_runs.wait(10)
    for thread in threads[1:]:
        thread.start()
    deadline = time.monotonic() + 10
    while len(searching._waiting) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert ran == [frozenset({1}), frozenset({2, 3, 4})]
    assert {uid: [each.where for each in found] for uid, found in answers.items()} == {
        uid: [f"/tmp/{uid}", "/x"] for uid in (1, 2, 3, 4)
    }


def test_orders_of_another_manner_are_searches_of_their_own() -> None:
    searching = Searching(lambda asked, _: [Found("file", str(asked.whole), uid=1)])
    assert searching.search(order(1))[0].where == "True"
    assert searching.search(order(1, whole=False))[0].where == "False"


def test_a_failure_is_that_of_all_who_shared_it_and_the_next_search_is_made() -> None:
    def run(_: Search, hear: Hear) -> list[Found]:
        del hear
        raise HostError("search_failed", "no process left")

    searching = Searching(run)
    with pytest.raises(HostError, match="no process left"):
        searching.search(order(1))
    searching.run = lambda *_: []
    assert searching.search(order(1)) == []


def test_how_far_it_is_is_told_and_a_stop_ends_it() -> None:
    def run(_: Search, hear: Hear) -> list[Found]:
        hear(b"2048 /usr\n4096 /srv\n")
        found = searching.progress()
        assert found is not None and (found.entries, found.where) == (4096, "/srv")
        searching.stop()
        hear(b"8192 /var\n")
        return []

    searching = Searching(run)
    with pytest.raises(HostError, match="search_stopped"):
        searching.search(order(1))
    assert searching.progress() is None
    with pytest.raises(HostError, match="search_stopped"):
        searching.search(order(1))


@pytest.mark.skipif(os.geteuid() != 0, reason="looks as root")
def test_the_other_process_answers_and_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no uid of anybody's, and of this machine's shared folders only: it finds nothing."""
    del monkeypatch
    assert [each for each in run_searcher(Search(uids=frozenset({4_000_000_000}), whole=False, remove=False), lambda _: None)
            if each.kind != "unsearched"] == []  # fmt: skip


def test_a_process_that_breaks_is_an_error_with_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import sys; sys.exit('no memory')")
    monkeypatch.setattr("agent.host.searching.searcher.__file__", str(broken))
    with pytest.raises(HostError, match="no memory"):
        run_searcher(order(1), lambda _: None)
