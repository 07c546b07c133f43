"""Reading a step's journaled data: the JSON may come from an older version, so a wrong type is an error with a name."""

from agent.errors import HostError
from agent.model import JsonObject


def text(data: JsonObject, key: str) -> str:
    """A string member. Raises HostError ``bad_step``."""
    value = data.get(key)
    if not isinstance(value, str):
        raise HostError("bad_step", f"a step without the text {key!r}")
    return value


def number(data: JsonObject, key: str) -> int:
    """An integer member. Raises HostError ``bad_step``."""
    value = data.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise HostError("bad_step", f"a step without the number {key!r}")
    return value
