"""Who may ask, approve and end, over the wire."""

import json
import threading
from typing import Any

import jsonschema
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from agent import trust
from agent.model import SshWant
from tests.control_plane.host import TestHost
from tests.control_plane.running import ControlPlane


def public_line() -> str:
    return Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def over(plane: ControlPlane, request: Any, host: TestHost) -> None:
    """End what a test opened, to the receipt."""
    plane.ok("POST", f"/v1/requests/{request['id']}/revoke", {"reason": "the test is over"}, who="root")
    shown = plane.ok("GET", f"/v1/requests/{request['id']}", who="root")
    for grant in shown["grants"]:
        if grant["host"] == host.token:
            host.send(host.receipt(grant["jti"], "revoked"))


def refusal(plane: ControlPlane, method: str, path: str, body: object, who: str) -> tuple[int, str]:
    answer = plane.call(method, path, body, who=who)
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert answer.body["status"] == answer.status
    return answer.status, answer.code


@pytest.mark.parametrize(
    ("who", "changed", "expected"),
    [
        ("alice", {"template": "nothing"}, (422, "template_unknown")),
        ("alice", {"hosts": ["web9"]}, (422, "host_unknown")),
        ("alice", {"duration_s": 4 * 3600 + 1}, (422, "duration_too_long")),
        ("carol", {"hosts": ["web2"]}, (422, "ticket_required")),
        ("alice", {"hosts": ["web1"], "break_glass": True}, (403, "break_glass_not_allowed")),
        ("carol", {"hosts": ["web2"], "break_glass": True, "ticket": "T-1"}, (403, "break_glass_not_allowed")),
        ("bob", {}, (403, "not_offered")),
        ("alice", {"hosts": ["web1", "web2"], "ticket": "T-1"}, (403, "not_offered")),
        ("alice", {"hosts": []}, (422, "body_invalid")),
        ("alice", {"duration_s": "600"}, (422, "body_invalid")),
        ("alice", {"more": 1}, (422, "body_invalid")),
        ("alice", {"reason": "restart\u202eweb"}, (422, "body_invalid")),
        ("alice", {"reason": "half \ud800 of it"}, (422, "body_invalid")),
        ("alice", {"keys": ["ssh-ed25519 AAAA"]}, (422, "grant_invalid")),
        ("alice", {"source_address": ["10.1.0.1/16"]}, (422, "grant_invalid")),
        ("alice", {"template": "from-office", "source_address": ["10.2.0.0/16"]}, (403, "not_offered")),
        ("alice", {"template": "from-office", "source_address": ["not an address"]}, (422, "grant_invalid")),
    ],
)
def test_nobody_asks_for_what_no_rule_gives(
    control_plane: ControlPlane, web1: TestHost, web2: TestHost, who: str, changed: dict[str, object], expected: tuple[int, str]
) -> None:
    body = {"template": "web-restart", "hosts": ["web1"], "duration_s": 600, "reason": "restart web", **changed}
    assert refusal(control_plane, "POST", "/v1/requests", body, who) == expected
    assert web1.plane is web2.plane


def test_nobody_decides_alone_on_what_they_ask_or_on_what_was_not_asked(control_plane: ControlPlane, web1: TestHost) -> None:
    request = control_plane.ask("alice", ["web1"])
    path, digest = f"/v1/requests/{request['id']}/approve", {"digest": request["digest"]}
    assert refusal(control_plane, "POST", path, digest, "alice") == (403, "own_request")
    assert refusal(control_plane, "POST", path, digest, "carol") == (403, "not_an_approver")
    assert refusal(control_plane, "POST", path, digest, "root") == (403, "not_an_approver")
    assert refusal(control_plane, "POST", path, {"digest": "0" * 64}, "bob") == (409, "digest_mismatch")
    assert refusal(control_plane, "POST", f"/v1/requests/{request['id']}/withdraw", None, "carol") == (403, "not_yours")
    assert control_plane.call("GET", f"/v1/requests/{request['id']}", who="carol").status == 404
    assert control_plane.ok("GET", f"/v1/requests/{request['id']}", who="audra")["state"] == "waiting"
    gone = control_plane.ok("POST", f"/v1/requests/{request['id']}/withdraw", who="alice")
    assert gone["state"] == "withdrawn"
    assert refusal(control_plane, "POST", path, digest, "bob") == (409, "not_waiting")


def test_two_approvals_are_two_people(control_plane: ControlPlane, web2: TestHost) -> None:
    request = control_plane.ask("alice", ["web2"], ticket="INC-1")
    first = control_plane.approve("bob", request)
    assert (first["state"], len(first["approvals"]), first["grants"]) == ("waiting", 1, [])
    again = refusal(control_plane, "POST", f"/v1/requests/{request['id']}/approve", {"digest": request["digest"]}, "bob")
    assert again == (409, "already_decided")
    assert control_plane.approve("dave", request)["state"] == "open"
    over(control_plane, request, web2)


def test_one_denial_is_enough(control_plane: ControlPlane, web1: TestHost) -> None:
    request = control_plane.ask("carol", ["web1"])
    denied = control_plane.ok("POST", f"/v1/requests/{request['id']}/deny", {"reason": "not today"}, who="bob")
    assert (denied["state"], denied["why"]) == ("denied", "not today")
    assert web1.tokens()["tokens"] is not None
    assert denied["grants"] == []


def test_break_glass_opens_at_once_is_loud_and_waits_for_a_review_by_another(control_plane: ControlPlane, web2: TestHost) -> None:
    request = control_plane.ask("alice", ["web2"], break_glass=True)
    assert (request["state"], request["review"], len(request["grants"])) == ("open", "open", 1)
    listed = control_plane.ok("GET", "/v1/reviews", who="audra")["requests"]
    assert [one["id"] for one in listed] == [request["id"]]
    events = control_plane.ok("GET", "/v1/events?limit=500", who="audra")["events"]
    loud = [one["ocsf"] for one in events if one["ocsf"]["metadata"]["event_code"] == "cp.break_glass.opened"]
    assert [(one["severity"], one["metadata"]["correlation_uid"]) for one in loud] == [("High", request["id"])]
    said = {"verdict": "justified", "comment": "the site was down"}
    assert refusal(control_plane, "POST", f"/v1/reviews/{request['id']}", said, "alice") == (403, "role_missing")
    over(control_plane, request, web2)
    reviewed = control_plane.ok("POST", f"/v1/reviews/{request['id']}", said, who="bob")
    assert reviewed["review"] == "justified"
    assert control_plane.ok("GET", "/v1/reviews", who="audra")["requests"] == []


def test_an_extension_takes_the_place_of_what_stands_and_is_approved_anew(control_plane: ControlPlane, web1: TestHost) -> None:
    request = control_plane.ask("alice", ["web1"])
    control_plane.approve("bob", request)
    again = {"template": "web-restart", "hosts": ["web1"], "duration_s": 600, "reason": "more"}
    assert refusal(control_plane, "POST", "/v1/requests", again, "alice") == (409, "already_open")
    path = f"/v1/requests/{request['id']}/extend"
    assert refusal(control_plane, "POST", path, {"duration_s": 900, "reason": "more"}, "carol") == (403, "not_yours")
    longer = control_plane.ok("POST", path, {"duration_s": 900, "reason": "more to do"}, who="alice")
    assert (longer["state"], longer["extends"]) == ("waiting", request["id"])
    opened = control_plane.approve("bob", longer)
    assert opened["grants"][0]["supersedes"] == f"{request['id']}.1"
    newest = web1.read(web1.tokens()["tokens"][-1]["token"])
    assert (newest.supersedes, newest.exp - newest.iat) == (f"{request['id']}.1", 900)
    assert control_plane.ok("GET", f"/v1/requests/{request['id']}", who="alice")["state"] == "ended"

    refused = web1.answer(newest.jti, "refused", "supersedes_not_open")
    web1.send(refused)
    assert control_plane.ok("GET", f"/v1/requests/{longer['id']}", who="alice")["state"] == "ended"
    assert control_plane.ok("GET", f"/v1/requests/{request['id']}", who="alice")["state"] == "open"
    over(control_plane, request, web1)


def test_a_revocation_is_signed_and_the_grant_is_not_sent_any_more(control_plane: ControlPlane, web1: TestHost) -> None:
    request = control_plane.ask("alice", ["web1"])
    opened = control_plane.approve("bob", request)
    jti = opened["grants"][0]["jti"]
    path = f"/v1/requests/{request['id']}/revoke"
    assert refusal(control_plane, "POST", path, {"reason": "no"}, "carol") == (403, "not_yours")
    control_plane.ok("POST", path, {"reason": "that will do"}, who="alice")
    words = [one["token"] for one in web1.tokens()["tokens"]]
    events = [decoded(web1, word, trust.TYP_EVENT) for word in words if trust.claimed_typ(word.encode()) == trust.TYP_EVENT]
    assert [event.value for event in events if event.value == jti] == [jti]
    grants = [web1.read(word).jti for word in words if trust.claimed_typ(word.encode()) == trust.TYP_GRANT]
    assert jti not in grants
    bulletins = [
        decoded(web1, word, trust.TYP_BULLETIN) for word in words if trust.claimed_typ(word.encode()) == trust.TYP_BULLETIN
    ]
    assert len(bulletins) == 1
    assert jti in bulletins[0].revoked
    assert refusal(control_plane, "POST", path, {"reason": "again"}, "alice") == (409, "not_open")
    web1.send(web1.receipt(jti, "revoked"))


def decoded(host: TestHost, word: str, typ: str) -> Any:
    """A revocation or a bulletin as the host reads it."""
    verified = trust.verify(word.encode(), trust.keyring(host.signing_keys), typ=typ)
    now = trust.parse_object(verified.payload)["iat"]
    assert isinstance(now, int)
    decode = trust.decode_event if typ == trust.TYP_EVENT else trust.decode_bulletin
    return decode(verified, host_id=host.host_id, now_s=now)


def test_a_subject_that_is_revoked_loses_all_and_gets_in_again_with_a_new_grant(
    control_plane: ControlPlane, web1: TestHost
) -> None:
    subject = control_plane.subjects["carol"]
    opened = control_plane.approve("bob", control_plane.ask("carol", ["web1"]))
    said = {"subject": subject, "reason": "lost laptop"}
    assert refusal(control_plane, "POST", "/v1/revocations", said, "bob") == (403, "role_missing")
    ended = control_plane.ok("POST", "/v1/revocations", said, who="root")
    assert (ended["hosts"], ended["revoked"]) == (1, [opened["id"]])
    words = [one["token"] for one in web1.tokens()["tokens"]]
    events = [decoded(web1, word, trust.TYP_EVENT) for word in words if trust.claimed_typ(word.encode()) == trust.TYP_EVENT]
    reached = [event for event in events if event.value == subject]
    assert len(reached) == 1
    web1.send(web1.receipt(opened["grants"][0]["jti"], "revoked"))
    request = control_plane.ask("carol", ["web1"])
    control_plane.approve("bob", request)
    newest = web1.read(web1.tokens()["tokens"][-1]["token"])
    assert newest.iat > reached[0].iat
    over(control_plane, request, web1)


def test_keys_in_the_request_go_into_the_grant_instead_of_principals(control_plane: ControlPlane, web1: TestHost) -> None:
    key = public_line()
    request = control_plane.ask("alice", ["web1"], template="from-office", keys=[key], source_address=["10.1.2.0/24"])
    control_plane.approve("bob", request)
    grant = web1.read(web1.tokens()["tokens"][-1]["token"])
    ssh = next(want for want in grant.wants if isinstance(want, SshWant))
    assert (ssh.keys, ssh.principals, ssh.source_address) == ((key,), (), ("10.1.2.0/24",))
    said = refusal(control_plane, "POST", f"/v1/requests/{request['id']}/certificate", {"public_key": key}, "alice")
    assert said == (409, "by_key")
    over(control_plane, request, web1)


def test_offers_are_what_can_be_asked_for(control_plane: ControlPlane, web1: TestHost, web2: TestHost) -> None:
    offers = control_plane.ok("GET", "/v1/offers", who="carol")["offers"]
    assert {(one["template"], *one["hosts"]) for one in offers} == {
        ("web-restart", "web1"),
        ("from-office", "web1"),
        ("web-restart", "web2"),
    }
    assert control_plane.ok("GET", "/v1/offers", who="audra") == {"offers": []}


def test_who_waits_for_a_request_is_told_when_it_changes(control_plane: ControlPlane, web1: TestHost) -> None:
    request = control_plane.ask("alice", ["web1"])
    timer = threading.Timer(0.3, lambda: control_plane.approve("bob", request))
    timer.start()
    path = f"/v1/requests/{request['id']}?wait=20&version={request['version']}"
    assert control_plane.ok("GET", path, who="alice")["version"] > request["version"]
    timer.join()
    control_plane.until(f"/v1/requests/{request['id']}", "alice", lambda body: body["state"] == "open")
    over(control_plane, request, web1)


def test_every_event_of_ours_is_ocsf(control_plane: ControlPlane) -> None:
    schemas = OcsfJsonSchemaEmbedded(get_ocsf_schema("1.8.0"))
    events = control_plane.ok("GET", "/v1/events?limit=500", who="audra")["events"]
    seen: dict[str, Any] = {}
    for one in events:
        if one["source"] == "control-plane":
            seen.setdefault(one["ocsf"]["metadata"]["event_code"], one["ocsf"])
    assert len(seen) >= 10
    for code, event in seen.items():
        name = event["class_name"].lower().replace(" ", "_")
        schema = schemas.get_class_schema(name, [])
        errors = sorted(error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(event))
        assert not errors, f"{code}: {json.dumps(event)[:400]} {errors}"
