"""One decision, one look: what is asked of the name service twice."""

import grp
import pwd
import threading
from collections.abc import Callable

import pytest

from agent.config import Config
from agent.host import memberships
from agent.host.system import SystemHost


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """Every question to the name service."""
    found: list[tuple[str, object]] = []

    def counted(owner: object, name: str) -> None:
        real: Callable[..., object] = getattr(owner, name)

        def count(*about: object) -> object:
            found.append((name, about[0]))
            return real(*about)

        monkeypatch.setattr(owner, name, count)

    for owner, name in ((pwd, "getpwnam"), (pwd, "getpwuid"), (grp, "getgrnam"), (grp, "getgrgid"), (memberships, "gids_of")):
        counted(owner, name)
    return found


def look(host: SystemHost) -> None:
    assert host.user("root") is not None and host.user("jit-nobody") is None
    assert host.user_by_uid(0) is not None and host.group("root") is not None and host.group_by_gid(0) is not None
    assert host.groups_of("jit-nobody") == frozenset() and "root" in host.groups_of("root")


def test_within_one_look_each_question_is_asked_once(asked: list[tuple[str, object]]) -> None:
    host = SystemHost(Config())
    with host.looking_once():
        for _ in range(3):
            look(host)
    assert len(asked) == len(set(asked))


def test_the_next_look_and_every_other_one_asks_anew(asked: list[tuple[str, object]]) -> None:
    host = SystemHost(Config())
    for _ in range(2):
        with host.looking_once(), host.looking_once():
            host.user("root")
    host.user("root")
    host.user("root")
    assert asked == [("getpwnam", "root")] * 4


def test_another_thread_has_its_own_look(asked: list[tuple[str, object]]) -> None:
    host = SystemHost(Config())
    with host.looking_once():
        host.user("root")
        thread = threading.Thread(target=host.user, args=("root",))
        thread.start()
        thread.join()
    assert len(asked) == 2
