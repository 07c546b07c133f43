"""A method call in bytes, checked against the specification by hand and against systemd's side of the socket, played here."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import HostError
from agent.host import dbus
from agent.host.clock import NS
from agent.host.dbus import BusError, SystemdBus, marshal, message, split, unit_path
from agent.host.timers import SystemdTimers


def packed(kind: str, value: dbus.Value) -> bytes:
    out = bytearray()
    marshal(out, kind, value)
    return bytes(out)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("s", "foo", b"\3\0\0\0foo\0"),
        ("g", "a(sv)", b"\5a(sv)\0"),
        ("b", True, b"\1\0\0\0"),
        ("t", 2**40, struct.pack("<Q", 2**40)),
        ("as", ["a", "b"], b"\x0e\0\0\0" + b"\1\0\0\0a\0\0\0" + b"\1\0\0\0b\0"),
        ("a(sv)", [], b"\0\0\0\0" + b"\0\0\0\0"),  # the padding to a struct's place is there, and does not count
        ("a(sv)", [("k", ("t", 7))], b"\x18\0\0\0\0\0\0\0" + b"\1\0\0\0k\0" + b"\1t\0" + bytes(7) + b"\7" + bytes(7)),
        ("v", ("s", "x"), b"\1s\0\0\1\0\0\0x\0"),
    ],
)
def test_values_are_laid_out_as_the_specification_says(kind: str, value: dbus.Value, expected: bytes) -> None:
    assert packed(kind, value) == expected


def test_signatures_are_split_into_complete_types() -> None:
    assert list(split("ssa(sv)a(sa(sv))")) == ["s", "s", "a(sv)", "a(sa(sv))"]
    for bad in ("a", "(s", "z", "a{sv}"):
        with pytest.raises(ValueError, match=r"ends within|not supported"):
            list(split(bad))


def test_a_message_has_its_body_at_a_multiple_of_eight() -> None:
    made = message(9, "GetUnit", "s", ("x.timer",), path="/o", interface="i.f")
    assert made[:4] == b"l\1\0\1"
    body_size, serial, fields = struct.unpack_from("<III", made, 4)
    assert (body_size, serial) == (12, 9)
    start = -(-(16 + fields) // 8) * 8
    assert made[start:] == b"\7\0\0\0x.timer\0"


def test_a_units_path_escapes_all_but_letters_and_digits() -> None:
    assert unit_path("a-b@1.timer") == "/org/freedesktop/systemd1/unit/a_2db_401_2etimer"


def answer(serial: int, kind: int = 2, signature: str = "o", body: bytes = b"\1\0\0\0/\0", error: str = "") -> bytes:
    fields: list[dbus.Value] = [(5, ("u", serial)), (8, ("g", signature))]
    if error:
        fields.append((4, ("s", error)))
    out = bytearray(struct.pack("<cBBBII", b"l", kind, 1, 1, len(body), 77))
    marshal(out, "a(yv)", fields)
    out += bytes(-len(out) % 8)
    return bytes(out) + body


@pytest.fixture
def systemd(tmp_path: Path) -> Callable[[list[bytes]], Path]:
    """A socket that authenticates whoever comes, and answers with these bytes, one piece for each message."""

    def serve(answers: list[bytes]) -> Path:
        path = tmp_path / "private"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()

        def run() -> None:
            with contextlib.suppress(OSError), listener, listener.accept()[0] as peer:  # the caller may have hung up
                peer.recv(1024)
                peer.sendall(b"OK 0123456789abcdef\r\n")
                for piece in answers:
                    if not peer.recv(65536):
                        return
                    peer.sendall(piece)
                peer.recv(1024)

        threading.Thread(target=run, daemon=True).start()
        return path

    return serve


def test_an_answer_is_found_among_signals(systemd: Callable[[list[bytes]], Path]) -> None:
    signal = answer(0, kind=4, signature="s", body=b"\1\0\0\0x\0")
    with SystemdBus(systemd([signal + answer(1)]), timeout_s=5) as bus:
        assert bus.call("GetUnit", "s", "x.timer") == ("o", b"\1\0\0\0/\0")


def test_systemds_refusal_is_an_error_with_its_name(systemd: Callable[[list[bytes]], Path]) -> None:
    refusal = answer(1, kind=3, signature="s", body=b"\2\0\0\0no\0", error="org.freedesktop.systemd1.UnitExists")
    with SystemdBus(systemd([refusal]), timeout_s=5) as bus, pytest.raises(BusError, match="systemd says: no") as caught:
        bus.call("StartTransientUnit", "s", "x.timer")
    assert caught.value.name == "org.freedesktop.systemd1.UnitExists"


@pytest.mark.parametrize(
    "junk", [b"B" * 64, b"l\2\1\1" + b"\xff" * 12, b"l\2\1\1" + bytes(8) + b"\x08\0\0\0" + b"\5\1s\0\xff\xff\xff\xff"]
)
def test_nonsense_is_an_error_and_no_wait(systemd: Callable[[list[bytes]], Path], junk: bytes) -> None:
    with SystemdBus(systemd([junk]), timeout_s=10) as bus, pytest.raises(HostError, match="systemd_unreachable"):
        bus.call("GetUnit", "s", "x")


def test_an_answer_in_two_pieces_is_put_together_and_one_read_may_hold_two(systemd: Callable[[list[bytes]], Path]) -> None:
    both = answer(1) + answer(2)
    with SystemdBus(systemd([both[:-9], both[-9:]]), timeout_s=5) as bus:
        assert bus.call("GetUnit", "s", "x.timer") == ("o", b"\1\0\0\0/\0")
        assert bus.call("GetUnit", "s", "x.timer") == ("o", b"\1\0\0\0/\0")


def test_an_answer_is_read_at_once_and_not_byte_by_byte(
    systemd: Callable[[list[bytes]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    here = threading.current_thread()

    class Counted(socket.socket):
        def recv(self, size: int, flags: int = 0) -> bytes:
            if threading.current_thread() is here:
                reads.append(size)
            return super().recv(size, flags)

    path = systemd([answer(1)])
    monkeypatch.setattr(socket, "socket", Counted)
    with SystemdBus(path, timeout_s=5) as bus:
        bus.call("GetUnit", "s", "x.timer")
    assert len(reads) <= 4, "the word that authenticates, and one answer"


def test_who_is_not_let_in_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "private"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def refuse() -> None:
            with listener.accept()[0] as peer:
                peer.recv(1024)
                peer.sendall(b"REJECTED EXTERNAL\r\n")

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        with pytest.raises(HostError, match="does not take this user"):
            SystemdBus(path, timeout_s=5)
        thread.join(5)


def test_nobody_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="systemd_unreachable"):
        SystemdBus(tmp_path / "nothing")


def test_one_that_never_answers_is_given_up(systemd: Callable[[list[bytes]], Path]) -> None:
    with SystemdBus(systemd([]), timeout_s=2) as bus, pytest.raises(HostError, match="systemd_unreachable"):
        bus.call("GetUnit", "s", "x")


def _active() -> bytes:
    return answer(2, signature="v", body=b"\1s\0\0" + struct.pack("<I", 6) + b"active\0")


def test_a_timer_that_stands_is_not_asked_for_again(systemd: Callable[[list[bytes]], Path], tmp_path: Path) -> None:
    timers = SystemdTimers(systemd([answer(1), _active()]), systemd=tmp_path, transient=tmp_path)
    unit = timers.arm("100-50", 100 * NS, 50 * NS)
    (tmp_path / unit).write_text("")
    assert timers.arm("100-50", 100 * NS, 50 * NS) == unit  # that systemd answered once, and is gone


def test_a_timer_that_somebody_removed_is_asked_for_again(systemd: Callable[[list[bytes]], Path], tmp_path: Path) -> None:
    timers = SystemdTimers(systemd([answer(1), _active()]), systemd=tmp_path, transient=tmp_path)
    timers.arm("100-50", 100 * NS, 50 * NS)
    with pytest.raises(HostError, match="systemd_unreachable"):
        timers.arm("100-50", 100 * NS, 50 * NS)


def test_a_timer_that_was_taken_away_is_asked_for_again(systemd: Callable[[list[bytes]], Path], tmp_path: Path) -> None:
    timers = SystemdTimers(systemd([answer(1), _active()]), systemd=tmp_path, transient=tmp_path)
    (tmp_path / timers.arm("100-50", 100 * NS, 50 * NS)).write_text("")
    with pytest.raises(HostError, match="systemd_unreachable"):
        timers.disarm(["100-50"])
    with pytest.raises(HostError, match="systemd_unreachable"):
        timers.arm("100-50", 100 * NS, 50 * NS)
