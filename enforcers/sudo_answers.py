"""What sudo's own programs answered, kept while it can't be otherwise: the same program, the same sudo.conf, the same question.

``sudo -V`` and ``cvtsudoers`` cost a process of 2 to 5 ms each. What either says depends on the program's file, on sudo.conf(5) and
on what it is asked; cvtsudoers is given all it reads (``-c /dev/null``, the text on stdin). Where one of the files can't be
told from another, and where the answer was a refusal, it is asked each time.
"""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from agent.errors import HostError
from agent.host.contract import Reader
from enforcers import sudoers_rule
from enforcers.programs import program
from enforcers.sudoers_rule import Rule

_CONF = Path("/etc/sudo.conf")
_KEPT = 256  # answers; the ones that were asked for least lately go first

Key = tuple[object, ...]


class Answers:
    """Good answers of one host at a time. Nothing is kept over a restart."""

    def __init__(self) -> None:
        self._of: weakref.ref[Reader] | None = None
        self._good: OrderedDict[Key, None] = OrderedDict()
        self._lock = threading.Lock()  # of these two; never held while a program is asked

    def other(self, reader: Reader) -> str:
        """What a sudo that is not sudo.ws's calls itself, else "" (see :func:`_other`)."""
        return self._asked(reader, "sudo", "-V", lambda: _other(reader))

    def prove(self, rule: Rule, text: str, reader: Reader) -> None:
        """As :func:`sudoers_rule.prove` of this very text and rule. Raises as that."""
        if why := self._asked(reader, "cvtsudoers", (rule, text), lambda: _unproved(rule, text, reader)):
            raise HostError("sudo_rule_unprovable", why)

    def _asked(self, reader: Reader, tool: str, question: object, ask: Callable[[], str]) -> str:
        """What ``ask`` says; without asking, where it said "" to that question and nothing has changed since."""
        before = _files(reader, tool)
        if before is not None and self._knows((*before, question), reader):
            return ""
        said = ask()
        if not said and before is not None and before == _files(reader, tool):  # it was these files that answered
            self._keep((*before, question), reader)
        return said

    def _knows(self, key: Key, reader: Reader) -> bool:
        with self._lock:
            if self._of is None or self._of() is not reader or key not in self._good:
                return False
            self._good.move_to_end(key)
            return True

    def _keep(self, key: Key, reader: Reader) -> None:
        with self._lock:
            if self._of is None or self._of() is not reader:
                self._of = weakref.ref(reader)
                self._good.clear()
            self._good[key] = None
            while len(self._good) > _KEPT:
                self._good.popitem(last=False)


def _files(reader: Reader, tool: str) -> Key | None:
    """What tells the program and its configuration from any others; None where that can't be known."""
    asked = program(reader, tool)
    try:
        return None if asked is None else (*asked, reader.read(_CONF))
    except HostError:
        return None


def _unproved(rule: Rule, text: str, reader: Reader) -> str:
    """Why cvtsudoers does not read back the rule; empty when it does."""
    try:
        sudoers_rule.prove(rule, text, reader)
    except HostError as error:
        return error.reason
    return ""


def _other(reader: Reader) -> str:
    """What a sudo that is not sudo.ws's calls itself, else "".

    sudo-rs (0.2.5, 0.2.15) knows neither NOTAFTER nor TIMEOUT and skips the line that has one; and it skips Defaults that it
    does not know (syslog, log_format) and goes on to the rule after them. So a rule would give nothing, or less held than asked.
    """
    found = reader.check(["sudo", "-V"])
    said = (found.stdout + found.stderr).splitlines() or ["of no known version"]  # sudo-rs 0.2.5 says it on stderr
    return "" if said[0].startswith("Sudo version") else said[0][:80]
