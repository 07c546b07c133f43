"""A journal that a broken disk or a careless hand has changed: the agent starts all the same, and what can end, ends."""

import sqlite3
from contextlib import closing

from agent.errors import JournalError
from tests.fuzz.source import Source
from tests.unit.lifecycle_kit import KEY, World

MAX_LEN = 512
WORDS = (
    "enforcer",
    "action",
    "stage",
    "phase",
    "target",
    "summary",
    "data",
    "create",
    "close",
    "path",
    "uid",
    "name",
    "membership",
    "null",
    "[]",
    "{}",
)
# Column → table: all that is text or JSON to us and no more than text to SQLite. Numbers are typed by the schema.
_COLUMNS = {
    "step": "steps",
    "state": "steps",
    "error": "steps",
    "value": "notes",
    "logins": "grants",
    "not_containable": "grants",
    "cause": "grants",
    "cause_text": "grants",
    "summary": "grants",
    "sub": "grants",
    "jti": "grants",
    "boot_id": "grants",
    "digest": "grants",
    "last_error": "grants",
    "login": "uids",
    "key": "meta",
}


def check(data: bytes) -> None:
    """Of two grants one is tampered with: the other ends on time whole, and nobody is let in by the tampered one after T."""
    source = Source(data)
    world = World()
    try:
        world.start()
        for jti, login in (("g-bad", "jit-a"), ("g-good", "jit-b")):
            entries = [
                {"type": "account", "identifier": login, "groups": ["games"]},
                {"type": "ssh", "identifier": login, "keys": [KEY]},
            ]
            assert world.refusal(world.sign(jti, entries)) is None
        world.pipeline.journal.note(1, "baseline", {"a": 1})
        world.crash()
        _tamper(world, source)
        world.clock.advance(700)
        try:
            world.start()
        except JournalError as error:
            raise AssertionError("a bad row keeps the agent from starting") from error
        world.tick()
        users = world.host.users
        assert "jit-b" not in users, "the good grant did not end"
        assert not any(path.name == "jit-b" for path in world.host.files)
    finally:
        world.close()


def _tamper(world: World, source: Source) -> None:
    with closing(sqlite3.connect(world.path / "state.db")) as db:
        for _ in range(1 + source.number(3)):
            column = source.choice(sorted(_COLUMNS))
            table = _COLUMNS[column]
            where = {"grants": "id=1", "steps": f"grant_id=1 AND seq={source.number(7)}", "meta": "1"}.get(table, "grant_id=1")
            value = source.bytes_of(200).decode("utf-8", "replace")
            if column == "step" and source.flag():
                value = _changed_step(db, source) or value
            try:
                db.execute(f"UPDATE {table} SET {'value' if table == 'meta' else column}=? WHERE {where}", (value,))
                db.commit()
            except sqlite3.Error:  # the schema itself would not have it
                db.rollback()


def _changed_step(db: sqlite3.Connection, source: Source) -> str:
    """A real step's JSON with one piece of it replaced."""
    (text,) = db.execute("SELECT step FROM steps WHERE grant_id=1 AND seq=?", (source.number(7),)).fetchone() or ("",)
    at, size = source.number(max(0, len(text) - 1)), source.number(20)
    return text[:at] + source.choice(("", "null", "[]", "-1", '"', "{}", "\\u0000", '"x"', "1e999")) + text[at + size :]
