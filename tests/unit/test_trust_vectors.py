"""Every vector gets its verdict; the file is the script's."""

from typing import Any

import pytest

from agent.errors import RefusedError
from agent.trust import REFUSALS
from tests.unit.trust_kit import VECTORS, accept, token_of
from tests.vectors import make


def test_the_committed_vectors_are_what_the_script_makes() -> None:
    assert make.FILE.read_text(encoding="utf-8") == make.text()


def test_names_are_unique() -> None:
    names = [vector["name"] for vector in VECTORS["vectors"]]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
def test_vector(vector: dict[str, Any]) -> None:
    token = token_of(vector)
    if vector["verdict"] == "good":
        assert accept(token).jti == "grant-1"
        return
    with pytest.raises(RefusedError) as caught:
        accept(token)
    found = caught.value
    assert (type(found).__name__, found.code) == (vector["error"], vector["code"]), found
    assert found.field == vector.get("field", found.field)
    assert found.code in REFUSALS
    assert found.reason.isprintable()
