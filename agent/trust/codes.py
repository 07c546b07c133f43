"""Every code that this package and :mod:`agent.model.fields` refuse with → one line of what to do about it.

A test reads both from their source and keeps this table complete, and free of codes that nothing raises.
"""

from collections.abc import Mapping
from types import MappingProxyType

_TOKEN = {
    "token_too_long": "Split the grant: a token holds at most 32 KiB of claims.",
    "token_not_ascii": "Deliver the token as it was signed: ASCII only, no byte order mark.",
    "token_shape": "Deliver a compact JWS or General JSON (RFC 7515), with nothing around it but one last newline.",
    "base64url_invalid": "Encode with base64url without padding; a changed or cut token looks like this too.",
    "payload_too_long": "Split the grant: its claims have at most 32 KiB.",
    "signature_count": "Give 1 to 8 signatures.",
    "signature_length": "Sign with Ed25519: a signature has 64 bytes.",
    "header_too_long": "Leave only alg, typ and kid in the header.",
    "header_member": "Leave only alg, typ and kid in the header; no crit, b64, jwk, jku or x5c.",
    "header_alg": "Sign with alg EdDSA or Ed25519.",
    "header_typ": "Set the header's typ to this kind of token, the same in each signature.",
    "header_kid": "Name the key by a kid of letters, digits, dot, underscore, hyphen.",
    "unknown_key": "Put the signer's public key in trust.d on this host, or sign with a key that is there.",
    "signature_invalid": "Sign again; the token was changed on its way, or signed by another key of that name.",
    "signer_twice": "Have each signature made by another key.",
    "key_not_for_issuer": "Sign with a key whose issuers, in trust.d, hold this iss; other signers need an approver name there.",
}

_JSON = {
    "json_encoding": "Write UTF-8 without a byte order mark.",
    "json_too_deep": "Flatten it; nothing here is nested that deep.",
    "json_duplicate_key": "Name each member once.",
    "json_integer_too_long": "Write times in whole seconds.",
    "json_float": "Write whole numbers, without point or exponent.",
    "json_not_finite": "NaN and Infinity are no JSON; write whole numbers.",
    "json_syntax": "Write JSON as RFC 8259 has it.",
    "json_not_an_object": "Put one JSON object at the top.",
    "json_lone_surrogate": "Write each character outside the basic plane as a whole surrogate pair, or as UTF-8.",
    "json_not_plain": "Sign only objects, lists, strings, integers, true, false and null.",
}

_CLAIMS = {
    "token_kind": "Give a grant here; events and bulletins have their own way.",
    "wrong_host": "Set aud to this host's id, as `tidegate status` shows it.",
    "times_out_of_order": "Let exp come after nbf.",
    "lifetime_too_long": "Let exp come at most 90 days after nbf.",
    "expired": "Sign a new grant; if it should still run, compare the clocks.",
    "issued_in_future": "Set the signer's clock or this host's by NTP.",
    "issued_too_long_ago": "Sign a new grant: this one was made too long ago.",
    "self_approval": "Have somebody other than the subject approve.",
    "event_unknown": "Put exactly one event into events: CAEP's session-revoked.",
    "sub_id_format": "Name the subject by jwt_id, iss_sub or email (RFC 9493).",
    "supersedes_itself": "Name another grant's jti in supersedes, or leave it out.",
    "unknown_type": "Use account, ssh, sudo, group or role: this host enforces no other type.",
    "second_entry": "Put it all in one account and one ssh entry for each login.",
}

_FIELDS = {
    "not_an_object": "Give an object.",
    "not_a_list": "Give a list.",
    "not_a_string": "Give a string.",
    "not_an_integer": "Give a whole number, without quotes.",
    "not_a_boolean": "Give true or false, without quotes.",
    "unknown_member": "Take the member out, or mend its spelling; unknown ones refuse the whole.",
    "missing_member": "Add the member.",
    "unknown_value": "Use one of the listed words.",
    "out_of_range": "Give a number in the stated range.",
    "list_length": "Give a list of the stated length.",
    "duplicate_entry": "Name each entry once.",
    "text_length": "Give 1 to 500 characters.",
    "text_unprintable": "Take out control and bidirectional characters and line breaks.",
    "full_name_invalid": "Take ':' and ',' out of the full name.",
    "login_invalid": "Use a login of lower-case letters, digits and hyphens, a letter first, at most 31.",
    "group_invalid": "Use a group name of lower-case letters, digits, underscores and hyphens, at most 32.",
    "jti_invalid": "Use a jti of letters, digits, dot, underscore, hyphen, at most 128.",
    "principal_invalid": "Use a principal of letters, digits and . _ @ + -, at most 128.",
    "role_invalid": "Use a role name of lower-case letters, digits and hyphens, a letter first.",
    "path_invalid": "Use a normalised absolute path: no '..', no doubled or last slash, no blanks.",
    "source_address_invalid": "Use an address or a CIDR without host bits, such as 10.1.0.0/16.",
}

_KEYS = {
    "trust_folder": "Make the folder, owned by root; the keys in force stay until it can be read.",
    "trust_too_many_files": "Put several keys into one JWK Set.",
    "jwks_invalid": 'Write a JWK Set: {"keys": [...]} (RFC 7517).',
    "key_invalid": "Write an Ed25519 key as RFC 8037 has it, with kid and issuers; `tidegate keygen` shows one.",
    "key_private": "Take the private key away from this host, make a new pair, and put only the public half here.",
    "key_kid": "Give the key a kid of letters, digits, dot, underscore, hyphen.",
    "key_issuers": "List in issuers each iss that the key may speak for.",
    "key_approver": "Name in approver the person who holds the key, or leave it out.",
    "key_kid_twice": "Give each key, over all files, its own kid.",
    "key_twice": "Take one of the two out: one key under two names would count as two signers.",
    "key_file_missing": "Put the file there, or mend its name.",
    "key_file_unreadable": "Let root read the file, and let it be no symlink.",
    "key_file_kind": "Put a regular file there, no link, fifo or folder.",
    "key_file_owner": "chown it to root.",
    "key_file_mode": "chmod go-w a public key, chmod 600 a private one.",
    "key_file_size": "Keep key files under 256 KiB.",
    "key_file_unwritable": "Make the folder, and let there be room on the disk.",
}

REFUSALS: Mapping[str, str] = MappingProxyType({**_TOKEN, **_JSON, **_CLAIMS, **_FIELDS, **_KEYS})
