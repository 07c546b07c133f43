"""What the daemon answers on its control socket: one small method for each question."""

import base64
import json
import logging
from collections.abc import Callable, Mapping

from agent import VERSION, draining
from agent.audit import EventKind
from agent.control import metrics, views
from agent.control.server import Handler, Peer
from agent.errors import HostError, InvalidGrantError
from agent.expiry import story
from agent.expiry.live import LiveGrant
from agent.host.clock import NS
from agent.journal import EndCause, GrantRecord
from agent.model.measures import CONTENT_TYPE, exposition
from agent.model.text import counted, one_line
from agent.pipeline import Pipeline
from agent.sessions.who import Session

log = logging.getLogger("tidegate")
_ENDED_SHOWN = 50
_DRAIN_MAX_S = 86400
_NAMED_MAX = 128  # characters of what was asked for, as an error says it again


class Handlers:
    """The questions, and two orders (revoke, kill_session); every caller is root or in the admin group, by the socket's mode."""

    def __init__(self, pipeline: Pipeline, problems: Callable[[], list[str]]) -> None:
        self._pipeline = pipeline
        self._problems = problems

    def table(self) -> Mapping[str, Handler]:
        """op → handler."""
        return {
            "status": self._status,
            "tombstones": self._tombstones,
            "grants": self._grants,
            "grant": self._grant,
            "revoke": self._revoke,
            "sessions": self._sessions,
            "kill_session": self._kill_session,
            "receipts": self._receipts,
            "receipt": self._receipt,
            "host_key": self._host_key,
            "plan": self._plan,
            "overdue": self._overdue,
            "metrics": self._metrics,
        }

    def _status(self, _peer: Peer, _request: Mapping[str, object]) -> object:
        pipeline = self._pipeline
        live = pipeline.ledger.all()
        stuck = [
            f"grant {found.record.jti} is not over after {counted(found.attempts, 'attempt')}: {found.error}; {story.mend(found)}"
            for found in live
            if found.error
        ]
        return {
            "host_id": pipeline.host_id,
            "version": VERSION,
            "policy": f"{counted(len(pipeline.policies.policy.rules), 'rule')} from {pipeline.policies.folder}",
            "problems": [*self._problems(), *stuck],
            "grants": [views.grant(found.record, found, pipeline.clock) for found in live],
            "bulletins": [
                views.bulletin(held, held.exp * NS <= pipeline.clock.wall_ns()) for held in pipeline.ledger.freshness.all()
            ],
            "refusals": [views.refusal(found) for found in pipeline.journal.refusals()],
            "searching": views.searching(pipeline.writer.remains.progress()),
            "executions": pipeline.executions.state(),
            "logged": pipeline.logged.state(),
            "uids_kept_back": len(pipeline.tombstones.all()),
        }

    def _tombstones(self, _peer: Peer, request: Mapping[str, object]) -> object:
        """The UIDs that are kept back; with ``look`` looked at again first, at most once a minute."""
        graves = self._pipeline.tombstones
        return {
            "tombstones": [views.tombstone(found) for found in (graves.asked() if request.get("look") is True else graves.all())]
        }

    def _grants(self, _peer: Peer, request: Mapping[str, object]) -> object:
        found = [views.grant(live.record, live, self._pipeline.clock) for live in self._pipeline.ledger.all()]
        if request.get("ended") is True:
            ended = [record for record in self._pipeline.journal.recent(_ENDED_SHOWN) if record.state == "ended"]
            found += [views.grant(record, None, self._pipeline.clock) for record in ended]
        return {"grants": found}

    def _grant(self, _peer: Peer, request: Mapping[str, object]) -> object:
        return {
            "grants": [
                views.grant(record, self._pipeline.ledger.get(record.id), self._pipeline.clock)
                | {"steps": [views.step(step) for step in self._pipeline.journal.steps(record.id)]}
                for record in self._records(request)
            ]
        }

    def _revoke(self, peer: Peer, request: Mapping[str, object]) -> object:
        text = f"by uid {peer.uid} on this host" + (f": {_reason(request)}" if request.get("reason") else "")
        pipeline, means, drain_s = self._pipeline, _revocation(request), _seconds(request) if request.get("drain_s") else 0
        with pipeline.ledger.coming_in:
            chosen = list(pipeline.ledger.where(means))
            drained = draining.begin(pipeline, chosen, drain_s, text) if drain_s else []
            begun = {live.id for live in drained}
            at_once = [live for live in chosen if live.id not in begun]
            claimed = pipeline.ledger.begin_shutting(at_once, EndCause.REVOKED, text)
        if not chosen and not request.get("all"):
            reason = f"no live grant {_named(request)}: nothing to revoke; `tidegate status` shows the ids and subjects there are"
            raise HostError("grant_unknown", reason)
        # Also where somebody was first, whose words the receipt and the event have: an order is never given unseen.
        log.warning("uid %d (pid %d) orders the end of %d grant(s): %s", peer.uid, peer.pid, len(chosen), text)
        try:
            draining.drain(pipeline, drained, text)
        finally:
            shuts = pipeline.shut(at_once, EndCause.REVOKED, text, claimed=claimed)
        shut_ids = {shut.live.id for shut in shuts}
        waiting = [live for live in at_once if live.id not in shut_ids]
        return {
            "revoked": [
                {
                    "jti": shut.live.record.jti,
                    "subject": shut.live.record.sub,
                    "ended": shut.ended_ns is not None and not shut.live.error,  # an end that is not on disk is tried again
                    "doors_ms": _ms(shut.live.doors_ns, shut.began_ns),
                    "last_process_ms": _ms(shut.live.last_process_ns, shut.began_ns),
                    "error": shut.live.error,
                }
                for shut in shuts
            ]
            + [_under_way(live) for live in waiting],
            "draining": [views.draining(live) for live in drained],
        }

    def _sessions(self, _peer: Peer, _request: Mapping[str, object]) -> object:
        return {"sessions": [self._view(found, live) for found, live in self._who()]}

    def _kill_session(self, peer: Peer, request: Mapping[str, object]) -> object:
        """One session ends, its grant goes on."""
        ident = str(request.get("id"))
        chosen = [(found, live) for found, live in self._who() if found.id == ident]
        if not chosen:
            reason = f"no live session {ident[:_NAMED_MAX]!r}; `tidegate sessions list` shows those there are"
            raise HostError("session_unknown", reason)
        (found, live), pipeline = chosen[0], self._pipeline
        left = pipeline.sessions.end(found)
        detail: dict[str, object] = {"session": found.id, "killed": len(found.pids) - len(left), "by_uid": peer.uid}
        pipeline.trail.emit([story.event(live, EventKind.SESSION_SEVERED, pipeline.clock.wall_ns(), ok=not left, **detail)])
        return {**self._view(found, live), "ended": not left, "left": left}

    def _view(self, found: Session, live: LiveGrant) -> dict[str, object]:
        return views.session(found, live, self._pipeline.recordings.of(found.pids))

    def _who(self) -> list[tuple[Session, LiveGrant]]:
        """Every session of a live grant's own accounts."""
        by_uid = self._pipeline.ledger.by_uid()
        tenants = {uid: live.tenants[uid] for uid, live in by_uid.items()}
        return [(found, by_uid[found.uid]) for found in self._pipeline.sessions.of(tenants)] if tenants else []

    def _receipts(self, _peer: Peer, _request: Mapping[str, object]) -> object:
        return {"receipts": [_receipt(ident, jws) for ident, jws in self._pipeline.journal.receipts()]}

    def _receipt(self, _peer: Peer, request: Mapping[str, object]) -> object:
        found = [
            _receipt(ident, jws)
            for record in self._records(request)
            for ident, jws in self._pipeline.journal.receipts_of(record.id)
        ]
        if not found:
            raise HostError("receipt_unknown", "that grant has no receipt yet; it is live")
        return {"receipts": found}

    def _host_key(self, _peer: Peer, _request: Mapping[str, object]) -> object:
        return {"keys": [self._pipeline.host_key.public_jwk(self._pipeline.host_id)]}

    def _plan(self, _peer: Peer, request: Mapping[str, object]) -> object:
        token = request.get("token")
        if not isinstance(token, str):
            raise InvalidGrantError("request_malformed", "must be a string", field="token")
        return views.plan(self._pipeline.admit(token.encode("ascii", "replace")))

    def _overdue(self, _peer: Peer, _request: Mapping[str, object]) -> object:
        """For the backstop: grants past their deadline that somebody may still get in by, or lives on in."""
        return {"grants": [live.record.digest for live in self._pipeline.ledger.overdue()]}

    def _metrics(self, _peer: Peer, request: Mapping[str, object]) -> object:
        """Numbers about this daemon; with ``format`` ``text`` as Prometheus reads them."""
        found = metrics.families(self._pipeline, len(self._problems()))
        if request.get("format") == "text":
            return {"content_type": CONTENT_TYPE, "text": exposition(found)}
        return {"families": [family.to_json() for family in found]}

    def _records(self, request: Mapping[str, object]) -> list[GrantRecord]:
        jti = str(request.get("jti"))
        found = self._pipeline.journal.by_jti(jti)
        if not found:
            raise HostError(
                "grant_unknown", f"this host has no grant {jti[:_NAMED_MAX]!r}; `tidegate grants list --ended` shows those it has"
            )
        return found


def _revocation(request: Mapping[str, object]) -> Callable[[GrantRecord], bool]:
    """Exactly one of jti, subject, all. Nothing named is never 'everything'."""
    named = {key: value for key in ("jti", "subject", "all") if (value := request.get(key))}
    match named:
        case {"all": True, **others} if not others:
            return lambda _: True
        case {"jti": str(jti), **others} if not others:
            return lambda record: record.jti == jti
        case {"subject": str(subject), **others} if not others:
            return lambda record: record.sub == subject
    raise InvalidGrantError("request_malformed", "exactly one of jti, subject and all")


def _named(request: Mapping[str, object]) -> str:
    jti, subject = request.get("jti"), request.get("subject")
    return f"of the subject {str(subject)[:_NAMED_MAX]!r}" if subject else f"has the id {str(jti)[:_NAMED_MAX]!r}"


def _reason(request: Mapping[str, object]) -> str:
    """Goes into the journal, the receipt and the events: text, of one line."""
    reason = request.get("reason")
    if not isinstance(reason, str):
        raise InvalidGrantError("request_malformed", "must be a string", field="reason")
    return one_line(reason)


def _seconds(request: Mapping[str, object]) -> int:
    found = request.get("drain_s")
    if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= _DRAIN_MAX_S:
        raise InvalidGrantError("request_malformed", f"must be 1 to {_DRAIN_MAX_S} seconds", field="drain_s")
    return found


def _under_way(live: LiveGrant) -> dict[str, object]:
    """Already being shut, or asked to undo its own opening."""
    names = {"jti": live.record.jti, "subject": live.record.sub}
    return {**names, "ended": False, "doors_ms": None, "last_process_ms": None, "error": "its end is under way"}


def _receipt(ident: str, jws: str) -> dict[str, object]:
    payload = jws.split(".")[1]  # our own token from our own journal; `tidegate receipts verify` checks its signature
    return {"id": ident, "claims": json.loads(base64.urlsafe_b64decode(payload + "==")), "jws": jws}


def _ms(at_ns: int | None, from_ns: int) -> float | None:
    return None if at_ns is None else round((at_ns - from_ns) * 1000 / NS, 1)
