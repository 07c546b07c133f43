"""A key ring is whole and safe, or there is none; a host keeps its one key."""

import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.errors import ConfigError
from agent.trust import (
    TYP_RECEIPT,
    HostKey,
    base64url,
    default_host_id,
    generate_key,
    hostkey,
    jwk,
    keyring,
    load_keyring,
    parse_object,
    read_jwks,
    read_private_jwk,
    sign_compact,
    verify,
    write_private_jwk,
)
from agent.trust.files import KEY_FILE_MAX
from agent.trust.keys import FILES_MAX, KEYS_MAX
from tests.vectors import make

Jwk = dict[str, Any]


def public(name: str = "cp-1", **changes: object) -> Jwk:
    """A good public JWK with changes; a change to ``...`` takes the member out."""
    good = jwk.to_public_jwk(make.secret(name).public_key(), name, *make.KEYS[name])
    return {name: value for name, value in {**good, **changes}.items() if value is not ...}


def write(path: Path, *keys: object, mode: int = 0o644) -> Path:
    path.write_text(json.dumps({"keys": list(keys)}))
    path.chmod(mode)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "trust.d"
    made.mkdir(mode=0o755)
    return made


def refused(action: Callable[[], object], code: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        action()
    assert caught.value.code == code, caught.value
    return caught.value


def test_all_sets_of_the_folder_make_one_ring(folder: Path) -> None:
    write(folder / "a.jwks", public("cp-1"), public("bob"))
    write(folder / "b.jwks", public("other"))
    write(folder / ".c.jwks", "an editor's")
    (folder / "README").write_text("no set")
    ring = load_keyring(folder)
    assert sorted(key.kid for key in ring) == ["bob", "cp-1", "other"]
    bob = ring.get("bob")
    assert bob is not None
    assert (bob.approver, bob.issuers) == ("bob@example.com", ("https://approvals.example",))
    assert ring.get("stranger") is None


def test_an_empty_folder_trusts_nobody_and_a_missing_one_is_an_error(folder: Path) -> None:
    assert len(load_keyring(folder)) == 0
    assert refused(lambda: load_keyring(folder / "gone"), "trust_folder").path == folder / "gone"


def test_the_thumbprint_is_that_of_rfc_8037() -> None:
    key = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    assert jwk.thumbprint(jwk.public_key(key)) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


BAD_KEYS = {
    "private": (public(d="AA"), "key_private"),
    "no kid": (public(kid=...), "key_kid"),
    "kid with a slash": (public(kid="a/b"), "key_kid"),
    "no issuers": (public(issuers=...), "key_invalid"),
    "issuers empty": (public(issuers=[]), "key_issuers"),
    "issuers a string": (public(issuers=make.ISS), "key_issuers"),
    "an issuer with a newline": (public(issuers=["a\n"]), "key_issuers"),
    "approver empty": (public(approver=""), "key_approver"),
    "approver null": (public(approver=None), "key_approver"),
    "unknown member": (public(aprover="bob"), "key_invalid"),
    "an RSA key": (public(kty="RSA"), "key_invalid"),
    "an X25519 key": (public(crv="X25519"), "key_invalid"),
    "for encryption": (public(use="enc"), "key_invalid"),
    "alg RS256": (public(alg="RS256"), "key_invalid"),
    "x short": (public(x="AAAA"), "key_invalid"),
    "x padded": (public(x=str(public()["x"]) + "="), "key_invalid"),
    "x a number": (public(x=1), "key_invalid"),
    "no object": ("x", "key_invalid"),
}


@pytest.mark.parametrize(("key", "code"), BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_one_bad_key_refuses_the_whole_folder_and_is_named(folder: Path, key: object, code: str) -> None:
    write(folder / "a.jwks", public("cp-1"))
    bad = write(folder / "b.jwks", public("cp-2"), key)
    found = refused(lambda: load_keyring(folder), code)
    assert found.path == bad
    assert found.key is not None
    assert found.key.startswith("keys[1]")


SMALL = [
    "00" * 32,
    "01" + "00" * 31,
    "01" + "00" * 30 + "80",
    "ec" + "ff" * 30 + "7f",
    "ee" + "ff" * 31,
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
]


@pytest.mark.parametrize("point", SMALL)
def test_a_key_under_which_anybody_can_sign_is_refused(point: str) -> None:
    weak = public(x=base64url.encode(bytes.fromhex(point)))
    assert "small order" in refused(lambda: keyring({"keys": [weak]}), "key_invalid").reason


def test_a_kid_or_a_key_stands_once_over_all_files(folder: Path) -> None:
    write(folder / "a.jwks", public("cp-1"))
    write(folder / "b.jwks", {**public("cp-2"), "kid": "cp-1"})
    assert refused(lambda: load_keyring(folder), "key_kid_twice").path.name == "b.jwks"
    write(folder / "b.jwks", public("cp-1", kid="cp-9"))
    assert refused(lambda: load_keyring(folder), "key_twice").key == "cp-9"


BAD_TEXTS = {
    "not JSON": (b"keys:", "json_syntax"),
    "a list": (b"[]", "json_not_an_object"),
    "duplicate members": (b'{"keys":[],"keys":[]}', "json_duplicate_key"),
    "a bare key": (json.dumps(public()).encode(), "jwks_invalid"),
    "keys an object": (b'{"keys":{}}', "jwks_invalid"),
    "a member more": (b'{"keys":[],"x":1}', "jwks_invalid"),
    "too long": (b" " * (KEY_FILE_MAX + 1), "key_file_size"),
}


@pytest.mark.parametrize(("text", "code"), BAD_TEXTS.values(), ids=BAD_TEXTS.keys())
def test_a_bad_file_is_refused_and_named(folder: Path, text: bytes, code: str) -> None:
    path = folder / "a.jwks"
    path.write_bytes(text)
    assert refused(lambda: load_keyring(folder), code).path == path


def test_a_folder_and_a_set_have_their_bounds(folder: Path) -> None:
    refused(lambda: keyring({"keys": [public()] * (KEYS_MAX + 1)}), "jwks_invalid")
    for number in range(FILES_MAX + 1):
        write(folder / f"{number}.jwks")
    refused(lambda: load_keyring(folder), "trust_too_many_files")


def test_what_others_could_have_written_is_no_key_file(folder: Path) -> None:
    path = write(folder / "a.jwks", public())
    for mode in (0o664, 0o646):
        path.chmod(mode)
        refused(lambda: load_keyring(folder), "key_file_mode")
    assert len(read_jwks(path, guarded=False)) == 1
    path.chmod(0o644)
    folder.chmod(0o777)
    assert refused(lambda: load_keyring(folder), "key_file_mode").path == folder


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_file_is_no_key_file(folder: Path) -> None:
    path = write(folder / "a.jwks", public())
    os.chown(path, 65534, 65534)
    refused(lambda: load_keyring(folder), "key_file_owner")


def test_what_is_no_regular_file_is_refused_without_waiting(folder: Path, tmp_path: Path) -> None:
    path = folder / "a.jwks"
    path.symlink_to(write(tmp_path / "real", public()))
    refused(lambda: load_keyring(folder), "key_file_kind")
    path.unlink()
    os.mkfifo(path, 0o600)
    refused(lambda: load_keyring(folder), "key_file_kind")
    path.unlink()
    path.mkdir()
    refused(lambda: load_keyring(folder), "key_file_kind")


def test_a_generated_pair_signs_and_verifies(tmp_path: Path) -> None:
    secret, shown = generate_key("cp-7", [make.ISS], "carol@example.com")
    assert "d" not in shown
    path = tmp_path / "cp-7.jwk"
    write_private_jwk(path, secret)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_private_jwk(path) == secret
    token = sign_compact({"a": 1}, TYP_RECEIPT, read_private_jwk(path)).encode()
    verified = verify(token, keyring({"keys": [shown]}), typ=TYP_RECEIPT)
    assert (parse_object(verified.payload), verified.signers[0].approver) == ({"a": 1}, "carol@example.com")


def test_a_private_key_is_never_written_over_another_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        write_private_jwk(path, make.private("cp-1"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]
    refused(lambda: write_private_jwk(tmp_path / "gone" / "key", make.private("cp-1")), "key_file_unwritable")


@pytest.mark.parametrize(("kid", "issuers"), [("a/b", ["x"]), ("", ["x"]), ("a", [])])
def test_no_key_is_generated_that_no_ring_would_take(kid: str, issuers: list[str]) -> None:
    with pytest.raises(ValueError, match=r"kid|issuer"):
        generate_key(kid, issuers)


def test_a_host_keeps_its_key_and_its_id(tmp_path: Path) -> None:
    path = tmp_path / "host.jwk"
    first = HostKey.load_or_create(path)
    again = HostKey.load_or_create(path)
    assert first == again
    assert first.host_id == default_host_id(first.thumbprint) == f"urn:tidegate:{first.thumbprint}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["host.jwk"]
    assert str(first.private_jwk["d"]) not in repr(first)


def test_a_hosts_receipt_verifies_by_its_public_key(tmp_path: Path) -> None:
    key = HostKey.load_or_create(tmp_path / "host.jwk")
    token = key.sign(TYP_RECEIPT, {"jti": "grant-1", "late_ms": 3}).encode()
    verified = verify(token, keyring({"keys": [key.public_jwk()]}), typ=TYP_RECEIPT)
    assert verified.signers[0].issuers == (key.host_id,)
    assert parse_object(verified.payload) == {"jti": "grant-1", "late_ms": 3}


def test_a_damaged_or_exposed_host_key_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "host.jwk"
    HostKey.load_or_create(path)
    whole = path.read_bytes()
    path.chmod(0o640)
    refused(lambda: HostKey.load_or_create(path), "key_file_mode")
    path.chmod(0o600)
    for damaged, code in ((b"", "json_syntax"), (whole[:40], "json_syntax"), (b"{}", "key_invalid")):
        path.write_bytes(damaged)
        refused(lambda: HostKey.load_or_create(path), code)
        assert path.read_bytes() == damaged
    for kid in ("a/b", 1, None):
        path.write_bytes(json.dumps({**make.private("cp-1"), "kid": kid}).encode())
        refused(lambda: HostKey.load_or_create(path), "key_kid")
    path.write_bytes(json.dumps({**make.private("cp-1"), "d": make.private("cp-2")["d"]}).encode())
    refused(lambda: HostKey.load_or_create(path), "key_invalid")


def test_two_that_make_the_host_key_at_once_end_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "host.jwk"

    def second(target: Path, private_jwk: Mapping[str, object]) -> None:
        write_private_jwk(target, make.private("cp-1"))  # the other one, just before
        write_private_jwk(target, private_jwk)

    monkeypatch.setattr(hostkey, "write_private_jwk", second)
    assert HostKey.load_or_create(path).thumbprint == jwk.thumbprint(make.secret("cp-1").public_key())
    assert [entry.name for entry in tmp_path.iterdir()] == ["host.jwk"]
