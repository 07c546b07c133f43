"""In a host, as root: one point after the other. Orders come as JSON lines on stdin, one answer line for each on stdout."""

import contextlib
import json
import os
import pwd
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, "/usr/lib/tidegate")

from agent.control import client
from agent.trust import TYP_GRANT, sign_compact
from tests.crash import checks
from tests.crash.daemons import ANSWERS, FOLDER, LOG, SOCKET, Daemons, Stuck, forked
from tests.crash.ground import Ground, ordered
from tests.crash.people import People
from tests.hosts.snapshot import Snapshot

NS = 1_000_000_000
LASTS_S, SHORT_S = 7200, 6
LOOK_S = 5.0
MOVED = {"expire", "cancel", "again"}  # operations that move the clock: the real unit comes after T, by its own
CANCELLED_AT = 60  # of the calls of an opening
_KEY = Path("/opt/crash/key")
_INBOX = checks.STATE / "spool/inbox"
Order = dict[str, Any]


class Driver:
    """One host's points. All use one token, so that the host with its grant open is the same each time, byte for byte."""

    def __init__(self) -> None:
        FOLDER.mkdir(exist_ok=True)
        self.scene = json.loads(Path("/opt/crash/scene.json").read_text())
        self.daemons = Daemons()
        self.flags = self.daemons.flags
        self.ground = Ground()
        self.people = People()
        self.whole: dict[str, Snapshot] = {}  # by backend: the host with the grant open
        self.rights = ""
        self.token, self.exp_ns = b"", 0
        self.uid = 70000

    # What is done for each order

    def count(self, order: Order) -> Order:
        """Go through one operation and kill nobody: how many calls and commits there are."""
        self._get_ready(order["backend"])
        report = self._operate(order, Order())
        return {"calls": report["calls"], "commits": self.flags.commits}

    def point(self, order: Order) -> Order:
        """Kill at one point, start again before T and after it (``after``: only then), and look."""
        backend = order["backend"]
        self._get_ready(backend)
        report = self._operate(order, order)
        problems, stood = [], ""
        if not order.get("after"):
            was_ordered = ordered()
            self.daemons.start(backend, self.flags.offset_ns)
            state = self.daemons.settled()
            stood = state[0] if state else "nothing"
            problems += [f"before T: {found}" for found in self._look(backend, state)]
            problems += ["before T: an end that was ordered is forgotten"] if was_ordered and state else []
            self.daemons.kill_all()
        self.daemons.start(backend, self._past_the_end())
        problems += [f"after T: a grant is {found}" for found in self.daemons.settled()]
        problems += [f"after T: {found}" for found in self._look(backend, [])]
        if order.get("knock"):
            problems += [f"after T: {found}" for found in checks.knock(_KEY)]
        return {"hit": report["hit"], "stood": stood, "problems": problems}

    def service(self, order: Order) -> Order:
        """Kill at one point of a grant of a few seconds; then systemd starts the real tidegated, and nobody moves a clock."""
        backend = order["backend"]
        self._get_ready(backend)
        lasting = self.token, self.exp_ns
        self._sign(SHORT_S)
        try:
            report = self._operate(order, order)
            self.daemons.kill_all()
            if order["op"] not in MOVED:
                self.daemons.service(backend, "start")
            time.sleep(max(0.0, self.exp_ns / NS - time.time() + 0.5))
            if order["op"] in MOVED:
                self.daemons.service(backend, "start")
            self.daemons.wait_for([])
            problems = [f"after T: {found}" for found in self._look(backend, []) + checks.knock(_KEY)]
            return {"hit": report["hit"], "stood": "", "problems": problems}
        finally:
            self.daemons.service(backend, "stop")
            self.token, self.exp_ns = lasting

    def _look(self, backend: str, state: list[str]) -> list[str]:
        """The host agrees with what the daemon says of it: one grant open and whole, or nothing of any.

        A grant is over when the journal says so, and its receipt is put out a moment later: what is wrong is looked at again.
        """
        give_up = time.monotonic() + LOOK_S
        while (problems := self._look_once(backend, state)) and time.monotonic() < give_up:
            time.sleep(0.1)
        return problems

    def _look_once(self, backend: str, state: list[str]) -> list[str]:
        found = checks.spool() + self.people.problems()
        if state == ["open"]:
            return [*found, *checks.changed(self.whole[backend], "not whole", self.people.files), *checks.journal("open")]
        return [*found, *checks.undone(self.ground.baseline, self.rights, self.uid), *checks.journal("ended")]

    # Operations: each brings the host to where it begins, sets it off, and returns what the tracer says

    def _operate(self, order: Order, kill: Order) -> Order:
        self.daemons.kill_all()
        self.people.go()
        self.ground.reset()
        self.flags.clear()
        return getattr(self, f"_op_{order['op']}")(order, kill)  # type: ignore[no-any-return]

    def _op_open(self, order: Order, kill: Order) -> Order:
        """A grant that comes into the inbox."""
        report = self.daemons.start_traced(order["backend"], kill)
        self.daemons.arm(kill)
        self._drop()
        return self.daemons.hit(report)

    def _op_cancel(self, order: Order, kill: Order) -> Order:
        """A grant whose end comes while it is being opened."""
        report = self.daemons.start_traced(order["backend"], kill)
        self.flags.shift_to_ns, self.flags.shift_at = self._past_the_end(), CANCELLED_AT
        self.daemons.arm(kill)
        self._drop()
        return self.daemons.hit(report)

    def _op_revoke(self, order: Order, kill: Order) -> Order:
        """An open grant with people in, and the order to end it."""
        report = self.daemons.start_traced(order["backend"], kill)
        self._open_and_let_in()
        self.daemons.arm(kill)
        asking = forked(lambda: client.call(SOCKET, "revoke", all=True, reason="crash"))
        try:
            return self.daemons.hit(report)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(asking, signal.SIGKILL)
            os.waitpid(asking, 0)

    def _op_expire(self, order: Order, kill: Order) -> Order:
        """An open grant with people in, whose time has come."""
        report = self.daemons.start_traced(order["backend"], kill)
        self._open_and_let_in()
        self.flags.offset_ns = self._past_the_end()
        self.daemons.arm(kill)
        os.kill(self.flags.agent, signal.SIGUSR2)
        return self.daemons.hit(report)

    def _op_stand(self, order: Order, kill: Order) -> Order:
        """A start after a reboot, with an open grant of which /run holds nothing any more."""
        self.daemons.start(order["backend"], 0)
        self._drop()
        self.daemons.wait_for(["open"])
        self.daemons.kill_all()
        self.ground.forget_this_boot()
        return self.daemons.hit(self.daemons.start_traced(order["backend"], kill, armed=True))

    def _op_again(self, order: Order, kill: Order) -> Order:
        """A start after a kill: ``first`` and ``first_at`` say which operation was killed, and where."""
        self._operate({**order, "op": order["first"]}, {"at": order["first_at"]})
        return self.daemons.hit(self.daemons.start_traced(order["backend"], kill, armed=True))

    def _open_and_let_in(self) -> None:
        self._drop()
        self.daemons.wait_for(["open"])
        self.uid = pwd.getpwnam(checks.LOGIN).pw_uid
        self.people.come(self.uid)

    # The grant, and the host with it and without

    def _get_ready(self, backend: str) -> None:
        """Once for each backend: open and end the grant with no kill, to know what the host is like then."""
        if backend in self.whole:
            return
        self.daemons.kill_all()
        self.ground.reset()
        if not self.token:
            self._sign(LASTS_S)
        self.daemons.start(backend, 0)
        if not self.ground.baseline:
            self.ground.keep()
            self.rights = checks.rights(checks.PERSON)
        self._drop()
        self.daemons.wait_for(["open"])
        whole = checks.snapshot()
        client.call(SOCKET, "revoke", all=True, reason="reference")
        problems = self._look(backend, [])
        if problems:
            raise Stuck(f"without any kill: {problems}")
        self.whole[backend] = whole

    def _sign(self, lasts_s: int) -> None:
        now = int(time.time())
        host_id = Path("/opt/crash/host-id").read_text().strip()
        claims = {**self.scene["claims"], "aud": host_id, "iat": now, "nbf": now, "exp": now + lasts_s, "jti": "crash-1"}
        self.token = sign_compact(claims, TYP_GRANT, self.scene["key"]).encode()
        self.exp_ns = (now + lasts_s) * NS

    def _past_the_end(self) -> int:
        """By how much the clocks must be ahead for the grant to be over."""
        return self.exp_ns - time.time_ns() + NS

    def _drop(self) -> None:
        (_INBOX / ".drop").write_bytes(self.token)
        (_INBOX / ".drop").rename(_INBOX / "crash.jwt")

    def answer(self, order: Order) -> Order:
        """One order, with whatever goes wrong in it as its problem, and the end of tidegated's log where there is one."""
        begun = time.monotonic()
        LOG.write_bytes(b"")
        try:
            result: Order = getattr(self, order["do"])(order)
        except Exception as error:  # whatever it is, the next point is tried
            result = {"hit": None, "stood": "", "problems": [f"{type(error).__name__}: {error}"], "trace": traceback.format_exc()}
        if result.get("problems"):
            result["log"] = LOG.read_text(errors="replace").splitlines()[-40:]
        return {**result, "seconds": round(time.monotonic() - begun, 3)}

    def close(self) -> None:
        """Leave nobody running."""
        self.daemons.kill_all()
        self.people.go()


def main() -> None:
    """Until stdin ends."""
    os.dup2(1, ANSWERS)
    os.dup2(2, 1)
    driver = Driver()
    try:
        for line in sys.stdin:
            os.write(ANSWERS, json.dumps(driver.answer(json.loads(line))).encode() + b"\n")
    finally:
        driver.close()


if __name__ == "__main__":
    main()
