"""Whatever was going on when the process died: the journal opens, holds all that was committed, and nothing half."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from agent.errors import JournalError, UntrustedError
from agent.journal import EndCause, GrantState, Journal
from tests.unit.journal_kit import NS, WALL, grant, plan

SPARES_S = 91 * 86400


class JournalMachine(RuleBasedStateMachine):
    """Any sequence of what happens to grants, with crashes in between, against a dict."""

    ids = Bundle("ids")
    exps = st.integers(WALL, WALL + 50)

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="tidegate-journal-"))
        self.generation = 0
        self.states: dict[int, str] = {}
        self.jtis: dict[str, int] = {}  # every token id ever accepted → exp
        self.uids: dict[int, tuple[int, str]] = {}  # uid → (grant, state)
        self.next_uid = 70000

    @initialize()
    def begin(self) -> None:
        self.journal = Journal(self.folder / "0" / "state.db")

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.folder)

    @rule(target=ids, exp=exps, planned=st.booleans())
    def accept(self, exp: int, planned: bool) -> int:
        jti, uids = f"g{len(self.jtis)}", {}
        if planned:
            self.next_uid += 1
            uids = {"jit-a": self.next_uid}
        record = self.journal.accept(
            *(grant(jti, exp=exp),),
            token=jti.encode(),
            summary="",
            rule="",
            received_ns=WALL * NS,
            boot=("b", 1),
            plan=plan(jti, uids=uids) if planned else None,
        )
        self.states[record.id] = "opening" if planned else "pending"
        self.jtis[jti] = exp
        self.uids |= dict.fromkeys(uids.values(), (record.id, "reserved"))
        return record.id

    @rule(grant_id=ids)
    def open(self, grant_id: int) -> None:
        self._move(grant_id, "opening", "open", lambda: self.journal.opened(grant_id, 1))

    @rule(grant_id=ids)
    def intend(self, grant_id: int) -> None:
        self._move(grant_id, "pending", "opening", lambda: self.journal.intend(grant_id, plan(), 1))

    @rule(grant_id=ids)
    def shut(self, grant_id: int) -> None:
        self.journal.shutting([(grant_id, "")], EndCause.EXPIRED)
        if self.states.get(grant_id) not in {None, "ended"}:
            self.states[grant_id] = "shutting"

    @rule(grant_id=ids, residue=st.integers(0, 1))
    def end(self, grant_id: int, residue: int) -> None:
        if grant_id not in self.states:
            return
        ended = self.journal.ended(grant_id, 2, residue=residue, receipt=(f"r{grant_id}", "a.b.c"))
        assert ended == (self.states[grant_id] != "ended")
        self.states[grant_id] = "ended"
        if ended:
            left = "left" if residue else "free"
            self.uids |= {uid: (owner, left) for uid, (owner, _) in self.uids.items() if owner == grant_id}

    @rule(now=st.integers(WALL, WALL + 60))
    def forget(self, now: int) -> None:
        self.journal.forget_before(now + SPARES_S - 86400)
        kept = {record.id for record in self.journal.recent(10_000)}
        gone = set(self.states) - kept
        assert all(self.states[grant_id] == "ended" for grant_id in gone)
        for grant_id in gone:
            del self.states[grant_id]

    @rule(torn=st.booleans(), cut=st.integers(1, 4096))
    def crash(self, torn: bool, cut: int) -> None:
        """In the middle of a transaction; with ``torn``, half of a page more reached the write-ahead log."""
        old = self.folder / str(self.generation)
        self.generation += 1
        new = self.folder / str(self.generation)
        with contextlib.suppress(ZeroDivisionError), self.journal._db.transaction() as db:
            db.execute("UPDATE grants SET state='ended'")
            db.execute("DELETE FROM uids")
            shutil.copytree(old, new)
            _ = 1 / 0
        self.journal.close()
        (new / "state.db-shm").unlink(missing_ok=True)
        if torn:
            with (new / "state.db-wal").open("ab") as log:
                log.write(os.urandom(cut))
        self.journal = Journal(new / "state.db")

    @invariant()
    def the_file_says_what_happened(self) -> None:
        assert {record.id: str(record.state) for record in self.journal.recent(10_000)} == self.states
        spoken_for = {uid for uid, (_, state) in self.uids.items() if state != "free"}
        assert self.journal.spoken_for_uids() == spoken_for
        for record in self.journal.live():
            assert record.state is GrantState.PENDING or self.journal.steps(record.id) or record.state is GrantState.SHUTTING

    @invariant()
    def no_token_id_works_twice(self) -> None:
        for jti, exp in self.jtis.items():
            with pytest.raises(UntrustedError):
                self.journal.refuse_replay(grant(jti, exp=exp))

    def _move(self, grant_id: int, before: str, after: str, act: Callable[[], None]) -> None:
        if self.states.get(grant_id) == before:
            act()
            self.states[grant_id] = after
        else:
            with pytest.raises(JournalError):
                act()


JournalMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
test_any_sequence_then_a_crash_leaves_a_consistent_journal = JournalMachine.TestCase


_WRITER = """
import sys
from pathlib import Path
from agent.journal import EndCause, Journal
from tests.unit.journal_kit import grant, plan
journal = Journal(Path(sys.argv[1]))
n = int(sys.argv[2])
print("ready", flush=True)
while True:
    n += 1
    given, planned = grant(f"g{n}"), plan(uids={"jit-a": 70000 + n})
    record = journal.accept(given, token=b"t%d" % n, summary="", rule="", received_ns=1, boot=("b", 1), plan=planned)
    print("taken", n, flush=True)
    journal.opened(record.id, 1)
    journal.shutting([(record.id, "")], EndCause.EXPIRED)
    journal.undone(record.id, [(0, ""), (1, ""), (2, "")])
    journal.ended(record.id, 2, residue=0, receipt=(f"r{n}", "a.b.c"))
    print("ended", n, flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_a_journal_that_opens_with_all_it_had_promised(tmp_path: Path) -> None:
    path, last = tmp_path / "state.db", 0
    for round_number in range(12):
        argv = [sys.executable, "-c", _WRITER, str(path), str(last)]
        root = Path(__file__).parents[2]
        writer = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=root, env={"PYTHONPATH": str(root)})
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        time.sleep(0.013 + 0.0037 * round_number)
        writer.send_signal(signal.SIGKILL)
        said = [line.split() for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        writer.wait()
        writer.stdout.close()
        last = max([last, *(int(number) for _, number in said)]) + 1  # one more may be committed and not told
        journal = Journal(path)
        found = {record.jti: record for record in journal.recent(100_000)}
        for what, number in said:
            record = found[f"g{number}"]
            assert what == "taken" or record.state is GrantState.ENDED
            assert len(journal.steps(record.id)) == 3
        for record in found.values():
            assert (record.state is GrantState.ENDED) == bool(journal.receipts_of(record.id))
            assert record.state is GrantState.ENDED or record.uids
        journal.close()
    raw = sqlite3.connect(path)
    assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    raw.close()
