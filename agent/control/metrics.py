"""Numbers about a running daemon, for Prometheus. Each is counted, or looked up now: nothing is kept ready and nothing polls.

Labels take their values from sets that are closed, or that the admin wrote: states, causes, codes, kinds of events, issuers of
trusted keys. No grant, subject, login or address is one, whatever comes in.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping

from agent import VERSION
from agent.audit import EventKind
from agent.errors import HostError
from agent.expiry.behind import armed
from agent.expiry.live import LiveGrant
from agent.host import processes, recorder, room
from agent.host.clock import NS
from agent.journal import EndCause, GrantState
from agent.model.measures import Family, Number, Sample
from agent.pipeline import Pipeline

_STATES = (*(state.value for state in GrantState if state is not GrantState.ENDED), "draining")
_ISSUERS_MAX = 64
COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

# name → kind, what it says. docs/METRICS.md has each, and is held to this.
CATALOGUE: Mapping[str, tuple[str, str]] = {
    "tidegate_build_info": (GAUGE, "1, with the version of tidegated that answers."),
    "tidegate_start_time_seconds": (GAUGE, "When this tidegated began to count, in seconds since the epoch."),
    "tidegate_problems": (GAUGE, "What is wrong with this host now: lines with ! in tidegate status, the courier's not counted."),
    "tidegate_closing_only": (GAUGE, "1 while nothing is opened before all is ended, since journal or key was damaged."),
    "tidegate_grants": (GAUGE, "Grants that are not ended, by state."),
    "tidegate_grants_overdue": (GAUGE, "Grants past their end that somebody may still get in by, or lives on in."),
    "tidegate_grants_stuck": (GAUGE, "Grants whose end was tried and is not over; tried again by itself."),
    "tidegate_grants_unbacked": (GAUGE, "Open grants with no systemd timer behind them."),
    "tidegate_backstops_armed": (GAUGE, "Grants with a systemd timer behind them."),
    "tidegate_sessions": (GAUGE, "Logins of tenants now."),
    "tidegate_uids_kept_back": (GAUGE, "UIDs of former tenants of whom something is left."),
    "tidegate_grants_accepted_total": (COUNTER, "Grants taken in."),
    "tidegate_grants_opened_total": (COUNTER, "Grants opened."),
    "tidegate_grants_refused_total": (COUNTER, "Files of the inbox refused, by code."),
    "tidegate_grants_ended_total": (COUNTER, "Grants ended, by cause."),
    "tidegate_opening_duration_seconds": (HISTOGRAM, "From a grant's first backstop to its last step."),
    "tidegate_teardown_lateness_seconds": (HISTOGRAM, "From a grant's deadline, or the order to end it, to its last process dead."),
    "tidegate_events_total": (COUNTER, "Audit events told, by kind."),
    "tidegate_audit_written_total": (COUNTER, "Audit events written into the outbox."),
    "tidegate_audit_lost_total": (COUNTER, "Audit events that never reached the disk."),
    "tidegate_audit_dropped_total": (COUNTER, "Audit events deleted before anybody carried them away."),
    "tidegate_journal_bytes": (GAUGE, "Size of the journal, its write-ahead log included."),
    "tidegate_disk_free_bytes": (GAUGE, "Free on the file system that holds what the label names."),
    "tidegate_inbox_files": (GAUGE, "Files in the inbox that are not answered yet."),
    "tidegate_outbox_files": (GAUGE, "Files in the outbox that nobody has carried away, by kind."),
    "tidegate_outbox_bytes": (GAUGE, "The same in bytes."),
    "tidegate_recorder_up": (GAUGE, "1 while the recorder runs; absent on a host that has none."),
    "tidegate_recordings_running": (GAUGE, "Recordings of live grants that are not over."),
    "tidegate_recordings_total": (COUNTER, "Recordings of grants that have ended."),
    "tidegate_recordings_cut_total": (COUNTER, "Those of them that were not sealed to their end."),
    "tidegate_capture_available": (GAUGE, "1 while what tenants do is seen in that source."),
    "tidegate_policy_rules": (GAUGE, "Rules of the policy in force."),
    "tidegate_trusted_keys": (GAUGE, "Keys in force that may sign for this host."),
    "tidegate_bulletin_expiry_timestamp_seconds": (GAUGE, "When the latest bulletin of a trusted issuer expires."),
    "tidegate_clock_shift_seconds": (GAUGE, "How far the wall clock was moved against the boot clock since the start."),
}
Found = Iterable[tuple[str, Iterable[Sample]]]


def families(pipeline: Pipeline, problems: int) -> list[Family]:
    """All of them, as of now; a few milliseconds. One that can't be looked up is left out, and the rest is there.

    ``problems``: how many the daemon tells beside grants that are stuck.
    """
    live = pipeline.ledger.all()
    stuck = sum(1 for each in live if each.error)
    found: dict[str, list[Sample]] = {}
    parts: tuple[Callable[[], Found], ...] = (
        lambda: _daemon(pipeline, problems + stuck),
        lambda: _grants(pipeline, live, stuck),
        lambda: _totals(pipeline),
        lambda: _files(pipeline),
        lambda: _seen(pipeline),
        lambda: _trust(pipeline),
    )
    for part in parts:
        for name, samples in part():
            found.setdefault(name, []).extend(samples)
    return [Family(name, kind, said, tuple(found.get(name, ()))) for name, (kind, said) in CATALOGUE.items()]


def _one(name: str, value: Number | None, **labels: str) -> tuple[str, list[Sample]]:
    return name, [] if value is None else [Sample(value, tuple(labels.items()))]


def _by(name: str, label: str, values: Mapping[str, Number]) -> tuple[str, list[Sample]]:
    return name, [Sample(value, ((label, key),)) for key, value in values.items()]


def _daemon(pipeline: Pipeline, problems: int) -> Found:
    tally, clock = pipeline.trail.tally, pipeline.clock
    shift_ns = (clock.wall_ns() - tally.since_wall_ns) - (clock.boot_ns() - tally.since_boot_ns)
    yield _one("tidegate_build_info", 1, version=VERSION)
    yield _one("tidegate_start_time_seconds", round(tally.since_wall_ns / NS, 3))
    yield _one("tidegate_problems", problems)
    yield _one("tidegate_closing_only", int(bool(pipeline.closing)))
    yield _one("tidegate_clock_shift_seconds", round(shift_ns / NS, 3))


def _grants(pipeline: Pipeline, live: list[LiveGrant], stuck: int) -> Found:
    states = dict.fromkeys(_STATES, 0)
    for each in live:
        states[each.shown_state] = states.get(each.shown_state, 0) + 1
    yield _by("tidegate_grants", "state", states)
    yield _one("tidegate_grants_overdue", len(pipeline.ledger.overdue()))
    yield _one("tidegate_grants_stuck", stuck)
    yield _one("tidegate_grants_unbacked", sum(1 for each in live if each.state is GrantState.OPEN and not armed(each)))
    yield _one("tidegate_backstops_armed", sum(map(armed, live)))
    tenants = {uid: login for each in live for uid, login in each.tenants.items()}
    yield _one("tidegate_sessions", len(pipeline.sessions.of(tenants)) if tenants else 0)
    yield _one("tidegate_uids_kept_back", len(pipeline.tombstones.all()))
    yield _one("tidegate_recordings_running", pipeline.recordings.running())


def _totals(pipeline: Pipeline) -> Found:
    """Those of a closed set are there from the start, at nothing, so that their first is seen as a change."""
    totals = pipeline.trail.tally.totals()
    kinds = {kind.value: totals.kinds.get(kind.value, 0) for kind in EventKind}
    yield _one("tidegate_grants_accepted_total", kinds[EventKind.GRANT_ACCEPTED.value])
    yield _one("tidegate_grants_opened_total", kinds[EventKind.GRANT_OPENED.value])
    yield _by("tidegate_grants_refused_total", "code", totals.refused)
    yield _by("tidegate_grants_ended_total", "cause", {cause.value: totals.ended.get(cause.value, 0) for cause in EndCause})
    yield "tidegate_opening_duration_seconds", totals.opening
    yield "tidegate_teardown_lateness_seconds", totals.lateness
    yield _by("tidegate_events_total", "kind", kinds)
    for name in ("written", "lost", "dropped"):
        yield _one(f"tidegate_audit_{name}_total", totals.numbers.get(name, 0))
    for name in ("recordings", "recordings_cut"):
        yield _one(f"tidegate_{name}_total", totals.numbers.get(name, 0))


def _files(pipeline: Pipeline) -> Found:
    paths = pipeline.config.paths
    db = paths.state_db
    yield _one("tidegate_journal_bytes", room.bytes_of((db, db.with_name(f"{db.name}-wal"))))
    for name, folder in (("journal", db.parent), ("outbox", paths.outbox), ("recordings", paths.sessions)):
        yield _one("tidegate_disk_free_bytes", room.free_bytes(folder), of=name)
    with contextlib.suppress(HostError):  # tidegate_problems has it
        yield _one("tidegate_inbox_files", len(pipeline.inbox.names()))
    backlog = pipeline.outbox.backlog()
    yield _by("tidegate_outbox_files", "kind", {kind: files for kind, (files, _) in backlog.items()})
    yield _by("tidegate_outbox_bytes", "kind", {kind: size for kind, (_, size) in backlog.items()})


def _seen(pipeline: Pipeline) -> Found:
    uid = recorder.look(pipeline.config).uid
    yield _one("tidegate_recorder_up", int(processes.runs_as(uid)) if uid else None)
    for source, part in (("kernel_audit", pipeline.executions), ("journal", pipeline.logged)):
        yield _one("tidegate_capture_available", int(not part.state()["absent"]), source=source)


def _trust(pipeline: Pipeline) -> Found:
    ring = pipeline.ring()
    issuers = sorted({issuer for key in ring for issuer in key.issuers})[:_ISSUERS_MAX]
    yield _one("tidegate_policy_rules", len(pipeline.policies.policy.rules))
    yield _one("tidegate_trusted_keys", len(ring))
    held = {found.iss: found.exp for found in pipeline.ledger.freshness.all()}
    yield _by("tidegate_bulletin_expiry_timestamp_seconds", "issuer", {iss: held[iss] for iss in issuers if iss in held})
