"""What a host trusts follows its files one by one: a key that is taken away is gone, whatever else is wrong."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import ConfigError
from agent.trust import KeyStore, TrustedKey, generate_key, load_keyring, read_jwks
from agent.trust.keys import FILES_MAX

ONE, TWO = "https://one.example", "https://two.example"
PAIRS = {kid: generate_key(kid, [ONE])[1] for kid in ("k1", "k2", "k3")}


def key(kid: str, *issuers: str, of: str = "", **more: object) -> dict[str, Any]:
    """A public JWK of that kid; ``of`` another kid: that one's key."""
    return {**PAIRS[of or kid], "kid": kid, "issuers": list(issuers or (ONE,)), **more}


def write(path: Path, *keys: object) -> None:
    path.write_text(json.dumps({"keys": list(keys)}))
    path.chmod(0o644)


def spoil(path: Path) -> None:
    path.write_text("half a fi")
    path.chmod(0o644)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "trust.d"
    made.mkdir(mode=0o755)
    yield made
    made.chmod(0o755)


def trusted(store: KeyStore) -> dict[str, tuple[str, ...]]:
    return {found.kid: found.issuers for found in store.ring}


def code(store: KeyStore) -> str | None:
    return store.error.code if store.error else None


def test_before_the_first_load_nobody_is_trusted(folder: Path) -> None:
    write(folder / "a.jwks", key("k1"))
    store = KeyStore(folder)
    assert (trusted(store), store.error) == ({}, None)
    assert store.reload()
    assert (trusted(store), store.error) == ({"k1": (ONE,)}, None)


def test_a_deleted_files_keys_are_gone_at_once_though_another_file_is_bad(folder: Path) -> None:
    write(folder / "a.jwks", key("k1"))
    write(folder / "b.jwks", key("k2"))
    store = KeyStore(folder)
    store.reload()
    spoil(folder / "b.jwks")
    (folder / "a.jwks").unlink()
    assert not store.reload()
    assert trusted(store) == {"k2": (ONE,)}, "the bad file keeps its own last good keys, and only those"
    assert store.error is not None and store.error.path == folder / "b.jwks"
    (folder / "b.jwks").unlink()
    assert store.reload() and trusted(store) == {}


def test_a_good_file_counts_as_it_is_now_though_another_is_bad(folder: Path) -> None:
    write(folder / "a.jwks", key("k1", ONE, TWO))
    spoil(folder / "b.jwks")
    store = KeyStore(folder)
    assert not store.reload()
    assert trusted(store) == {"k1": (ONE, TWO)}
    write(folder / "a.jwks", key("k1", TWO), key("k3"))
    store.reload()
    assert trusted(store) == {"k1": (TWO,), "k3": (ONE,)}
    write(folder / "a.jwks", key("k3"))
    assert not store.reload()
    assert trusted(store) == {"k3": (ONE,)}


@pytest.mark.parametrize(("second", "expected"), [(key("k1", of="k2"), "key_kid_twice"), (key("k2", of="k1"), "key_twice")])
def test_files_that_disagree_add_nothing_and_keep_what_still_stands_in_them(
    folder: Path, second: dict[str, Any], expected: str
) -> None:
    write(folder / "a.jwks", key("k1", ONE, TWO))
    store = KeyStore(folder)
    store.reload()
    write(folder / "a.jwks", key("k1", TWO, "https://new.example"), key("k3"))
    write(folder / "b.jwks", second)
    assert not store.reload()
    assert trusted(store) == {"k1": (TWO,)}, "not the new key, not the new issuer, and no more the one taken away"
    assert code(store) == expected
    (folder / "b.jwks").unlink()
    assert store.reload()
    assert trusted(store) == {"k1": (TWO, "https://new.example"), "k3": (ONE,)}, "and all of it once they agree"


def test_files_that_disagree_from_the_start_are_trusted_for_nothing(folder: Path) -> None:
    write(folder / "a.jwks", key("k1"))
    write(folder / "b.jwks", key("k1", of="k2"))
    write(folder / "c.jwks", key("k3"))
    store = KeyStore(folder)
    assert not store.reload()
    assert trusted(store) == {"k3": (ONE,)}


def test_an_approver_that_changes_while_files_disagree_is_trusted_as_neither(folder: Path) -> None:
    write(folder / "a.jwks", key("k1", approver="bob@example.com"))
    store = KeyStore(folder)
    store.reload()
    write(folder / "a.jwks", key("k1", approver="eve@example.com"), key("k2"))
    write(folder / "b.jwks", key("k2"))
    store.reload()
    assert trusted(store) == {}


def test_a_key_moved_to_another_file_stays_trusted(folder: Path) -> None:
    write(folder / "a.jwks", key("k1"))
    store = KeyStore(folder)
    store.reload()
    (folder / "a.jwks").rename(folder / "b.jwks")
    assert store.reload() and trusted(store) == {"k1": (ONE,)}


def test_while_the_folder_cant_be_used_nothing_is_added_and_what_is_deleted_is_gone(folder: Path) -> None:
    write(folder / "a.jwks", key("k1"))
    write(folder / "b.jwks", key("k2"))
    store = KeyStore(folder)
    store.reload()
    folder.chmod(0o777)
    write(folder / "c.jwks", key("k3"))
    (folder / "b.jwks").unlink()
    assert not store.reload()
    assert (trusted(store), code(store)) == ({"k1": (ONE,)}, "key_file_mode")
    folder.chmod(0o755)
    for number in range(FILES_MAX):
        write(folder / f"{number}.jwks")
    assert not store.reload()
    assert (trusted(store), code(store)) == ({"k1": (ONE,)}, "trust_too_many_files")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert not store.reload()
    assert (trusted(store), code(store)) == ({}, "trust_folder")
    folder.mkdir(mode=0o755)


# Any story of edits

NAMES = ("a.jwks", "b.jwks", "c.jwks")
KEYS = st.builds(
    lambda kid, of, issuers, approver: key(kid, *issuers, of=of, **({"approver": approver} if approver else {})),
    st.sampled_from(("k1", "k2", "k3")),
    st.sampled_from(("k1", "k2", "k3")),
    st.sampled_from(((ONE,), (TWO,), (ONE, TWO))),
    st.sampled_from(("", "bob")),
)
EDITS = st.tuples(
    st.sampled_from(NAMES),
    st.one_of(st.sampled_from(("delete", "spoil")), st.lists(KEYS, max_size=2, unique_by=lambda found: found["kid"])),
)
Claim = tuple[str, str, str, str | None]  # one thing a key is trusted for


def claims(keys: Any) -> set[Claim]:
    return {(found.kid, found.thumbprint, issuer, found.approver) for found in keys for issuer in found.issuers}


def edit(path: Path, what: Any) -> None:
    if what == "delete":
        path.unlink(missing_ok=True)
    elif what == "spoil":
        spoil(path)
    else:
        write(path, *what)


def good_keys(path: Path) -> list[TrustedKey] | None:
    try:
        return list(read_jwks(path))
    except ConfigError:
        return None


@settings(deadline=None, max_examples=150)
@given(st.lists(st.lists(EDITS, min_size=1, max_size=3), max_size=8))
def test_after_any_story_of_edits_nothing_is_trusted_that_no_file_stands_for(story: list[list[tuple[str, Any]]]) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        store = KeyStore(folder)
        said: dict[str, set[Claim]] = {}  # what each file said when it was last good
        for edits in story:
            before = claims(store.ring)
            for name, what in edits:
                edit(folder / name, what)
            whole = store.reload()
            now = {name: good_keys(folder / name) for name in NAMES if os.path.lexists(folder / name)}
            said = {name: said.get(name, set()) if keys is None else claims(keys) for name, keys in now.items()}
            trust = claims(store.ring)
            assert trust <= set().union(*said.values()), "each stands in a file that is there, as it last was good"
            bad = [name for name, keys in now.items() if keys is None]
            marks = [
                mark for found in said.values() for mark in {(kid,) for kid, *_ in found} | {(None, key) for _, key, *_ in found}
            ]
            torn = len(marks) != len(set(marks))
            if torn:
                others = {name: keys for name, keys in now.items() if keys is not None}
                assert trust - before <= set().union(*(claims(keys) for keys in others.values()), set())
            else:
                for name, keys in now.items():
                    assert keys is None or claims(keys) <= trust, f"{name} is good, so it counts as it is"
            assert whole is (store.error is None)
            if not bad and not torn:
                assert whole and trust == claims(load_keyring(folder))
            elif bad:
                assert not whole
            assert len({found.thumbprint for found in store.ring}) == len(store.ring)
