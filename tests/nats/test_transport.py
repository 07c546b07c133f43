"""The courier's transport against the real nats-server: nothing is missed, doubled at will, or bigger than it may be."""

import asyncio
import json
import time

import pytest
from nats.aio.client import Client

from agent.courier import natslink
from agent.courier.nats import PIECE, NatsSettings, NatsTransport
from agent.courier.transport import TOKEN_MAX, Cursor, Record
from agent.errors import CourierError
from examples.control_plane.nats import Fleet, PushError
from examples.control_plane.nats_intake import TakenPiece, TakenRecord
from tests.nats.bed import ALICE, BOB, Bed, Receiving, token_of

STREAM = "KV_tidegate"
INDEX = f"$KV.tidegate.index.{ALICE}"


def taken_in(broker: Bed, count: int, ack: bool = True) -> tuple[list[TakenRecord], list[TakenPiece], int]:
    """What the control plane takes in, until it is ``count`` records and pieces."""

    async def work(fleet: Fleet, _client: Client) -> tuple[list[TakenRecord], list[TakenPiece], int]:
        records: list[TakenRecord] = []
        pieces: list[TakenPiece] = []
        bad = 0
        batches = fleet.intake()
        async for batch in batches:
            records += batch.records
            pieces += batch.pieces
            bad += batch.bad
            if ack:
                await batch.ack()
            if len(records) + len(pieces) + bad >= count:
                break
        await batches.aclose()  # type: ignore[attr-defined]
        return records, pieces, bad

    return broker.do(work)


def raw_push(broker: Bed, ident: int, data: bytes, **headers: str) -> None:
    """What a careless control plane would put there: a token without an index."""

    async def work(_fleet: Fleet, client: Client) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        await client.jetstream().publish(f"$KV.tidegate.{ALICE}.{ident}", data, headers=named)

    broker.do(work)


def test_tokens_come_in_order_those_that_waited_first_then_live(broker: Bed) -> None:
    broker.push(3, 50)
    with Receiving(broker.transport()) as receiving:
        assert receiving.wait(2) == [b"token 3", b"token 50"]
        broker.push(51, 99)
        broker.push(1, token=BOB)
        assert receiving.wait(4) == [b"token 3", b"token 50", b"token 51", b"token 99"]
        assert [received.cursor.last for received in receiving.got] == [3, 50, 51, 99]
    with Receiving(broker.transport(), receiving.got[2].cursor) as again:
        assert again.wait(1) == [b"token 99"]


def test_the_very_first_token_of_a_host_needs_no_look_at_the_index(broker: Bed) -> None:
    with Receiving(broker.transport()) as receiving:
        time.sleep(0.3)
        raw_push(broker, 5, b"first", Tidegate_Stream="s", Tidegate_Previous="0")
        assert receiving.wait(1) == [b"first"]


def test_an_expired_token_is_not_delivered_and_holds_up_no_other(broker: Bed) -> None:
    broker.push(1, 2, 3)

    async def expire(fleet: Fleet, _client: Client) -> None:
        await fleet.expire(ALICE, 2)
        await fleet.expire(ALICE, 77)

    broker.do(expire)
    with Receiving(broker.transport()) as receiving:
        assert receiving.wait(2) == [b"token 1", b"token 3"]


def test_a_server_killed_while_tokens_are_pushed_loses_none_that_was_acknowledged(
    broker: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("examples.control_plane.nats.ANSWER_S", 1)
    pushed: list[bytes] = []

    async def work(fleet: Fleet, _client: Client) -> None:
        for ident in range(1, 2000):
            if ident == 150:
                asyncio.get_running_loop().call_later(0.02, broker.server.kill)
            try:
                await fleet.push(ALICE, ident, b"token %d" % ident)
            except PushError:
                return
            pushed.append(b"token %d" % ident)

    with Receiving(broker.transport()) as receiving:
        broker.do(work)
        error = receiving.end()
    assert isinstance(error, CourierError)
    assert 149 <= len(pushed) < 1999
    broker.server.start()
    cursor = receiving.got[-1].cursor
    broker.push(5000)
    with Receiving(broker.transport(), cursor) as again:
        until = time.monotonic() + 10
        while b"token 5000" not in again.tokens and time.monotonic() < until:
            time.sleep(0.02)
    everything = receiving.tokens + again.tokens
    assert [token for token in pushed if token not in everything] == []
    assert len(set(everything)) == len(everything)


def test_a_lost_connection_ends_what_waits_and_the_next_call_makes_a_new_one(broker: Bed) -> None:
    transport = broker.transport()
    with Receiving(transport) as receiving:
        assert transport.recording_size("r-1") == 0
        broker.server.kill()
        error = receiving.end()
    assert isinstance(error, CourierError)
    assert error.code == "courier_unreachable"
    with pytest.raises(CourierError) as refused:
        transport.send([Record("k", "event", 1)])
    assert refused.value.code == "courier_unreachable"
    broker.server.start()
    assert transport.send([Record("k", "event", 1)]).acked == {"k"}


def test_more_than_the_inbox_takes_waits_at_the_broker_and_nothing_is_missed(broker: Bed, caplog: pytest.LogCaptureFixture) -> None:
    broker.push(1)
    count = natslink.QUEUE_MAX * 5
    with Receiving(broker.transport()) as receiving:
        receiving.wait(1)
        receiving.hold.clear()
        broker.push(*range(2, count + 1))
        time.sleep(0.3)
        receiving.hold.set()
        assert receiving.wait(count) == [b"token %d" % ident for ident in range(1, count + 1)]
    assert caplog.text.count("faster than they are taken") >= 1


def test_a_token_that_was_dropped_on_the_way_is_found_by_the_next_ones_header(broker: Bed) -> None:
    broker.push(1, 2)
    with Receiving(broker.transport()) as receiving:
        receiving.wait(2)
        stream = receiving.got[-1].cursor.stream

        async def unseen(_fleet: Fleet, client: Client) -> None:
            """Tokens 3 and 4 as pushes leave them, but what comes live of 3 is nothing that a courier believes."""
            js = client.jetstream()
            await js.publish(f"$KV.tidegate.{ALICE}.3", b"token 3", headers={"X": "not a token's headers"})
            found = await js.get_msg(STREAM, subject=INDEX, direct=True)
            index = json.loads(found.data or b"")
            index["last"], index["tokens"] = 4, [*index["tokens"], [3, 0], [4, 0]]
            headers = {"Tidegate-Stream": stream, "Tidegate-Previous": "3"}
            await js.publish(f"$KV.tidegate.{ALICE}.4", b"token 4", headers=headers)
            await asyncio.sleep(0.1)  # the index comes later than the token, as ever
            await js.publish(INDEX, json.dumps(index).encode())

        broker.do(unseen)
        assert receiving.wait(4) == [b"token 1", b"token 2", b"token 3", b"token 4"]


def test_who_connects_between_a_token_and_its_index_gets_it_when_the_index_is_stored(broker: Bed) -> None:
    """The token was published before the host listened, the index not yet when it asked: only the word of it tells."""
    broker.push(1)

    async def begin(_fleet: Fleet, client: Client) -> tuple[str, bytes]:
        found = await client.jetstream().get_msg(STREAM, subject=INDEX, direct=True)
        return json.loads(found.data or b"")["stream"], found.data or b""

    stream, before = broker.do(begin)
    raw_push(broker, 2, b"token 2", Tidegate_Stream=stream, Tidegate_Previous="1")
    with Receiving(broker.transport()) as receiving:
        receiving.wait(1)
        time.sleep(0.3)
        assert receiving.tokens == [b"token 1"]

        async def finish(_fleet: Fleet, client: Client) -> None:
            index = {**json.loads(before), "last": 2, "tokens": [[1, 0], [2, 0]]}
            await client.jetstream().publish(INDEX, json.dumps(index).encode())
            headers = {"Tidegate-Stream": stream, "Tidegate-Previous": "2"}
            await client.publish(f"$KV.tidegate.{ALICE}.index.stored", b"", headers=headers)

        broker.do(finish)
        assert receiving.wait(2, 3) == [b"token 1", b"token 2"]


def test_old_tokens_sent_again_are_not_handed_on(broker: Bed) -> None:
    broker.push(1, 2)
    with Receiving(broker.transport()) as receiving:
        receiving.wait(2)
        stream = receiving.got[-1].cursor.stream
        for ident in (2, 1):
            raw_push(broker, ident, b"replayed", Tidegate_Stream=stream, Tidegate_Previous=str(ident - 1))
        broker.push(3)
        assert receiving.wait(3) == [b"token 1", b"token 2", b"token 3"]


def test_a_bucket_made_anew_begins_a_new_numbering_and_all_it_has_is_taken(broker: Bed) -> None:
    broker.push(7, 8)
    with Receiving(broker.transport()) as receiving:
        receiving.wait(2)

        async def anew(_fleet: Fleet, client: Client) -> None:
            await client.jetstream().delete_stream(STREAM)

        broker.do(anew)
        broker.push(1, 2)
        assert receiving.wait(4) == [b"token 7", b"token 8", b"token 1", b"token 2"]
        assert len({received.cursor.stream for received in receiving.got}) == 2
    with Receiving(broker.transport(), receiving.got[1].cursor) as again:  # it was away when that happened
        assert again.wait(2) == [b"token 1", b"token 2"]


def test_a_cursor_ahead_of_the_index_is_not_believed(broker: Bed) -> None:
    broker.push(1, 2)
    with Receiving(broker.transport()) as receiving:
        receiving.wait(2)
        stream = receiving.got[-1].cursor.stream
    with Receiving(broker.transport(), Cursor(stream, 2**62)) as again:
        assert again.wait(2, 30) == [b"token 1", b"token 2"]


def test_who_came_between_a_token_and_its_index_gets_nothing_twice_while_the_control_plane_comes_back(broker: Bed) -> None:
    broker.push(1)
    with Receiving(broker.transport()) as receiving:
        receiving.wait(1)
        raw_push(broker, 2, b"token 2", Tidegate_Stream=receiving.got[-1].cursor.stream, Tidegate_Previous="1")
        assert receiving.wait(2) == [b"token 1", b"token 2"]
    with Receiving(broker.transport(), receiving.got[-1].cursor) as again:
        time.sleep(2.5)  # the control plane was killed there, and starts
        broker.push(2, 3)
        assert again.wait(1) == [b"token 3"]


def test_a_token_over_64_kib_comes_cut_and_the_next_one_comes_whole(broker: Bed) -> None:
    broker.push(1)
    with Receiving(broker.transport()) as receiving:
        receiving.wait(1)
        stream = receiving.got[-1].cursor.stream
        raw_push(broker, 2, b"x" * 200_000, Tidegate_Stream=stream, Tidegate_Previous="1")
        raw_push(broker, 3, b"small", Tidegate_Stream=stream, Tidegate_Previous="2")
        assert [len(token) for token in receiving.wait(3)] == [7, TOKEN_MAX + 1, 5]

    async def refused(fleet: Fleet, _client: Client) -> None:
        with pytest.raises(PushError):
            await fleet.push(ALICE, 9, b"x" * (TOKEN_MAX + 1))

    broker.do(refused)


def test_stop_and_close_end_a_receive_that_waits(broker: Bed) -> None:
    with Receiving(broker.transport()) as receiving:
        time.sleep(0.2)
        receiving.stop.set()
        assert receiving.end(3) is None
    transport = broker.transport()
    with Receiving(transport) as receiving:
        time.sleep(0.2)
        begun = time.monotonic()
        transport.close()
        transport.close()
        error = receiving.end(3)
        assert isinstance(error, CourierError)
        assert error.code == "courier_stopped"
        assert time.monotonic() - begun < 1


def test_records_are_acknowledged_by_key_once_stored_and_stored_once_if_sent_again(broker: Bed) -> None:
    transport = broker.transport()
    records = [Record(f"k{place}", "event", {"text": "x" * 1000}) for place in range(300)]
    assert transport.send(records).acked == {record.key for record in records}
    assert transport.send(records).acked == {record.key for record in records}
    other = broker.transport(BOB)
    assert other.send(records[:1]).acked == {"k0"}
    found, _, bad = taken_in(broker, 301)
    assert bad == 0
    assert [record.key for record in found if record.host == ALICE] == [record.key for record in records]
    assert [record.host for record in found if record.host != ALICE] == [BOB]
    assert found[0] == TakenRecord(ALICE, "k0", "event", {"text": "x" * 1000})


def test_what_was_not_stored_by_the_caller_comes_again(broker: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.control_plane.nats_intake.ACK_S", 1)
    broker.transport().send([Record("k", "event", 1)])
    assert [record.key for record in taken_in(broker, 1, ack=False)[0]] == ["k"]
    assert [record.key for record in taken_in(broker, 1)[0]] == ["k"]


def test_a_full_spool_refuses_and_the_host_keeps_its_records(broker: Bed) -> None:
    async def shrink(_fleet: Fleet, client: Client) -> None:
        js = client.jetstream()
        config = (await js.stream_info("TIDEGATE_RECORDS")).config
        config.max_bytes = 100_000
        await js.update_stream(config)

    broker.do(shrink)
    transport = broker.transport()
    records = [Record(f"k{place}", "event", "x" * 50_000) for place in range(4)]
    acked = transport.send(records).acked
    assert 1 <= len(acked) < 4
    with pytest.raises(CourierError) as error:
        transport.send([record for record in records if record.key not in acked])
    assert error.value.code == "nats_full"
    taken_in(broker, len(acked))
    assert transport.send([record for record in records if record.key not in acked][:1]).acked


def test_a_recording_goes_on_where_the_brokers_last_piece_ends(broker: Bed) -> None:
    content = bytes(range(256)) * 4096
    transport = broker.transport()
    assert transport.recording_size("r-1") == 0
    assert transport.send_recording("r-1", 0, content[: PIECE + 5], complete=False) == PIECE + 5
    broker.server.kill()
    broker.server.start()
    again = broker.transport()
    assert again.recording_size("r-1") == PIECE + 5
    assert again.send_recording("r-1", 0, content, complete=True) == PIECE + 5  # told where to go on, nothing sent
    assert again.send_recording("r-1", PIECE + 5, content[PIECE + 5 :], complete=True) == len(content)
    _, pieces, _ = taken_in(broker, 5)
    made = b""
    for piece in pieces:
        assert piece.offset == len(made)
        made += piece.data
    assert made == content
    assert [piece.complete for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_two_couriers_of_one_host_can_not_tear_a_recording(broker: Bed) -> None:
    one, two = broker.transport(), broker.transport()
    assert one.recording_size("r-1") == two.recording_size("r-1") == 0
    assert one.send_recording("r-1", 0, b"aaaa", complete=False) == 4
    assert two.send_recording("r-1", 0, b"bbbbbb", complete=False) == 4
    assert two.send_recording("r-1", 4, b"cc", complete=True) == 6
    _, pieces, _ = taken_in(broker, 2)
    assert [(piece.offset, piece.data) for piece in pieces] == [(0, b"aaaa"), (4, b"cc")]


def test_renewal_is_told_to_be_elsewhere(broker: Bed) -> None:
    with pytest.raises(CourierError) as error:
        broker.transport().renew("csr")
    assert error.value.code == "renew_unavailable"


def test_ids_that_do_not_grow_and_a_second_writer_are_found_out(broker: Bed) -> None:
    async def work(fleet: Fleet, client: Client) -> None:
        other = Fleet(client)
        await other.prepare()
        await fleet.push(ALICE, 5, b"five")
        await fleet.push(ALICE, 5, b"five")  # again: fine
        with pytest.raises(PushError, match="not above 5"):
            await fleet.push(ALICE, 4, b"four")
        await other.push(ALICE, 6, b"six")
        with pytest.raises(PushError, match="another process"):
            await fleet.push(ALICE, 7, b"seven")
        await fleet.push(ALICE, 8, b"eight")
        with pytest.raises(PushError, match="not a host token"):
            await fleet.push(token_of("x")[:-1] + ">", 1, b"x")

    broker.do(work)
    with Receiving(broker.transport()) as receiving:
        assert receiving.wait(3) == [b"five", b"six", b"eight"]


def test_a_transport_needs_nothing_until_it_is_used() -> None:
    NatsTransport(NatsSettings(("nats://127.0.0.1:1",), ALICE)).close()
