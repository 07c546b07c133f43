"""What the courier decides over NATS, without a network: subjects, the index, live messages, batches, credentials."""

import base64
import contextlib
import json
from collections.abc import Mapping

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from agent.courier import natswire
from agent.courier.natswire import Index, Live, Subjects, Worth
from agent.courier.transport import RECORD_MAX, Cursor, Record
from agent.errors import CourierError
from examples.control_plane import nats_config, nats_intake
from tests.nats import pki
from tests.nats.bed import ALICE, BOB

AT = Cursor("s1", 7)


def live(
    ident: object = 8, stream: str = "s1", previous: str = "7", data: bytes = b"t", more: Mapping[str, str] | None = None
) -> Live:
    headers = {"Tidegate-Stream": stream, "Tidegate-Previous": previous, **(more or {})}
    return Live(f"$KV.tidegate.{ALICE}.{ident}", data, headers)


def code_of(error: pytest.ExceptionInfo[CourierError]) -> str:
    return error.value.code


@pytest.mark.parametrize("token", ["", "*", ">", ALICE[:-1], ALICE + "x", ALICE[:-1] + ".", ALICE[:-1] + "*", ALICE[:-1] + "\n"])
def test_what_would_widen_a_subject_gets_into_none(token: str) -> None:
    with pytest.raises(CourierError) as error:
        Subjects(token)
    assert code_of(error) == "nats_name"
    with pytest.raises(ValueError, match="host token"):
        nats_config.permissions(token)


@pytest.mark.parametrize("ident", ["", "a.b", "*", ">", "a b", "x" * 129])
def test_a_recording_of_such_a_name_gets_into_none_either(ident: str) -> None:
    with pytest.raises(CourierError):
        Subjects(ALICE).recording(ident)


def test_a_courier_asks_for_nothing_that_its_permissions_do_not_name() -> None:
    subjects, allowed = Subjects(ALICE), nats_config.permissions(ALICE)

    def within(subject: str, patterns: list[str]) -> bool:
        words = subject.split(".")
        return any(
            len(words) == len(pattern.split(".")) and all(b in ("*", a) for a, b in zip(words, pattern.split("."), strict=True))
            for pattern in patterns
        )

    asked = [subjects.records, subjects.recording("r-1"), subjects.get_index, subjects.get_token(5), subjects.get_recording("r-1")]
    assert [subject for subject in asked if not within(subject, allowed["publish"])] == []
    assert subjects.tokens in allowed["subscribe"]
    assert f"{subjects.inbox}.>" in allowed["subscribe"]
    assert not [subject for side in allowed.values() for subject in side if BOB in subject or ALICE not in subject]


def test_the_next_token_is_taken_at_once() -> None:
    assert natswire.judge(live(), AT) is Worth.NEW
    assert natswire.judge(live(900, previous="7"), AT) is Worth.NEW  # ids grow, and may leave out
    assert natswire.judge(live(900, previous="3"), AT) is Worth.NEW
    assert natswire.judge(live(5, previous="0"), Cursor()) is Worth.NEW  # the first of all


@pytest.mark.parametrize(
    "message", [live(10, previous="9"), live(stream="s2"), live(1, stream="s2", previous="0"), live(10, previous="8")]
)
def test_a_gap_or_another_numbering_is_looked_into(message: Live) -> None:
    assert natswire.judge(message, AT) is Worth.LOOK


def test_the_word_of_an_index_makes_one_look_only_if_it_is_ahead() -> None:
    assert natswire.judge(live("index.stored", previous="8", data=b""), AT) is Worth.LOOK
    assert natswire.judge(live("index.stored", previous="7", data=b""), AT) is Worth.OLD
    assert natswire.judge(live("index.stored", stream="s2", previous="1", data=b""), AT) is Worth.LOOK
    assert natswire.judge(live("index.stored", previous="8", more={"Nats-Stream": "KV_tidegate"}), AT) is Worth.FOREIGN


@pytest.mark.parametrize("message", [live(7, previous="6"), live(1, previous="0"), live(8, data=b"")])
def test_what_was_taken_is_not_taken_again(message: Live) -> None:
    assert natswire.judge(message, AT) is Worth.OLD


@pytest.mark.parametrize(
    "message",
    [
        live(more={"Nats-Stream": "TIDEGATE_RECORDINGS"}),  # an answer to another host's question, led here
        Live(f"$KV.tidegate.{ALICE}.9", b'{"stream":"TIDEGATE_RECORDS","seq":2}', {}),
        live("x"),
        live(2**63),
        live(0),
        live(previous="-1"),
        live(previous="1e3"),
        live(stream=""),
        live(stream="s" * 129),
    ],
)
def test_what_the_control_plane_did_not_put_there_moves_nothing(message: Live) -> None:
    assert natswire.judge(message, AT) is Worth.FOREIGN
    assert natswire.judge(message, Cursor()) is Worth.FOREIGN


@given(
    live_ids=st.lists(st.integers(1, 60), unique=True).map(sorted),
    order=st.randoms(use_true_random=False),
    begin=st.integers(0, 60),
)
def test_whatever_is_lost_on_the_way_no_token_is_passed_over(live_ids: list[int], order: object, begin: int) -> None:
    """A host that judges each message, and looks at the index when told to, has at the end what the index has behind its cursor."""
    index = Index("s1", live_ids[-1] if live_ids else 0, tuple(live_ids))
    at = Cursor("s1", min(begin, index.last))
    expected = [ident for ident in live_ids if ident > at.last]
    taken: list[int] = []
    previous = 0
    for ident in live_ids:
        message = live(ident, previous=str(previous))
        previous = ident
        if order.random() < 0.4:  # type: ignore[attr-defined]  # the broker dropped it
            continue
        known = Index("s1", ident, tuple(each for each in live_ids if each <= ident))
        worth = natswire.judge(message, at)
        if worth is Worth.LOOK:
            taken += known.after(at)
            at = Cursor("s1", known.last)
        elif worth is Worth.NEW:
            taken.append(ident)
            at = Cursor("s1", ident)
    taken += index.after(at)
    assert taken == expected


def test_an_index_gives_what_is_behind_the_cursor_and_all_to_one_of_another_numbering_or_from_the_future() -> None:
    index = Index("s1", 9, (2, 5, 9))
    assert index.after(Cursor("s1", 2)) == (5, 9)
    assert index.after(Cursor("s1", 9)) == ()
    assert index.after(Cursor("s0", 9)) == (2, 5, 9)
    assert index.after(Cursor("s1", 10)) == (2, 5, 9)


def index_of(**changed: object) -> bytes:
    return json.dumps({"stream": "s1", "last": 9, "tokens": [[2, 1795303100], [9, 1795303200]], **changed}).encode()


def test_an_index_is_read() -> None:
    assert natswire.parse_index(index_of()) == Index("s1", 9, (2, 9))
    assert natswire.parse_index(index_of(tokens=[])) == Index("s1", 9, ())


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000,
        index_of(stream=""), index_of(stream="x" * 129), index_of(stream=1), index_of(last=-1),
        index_of(last=2**63), index_of(last=True), index_of(last=8), index_of(tokens=[[9], [2]]), index_of(tokens=[[2], [2]]),
        index_of(tokens=[[0]]), index_of(tokens=[["2"]]), index_of(tokens=[2]), index_of(tokens=[[]]), index_of(tokens=[[1.5]]),
        index_of(last=8001, tokens=[[each] for each in range(1, 8002)]), b" " * (256 * 1024) + index_of(),
    ],
)  # fmt: skip
def test_an_index_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(CourierError) as error:
        natswire.parse_index(data)
    assert code_of(error) == "courier_protocol"


@given(st.binary(max_size=300))
def test_no_bytes_of_an_index_raise_anything_else(data: bytes) -> None:
    with contextlib.suppress(CourierError):
        natswire.parse_index(data)


@given(st.lists(st.integers(0, 3000), max_size=60))
def test_every_record_is_in_exactly_one_message_in_order(sizes: list[int]) -> None:
    records = [Record(f"k{place}", "event", "x" * size) for place, size in enumerate(sizes)]
    messages, refused = natswire.pack(records, 4000)
    assert not refused
    assert [key for keys, _ in messages for key in keys] == [record.key for record in records]
    assert all(len(body) <= 4000 or len(keys) == 1 for keys, body in messages)
    for keys, body in messages:
        taken = nats_intake.read(f"tidegate.records.{ALICE}", {"Nats-Msg-Id": "1"}, body)
        assert isinstance(taken, tuple)
        assert [(record.host, record.key, record.kind) for record in taken] == [(ALICE, key, "event") for key in keys]


def test_a_record_that_no_message_takes_is_refused_by_name_and_holds_up_no_other() -> None:
    messages, refused = natswire.pack([Record("a", "event", "x" * RECORD_MAX), Record("b", "event", "ö\n")])
    assert refused == {"a": "record_too_large"}
    assert messages == [(("b",), '{"key":"b","kind":"event","body":"ö\\n"}\n'.encode())]


@given(st.binary(max_size=50), st.integers(0, 10**9), st.integers(1, 20))
def test_pieces_put_together_are_the_whole_and_the_last_says_so(data: bytes, offset: int, size: int) -> None:
    made = list(natswire.pieces(data, offset, size))
    assert b"".join(piece for _, piece, _ in made) == data
    assert [last for _, _, last in made] == [False] * (len(made) - 1) + [True]
    at = offset
    for start, piece, _ in made:
        assert start == at
        assert len(piece) <= size
        at += len(piece)


def test_a_seed_is_read_bare_and_out_of_a_creds_file_and_signs() -> None:
    seed = pki.seed()
    jwt = "eyJ0.eyJz.c2ln"
    creds = f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
    creds += f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    bare, whole = natswire.parse_credentials(seed + "\n"), natswire.parse_credentials(creds)
    assert (bare.jwt, whole.jwt) == ("", jwt)
    assert bare.public == whole.public
    raw = base64.b32decode(bare.public)
    Ed25519PublicKey.from_public_bytes(raw[1:33]).verify(base64.b64decode(bare.sign("nonce")), b"nonce")
    nats_config.Login(nkey=bare.public).fields()


@pytest.mark.parametrize(
    "text", ["", "SUAA", pki.seed() + "\n" + pki.seed(), pki.seed()[:-3] + "AAA"], ids=["empty", "short", "two", "another sum"]
)
def test_a_damaged_seed_is_not_used(text: str) -> None:
    with pytest.raises(CourierError) as error:
        natswire.parse_credentials(text)
    assert code_of(error) == "nats_credentials"


@pytest.mark.parametrize(
    ("subject", "headers", "data"),
    [
        (f"tidegate.records.{ALICE}", {"Nats-Msg-Id": "1"}, b""),
        (f"tidegate.records.{ALICE}", {"Nats-Msg-Id": "1"}, b'{"key":"k","kind":"event","body":1}'),
        (f"tidegate.records.{ALICE}", {"Nats-Msg-Id": "1"}, b'{"key":"k","kind":"other","body":1}\n'),
        (f"tidegate.records.{ALICE}", {"Nats-Msg-Id": "1"}, b'{"key":"","kind":"event","body":1}\n'),
        (f"tidegate.records.{ALICE}", {"Nats-Msg-Id": "1"}, b'{"key":"k","kind":"event","body":1,"host":"x"}\n'),
        (f"tidegate.records.{ALICE}", {"Nats-Msg-Id": "1"}, b"[" * 100_000 + b"\n"),
        (f"tidegate.records.{ALICE}", {}, b'{"key":"k","kind":"event","body":1}\n'),
        (f"tidegate.records.{ALICE}", {"Nats-Msg-Id": "1", "Nats-Stream": "X"}, b'{"key":"k","kind":"event","body":1}\n'),
        (f"tidegate.recordings.{ALICE}.r-1", {"Nats-Msg-Id": "1"}, b"x"),
        (f"tidegate.recordings.{ALICE}.r-1", {"Nats-Msg-Id": "1", "Tidegate-Offset": "-1"}, b"x"),
        (f"tidegate.recordings.{ALICE}.r-1", {"Nats-Msg-Id": "1", "Tidegate-Offset": "0", "Nats-Stream": "X"}, b"x"),
        ("tidegate.records.x", {"Nats-Msg-Id": "1"}, b'{"key":"k","kind":"event","body":1}\n'),
    ],
)
def test_what_no_courier_sent_is_not_taken_in(subject: str, headers: dict[str, str], data: bytes) -> None:
    with pytest.raises(ValueError):  # each has its own words
        nats_intake.read(subject, headers, data)
