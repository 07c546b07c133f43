"""`tidegate config migrate`: all files or none, a backup of each, and nothing that the loaders would read otherwise."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from agent import migrating
from agent import policy as policies
from agent.assembly import registry
from agent.cli.main import cli
from agent.errors import ConfigError, HostError
from agent.forms import POLICY, Form, Rename
from agent.host import files
from tests.unit.killing import killed_at

DECODERS = policies.decoders(registry())
OLD = "# who\nrules:\n  - name: {0}\n    issuers: [https://a]\n    recording: {{limit: 4096}}  # small\n"
NEW = "version: 2\n" + OLD.replace("limit", "max_bytes")


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """A folder like /etc/tidegate: two policy files of version 1, one of 2, and files that nothing is to be done with."""
    for name in ("conf.d", "policy.d"):
        (tmp_path / name).mkdir()
    (tmp_path / "tidegate.yaml").write_text(
        f"# ours\npaths: {{policy_dir: {tmp_path}/policy.d, courier_config: {tmp_path}/courier.yaml}}\n"
    )
    (tmp_path / "conf.d/10-a.yaml").write_text("admin_group: ops\n")
    (tmp_path / "policy.d/10-a.yaml").write_text(OLD.format("a"))
    (tmp_path / "policy.d/20-b.yaml").write_text(OLD.format("b"))
    (tmp_path / "policy.d/30-c.yaml").write_text("rules: [{name: c, issuers: [x], recording: {max_bytes: 1}}]\n")
    (tmp_path / "courier.yaml").write_text("url: https://a\nproxy: http://user:secret@p\n")
    (tmp_path / "policy.d/10-a.yaml").chmod(0o640)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def plan(etc: Path) -> list[migrating.Change]:
    return migrating.plan(etc / "tidegate.yaml", DECODERS)


def tidegate(etc: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["--config", str(etc / "tidegate.yaml"), "config", "migrate", *words])
    return done.exit_code, done.output


def test_each_file_is_rewritten_and_the_one_before_lies_beside_it_as_it_was(etc: Path) -> None:
    path = etc / "policy.d/10-a.yaml"
    before, inode = contents(etc), path.stat()
    os.utime(path, ns=(1, 2))
    migrating.carry_out(plan(etc))
    now = contents(etc)
    assert now["policy.d/10-a.yaml"].decode() == NEW.format("a")
    assert now["policy.d/20-b.yaml"].decode() == NEW.format("b")
    backup = path.with_name("10-a.yaml.~1~")
    assert backup.read_bytes() == before["policy.d/10-a.yaml"]
    assert (backup.stat().st_ino, backup.stat().st_mtime_ns, backup.stat().st_nlink) == (inode.st_ino, 2, 1)
    assert path.stat().st_mode == backup.stat().st_mode == inode.st_mode
    assert set(now) - set(before) == {"policy.d/10-a.yaml.~1~", "policy.d/20-b.yaml.~1~"}
    assert {name: now[name] for name in before if "-a" not in name and "-b" not in name} == {
        name: data for name, data in before.items() if "-a" not in name and "-b" not in name
    }
    assert plan(etc) == []
    assert policies.load_policy(etc / "policy.d", DECODERS).rules[0].recording.limit == 4096


def test_a_backup_is_never_overwritten(etc: Path) -> None:
    path = etc / "policy.d/10-a.yaml"
    for number in range(1, 10):
        path.write_text(OLD.format(f"a{number}"))
        migrating.carry_out(plan(etc))
        kept = path.with_name("10-a.yaml.~1~" if number == 1 else f"10-a.yaml.~1.{number}~")
        assert kept.read_text() == OLD.format(f"a{number}")
    assert path.with_name("10-a.yaml.~1~").read_text() == OLD.format("a1")
    path.write_text(OLD.format("a5"))
    migrating.carry_out(plan(etc))
    assert path.read_text() == NEW.format("a5"), "this very content lies there already"
    path.write_text(OLD.format("a10"))
    with pytest.raises(ConfigError) as caught:
        plan(etc)
    assert caught.value.code == "backup_exists"
    assert path.read_text() == OLD.format("a10")


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("tidegate.yaml", "uids: {first: 5, last: 6}\n", "uids_invalid"),
        ("conf.d/10-a.yaml", "version: 9\n", "version_newer"),
        ("policy.d/20-b.yaml", OLD.format("b") + "rulez: []\n", "unknown_key"),
        ("policy.d/20-b.yaml", OLD.format("b").replace("4096", "lots"), "not_an_integer"),
        ("policy.d/15-x.yaml", OLD.format("a"), "rule_twice"),
        ("courier.yaml", "url: http://a\n", "url_invalid"),
        ("policy.d/20-b.yaml", OLD.format("b") + "    # [\n  - [", "yaml_syntax"),
    ],
)
def test_one_bad_file_leaves_all_as_they_are(etc: Path, name: str, text: str, code: str) -> None:
    if name == "tidegate.yaml":
        text += (etc / name).read_text()
    (etc / name).write_text(text)
    before = contents(etc)
    status, said = tidegate(etc, "--json")
    assert (status, json.loads(said)["code"], json.loads(said)["file"]) == (1, code, str(etc / name))
    assert contents(etc) == before


def test_a_look_changes_nothing_and_shows_the_difference(etc: Path) -> None:
    before = contents(etc)
    status, said = tidegate(etc, "--dry-run")
    assert status == 0
    assert "-    recording: {limit: 4096}  # small\n+    recording: {max_bytes: 4096}  # small" in said
    assert "nothing was changed; 2 files would be" in said
    status, said = tidegate(etc, "--dry-run", "--json")
    told = json.loads(said)
    assert (told["dry_run"], told["versions"]) == (True, {"configuration": 1, "policy": 2, "courier": 1})
    first = told["changes"][0]
    assert (first["kind"], first["from"], first["to"]) == ("policy", 1, 2)
    assert first["backup"] == str(etc / "policy.d/10-a.yaml.~1~")
    assert "+version: 2\n" in first["diff"]
    assert contents(etc) == before


def test_it_says_what_it_did_and_has_nothing_to_do_the_second_time(etc: Path) -> None:
    status, said = tidegate(etc)
    assert status == 0
    assert f"{etc}/policy.d/10-a.yaml: brought from version 1 to 2; before: 10-a.yaml.~1~" in said
    assert "secret" not in said
    assert tidegate(etc) == (0, "every file is in today's form\n")


@pytest.mark.parametrize("failing", [1, 2])
def test_where_one_can_not_be_replaced_those_before_are_put_back(etc: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    before, inode = contents(etc), (etc / "policy.d/10-a.yaml").stat().st_ino
    changes, real, calls = plan(etc), files.atomic_write, [0]

    def full(*args: object, **more: object) -> None:
        calls[0] += 1
        if calls[0] == failing:
            raise HostError("write_failed", "no space left")
        real(*args, **more)  # type: ignore[arg-type]  # whatever it was given

    monkeypatch.setattr(files, "atomic_write", full)
    with pytest.raises(ConfigError) as caught:
        migrating.carry_out(changes)
    assert caught.value.code == "file_unwritable"
    assert contents(etc) == before
    assert (etc / "policy.d/10-a.yaml").stat().st_ino == inode


def test_what_somebody_writes_meanwhile_is_not_lost(etc: Path) -> None:
    changes = plan(etc)
    (etc / "policy.d/20-b.yaml").write_text("rules: []\n")
    before = contents(etc)
    with pytest.raises(ConfigError) as caught:
        migrating.carry_out(changes)
    assert caught.value.code == "file_changed"
    assert contents(etc) == before


def test_a_step_that_would_change_what_is_said_replaces_nothing(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a later version with a fault in it: to a name that the loader does not know, or that means something else."""
    for wrong in ("max_bites", "mode"):
        faulty = Form("policy", (*POLICY.steps, (Rename(("rules", "*", "recording", "pause"), wrong),)))
        monkeypatch.setattr(migrating, "POLICY", faulty)
        (etc / "policy.d/20-b.yaml").write_text("rules: [{name: b, issuers: [x], recording: {pause: 5s}}]\n")
        before = contents(etc)
        with pytest.raises(ConfigError) as caught:
            plan(etc)
        assert caught.value.code == "migration_failed"
        assert contents(etc) == before


def test_a_rewriting_with_a_fault_in_it_is_seen_before_anything_is_replaced(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrating, "rewritten", lambda old, _path, _form: old.replace(b"4096", b"4097"))
    with pytest.raises(ConfigError, match="would say something else afterwards"):
        plan(etc)


@pytest.mark.parametrize(("inside", "every"), [((migrating,), 1), ((migrating, files), 7)])
def test_a_kill_at_any_moment_leaves_files_that_say_the_same(etc: Path, inside: tuple[ModuleType, ...], every: int) -> None:
    """Before each line of the work, and before each seventh when those of the writing count too; then finished the next time."""
    meant, before, changes = _rules(etc), contents(etc), plan(etc)
    sources = {str(module.__file__) for module in inside}
    for line in range(1, 1000, every):
        for path in (etc / "policy.d").iterdir():
            path.unlink()
        for name, data in before.items():
            (etc / name).write_bytes(data)
        killed = killed_at(line, lambda: migrating.carry_out(changes), sources)
        assert _rules(etc) == meant, line
        for name in ("a", "b"):
            kept = next((etc / "policy.d").glob(f"*-{name}.yaml.~1~"), None)
            assert kept is None or kept.read_text() == OLD.format(name), line
        migrating.carry_out(plan(etc))
        left = contents(etc)
        assert set(left) == {*before, "policy.d/10-a.yaml.~1~", "policy.d/20-b.yaml.~1~"}, line
        assert left["policy.d/20-b.yaml"].decode() == NEW.format("b"), line
        if not killed:
            assert line > 30, "it was killed at every line of its work"
            return
    raise AssertionError("it never came to its end")


def _rules(etc: Path) -> list[policies.model.Rule]:
    return [replace(rule, origin=policies.model.Origin(etc, 1)) for rule in policies.load_policy(etc / "policy.d", DECODERS).rules]
