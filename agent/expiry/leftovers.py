"""What a tenant leaves on the host, beside what its grant made: mounts, files, set-id bits. Nothing here raises."""

from collections.abc import Callable, Sequence

from agent.expiry import residue
from agent.expiry.shut import Shut, shown
from agent.host.contract import Writer
from agent.host.lent import Lent, merged
from agent.model import Residue


class Leftovers:
    """That part of teardown. What goes wrong stands in each :class:`Shut`; ``others``: what grants lend
    that go on."""

    def __init__(self, writer: Writer, others: Callable[[], Sequence[Lent]]) -> None:
        self._writer = writer
        self._others = others

    def detach(self, shuts: Sequence[Shut], *, runtime: bool = False) -> None:
        """What a tenant mounted goes before its home, which could not be removed from under it; runtime folders after systemd."""
        for shut in shuts:
            if shut.survivors or not (homes := residue.homes(shut.live)):
                continue
            try:
                found = self._writer.remains.detach(homes, runtime=runtime)
            except Exception as error:
                shut.residue += residue.unsearched(shut.live, f"mounts: {shown(error)}")
            else:
                shut.residue += residue.told([each for each in found if not (runtime and each.removed)], shut.live.tenants)

    def search(self, shuts: Sequence[Shut]) -> None:
        """What the tenants left: one search for all of them, or one for each where that fails for some.

        Of a grant that is to be tried again only where everybody may write: what would start something must not wait.
        """
        for whole in (True, False):
            gone = [shut for shut in shuts if not shut.survivors and bool(shut.errors) is not whole]
            self._search_for(gone, whole)

    def _search_for(self, gone: Sequence[Shut], whole: bool) -> None:
        try:
            order = residue.order([shut.live for shut in gone], self._writer, self._writer.config.paths.archive, whole=whole)
            found = self._writer.remains.search(order) if order.uids or order.setgid else []
        except Exception as error:
            if len(gone) > 1:
                for shut in gone:
                    self._search_for([shut], whole)
            elif gone and gone[0].live.attempts < residue.GIVEN_UP_AFTER:  # what is left is not known, so it is not over
                gone[0].undone.append((-1, f"files: {shown(error)}"))
            elif gone:
                gone[0].residue += residue.unsearched(gone[0].live, shown(error))
            return
        for shut in gone:
            shut.residue += residue.told(found, shut.live.tenants)

    def disarm_group(self, shut: Shut) -> bool:
        """A file given a lent group and its set-id bit would give the group back to whoever runs it. Whether there was one."""
        found = False
        for lent in (lent for lent in merged(shut.live.lent, self._others()) if lent.gids):
            try:
                paths = self._writer.disarm_group(lent.uid, lent.gids, shut.live.record.received_ns)
            except Exception as error:  # as above
                shut.undone.append((-1, f"set-group-id files of {lent.login}: {shown(error)}"))
            else:
                detail = f"{lent.login}'s, with a group that was lent: the bit was taken off"
                shut.residue += [Residue("setgid", path, detail, removed=True) for path in paths]
                found |= bool(paths)
        return found

    def settle(self, shuts: Sequence[Shut]) -> None:
        """The journal may lie on another disk than what was removed: on that it must be gone before this one says so."""
        try:
            self._writer.settle()
        except Exception as error:
            for shut in shuts:
                shut.undone.append((-1, shown(error)))
