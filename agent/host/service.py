"""What each of Tidegate's services does as one: its log, and its word to systemd.

It imports next to nothing: every process has it, and one that has no event loop or configuration of Tidegate's needs none for it.
"""

import contextlib
import logging
import os
import socket

_PATIENCE_S = 5.0


class _Formatter(logging.Formatter):
    """One line a message; where journald reads stderr, with the priority it is to be filed under (sd-daemon(3))."""

    _PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))

    def __init__(self, for_journald: bool) -> None:
        super().__init__("%(message)s" if for_journald else "%(levelname)s %(message)s")
        self._for_journald = for_journald

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        text = super().format(record)
        if not self._for_journald:
            return text
        priority = next((number for level, number in self._PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in text.splitlines() or [""])


def log_to_stderr(verbose: bool) -> None:
    """Say what is worth saying on stderr; ``verbose`` also what is not."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(for_journald="JOURNAL_STREAM" in os.environ))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])
    logging.getLogger("watchdog").setLevel(logging.WARNING)


def tell_systemd(state: str, patience_s: float = _PATIENCE_S) -> None:
    """sd_notify(3), where systemd asked for it. Anybody may fill its socket: whoever must not wait says for how long it does.

    Never raises: no descriptor may be left, and nothing that ends a grant depends on it.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        notify.settimeout(patience_s)
        notify.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
