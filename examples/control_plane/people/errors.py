"""What can go wrong when people say who they are. Codes are stable; whose fault it is decides the class."""

from agent.errors import RefusedError, TidegateError


class LoginRefusedError(RefusedError):
    """This person, or this proof of who they are, is not let in. ``retry_after_s`` is set where waiting helps."""

    def __init__(self, code: str, reason: str, *, field: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(code, reason, field=field)
        self.retry_after_s = retry_after_s


class ProviderError(TidegateError):
    """The OpenID provider, or another server, can't be asked or answers what it must not. Lets nobody in."""
