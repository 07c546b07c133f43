"""The journal's sentences about a damaged one before it: what was in it is taken in to be ended, and nothing opened till then."""

import hashlib
import json
from collections.abc import Mapping, Sequence

from agent.host.clock import NS
from agent.journal.database import Database
from agent.journal.records import EndCause, GrantState, StepState
from agent.journal.salvage import Salvaged, copy_into
from agent.model import Step
from agent.model.text import one_line


class Anew:
    """Part of :class:`agent.journal.Journal`, as ``journal.anew``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def adopt(self, salvaged: Salvaged, why: str) -> None:
        """Take in what could be read of a damaged journal; what was live in it is to be ended (``why``)."""
        with self._db.transaction() as db:
            copy_into(db, salvaged, one_line(why))

    def adopt_found(self, found: Sequence[Step], uids: Mapping[str, int], *, iss: str, now_ns: int, why: str) -> None:
        """Take in, as one grant to be ended, what stands on the host and no journaled grant knows."""
        ident = f"found-{now_ns}"
        with self._db.transaction() as db:
            cursor = db.execute(
                "INSERT INTO grants (jti,iss,sub,state,token,digest,iat,nbf,exp,reason,ticket,summary,rule,logins,not_containable,"
                "received_ns,boot_id,boot_deadline_ns,cause,cause_text) VALUES (?,?,'',?,x'',?,?,?,?,'','',?,'',?,'[]',?,'',0,?,?)",
                (
                    *(ident, iss, GrantState.SHUTTING, hashlib.sha256(ident.encode()).hexdigest()),
                    *(now_ns // NS, now_ns // NS, now_ns // NS, "what was found on the host", json.dumps(sorted(uids)), now_ns),
                    *(EndCause.FAILED, one_line(why)),
                ),
            )
            db.executemany(
                "INSERT INTO steps (grant_id,seq,step,state) VALUES (?,?,?,?)",
                [(cursor.lastrowid, seq, json.dumps(step.to_json()), StepState.DONE) for seq, step in enumerate(found)],
            )
            db.executemany(
                # A row of it may have been saved whose grant was not: it is this one's now, or its processes would be nobody's.
                "INSERT OR REPLACE INTO uids (uid,grant_id,login,state,since_ns) VALUES (?,?,?,'reserved',?)",
                [(uid, cursor.lastrowid, login, now_ns) for login, uid in uids.items()],
            )

    def begin(self, why: str, *, issued_from: int = 0, last_uid: int = 0) -> None:
        """Nothing is opened before all that is live has ended (``why``), also after a restart.

        ``issued_from``: seconds since the epoch; a grant signed earlier is refused, since its use may be forgotten.
        ``last_uid``: no UID up to it is given out before the range has been gone through.
        """
        with self._db.transaction():
            self._db.set_meta("closing_only", one_line(why))
            for key, number in (("issued_from", issued_from), ("last_uid", last_uid)):
                if number > self._db.meta_int(key):
                    self._db.set_meta(key, str(number))

    def closing_only(self) -> str:
        """Why nothing is to be opened yet; empty when it may be."""
        rows = self._db.rows("SELECT value FROM meta WHERE key='closing_only'")
        return str(rows[0]["value"]) if rows else ""

    def closing_over(self) -> None:
        """All that stood has ended."""
        with self._db.transaction() as db:
            db.execute("DELETE FROM meta WHERE key='closing_only'")
