"""Text from outside: one rule says what is unseen, for what a grant may hold and for what a person is shown."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import InvalidGrantError
from agent.model import fields
from agent.model.text import one_line, printable, unseen

HOSTILE = [
    "\n",
    "\x1b",
    "\x7f",
    "\x85",
    "\u202e",
    "\u2066",
    "\u200b",
    "\u2028",
    "\u2029",
    "\ue000",
    "\udc80",
    "\U000e0001",
    "\u0378",
]


@pytest.mark.parametrize("character", HOSTILE, ids=ascii)
def test_what_a_grant_may_not_hold_is_what_is_escaped_for_a_person(character: str) -> None:
    with pytest.raises(InvalidGrantError) as caught:
        fields.text(f"a{character}b", "reason")
    assert caught.value.code == "text_unprintable"
    assert character not in printable(f"a{character}b") and character not in one_line(f"a{character}b")


@given(st.text(st.characters()))
def test_nothing_unseen_survives_and_all_else_does(text: str) -> None:
    shown = printable(text)
    assert not any(map(unseen, shown + one_line(text)))
    assert shown == text or any(map(unseen, text))
    assert printable(shown) == shown, "what was made safe already is left as it is"


def test_a_letter_of_any_script_is_seen() -> None:
    assert not any(unseen(character) for character in "Zoë Ng 王 ไทย עברית é \u0301 😀 \u00a0")
    assert all(unicodedata.category(character)[0] == "C" or character in "\u2028\u2029" for character in HOSTILE)
