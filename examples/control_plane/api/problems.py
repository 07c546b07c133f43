"""Errors as people's and hosts' programs get them: application/problem+json (RFC 9457) with a stable code."""

import json
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

from agent.model.text import one_line

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_log = logging.getLogger("tidegate.control_plane")

# code → HTTP status. Whoever raises a Problem has its code here.
CODES: dict[str, int] = {
    "request_malformed": 400,  # the HTTP request itself
    "body_invalid": 422,  # not as openapi.yaml has it; `field` names the member
    "parameter_invalid": 422,
    "body_too_large": 413,
    "body_too_slow": 408,
    "media_type": 415,
    "session_missing": 401,
    "session_invalid": 401,
    "role_missing": 403,
    "rate_limited": 429,
    "busy": 503,
    "not_found": 404,
    "method_not_allowed": 405,
    "internal": 500,
    # what is asked for
    "not_offered": 403,
    "template_unknown": 422,
    "host_unknown": 422,
    "duration_too_long": 422,
    "ticket_required": 422,
    "ticket_refused": 403,
    "ticket_unchecked": 503,
    "break_glass_not_allowed": 403,
    "already_open": 409,
    "too_many_waiting": 409,
    "grant_invalid": 422,  # what would be signed is no valid grant; `field` and detail say why
    "not_extendable": 409,
    "person_gone": 409,
    # deciding
    "own_request": 403,
    "not_an_approver": 403,
    "not_waiting": 409,
    "not_open": 409,
    "digest_mismatch": 409,
    "already_decided": 409,
    "policy_changed": 409,
    "not_yours": 403,
    "not_to_review": 409,
    # certificates
    "certificates_off": 409,
    "by_key": 409,
    "public_key_invalid": 422,
    # hosts
    "client_certificate": 401,
    "token_unknown": 401,
    "token_used": 401,
    "token_expired": 401,
    "csr_invalid": 422,
    "proof_invalid": 422,
    "host_known": 409,
    "name_taken": 409,
    "offset_mismatch": 409,
    "quota_exceeded": 429,
    "recording_unreadable": 409,
    # ---- people ----
    "login_refused": 401,
    "login_rate_limited": 429,
    "login_method_off": 404,
    "no_role": 403,
    "person_ended": 403,
    "person_known": 409,
    "person_unknown": 404,
    "name_invalid": 422,
    "password_length": 422,
    "roles_by_claims": 409,
    "last_admin": 409,
    "id_token_malformed": 401,
    "id_token_algorithm": 401,
    "id_token_type": 401,
    "id_token_key_unknown": 401,
    "id_token_signature": 401,
    "id_token_issuer": 401,
    "id_token_audience": 401,
    "id_token_expired": 401,
    "id_token_early": 401,
    "id_token_old": 401,
    "id_token_nonce": 401,
    "id_token_claims": 401,
    "id_token_replayed": 401,
    "provider_unreachable": 503,
    "provider_failed": 502,
}


class Problem(Exception):  # noqa: N818  # RFC 9457's own word
    """What was asked is not done, and nothing was changed. ``detail`` is one line for a person, ``field`` a member's path."""

    def __init__(self, code: str, detail: str, *, field: str = "", extra: dict[str, object] | None = None) -> None:
        super().__init__(detail)
        self.code, self.detail, self.field, self.extra = code, detail, field, extra or {}
        self.status = CODES[code]

    def __str__(self) -> str:
        """Human form."""
        return f"{self.detail} [{self.code}]"

    def response(self) -> web.Response:
        """As it is sent."""
        body: dict[str, object] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            **({"field": self.field} if self.field else {}),
            **self.extra,
        }
        headers = {"Retry-After": "5"} if self.status in (429, 503) else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        text = json.dumps(body, ensure_ascii=True)
        return web.Response(status=self.status, text=text, content_type="application/problem+json", headers=headers)


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal as problem+json; what nobody expected as `internal`, with a line in the log."""
    try:
        return await handler(request)
    except Problem as problem:
        return problem.response()
    except web.HTTPException as raised:
        if raised.status < 400:
            raise
        codes = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
        answer = Problem(codes.get(raised.status, "request_malformed"), raised.reason).response()
        if "Allow" in raised.headers:
            answer.headers["Allow"] = raised.headers["Allow"]
        return answer
    except (ConnectionError, TimeoutError):
        raise
    except Exception:
        _log.exception("%s %s failed", request.method, one_line(request.path))
        return Problem("internal", "something is wrong here; the log says what").response()
