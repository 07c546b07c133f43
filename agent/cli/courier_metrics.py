"""Numbers about the courier, by its own word. Read here, by the command: root's daemon parses nothing of the courier's."""

from collections.abc import Iterator, Mapping
from datetime import datetime

from agent.cli.courier_view import courier_status
from agent.config import Config
from agent.model.measures import Family, Number, Sample

# Only these are labels: the file is the courier's, and a name that it makes up would be a new series each time.
_BACKLOG = ("files", "event_bytes", "recordings")
_LOST = (
    *("events", "events_torn", "events_unreadable", "events_too_long", "records_refused"),
    *("files_left", "recordings", "tokens_too_long"),
)
CATALOGUE: Mapping[str, tuple[str, str]] = {
    "tidegate_courier_up": ("gauge", "1 while the courier runs; absent on a host without one."),
    "tidegate_courier_connected": ("gauge", "1 while it is connected to the control plane."),
    "tidegate_courier_last_contact_timestamp_seconds": ("gauge", "When it was last connected; now, while it is."),
    "tidegate_courier_certificate_expiry_timestamp_seconds": ("gauge", "When its client certificate ends."),
    "tidegate_courier_backlog": ("gauge", "What waits to be carried: files, event_bytes, recordings."),
    "tidegate_courier_lost_total": ("counter", "What will never reach the control plane, since enrolment, by what it is."),
}


def courier_families(config: Config, now_s: int) -> list[Family]:
    """None of them where there is no courier. ``now_s``: seconds since the epoch."""
    said = courier_status(config)
    found = dict(_samples(said, now_s)) if said is not None else {}
    return [Family(name, kind, text, found.get(name, ())) for name, (kind, text) in CATALOGUE.items()]


def _samples(said: Mapping[str, object], now_s: int) -> Iterator[tuple[str, tuple[Sample, ...]]]:
    yield "tidegate_courier_up", (Sample(int(said["running"] is True)),)
    connected = said.get("connected") is True
    yield "tidegate_courier_connected", (Sample(int(connected)),)
    contact = now_s if connected else _seconds(said.get("last_contact"))
    yield "tidegate_courier_last_contact_timestamp_seconds", _one(contact)
    yield "tidegate_courier_certificate_expiry_timestamp_seconds", _one(_seconds(said.get("certificate_ends")))
    yield "tidegate_courier_backlog", _by(said.get("backlog"), _BACKLOG)
    yield "tidegate_courier_lost_total", _by(said.get("losses"), _LOST)


def _one(value: Number | None) -> tuple[Sample, ...]:
    return () if value is None else (Sample(value),)


def _by(found: object, names: tuple[str, ...]) -> tuple[Sample, ...]:
    """What it has not told of is nothing."""
    if not isinstance(found, dict):
        return ()
    return tuple(Sample(found.get(name, 0), (("of", name),)) for name in names)


def _seconds(text: object) -> int | None:
    try:
        return int(datetime.fromisoformat(str(text)).timestamp()) if text else None
    except (ValueError, OverflowError, OSError):
        return None
