"""What Tidegate keeps on disk, opened though it be damaged: the journal, and this host's own key.

A damaged file, or a newer version's, never keeps the daemon from ending what was opened. It opens nothing then: what was live is
read from that file grant by grant, what can't be read is found on the host by our own marks, and all of it is ended. The file is
renamed and kept, a new one begun, and only when nothing is left of before are grants taken again.
"""

import contextlib
import json
import logging
import time
from base64 import urlsafe_b64decode
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from agent.config import Config
from agent.errors import ConfigError, JournalError, TidegateError
from agent.expiry.deadline import Deadline
from agent.expiry.live import LiveGrant
from agent.host import files
from agent.host.clock import NS
from agent.host.processes import ProcProcesses
from agent.journal import EndCause, GrantRecord, GrantState, Journal, salvage
from agent.model import Step
from agent.pipeline import Pipeline
from agent.trust import HostKey
from agent.trust.decode import IAT_LEEWAY_S

log = logging.getLogger("tidegate")

_RECEIPTS_READ = 200


@dataclass(slots=True)
class Kept:
    """``troubles``: what to say in ``status``, by file. ``closing``: why nothing may be opened; empty when it may.

    ``stuck``: it stays so until the disk takes writes again. ``lost``: what stands may not be in the journal, so look for it.
    """

    journal: Journal
    host_key: HostKey
    troubles: dict[str, str] = field(default_factory=dict)
    closing: str = ""
    stuck: bool = False
    lost: bool = False


def open_kept(config: Config, *, mend: bool = True, end_newer: bool = False, busy_ms: int = 2000) -> Kept:
    """Open both. With ``mend`` a damaged file is set aside and replaced; without, or where that fails, it is an error or worked
    around in memory.

    ``end_newer``: a newer version's journal is set aside too, and what is live in it ended. The daemon's alone: a backstop's older
    program may meet one in the moment of an upgrade, while the newer daemon starts.

    Raises:
        JournalError: ``journal_newer`` without ``end_newer``; with ``mend`` False also ``journal_damaged``, ``journal_unreadable``.
        ConfigError: with ``mend`` False, the key's.
    """
    kept = _open_journal(config, mend, end_newer, busy_ms)
    try:
        kept.host_key = HostKey.load(config.paths.host_key)
    except ConfigError as error:
        if not mend and error.code != "key_file_missing":
            raise
        _replace_key(config, kept, error)
    unfinished = kept.journal.anew.closing_only()  # of an earlier start: what it did not find may still stand
    kept.closing, kept.lost = kept.closing or unfinished, kept.lost or bool(unfinished)
    return kept


def take_in_found(pipeline: Pipeline) -> bool:
    """Journal, as one grant to be ended, what stands on the host and no live grant of the journal knows. Never raises.

    Returns whether all of the host could be looked at.
    """
    whole = True
    known, uids = set(), set()
    journal, why = pipeline.journal, "it stood on the host, and the journal that knew of it was damaged"
    with contextlib.suppress(TidegateError):
        for record in journal.live():
            known |= {(found.step.enforcer, found.step.action, found.step.target) for found in journal.steps(record.id)}
            uids |= set(record.uids.values())
    steps: list[Step] = []
    for name, enforcer in pipeline.enforcers.items():
        try:
            steps += enforcer.found(pipeline.writer)
        except Exception as error:  # one mechanism's trouble is not the others'
            log.error("what %s left on the host is not known: %s", name, error)
            whole = False
    steps = [step for step in steps if (step.enforcer, step.action, step.target) not in known]
    made = {str(step.data["name"]): uid for step in steps if step.action == "create" and isinstance(uid := step.data["uid"], int)}
    made |= {f"uid-{uid}": uid for uid in _running(pipeline) - uids - set(made.values())}
    if not steps and not made:
        return whole
    log.error("found on the host, unknown to the journal, to be ended: %s", "; ".join(step.summary for step in steps[:50]) or made)
    try:
        journal.anew.adopt_found(steps, made, iss=pipeline.host_id, now_ns=pipeline.clock.wall_ns(), why=why)
        journal.anew.begin(journal.anew.closing_only() or why, last_uid=max(made.values(), default=0))
    except TidegateError as error:
        log.error("what was found on the host is ended, and could not be noted: %s", error)
        pipeline.ledger.add(_in_memory(pipeline, steps, made, why))
    return whole


def _in_memory(pipeline: Pipeline, steps: list[Step], uids: dict[str, int], why: str) -> LiveGrant:
    """A grant to be ended that no journal has: better ended without a receipt than not ended."""
    now_ns = pipeline.clock.wall_ns()
    deadline = Deadline.starting_now(now_ns // NS, pipeline.clock)
    record = GrantRecord(
        *(-1, f"found-{now_ns}", pipeline.host_id, "", GrantState.SHUTTING, b"", f"{now_ns:064x}", now_ns // NS, now_ns // NS),
        *("", "", "what was found on the host", "", now_ns, deadline.boot_id, deadline.boot_ns),
    )
    live = LiveGrant(record, deadline, GrantState.SHUTTING, list(enumerate(steps)), dict(uids))
    live.cause, live.cause_text = EndCause.FAILED, why
    return live


def writable(config: Config) -> bool:
    """Whether the journal's folder takes writes (again)."""
    probe = config.paths.state_db.with_name(".tidegate-probe")
    try:
        files.atomic_write(probe, b"\n", 0o600)
        files.remove(probe)
    except TidegateError:
        return False
    return True


def _open_journal(config: Config, mend: bool, end_newer: bool, busy_ms: int) -> Kept:
    path = config.paths.state_db
    nothing = HostKey({}, "")  # replaced by the caller
    try:
        _refuse_lost(config)
        journal = Journal(path, busy_ms=busy_ms)
        journal.check()
    except JournalError as error:
        if error.code == "journal_newer" and not end_newer:
            raise
        failed = error
    else:
        return Kept(journal, nothing)
    with contextlib.suppress(JournalError):
        if failed.code != "journal_newer" and path.exists() and path.stat().st_size:
            whole = Journal(path, read_only=True)
            whole.check()
            why = f"the journal can't be written ({failed}); open grants end on their time"
            return Kept(whole.in_memory(), nothing, {"journal": why}, why, stuck=True)
    if not mend:
        raise failed
    return _begin_anew(config, failed, nothing)


def _refuse_lost(config: Config) -> None:
    """A journal that is gone, or empty, though this host had one: SQLite would quietly make a new one."""
    path = config.paths.state_db
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        if config.paths.host_key.exists():
            raise JournalError("journal_damaged", f"{path} is gone") from None
        return
    except OSError as error:
        raise JournalError("journal_unreadable", f"{path}: {error.strerror}") from error
    if size == 0:
        raise JournalError("journal_damaged", f"{path} is empty")


def _begin_anew(config: Config, failed: JournalError, host_key: HostKey) -> Kept:
    path, now_s = config.paths.state_db, int(time.time())
    newer = failed.code == "journal_newer"  # whole, but nobody here can say what its rows mean: ended, like what is damaged
    why = f"the journal was {'not ours to read' if newer else 'damaged'}: {failed.reason}"
    stuck, aside = False, path
    salvaged = salvage.read(path)
    try:
        aside = salvage.set_aside(path, time.strftime(f"{'newer' if newer else 'damaged'}-%Y%m%dT%H%M%SZ", time.gmtime(now_s)))
        journal = Journal(path)
    except (OSError, JournalError) as error:
        log.error("no new journal can be begun: %s", error)
        journal, stuck = Journal(None), True
    what = f"{len(salvaged.rows['grants'])} grants were read from it, {len(salvaged.live())} of them live"
    trouble = f"{failed}; {what}, and all are ended" + (f"; the file is kept as {aside}" if aside != path else "")
    log.critical("journal: %s", trouble)
    last = max(salvaged.last_uid(), _uids_in_receipts(config.paths.outbox)) or (config.uid_first + config.uid_last) // 2
    journal.anew.adopt(salvaged, why)
    # The leeway too: a grant that was used before the damage may say that it was signed so far ahead of this host's clock.
    journal.anew.begin(why, issued_from=now_s + IAT_LEEWAY_S, last_uid=min(last, config.uid_last))
    return Kept(journal, host_key, {"journal": trouble}, why, stuck=stuck, lost=True)


def _replace_key(config: Config, kept: Kept, failed: ConfigError) -> None:
    """A first start makes the key, silently. A host that had one gets another name with it, unless its configuration names it."""
    path = config.paths.host_key
    had_one = failed.code != "key_file_missing" or bool(kept.journal.recent(1)) or bool(kept.closing)
    aside = path
    try:
        if failed.code != "key_file_missing":
            aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
            path.rename(aside)
        kept.host_key = HostKey.load_or_create(path)
    except (OSError, ConfigError) as error:
        log.error("no new host key can be made: %s", error)
        kept.host_key, kept.stuck, had_one = HostKey.unsaved(), True, True
    if not had_one:
        return
    why = f"this host's own key was damaged: {failed.reason}"
    named = f"; the file is kept as {aside}" if aside != path else ""
    new = f"a new one was made, so this host is {kept.host_key.host_id} unless host_id is set"
    kept.troubles["host key"] = f"{failed}; {new}{named}"
    log.critical("host key: %s", kept.troubles["host key"])
    kept.closing = kept.closing or why
    kept.journal.anew.begin(why)
    kept.journal.shutting([(record.id, why) for record in kept.journal.live()], EndCause.FAILED)


def _running(pipeline: Pipeline) -> set[int]:
    """UIDs of the tenants' range that a process runs as, whether or not anybody knows an account of it."""
    config = pipeline.config
    try:
        table = ProcProcesses(config.uid_first, config.uid_last)
        return {found.tenant_uid for found in table.of(dict.fromkeys(range(config.uid_first, config.uid_last + 1), ""))}
    except TidegateError as error:
        log.error("what runs as a tenant is not known: %s", error)
        return set()


def _uids_in_receipts(outbox: Path) -> int:
    """The highest UID that a receipt still lying in the outbox names; 0 when none does."""
    found = [0]
    for name in _latest(files.names(outbox)):
        with contextlib.suppress(TidegateError, ValueError, LookupError, TypeError):
            payload = (files.read_bounded(outbox / name) or b"").split(b".")[1]
            found += [int(account["uid"]) for account in json.loads(urlsafe_b64decode(payload + b"=="))["accounts"]]
    return max(found)


def _latest(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if "-receipt-" in name)[-_RECEIPTS_READ:]
