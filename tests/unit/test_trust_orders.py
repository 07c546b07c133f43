"""Revocations and bulletins: every vector gets its verdict, and a revocation means exactly what it names."""

import json
from typing import Any

import pytest

from agent.errors import RefusedError
from agent.model import Revocation, SubjectFormat
from agent.trust import REFUSALS, TYP_EVENT, decode_bulletin, decode_event, verify
from tests.unit.trust_kit import RING
from tests.vectors import make, orders

VECTORS: list[dict[str, Any]] = json.loads(orders.FILE.read_text(encoding="utf-8"))["vectors"]


def means(vector: dict[str, Any]) -> list[Any]:
    """Both stages, as the pipeline runs them."""
    verified = verify(vector["token"].encode(), RING, typ=vector["typ"])
    if vector["typ"] == TYP_EVENT:
        found = decode_event(verified, host_id=make.HOST, now_s=make.NOW)
        return [found.format.value, list(found.issuers), found.value]
    told = decode_bulletin(verified, host_id=make.HOST, now_s=make.NOW)
    return [told.seq, len(told.revoked)]


def test_the_committed_vectors_are_what_the_script_makes() -> None:
    assert orders.FILE.read_text(encoding="utf-8") == orders.text()
    assert len({vector["name"] for vector in VECTORS}) == len(VECTORS)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vector(vector: dict[str, Any]) -> None:
    if vector["verdict"] == "good":
        assert means(vector) == vector["means"]
        return
    with pytest.raises(RefusedError) as caught:
        means(vector)
    found = caught.value
    assert (type(found).__name__, found.code) == (vector["error"], vector["code"]), found
    assert (found.field or "") == vector.get("field", found.field or "")
    assert found.code in REFUSALS
    assert found.reason.isprintable()


def revocation(form: SubjectFormat, value: str) -> Revocation:
    return Revocation("https://cp", "set-1", 1000, form, ("https://cp", "https://b"), value)


@pytest.mark.parametrize(
    ("form", "value", "claims", "meant"),
    [
        (SubjectFormat.JWT_ID, "g-1", ("https://cp", "g-1", "alice", 2000), True),  # by its id, whenever it was issued
        (SubjectFormat.JWT_ID, "g-1", ("https://cp", "g-2", "g-1", 1), False),
        (SubjectFormat.JWT_ID, "g-1", ("https://c", "g-1", "alice", 1), False),
        (SubjectFormat.ISS_SUB, "alice", ("https://cp", "g-1", "alice", 1000), True),
        (SubjectFormat.ISS_SUB, "alice", ("https://cp", "g-1", "alice", 1001), False),  # issued after it
        (SubjectFormat.ISS_SUB, "alice", ("https://cp", "g-1", "Alice", 1), False),
        (SubjectFormat.EMAIL, "Alice@Example.com", ("https://b", "g-1", "alice@example.com", 1000), True),
        (SubjectFormat.EMAIL, "alice@example.com", ("https://b", "g-1", "alice@example.com", 1001), False),
        (SubjectFormat.EMAIL, "alice@example.com", ("https://x", "g-1", "alice@example.com", 1), False),
        (SubjectFormat.EMAIL, "alice@example.com", ("https://b", "g-1", "malice@example.com", 1), False),
    ],
)
def test_a_revocation_means_what_it_names(form: SubjectFormat, value: str, claims: tuple[str, str, str, int], meant: bool) -> None:
    assert revocation(form, value).means(*claims) is meant
