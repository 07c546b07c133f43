"""Bytes → a verified, typed grant: the pre-parser, the keys this host trusts, the signatures, the claims."""

from agent.trust.codes import REFUSALS
from agent.trust.decode import check_issuer, decode
from agent.trust.hostkey import HostKey, default_host_id, generate_key, read_private_jwk, write_private_jwk
from agent.trust.keys import KeyRing, TrustedKey, keyring, load_keyring, read_jwks
from agent.trust.orders import decode_bulletin, decode_event
from agent.trust.sign import sign_compact, sign_general
from agent.trust.store import KeyStore
from agent.trust.strictjson import canonical, parse_object
from agent.trust.token import PAYLOAD_MAX, TYP_BULLETIN, TYP_EVENT, TYP_GRANT, TYP_RECEIPT, claimed_typ, token_max
from agent.trust.verify import verify

__all__ = [
    "PAYLOAD_MAX",
    "REFUSALS",
    "TYP_BULLETIN",
    "TYP_EVENT",
    "TYP_GRANT",
    "TYP_RECEIPT",
    "HostKey",
    "KeyRing",
    "KeyStore",
    "TrustedKey",
    "canonical",
    "check_issuer",
    "claimed_typ",
    "decode",
    "decode_bulletin",
    "decode_event",
    "default_host_id",
    "generate_key",
    "keyring",
    "load_keyring",
    "parse_object",
    "read_jwks",
    "read_private_jwk",
    "sign_compact",
    "sign_general",
    "token_max",
    "verify",
    "write_private_jwk",
]
