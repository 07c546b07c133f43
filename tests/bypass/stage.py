"""Playing one attack, and judging it: did it really run, and did anything get past the recorder or harm it?"""

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from agent.sessions.recording import Frame, read
from tests.sessions.bed import RECORDINGS, Bed, Person, Tenant

ATTACKER, LIMITED, LOGIN_ONLY = "jit-rec-a", "jit-rec-b", "jit-rec-c"
# The first may do all, so that every way is open to it; the others show that a grant without an action gives none of it.
TENANTS = (Tenant(ATTACKER), Tenant(LIMITED, ("login", "exec", "sftp")), Tenant(LOGIN_ONLY, ("login",)))
UNIT = "tidegate-recorder.service"
PROGRAM = "/opt/tenant.py"
LOG = "attack.log"
_WRITTEN_S = 3.0  # until what was seen must stand in a recording


@dataclass
class Seen:
    """What an attack brought to light: bytes that reached the client, and anything wrong that the attack itself can tell."""

    client: bytes = b""
    harm: list[str] = field(default_factory=list)
    ran: bool = True


Play: TypeAlias = Callable[["Stage"], Seen]


@dataclass(frozen=True)
class Attack:
    """``ran`` is a pattern in what the client saw or in the tenant's own notes: without it the attack proves nothing."""

    name: str
    play: Play
    ran: str = ""
    gap_is_enough: bool = False  # a gap in the recording that says so is no escape


@dataclass
class Verdict:
    """How it ended."""

    attack: Attack
    escaped: list[str] = field(default_factory=list)
    ran: bool = True

    @property
    def bad(self) -> bool:
        """It got past the recorder, harmed it, or was not really tried."""
        return bool(self.escaped) or not self.ran


class Stage:
    """The host while one attack is played on it. ``mark`` shows joined only where a command wrote it, never in its text."""

    def __init__(self, bed: Bed, recording: bool = True) -> None:
        self.bed = bed
        self._recording = recording
        self._old = frozenset(bed.recordings())
        self.words = (secrets.token_hex(6), secrets.token_hex(6))

    @property
    def mark(self) -> bytes:
        """What must be in a recording once a client has seen it."""
        return "-".join(self.words).encode()

    @property
    def echo(self) -> str:
        """A shell's words that print the mark."""
        return f"printf '%s-%s\\n' {self.words[0]} {self.words[1]}"

    @property
    def tenant(self) -> Person:
        """Who attacks."""
        return self.bed.people[ATTACKER]

    def inside(self, name: str) -> str:
        """The command line of an attack of `tests.bypass.tenant`."""
        return f"python3 -I {PROGRAM} {name} {self.words[0]} {self.words[1]}"

    def notes(self) -> str:
        """What the tenants' programs have noted."""
        return self.bed.host.run(f"cat /home/*/{LOG} 2>/dev/null || true").stdout

    # The judge

    def run(self, attack: Attack) -> Verdict:
        """Play it, and look."""
        verdict = Verdict(attack)
        before = self.recorder()
        self.bed.host.run(f"rm -f /home/*/{LOG}")
        try:
            seen = attack.play(self)
        except Exception as failure:  # whatever a client raises: an attack that can't be played proves nothing
            seen = Seen(ran=False, harm=[f"not played: {type(failure).__name__}: {str(failure)[:200]}"])
        verdict.escaped += seen.harm
        evidence = seen.client.decode(errors="replace") + self.notes()
        verdict.ran = seen.ran and re.search(attack.ran, evidence, re.DOTALL) is not None
        if self.mark in seen.client and not self._stands(attack):
            verdict.escaped.append("the client saw the mark, no recording has it")
        if self._recording and (before != (after := self.recorder()) or not before):
            verdict.escaped.append(f"the recorder was process {before}, is {after}")
        if trouble := self.control():
            verdict.escaped.append(trouble)
        return verdict

    def recorder(self) -> int:
        """Its process id; 0 when it does not run."""
        return int(self.bed.host.run(["systemctl", "show", "--property=MainPID", "--value", UNIT]).stdout.strip() or 0)

    def _stands(self, attack: Attack) -> bool:
        ends = time.monotonic() + (_WRITTEN_S if self._recording else 0)
        words = [self.mark, hashlib.sha256(self.mark).hexdigest().encode()]
        while time.monotonic() < ends:
            if any(self.recorded(word) for word in words) or (attack.gap_is_enough and self.recorded(b'"gap"', new=True)):
                return True
            time.sleep(0.1)
        return False

    def recorded(self, words: bytes, new: bool = False) -> bool:
        """Whether these bytes stand in what one recording says was put out, or in its events; ``new``: made by this attack."""
        return any(words in text for name, text in recorded_texts(self.bed).items() if not (new and name in self._old))

    def control(self) -> str:
        """An honest session of another tenant: it must work, in time, and be recorded. What is wrong with it, or nothing."""
        if not self._recording:
            return ""
        words = (secrets.token_hex(6), secrets.token_hex(6))
        began = time.monotonic()
        try:
            done = self.bed.people[LIMITED].ssh(f"printf '%s-%s\\n' {words[0]} {words[1]}", timeout=30)
        except Exception as failure:  # said, as harm
            return f"nobody gets in afterwards: {failure}"
        mark = "-".join(words).encode()
        if mark not in done.stdout:
            return f"nobody gets in afterwards: {done.returncode} {done.stderr[-200:]!r}"
        if time.monotonic() - began > 10:
            return f"a login took {time.monotonic() - began:.0f} s afterwards"
        for _ in range(30):
            if self.recorded(mark):
                return ""
            time.sleep(0.1)
        return "a session afterwards is not recorded"


_cache: dict[str, tuple[int, bytes]] = {}


def recorded_texts(bed: Bed) -> dict[str, bytes]:
    """Of each recording, by its file's name, all output and events, joined; frames may cut anything anywhere."""
    texts = {}
    folder = Path(f"/proc/{bed.host.leader}/root{RECORDINGS}")
    for path in sorted(folder.glob("*.tgr")):
        size = path.stat().st_size
        if _cache.get(path.name, (0, b""))[0] != size:
            with path.open("rb") as stream:
                frames = [frame for frame in read(stream) if isinstance(frame, Frame)]
            parts = [b"".join(frame.data for frame in frames if frame.kind == ord(kind)) for kind in "oev"]
            _cache[path.name] = size, b"\n".join(parts)
        texts[path.name] = _cache[path.name][1]
    return texts
