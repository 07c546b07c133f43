"""metrics: this host in numbers, for Prometheus."""

import time
from pathlib import Path
from typing import cast

import click

from agent.cli.courier_metrics import courier_families
from agent.cli.daemon_view import ask, quietly
from agent.cli.output import json_option, reporting, show
from agent.errors import HostError, TidegateError
from agent.host.clock import synchronised
from agent.host.files import atomic_write
from agent.model.measures import Family, Number, Sample, exposition

_MODE = 0o644  # node_exporter is nobody here
CATALOGUE = {
    "tidegate_up": ("gauge", "1 when tidegated answered; 0 when it did not, and nothing else of it is known."),
    "tidegate_collected_timestamp_seconds": ("gauge", "When these numbers were collected."),
    "tidegate_clock_synchronised": (
        "gauge",
        "1 while the kernel calls the clock synchronised; absent where it can't be asked.",
    ),
}


@click.command()
@click.option(
    "--textfile", type=click.Path(path_type=Path), help="Write it to this file instead, whole or not at all, for node_exporter."
)
@json_option
@click.pass_obj
@reporting
def metrics(config_file: Path | None, textfile: Path | None, as_json: bool) -> None:
    """This host in numbers, as Prometheus reads them (text format 0.0.4).

    Exits 1 when tidegated does not answer; the text, and the file, then say tidegate_up 0: what stood there before would look
    like news. Whoever may not ask is told so, and nothing is written. /usr/share/doc/tidegate/METRICS.md has every metric, what to
    alert on, and a systemd timer for --textfile.
    """
    if textfile is not None and as_json:
        raise click.UsageError("--textfile is Prometheus's text: leave --json out")
    try:
        told, trouble = _told(config_file), None
    except TidegateError as error:
        if as_json or error.code == "agent_forbidden":  # who may not ask has not learnt that nobody answers
            raise
        told, trouble = [], error
    now_s = int(time.time())
    synced = synchronised()
    found = [
        _own("tidegate_up", int(trouble is None)),
        _own("tidegate_collected_timestamp_seconds", now_s),
        _own("tidegate_clock_synchronised", None if synced is None else int(synced)),
        *told,
        *courier_families(quietly(config_file), now_s),
    ]
    if textfile is not None:
        atomic_write(textfile.absolute(), exposition(found).encode(), _MODE)
    else:
        show({"families": [each.to_json() for each in found if each.samples]}, as_json, lambda: exposition(found).rstrip("\n"))
    if trouble is not None:
        raise trouble


def _told(config_file: Path | None) -> list[Family]:
    answer = cast(dict[str, list[dict[str, object]]], ask(config_file, "metrics"))
    try:
        return [Family.from_json(each) for each in answer["families"]]
    except (KeyError, TypeError, ValueError) as error:
        raise HostError("metrics_unreadable", f"tidegated answered with no numbers ({error})") from error


def _own(name: str, value: Number | None) -> Family:
    kind, said = CATALOGUE[name]
    return Family(name, kind, said, () if value is None else (Sample(value),))
