"""What the courier says of itself, shown. The file is its own, and it is the part that is attacked first: trusted is none of it."""

import json
import re
from collections.abc import Iterator, Mapping

from agent.cli.finding import Finding
from agent.config import Config
from agent.errors import HostError
from agent.host.courier import status_file
from agent.host.files import exists, read_bounded
from agent.model.text import one_line

_FILE_MAX = 64 * 1024
_SHOWN_MAX = 16
_NAME = re.compile(r"[a-z_]{1,40}")
_TEXTS = ("transport", "url", "how", "since", "last_contact", "certificate_ends", "written")
Object = dict[str, object]


def courier_status(config: Config) -> Object | None:
    """What it says, each member of its type and bounded; None where there is no courier.yaml and no courier either."""
    try:
        data = read_bounded(status_file(config.paths), _FILE_MAX)
        found = json.loads(data) if data is not None else None
    except (HostError, ValueError, RecursionError):
        found = {}
    if found is None:
        return {"running": False} if exists(config.paths.courier_config) else None
    said: Mapping[str, object] = found if isinstance(found, dict) else {}
    value: Object = {"running": True, "connected": said.get("connected") is True}
    value |= {name: _text(said.get(name)) for name in _TEXTS}
    value["last_token"] = _count(said.get("last_token"))
    value |= {name: _counts(said.get(name)) for name in ("backlog", "losses")}
    problems = said.get("problems")
    value["problems"] = [_text(item) for item in (problems if isinstance(problems, list) else [])[:_SHOWN_MAX]]
    error = said.get("last_error")
    value["last_error"] = {name: _text(error.get(name)) for name in ("code", "reason", "at")} if isinstance(error, dict) else None
    return value


def courier_lines(value: Object | None) -> Iterator[str]:
    """For `tidegate status`: one line, and one for each thing that is wrong."""
    if value is None:
        return
    if not value["running"]:
        yield "Courier: not running (systemctl status tidegate-courier)"
        return
    if value["connected"]:
        yield f"Courier: connected to {value['url']} since {value['since']} ({value['how']}){_waiting(value)}"
    else:
        yield f"Courier: NOT connected{_why(value)}{_waiting(value)}"
    problems = value["problems"]
    yield from (f"  ! courier: {problem}" for problem in (problems if isinstance(problems, list) else []))
    losses = value["losses"]
    if isinstance(losses, dict) and losses:
        yield f"  ! courier: lost for good: {', '.join(f'{count} {name}' for name, count in sorted(losses.items()))}"


def courier_finding(config: Config) -> Finding:
    """For `tidegate doctor`. Never worse than a warning: grants are enforced, and end, without it."""
    value = courier_status(config)
    if value is None:
        return Finding.ok("courier", f"{config.paths.courier_config} is not there: files are carried by other means")
    if exists(config.paths.courier_config):
        mend = "journalctl -u tidegate-courier; nothing that is open stays open for want of it"
    else:  # the package is here, and waits to be told whom to speak to
        mend = "tidegate enroll URL --token-file FILE --ca-fingerprint F; or remove the package tidegate-courier"
    lines = [line.strip() for line in courier_lines(value)]
    if value["running"] and value["connected"] and len(lines) == 1:
        return Finding.ok("courier", lines[0].removeprefix("Courier: "))
    detail = "; ".join(line.removeprefix("Courier: ").removeprefix("! courier: ") for line in lines)
    return Finding.warn("courier_trouble", "courier", detail, mend)


def _why(value: Object) -> str:
    error = value["last_error"]
    return f": {error['reason']} [{error['code']}] at {error['at']}" if isinstance(error, dict) else ""


def _waiting(value: Object) -> str:
    backlog = value["backlog"]
    waits = [f"{count} {name.replace('_', ' ')}" for name, count in backlog.items() if count] if isinstance(backlog, dict) else []
    return f"; waiting: {', '.join(waits)}" if waits else ""


def _text(value: object) -> str:
    return one_line(value, 300) if isinstance(value, str) else ""


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63 else 0


def _counts(value: object) -> dict[str, int]:
    pairs = list(value.items())[:_SHOWN_MAX] if isinstance(value, dict) else []
    return {name: _count(count) for name, count in pairs if isinstance(name, str) and _NAME.fullmatch(name)}
