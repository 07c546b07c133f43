"""Every error Tidegate raises, grouped by whose fault it is; each carries a stable code.

========================  ==============================================  =========
class                     whose fault                                     CLI exit
========================  ==============================================  =========
:class:`RefusedError`     the token, its signer or its request            3
:class:`ConfigError`      the admin's files                               1
:class:`HostError`        this host: a tool, the disk, the kernel         1
:class:`JournalError`     the journal can't be read or written            1
:class:`CourierError`     the network, or the control plane               1
========================  ==============================================  =========

Only :mod:`agent.cli` exits; everything else raises. An error is logged once, where it is handled.
"""

from pathlib import Path


class TidegateError(Exception):
    """Base of all. ``code`` is stable and machine-readable, ``reason`` is one line for a person."""

    def __init__(self, code: str, reason: str, *, field: str | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.field = field

    def __str__(self) -> str:
        """Human form: the field, where there is one, then the reason and the code."""
        where = f"{self.field}: " if self.field else ""
        return f"{where}{self.reason} [{self.code}]"


class RefusedError(TidegateError):
    """What was asked is refused, and nothing was changed. ``field`` is a path such as ``authorization_details[0].keys[1]``."""


class UntrustedError(RefusedError):
    """The bytes are not a well-formed token, or no key this host trusts vouches for them."""


class InvalidGrantError(RefusedError):
    """The signature is good but the grant says something that is unknown, twice, or out of range."""


class DeniedError(RefusedError):
    """A valid grant that this host's own policy does not allow."""


class UnenforceableError(RefusedError):
    """A valid, allowed grant that this host can't enforce exactly as asked: a name is taken, a tool is missing."""


class ConfigError(TidegateError):
    """A file of the admin's is wrong. Says the file, the line (from 1) and the key."""

    def __init__(self, code: str, reason: str, *, path: Path, line: int | None = None, key: str | None = None) -> None:
        super().__init__(code, reason, field=key)
        self.path = path
        self.line = line
        self.key = key

    def __str__(self) -> str:
        """``file:line: key: reason [code]``, the form editors jump to."""
        where = f"{self.path}:{self.line}" if self.line is not None else str(self.path)
        key = f" {self.key}:" if self.key else ""
        return f"{where}:{key} {self.reason} [{self.code}]"


class HostError(TidegateError):
    """Something on this host failed: a command, a write, a missing tool. Teardown goes on past it and tries again."""


class JournalError(TidegateError):
    """The journal can't be read or written. New grants stop; teardown goes on from what is in memory."""


class CourierError(TidegateError):
    """The way to the control plane is broken, or the other side does what it must not. Tried again later; opens nothing."""
