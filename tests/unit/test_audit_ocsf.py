"""Every kind of event is valid OCSF 1.8, says what the field's own tools look for, and can't be made to lie by its texts."""

import functools
import json
from typing import Any

import jsonschema
import pytest
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from agent.audit import AuditEvent, EventKind, events_of_steps, to_ocsf
from agent.audit.journald import MESSAGE_IDS, fields_of
from agent.audit.ocsf import LINE_MAX, MAPPING
from agent.model import Phase, Stage, Step
from tests.unit.audit_values import AT, IDENTITY, event

HOSTILE = "x\n<3>forged: line\x1b[2J\x9b\u202egpj\u2028\x00\udcff\\"


@functools.cache
def schema_source() -> dict[str, Any]:
    found: dict[str, Any] = get_ocsf_schema(version="1.8.0")
    return found


@functools.cache
def validator(class_uid: int) -> jsonschema.Draft202012Validator:
    source = OcsfJsonSchemaEmbedded(schema_source())
    name = source.lookup_class_name_from_uid(class_uid)
    return jsonschema.Draft202012Validator(source.get_class_schema(name, ["host"]))


def problems(value: dict[str, object]) -> list[str]:
    through_json = json.loads(json.dumps(value))
    return [error.message for error in validator(int(through_json["class_uid"])).iter_errors(through_json)]


@pytest.mark.parametrize("ok", [True, False])
@pytest.mark.parametrize("kind", EventKind)
def test_every_kind_is_valid_ocsf(kind: EventKind, ok: bool) -> None:
    assert problems(to_ocsf(event(kind, ok=ok), IDENTITY, 7)) == []


@pytest.mark.parametrize("kind", EventKind)
def test_a_bare_event_is_valid_too(kind: EventKind) -> None:
    assert problems(to_ocsf(AuditEvent(kind, AT), IDENTITY)) == []


@pytest.mark.parametrize("kind", EventKind)
def test_hostile_texts_stay_valid_bounded_and_on_one_line(kind: EventKind) -> None:
    hostile = HOSTILE * 400
    detail: dict[str, object] = dict.fromkeys(("group", "session", "source_address", "command", "path", "name", hostile), hostile)
    detail |= {
        "privileges": [hostile] * 500,
        "count": True,
        "killed": -1,
        "pid": "1",
        "deep": {"a": [{"b": {hostile}}]},
        "n": 10**4000,
    }
    value = to_ocsf(
        event(
            kind, jti=hostile, iss=hostile, sub=hostile, login=hostile, code=hostile, reason=hostile, ticket=hostile, detail=detail
        ),
        IDENTITY,
    )
    assert problems(value) == []
    line = json.dumps(value, ensure_ascii=False).encode("utf-8")
    assert len(line) <= LINE_MAX
    assert not any(text in line.decode() for text in ("\n", "\x1b", "\x9b", "\u202e", "\u2028", "\\u001b", "\\n<"))


def test_the_widest_event_still_fits_a_line() -> None:
    wide = "\U0001f300" * 600
    value = to_ocsf(
        event(
            EventKind.PRIVILEGE_GRANTED, jti=wide, iss=wide, sub=wide, login=wide, code=wide, reason=wide, ticket=wide,
            detail={"privileges": [wide] * 64},
        ),
        IDENTITY,
    )  # fmt: skip
    assert len(json.dumps(value, ensure_ascii=False).encode("utf-8")) <= LINE_MAX


def test_a_detail_too_long_for_a_line_is_left_out_and_that_is_said() -> None:
    value: Any = to_ocsf(event(detail={"files": ["x" * 400] * 1000}), IDENTITY)
    assert value["unmapped"]["detail"] == {"left_out": True}
    assert value["metadata"]["is_truncated"] is True
    assert value["metadata"]["untruncated_size"] > 400_000
    assert problems(value) == []


def test_the_table_uses_the_numbers_and_names_of_the_schema() -> None:
    source = OcsfJsonSchemaEmbedded(schema_source())
    for kind, row in MAPPING.items():
        definition = schema_source()["classes"][source.lookup_class_name_from_uid(row.class_uid)]
        value = to_ocsf(event(kind), IDENTITY)
        assert value["class_name"] == definition["caption"]
        assert value["category_name"] == definition["category_name"]
        activities = definition["attributes"]["activity_id"]["enum"]
        assert row.activity_id == 99 or activities[str(row.activity_id)]["caption"] == row.activity
    assert set(MAPPING) == set(EventKind)


@pytest.mark.parametrize(
    ("kind", "class_uid", "activity_id"),
    [
        (EventKind.ACCOUNT_CREATED, 3001, 1),
        (EventKind.ACCOUNT_DELETED, 3001, 6),
        (EventKind.GROUP_JOINED, 3006, 3),
        (EventKind.GROUP_LEFT, 3006, 4),
        (EventKind.SESSION_OPENED, 3002, 1),
        (EventKind.SESSION_CLOSED, 3002, 2),
        (EventKind.PRIVILEGE_GRANTED, 3003, 1),
        (EventKind.PROCESS_LAUNCHED, 1007, 1),
        (EventKind.AGENT_STARTED, 6002, 3),
    ],
)
def test_a_siem_finds_each_kind_under_its_class(kind: EventKind, class_uid: int, activity_id: int) -> None:
    value = to_ocsf(event(kind), IDENTITY)
    assert (value["class_uid"], value["activity_id"]) == (class_uid, activity_id)
    assert value["type_uid"] == class_uid * 100 + activity_id
    assert value["category_uid"] == class_uid // 1000


def test_the_key_is_the_same_for_the_same_event_and_differs_for_any_other() -> None:
    def key(of: AuditEvent, sequence: int = 1) -> str:
        metadata: Any = to_ocsf(of, IDENTITY, sequence)["metadata"]
        return str(metadata["uid"])

    variants = [event(kind) for kind in EventKind]
    variants += [event(jti="g-2"), event(uid=None), event(ok=False), event(detail={"a": 1}), event(detail={"a": "1"})]
    variants += [event(jti="g-1h", iss="ttps://cp.example"), event(code="", reason="expiredthe time is up")]
    keys = [key(variant) for variant in variants] + [key(event(), sequence) for sequence in range(2, 500)]
    assert len(set(keys)) == len(keys)
    assert key(event()) == key(event())


def test_time_is_in_milliseconds_and_failure_is_louder() -> None:
    assert to_ocsf(event(), IDENTITY)["time"] == 1_800_000_000_123
    failed = to_ocsf(event(EventKind.ACCOUNT_DELETED, ok=False), IDENTITY)
    assert (failed["status"], failed["severity"]) == ("Failure", "High")
    refused = to_ocsf(event(EventKind.GRANT_REFUSED), IDENTITY)
    assert (refused["status"], refused["severity"]) == ("Failure", "Medium")


def test_every_kind_has_its_own_message_id() -> None:
    assert set(MESSAGE_IDS) == set(EventKind)
    assert len(set(MESSAGE_IDS.values())) == len(EventKind)
    assert all(len(identifier) == 32 and int(identifier, 16) for identifier in MESSAGE_IDS.values())


def test_journal_fields_are_one_line_each_and_a_text_cannot_fake_another_word() -> None:
    found = event(reason=f'late" code=fine {HOSTILE}', sub=HOSTILE, login=HOSTILE, jti=HOSTILE)
    fields = fields_of(found, to_ocsf(found, IDENTITY, 3))
    assert all(character.isprintable() for value in fields.values() for character in value)
    assert fields["MESSAGE"].count('"') % 2 == 0
    outside = "".join(fields["MESSAGE"].split('"')[::2])
    assert outside.count("code=") == 1
    assert fields["TARGET_UID"] == "70001"
    assert fields["PRIORITY"] == "6"


def step(enforcer: str, action: str, target: str, **data: Any) -> Step:
    return Step(enforcer, action, Stage.CREATE, Phase.REMOVE, target, f"{action} {target}", data)


def test_steps_become_account_group_and_privilege_events_both_ways() -> None:
    commands = [["/usr/bin/systemctl", "restart", "nginx"], ["/usr/bin/logger", "a b"]]
    steps = [
        step("account", "create", "jit-alice", name="jit-alice", uid=70001),
        step("account", "unlock", "jit-alice", name="jit-alice", uid=70001),
        step("group", "membership", "deploy:docker", name="deploy", group="docker"),
        step("account", "membership", "jit-alice:adm", name="jit-alice", group="adm"),
        step("ssh", "keys", "/run/tidegate/keys/jit-alice", name="jit-alice"),
        step("sudo", "rule", "/run/tidegate/sudoers.d/x", rule={"login": "jit-alice", "run_as": ["root"], "commands": commands}),
        step("sudo", "rule", "/run/tidegate/sudoers.d/y"),
    ]
    about = event(EventKind.GRANT_OPENED, login="", uid=None)
    done = events_of_steps(steps, undone=False, about=about, uids={"jit-alice": 70001})
    assert [(found.kind, found.login, found.uid, found.detail.get("group")) for found in done[:-1]] == [
        (EventKind.ACCOUNT_CREATED, "jit-alice", 70001, None),
        (EventKind.GROUP_JOINED, "deploy", None, "docker"),
        (EventKind.GROUP_JOINED, "jit-alice", 70001, "adm"),
        (EventKind.PRIVILEGE_GRANTED, "jit-alice", 70001, None),
    ]
    assert done[3].detail["privileges"] == ["/usr/bin/systemctl restart nginx", "/usr/bin/logger 'a b'"]
    assert done[4].detail["privileges"] == ["rule /run/tidegate/sudoers.d/y"]
    undone = events_of_steps(steps, undone=True, about=about)
    assert [found.kind for found in undone] == [
        EventKind.ACCOUNT_DELETED,
        EventKind.GROUP_LEFT,
        EventKind.GROUP_LEFT,
        EventKind.PRIVILEGE_REVOKED,
        EventKind.PRIVILEGE_REVOKED,
    ]
    assert {found.jti for found in (*done, *undone)} == {"g-1"}
    assert all(problems(to_ocsf(found, IDENTITY)) == [] for found in (*done, *undone))
