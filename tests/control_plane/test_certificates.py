"""SSH certificates: as OpenSSH itself reads them, with no more than the grant gives, and no longer."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import SSHCertificate, load_ssh_public_identity

from examples.control_plane.api.problems import Problem
from examples.control_plane.signing import ssh
from tests.control_plane.host import TestHost
from tests.control_plane.running import ControlPlane
from tests.control_plane.test_requests import over, public_line

SSH_KEYGEN = shutil.which("ssh-keygen")


@pytest.mark.skipif(SSH_KEYGEN is None, reason="ssh-keygen is not installed")
def test_openssh_reads_in_it_what_the_grant_gives(control_plane: ControlPlane, web1: TestHost, tmp_path: Path) -> None:
    assert SSH_KEYGEN is not None
    subprocess.run([SSH_KEYGEN, "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True, timeout=30)
    line = (tmp_path / "key.pub").read_text().strip()
    request = control_plane.ask("alice", ["web1"], template="from-office", source_address=["10.1.2.0/24"])
    path = f"/v1/requests/{request['id']}/certificate"
    early = control_plane.call("POST", path, {"public_key": line}, who="alice")
    assert (early.status, early.code) == (409, "not_open")
    opened = control_plane.approve("bob", request)
    assert control_plane.call("POST", path, {"public_key": line}, who="bob").code == "not_yours"
    found = control_plane.ok("POST", path, {"public_key": line}, who="alice")
    assert (found["principals"], found["valid_before"]) == (["alice"], opened["grants"][0]["exp"])
    assert found["logins"] == [{"host_name": "web1", "address": "web1", "login": opened["login"], "state": "sent"}]
    (tmp_path / "key-cert.pub").write_text(found["certificate"] + "\n")
    command = [SSH_KEYGEN, "-L", "-f", str(tmp_path / "key-cert.pub")]
    shown = subprocess.run(
        command, check=True, timeout=30, capture_output=True, text=True, env={"TZ": "UTC", "PATH": "/usr/bin"}
    ).stdout
    words = " ".join(shown.split())
    assert "user certificate" in words
    assert ssh.fingerprint(web1.ssh_ca) in words
    assert "Principals: alice Critical Options: source-address 10.1.2.0/24" in words
    assert "Extensions: permit-port-forwarding permit-pty" in words
    assert f"to {opened['grants'][0]['exp'].rstrip('Z')}" in words
    control_plane.ok("POST", f"/v1/requests/{request['id']}/revoke", {"reason": "done"}, who="alice")
    assert control_plane.call("POST", path, {"public_key": line}, who="alice").code == "not_open"
    over_receipt = web1.send(web1.receipt(f"{request['id']}.1", "revoked"))
    assert over_receipt["refused"] == []


def test_what_is_no_public_key_is_refused(control_plane: ControlPlane, web1: TestHost) -> None:
    request = control_plane.approve("bob", control_plane.ask("alice", ["web1"]))
    path = f"/v1/requests/{request['id']}/certificate"
    good = public_line()
    for line in ("ssh-ed25519 AAAA", f"command=x {good}", "ssh-dss " + good.split()[1], good.replace(" ", "  "), "x" * 8000):
        answer = control_plane.call("POST", path, {"public_key": line}, who="alice")
        assert (answer.status, answer.code) == (422, "public_key_invalid"), line
    certificate = control_plane.ok("POST", path, {"public_key": good}, who="alice")["certificate"]
    answer = control_plane.call("POST", path, {"public_key": certificate}, who="alice")
    assert answer.code == "public_key_invalid"  # a certificate is no key
    over(control_plane, request, web1)


@pytest.mark.parametrize(("actions", "extensions"), [(("exec",), {}), (("login", "sftp"), {b"permit-pty": b""})])
def test_extensions_are_only_those_of_the_actions(actions: tuple[str, ...], extensions: dict[bytes, bytes]) -> None:
    now = int(time.time())
    wanted = ssh.Wanted(("alice",), "r:alice", 7, now, now + 60, actions, ())
    authority = Ed25519PrivateKey.generate()
    found = load_ssh_public_identity(ssh.certify(authority, ssh.public_key(public_line()), wanted).encode())
    assert isinstance(found, SSHCertificate)
    assert (found.extensions, found.critical_options, found.serial) == (extensions, {}, 7)
    found.verify_cert_signature()


def test_a_subject_that_is_no_principal_gets_one_of_its_own() -> None:
    odd = ["auth0|1", "auth0|2", "sub-x", "älice"]
    assert len({ssh.principal_of(subject) for subject in odd}) == len(odd)
    assert ssh.principal_of("alice@example.com") == "alice@example.com"
    with pytest.raises(Problem):
        ssh.public_key("sk-nothing AAAA")
