"""A damaged journal or key: what is read from it, what is begun anew, and what is refused from then on."""

from dataclasses import replace
from pathlib import Path

import pytest

from agent.config import Config, Paths
from agent.errors import JournalError, UntrustedError
from agent.host import lock, standby
from agent.journal import EndCause, GrantState, Journal, salvage
from agent.keeping import open_kept
from agent.trust import HostKey
from tests.unit import journal_kit

UID = 70005


def config(folder: Path) -> Config:
    folder.mkdir(exist_ok=True)
    paths = Paths(state_db=folder / "state.db", host_key=folder / "host.jwk", outbox=folder / "outbox", run_dir=folder)
    return Config(paths=paths)


def with_grants(made: Config, count: int = 2) -> list[int]:
    """A whole journal: the first grant ended, the others open."""
    HostKey.load_or_create(made.paths.host_key)
    journal, ids = Journal(made.paths.state_db), []
    for number in range(count):
        plan = journal_kit.plan(f"g-{number}", uids={f"jit-{number}": UID + number})
        grant = journal_kit.grant(f"g-{number}", login=f"jit-{number}")
        record = journal.accept(
            grant, token=f"token-{number}".encode(), summary="s", rule="r", received_ns=1, boot=("b", 1), plan=plan
        )
        journal.opened(record.id, 2)
        ids.append(record.id)
    journal.ended(ids[0], 3, residue=0, receipt=("receipt-0", "a.b.c"))
    journal.close()
    return ids


def test_a_whole_journal_is_opened_and_nothing_is_said(tmp_path: Path) -> None:
    made = config(tmp_path)
    with_grants(made)
    kept = open_kept(made)
    assert (kept.troubles, kept.closing, kept.lost, kept.stuck) == ({}, "", False, False)
    assert len(kept.journal.live()) == 1


def test_a_first_start_is_silent(tmp_path: Path) -> None:
    kept = open_kept(config(tmp_path))
    assert (kept.troubles, kept.closing) == ({}, "")


def test_of_a_damaged_journal_what_can_be_read_is_ended_and_the_file_is_kept(tmp_path: Path) -> None:
    made = config(tmp_path)
    with_grants(made, 40)
    with made.paths.state_db.open("r+b") as file:  # some of the leaves of the tables
        for page in (15, 18):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    kept = open_kept(made)
    live = kept.journal.live()
    assert live
    assert all(record.state is GrantState.SHUTTING and record.cause is EndCause.FAILED for record in live)
    assert kept.lost
    assert "journal" in kept.troubles
    assert "damaged" in kept.closing
    assert len(list(tmp_path.glob("state.db.damaged-*"))) >= 1
    kept.journal.close()
    again = open_kept(made)
    assert again.closing == kept.closing  # until all is over, also after a restart
    again.journal.anew.closing_over()
    assert again.journal.anew.closing_only() == ""


@pytest.mark.parametrize("damage", ["empty", "garbage", "gone", "truncated"])
def test_a_lost_journal_begins_anew_and_forgets_no_replay(tmp_path: Path, damage: str) -> None:
    made = config(tmp_path)
    with_grants(made)
    path = made.paths.state_db
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "garbage": b"nonsense" * 1000, "truncated": path.read_bytes()[:5000]}[damage])
    kept = open_kept(made)
    assert kept.lost
    with pytest.raises(UntrustedError, match="jti_replayed"):
        kept.journal.refuse_replay(replace(journal_kit.grant("never-seen"), iat=1))
    later = replace(journal_kit.grant("later"), iat=2**33, exp=2**33 + 1)
    kept.journal.refuse_replay(later)
    assert kept.journal.last_uid() >= 70000


def test_no_uid_comes_back_that_the_damaged_journal_still_names(tmp_path: Path) -> None:
    made = config(tmp_path)
    with_grants(made, 9)
    salvaged = salvage.read(made.paths.state_db)
    assert (salvaged.last_uid(), salvaged.unread) == (UID + 8, 0)
    assert len(salvaged.live()) == 8
    path = made.paths.state_db
    aside = salvage.set_aside(path, "damaged-now")
    fresh = Journal(path)
    fresh.anew.adopt(salvage.read(aside), "why")
    assert (fresh.last_uid(), len(fresh.live())) == (UID + 8, 8)
    with pytest.raises(UntrustedError):
        fresh.refuse_replay(journal_kit.grant("g-0", login="jit-0"))
    assert len(fresh.steps(fresh.live()[0].id)) == 3


@pytest.mark.parametrize("damage", ["gone", "garbage"])
def test_a_damaged_key_ends_what_is_open_and_a_new_one_is_made(tmp_path: Path, damage: str) -> None:
    made = config(tmp_path)
    with_grants(made)
    old = HostKey.load(made.paths.host_key).host_id
    made.paths.host_key.unlink()
    if damage == "garbage":
        made.paths.host_key.write_bytes(b"{}")
        made.paths.host_key.chmod(0o600)
    kept = open_kept(made)
    assert kept.host_key.host_id != old
    assert HostKey.load(made.paths.host_key).host_id == kept.host_key.host_id
    assert "host key" in kept.troubles
    assert "key" in kept.closing
    assert [record.state for record in kept.journal.live()] == [GrantState.SHUTTING]
    assert len(list(tmp_path.glob("host.jwk.damaged-*"))) == (damage == "garbage")


def test_a_look_replaces_nothing(tmp_path: Path) -> None:
    made = config(tmp_path)
    with_grants(made)
    made.paths.state_db.write_bytes(b"nonsense" * 1000)
    with pytest.raises(JournalError):
        open_kept(made, mend=False)
    assert made.paths.state_db.read_bytes().startswith(b"nonsense")


def test_what_is_found_on_the_host_is_one_grant_to_be_ended(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state.db")
    journal.anew.adopt_found([journal_kit.step(1)], {"jit-x": UID}, iss="urn:host", now_ns=5, why="lost")
    (record,) = journal.live()
    assert (record.state, record.cause, record.uids) == (GrantState.SHUTTING, EndCause.FAILED, {"jit-x": UID})
    assert len(journal.steps(record.id)) == 1
    assert UID in journal.spoken_for_uids()


def test_a_uid_whose_row_was_saved_and_its_grant_was_not_is_of_what_is_found(tmp_path: Path) -> None:
    """Else its account would be taken away, and its processes be nobody's to end."""
    journal = Journal(tmp_path / "state.db")
    with journal._db.transaction() as db:
        db.execute("INSERT INTO uids (uid,grant_id,login,state,since_ns) VALUES (?,7,'jit-x','reserved',1)", (UID,))
    journal.anew.adopt_found([journal_kit.step(1)], {"jit-x": UID}, iss="urn:host", now_ns=5, why="lost")
    assert journal.live()[0].uids == {"jit-x": UID}


def test_the_copy_of_the_program_is_whole_and_follows_the_code(tmp_path: Path) -> None:
    source, home, unit = tmp_path / "lib", tmp_path / "home", tmp_path / "units" / "x@.service"
    for package in ("agent", "enforcers"):
        (source / package).mkdir(parents=True)
        (source / package / "__init__.py").write_text("one\n")
    unit.parent.mkdir()
    paths = Paths(run_dir=Path("/run/other"), state_db=Path("/srv/other.db"))
    assert standby.keep(Path("/etc/other.yaml"), Config(paths=paths), home, unit, source) == ""
    program = home / "current" / standby.PROGRAM
    assert "/etc/other.yaml" in program.read_text()
    assert standby.config_file(home) == Path("/etc/other.yaml")
    places = (str(paths.run_dir / lock.ALIVE), str(paths.state_db), str(paths.control_socket))
    assert f"early.begin(*{places!r}, sys.argv[1:])" in program.read_text()
    assert f"-I -S {program}" in unit.read_text()
    assert "LogLevelMax" not in unit.read_text()  # journald would keep what it tells the audit trail to itself
    assert home.stat().st_mode & 0o777 == 0o700
    before = (home / "current").resolve()
    (source / "agent" / "__init__.py").write_text("two\n")
    assert standby.keep(None, Config(), home, unit, source) == ""
    assert (home / "current" / "agent" / "__init__.py").read_text() == "two\n"
    assert not before.exists()
    assert standby.config_file(home) is None


def test_a_copy_that_cannot_be_made_is_told_and_the_earlier_one_stays(tmp_path: Path) -> None:
    source, home, unit = tmp_path / "lib", tmp_path / "home", tmp_path / "x@.service"
    (source / "agent").mkdir(parents=True)
    (source / "agent" / "__init__.py").write_text("one\n")
    assert standby.keep(None, Config(), home, unit, source) == ""
    (source / "agent" / "__init__.py").write_text("two\n")
    (home / "current").resolve().rename(home / "kept")
    (home / "current").unlink()
    (home / "current").symlink_to("kept")
    home.rename(tmp_path / "elsewhere")
    home.write_text("no folder")
    assert "no copy" in standby.keep(None, Config(), home, unit, source)


def test_a_lock_is_one_holders_and_free_when_it_lets_go(tmp_path: Path) -> None:
    first, second = lock.Lock(tmp_path / "l"), lock.Lock(tmp_path / "l")
    assert first.take()
    assert not second.take(0.1)
    first.release()
    assert second.take()
    with lock.held(tmp_path / "l", 0.1) as mine:
        assert not mine
    with lock.held(tmp_path / "nowhere" / "l", 0.1) as mine:
        assert not mine
