"""What ended grants left behind: what to look for, what of it to remove, and how it is told. The looking itself is the host's."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from agent.errors import HostError
from agent.expiry.live import LiveGrant
from agent.host.contract import Reader, Writer
from agent.host.found import UNSEARCHED, Found, Search, SetGid
from agent.journal import Journal
from agent.model import Json, Residue, Step

BASELINE = "baseline"  # the note a grant's baseline is kept under
GIVEN_UP_AFTER = 3  # attempts; then a search that can't be made is told, and made up for later
_LEFT_OUT_TOLD = 8


def reaches_root(live: LiveGrant) -> bool:
    """Whether what it gives may change files of the host's own: by sudo, or by a group that amounts to root.

    Anybody else leaves nothing but what is found by its owner, without a baseline.
    """
    return bool(live.record.not_containable) or any(step.enforcer == "sudo" for _, step in live.steps)


def take_baseline(live: LiveGrant, writer: Writer, journal: Journal) -> None:
    """Before the first step of a grant that reaches so far. What can't be looked at stands in the note. Raises JournalError."""
    if not reaches_root(live) or BASELINE in live.notes:  # one that takes another's place has the other's: it is older
        return
    try:
        found = _json(writer.remains.baseline())
    except Exception as error:  # less would be told at the end; that is no reason to keep anybody out
        found = {"error": f"{type(error).__name__}: {error}"}
    live.notes[BASELINE] = found
    journal.note(live.id, BASELINE, found)


def order(grants: Sequence[LiveGrant], reader: Reader, archive: Path, *, whole: bool) -> Search:
    """One search for all of these."""
    return Search(
        uids=frozenset(uid for live in grants for uid in live.tenants),
        archives={uid: path for live in grants for uid, path in archives([step for _, step in live.steps], archive).items()},
        setgid=tuple(found for live in grants for found in _lent(live, reader)),
        keep=tuple(home for live in grants for home in homes(live)),
        whole=whole,
        acls=any(reaches_root(live) for live in grants),
    )


def homes(live: LiveGrant) -> dict[Path, int]:
    """Home → uid of the accounts the grant made; they go by their own step."""
    return dict(_homes([step for _, step in live.steps]))


def archives(steps: Collection[Step], folder: Path) -> dict[int, Path]:
    """uid → where what lies outside its home is packed to, of the accounts whose home is archived."""
    return {
        uid: folder / f"{home.name}-{step.data.get('label')}-elsewhere.tar.gz"
        for step in steps
        if step.action == "home" and step.data.get("archive") is True
        for home, uid in _homes([step])
    }


def told(found: Collection[Found], uids: Collection[int]) -> list[Residue]:
    """As the receipt says it, of one grant's uids."""
    return [
        Residue(each.kind, each.where, each.detail, each.removed, each.uid)
        for each in found
        if each.uid is None or each.uid in uids
    ]


def changes(live: LiveGrant, writer: Writer) -> list[Residue]:
    """What of the host's own is otherwise than when the grant opened. Raises what the host raises."""
    note = live.notes.get(BASELINE)
    if not isinstance(note, dict):
        return []
    if "error" in note:
        return [Residue(UNSEARCHED, "this host's own files", f"no baseline was taken: {note['error']}", of_host=True)]
    names = [*live.record.logins, *live.uids, *map(str, live.tenants)]
    found = writer.remains.changes(note, list(dict.fromkeys(names)))
    told_of = [Residue(each.kind, each.where, each.detail, each.removed, of_host=True) for each in found]
    left_out = note.get("left_out")
    if isinstance(left_out, list) and left_out:
        what = "; ".join(str(each) for each in left_out[:_LEFT_OUT_TOLD])
        told_of.append(Residue(UNSEARCHED, "this host's own files", f"not in the baseline: {what}", of_host=True))
    return told_of


def unsearched(live: LiveGrant, error: str) -> list[Residue]:
    """A search that could not be made, time and again: the grant ends, and each of its UIDs is kept back until one is made."""
    return [Residue(UNSEARCHED, "/", error, uid=uid) for uid in live.tenants] or [Residue(UNSEARCHED, "/", error, of_host=True)]


def left_of(found: Collection[Residue], uid: int) -> list[Json]:
    """What keeps the UID from coming back, as JSON."""
    return [each.to_json() for each in found if not each.removed and not each.of_host and each.uid in {None, uid}]


def _lent(live: LiveGrant, reader: Reader) -> list[SetGid]:
    """Groups that accounts which stay were put into. One that can't be looked up any more has no gid to look for."""
    found: list[SetGid] = []
    for _, step in live.steps:
        login, name = step.data.get("name"), step.data.get("group")
        if step.action != "membership" or login in live.uids:
            continue
        try:
            user, group = reader.user(str(login)), reader.group(str(name))
        except (HostError, OSError):
            continue
        if user is not None and group is not None:
            found.append(SetGid(group.gid, user.uid, live.record.received_ns))
    return found


def _homes(steps: Collection[Step]) -> list[tuple[Path, int]]:
    return [
        (Path(path), uid)
        for step in steps
        if step.action == "home" and isinstance(path := step.data.get("path"), str) and isinstance(uid := step.data.get("uid"), int)
    ]


def _json(value: Mapping[str, object]) -> dict[str, Json]:
    """A baseline is JSON by contract; this says so to the types."""
    return {key: each for key, each in value.items()}  # type: ignore[misc]  # noqa: C416
