"""Enrolment: a single-use token becomes a client certificate of this host's own. Run once, by root, from `tidegate enroll`.

Two things are pinned, apart from each other. The TLS CA by ``--ca-fingerprint``: the token is sent over a connection that only a
server with a certificate of that very CA can have opened. The keys that may sign grants by ``--signing-key``: whoever runs the
TLS side, or has stolen it, can name keys, and none is trusted that the admin did not name.
"""

import _ssl
import contextlib
import hashlib
import json
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509

from agent import VERSION
from agent.courier import answers, requesting
from agent.courier.places import host_uri
from agent.courier.settings import Address, Nats, Proxy, address, offered_nats
from agent.courier.wire import Answer, Channel, Connection, client_context, told
from agent.errors import CourierError, RefusedError
from agent.trust import HostKey

TYP = "enrolment+jwt"
TOKEN_MAX = 4096
ANSWER_MAX = 256 * 1024
_CHAIN_MAX = 16
_HANDSHAKE_S = 30.0
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What came back, checked as far as TLS goes. ``nats``: the servers to use, None where none are offered.

    ``signing_keys`` and ``ssh_user_ca`` are only named: nobody trusts them yet.
    """

    request: requesting.Request
    certificate: str
    ca: str
    expires: int
    url: Address
    signing_keys: object
    ssh_user_ca: str
    nats: Nats | None = None


def enrol(to: Address, proxy: Proxy | None, token: str, pinned: str, host_key: HostKey, host_id: str) -> Enrolled:
    """Ask for a certificate. Nothing is written here.

    Args:
        pinned: SHA-256 of the CA certificate's DER, 64 hex digits in lower case.

    Raises:
        CourierError: the network; ``ca_not_presented``, ``courier_server_untrusted`` (nothing was sent), ``courier_certificate``.
        RefusedError: the control plane's: ``token_unknown``, ``token_used``, ``token_expired``, ``csr_invalid``,
            ``proof_invalid``, ``host_known``, ``enrolment_refused``.
    """
    context = client_context()
    context.load_verify_locations(cadata=_pinned_ca(to, proxy, pinned))
    request = requesting.new_request(host_uri(host_id))
    claims = {
        "iss": host_id,
        "aud": to.url,
        "iat": int(time.time()),
        "csr_sha256": hashlib.sha256(request.csr.encode()).hexdigest(),
        "token_sha256": hashlib.sha256(token.encode()).hexdigest(),
    }
    body = {
        "token": token,
        "host_id": host_id,
        "host_key": host_key.public_jwk(host_id),
        "csr": request.csr,
        "hostname": os.uname().nodename,
        "version": VERSION,
        "proof": host_key.sign(TYP, claims),
    }
    channel = Channel(to, context, proxy)
    try:
        answer = channel.ask("POST", "/v1/enroll", body=json.dumps(body).encode(), kind=_JSON, most=ANSWER_MAX)
    finally:
        channel.drop()
    if 400 <= answer.status < 500:
        raise _refusal(answer)
    return _checked(answers.checked(answer), request, host_uri(host_id), pinned, to)


def _checked(found: Mapping[str, object], request: requesting.Request, uri: str, pinned: str, to: Address) -> Enrolled:
    new = answers.renewed(found)
    ends = requesting.checked(request, uri, new.certificate, new.ca, int(time.time()))
    if pinned not in {requesting.fingerprint_of(certificate) for certificate in requesting.certificates(new.ca, "CA")}:
        raise CourierError("courier_certificate", "the CA that came is not the one that was pinned")
    url = found.get("url")
    ssh = found.get("ssh_user_ca")
    try:
        where = to if url is None else address(url, "url")
    except RefusedError as error:
        raise CourierError("courier_protocol", f"the answer's url: {error.reason}") from error
    try:
        nats = None if found.get("nats") is None else offered_nats(found["nats"])
    except RefusedError as error:
        raise CourierError("courier_protocol", f"the answer's {error.field}: {error.reason}") from error
    line = ssh if isinstance(ssh, str) and len(ssh) <= 16 * 1024 else ""
    return Enrolled(request, new.certificate, new.ca, ends, where, found.get("signing_keys"), line, nats)


def _pinned_ca(to: Address, proxy: Proxy | None, pinned: str) -> bytes:
    """The certificate with that fingerprint, from what the server presents. Only its bytes are taken: a second connection, which
    trusts nothing else, shows whether the server is one of its. Nothing but a handshake is sent over this one."""
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    connection = Connection(to, unverified, proxy)
    connection.budget.renew(_HANDSHAKE_S, 64 * 1024)
    try:
        with told(to):
            connection.connect()
        chain = presented(connection.secured)
    finally:
        connection.close()
    for der in chain[:_CHAIN_MAX]:
        if requesting.fingerprint(der) == pinned:
            with contextlib.suppress(ValueError):
                if requesting.is_ca(x509.load_der_x509_certificate(der)):
                    return der
            raise CourierError("ca_not_presented", "the certificate with that fingerprint is no CA's: pin the CA")
    shown = ", ".join(requesting.fingerprint(der) for der in chain[1:_CHAIN_MAX]) or "none"
    raise CourierError("ca_not_presented", f"{to.host} presents no CA with that fingerprint; nothing was sent. Its CAs: {shown}")


def presented(sock: ssl.SSLSocket | None) -> list[bytes]:
    """The chain as the server sent it, DER, its own certificate first. Python shows it from 3.13 on; before, only inside."""
    public = getattr(sock, "get_unverified_chain", None)
    if public is not None:
        return list(public() or [])
    inner = getattr(sock, "_sslobj", None)
    found = inner.get_unverified_chain() if inner is not None else None
    return [certificate.public_bytes(_ssl.ENCODING_DER) for certificate in found or []]


def _refusal(answer: Answer) -> RefusedError:
    known = (
        RefusedError("token_unknown", "the control plane knows no such token"),
        RefusedError("token_used", "the token was used before"),
        RefusedError("token_expired", "the token has expired"),
        RefusedError("csr_invalid", "the control plane does not take this certificate request"),
        RefusedError("proof_invalid", "the control plane does not take the proof by the host's key; compare clocks and URL"),
        RefusedError("host_known", "the control plane has this host already"),
    )
    code = answers.problem_code(answer)
    said = answers.said(answer)
    for error in known:
        if error.code == code:
            return RefusedError(error.code, f"{error.reason} ({said})")
    return RefusedError("enrolment_refused", f"the control plane refuses: {said}")
