"""Metrics and journal fields on a whole host: what is told is what stands, and neither a dead daemon nor a forger is believed."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.audit import EventKind
from agent.audit.journald import MESSAGE_IDS
from tests.host.bad_grants import public_key
from tests.host.scene import SUBJECT, Scene, account, set_up, ssh
from tests.hosts.machine import Host

pytestmark = pytest.mark.host(beside=True)

PAGE = Path(__file__).resolve().parents[2] / "docs/METRICS.md"
FILE = "/var/lib/prometheus/node-exporter/tidegate.prom"


@pytest.fixture(scope="module")
def scene(shared_tidegate_host: Host) -> Scene:
    host = shared_tidegate_host
    host.run("useradd --create-home nosy; useradd --create-home --groups tidegate helper")
    host.run(["mkdir", "-p", str(Path(FILE).parent)])
    return set_up(host)


def read(text: str) -> dict[str, float]:
    """``name{label="value"}`` → its number."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def numbers(scene: Scene, user: str = "") -> dict[str, float]:
    done = scene.tidegate("metrics", user=user)
    assert (done.returncode, done.stderr) == (0, "")
    return read(done.stdout)


def entries(scene: Scene, *matches: str) -> list[dict[str, Any]]:
    """The journal's entries with these fields."""
    done = scene.host.run(["journalctl", "--no-pager", "--quiet", "--output=json", *matches], check=False)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_numbers_are_those_of_the_host(scene: Scene) -> None:
    before = numbers(scene)
    assert before["tidegate_up"] == before["tidegate_recorder_up"] == 1
    assert before["tidegate_problems"] == before["tidegate_grants_overdue"] == 0
    assert before["tidegate_disk_free_bytes{of=journal}"] > 1 << 20 and before["tidegate_journal_bytes"] > 4096
    assert before["tidegate_capture_available{source=journal}"] == 1
    assert not [name for name in before if "courier" in name]
    jti = scene.open(account("jit-counted"), ssh("jit-counted", public_key()))
    during = numbers(scene)
    assert during["tidegate_grants{state=open}"] == during["tidegate_backstops_armed"] == 1
    assert during["tidegate_grants_unbacked"] == 0
    assert during["tidegate_grants_opened_total"] - before["tidegate_grants_opened_total"] == 1
    assert 0 < during["tidegate_opening_duration_seconds_sum"] < 10
    assert scene.answer_for(scene.drop(b"junk"))["code"] == "token_shape"
    scene.ask("revoke", jti=jti, reason="counted")
    scene.receipt(jti)
    after = numbers(scene)
    assert after["tidegate_grants{state=open}"] == after["tidegate_backstops_armed"] == 0
    assert after["tidegate_grants_refused_total{code=token_shape}"] == 1
    assert after["tidegate_grants_ended_total{cause=revoked}"] - before["tidegate_grants_ended_total{cause=revoked}"] == 1
    assert after["tidegate_teardown_lateness_seconds_count"] - before["tidegate_teardown_lateness_seconds_count"] == 1
    late = after["tidegate_teardown_lateness_seconds_sum"] - before["tidegate_teardown_lateness_seconds_sum"]
    told = scene.events("grant.ended")[-1]["unmapped"]["detail"]["late_ms"]
    assert late == pytest.approx(told / 1000, abs=0.0005), "as the event has it"
    assert after["tidegate_audit_written_total"] > during["tidegate_audit_written_total"]
    assert after["tidegate_outbox_files{kind=receipt}"] >= 1


def test_who_may_read_status_may_read_them_and_nobody_else(scene: Scene) -> None:
    assert numbers(scene, "helper")["tidegate_up"] == 1
    done = scene.tidegate("metrics", user="nosy")
    assert done.returncode == 1 and "only root and members of the group tidegate may ask" in done.stderr
    assert {name.partition("{")[0] for name in read(done.stdout)} <= {
        "tidegate_up", "tidegate_collected_timestamp_seconds", "tidegate_clock_synchronised",
    }  # fmt: skip
    assert scene.ask("metrics", format="text")["text"].startswith("# HELP tidegate_build_info ")


def test_a_recorder_that_is_gone_is_seen_though_its_socket_stands(scene: Scene) -> None:
    unit = "tidegate-recorder.service"
    scene.host.run(["systemctl", "kill", "--signal=STOP", unit])
    scene.host.run(["systemctl", "mask", "--runtime", unit])
    scene.host.run(["systemctl", "kill", "--signal=KILL", unit])
    try:
        scene.host.wait_for(lambda: numbers(scene)["tidegate_recorder_up"] == 0, what="the recorder is told as gone")
        assert scene.host.run("test -S /run/tidegate/recorder/sock", check=False).returncode == 0
    finally:
        scene.host.run(["systemctl", "unmask", "--runtime", unit])
        scene.host.run(["systemctl", "restart", unit])
    scene.host.wait_for(lambda: numbers(scene)["tidegate_recorder_up"] == 1, what="it is back")


def test_the_timer_of_the_page_writes_the_textfile_and_a_dead_daemon_is_not_told_as_well(scene: Scene) -> None:
    """The units as docs/METRICS.md has them, letter by letter."""
    service, timer = re.findall(r"^```ini\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    scene.host.write("/etc/systemd/system/tidegate-metrics.service", service)
    scene.host.write("/etc/systemd/system/tidegate-metrics.timer", timer.replace("OnBootSec=30s", "OnActiveSec=0s"))
    scene.host.run("systemd-analyze verify /etc/systemd/system/tidegate-metrics.timer && systemctl daemon-reload")
    scene.host.run("systemctl enable --now tidegate-metrics.timer")
    file = scene.host.root / FILE[1:]
    scene.host.wait_for(file.exists, what="the timer has written the file")
    scene.host.run("systemctl disable --now tidegate-metrics.timer")
    assert scene.host.run(f"stat --format '%a %U %h' {FILE}").stdout == "644 root 1\n"
    assert read(file.read_text())["tidegate_up"] == 1
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    scene.stop()
    assert scene.host.run("systemctl start tidegate-metrics.service", check=False).returncode != 0
    told = read(file.read_text())
    assert told["tidegate_up"] == 0 and "tidegate_grants_overdue" not in told
    scene.start()
    scene.host.run("systemctl start tidegate-metrics.service")
    again = read(file.read_text())
    assert again["tidegate_up"] == 1 and again["tidegate_grants_accepted_total"] == 0, "totals begin anew with the daemon"


def test_the_journal_finds_a_grant_by_its_fields(scene: Scene) -> None:
    jti = scene.open(account("jit-told"), reason="to be found")
    (uid,) = next(found for found in scene.status()["grants"] if found["jti"] == jti)["uids"].values()
    scene.ask("revoke", jti=jti, reason="seen\nGRANT_ID=made-up\x1b[2J")
    scene.receipt(jti)
    for kind in (EventKind.GRANT_OPENED, EventKind.ACCOUNT_CREATED, EventKind.GRANT_ENDED):
        identity = f"MESSAGE_ID={MESSAGE_IDS[kind]}"
        there = partial(entries, scene, "_UID=0", f"GRANT_ID={jti}", identity)
        (found,) = scene.host.wait_for(there, what=f"{kind} is in the journal")
        assert (found["SUBJECT"], found["TARGET_UID"], found["EVENT_KIND"]) == (SUBJECT, str(uid), kind.value)
        assert found["_SYSTEMD_UNIT"] == "tidegated.service"
        assert entries(scene, "_UID=0", f"TARGET_UID={uid}", f"SUBJECT={SUBJECT}", identity) == [found]
    assert found["CODE"] == "revoked" and "made-up" in found["REASON"]
    assert entries(scene, "GRANT_ID=made-up") == [], "a text makes no field of its own"


def test_what_others_write_into_the_journal_is_not_the_daemons_word(scene: Scene) -> None:
    forged = f"MESSAGE=grant.ended grant=g-forged\nMESSAGE_ID={MESSAGE_IDS[EventKind.GRANT_ENDED]}\nGRANT_ID=g-forged\n"
    scene.host.run(["runuser", "-u", "nosy", "--", "logger", "--journald"], input=forged)
    scene.host.wait_for(lambda: entries(scene, "GRANT_ID=g-forged"), what="the forger's entry")
    assert entries(scene, "_UID=0", "GRANT_ID=g-forged") == []
