"""Which program of the host's gave an answer: another package, or another link of update-alternatives, is another file."""

from agent.host.contract import Reader

Program = tuple[str, str, tuple[int, ...]]


def program(reader: Reader, tool: str) -> Program | None:
    """What tells it from any other: its name, its path, its file's identity. None where there is none, or it can't be known."""
    path = reader.tool(tool)
    identity = reader.identity(path) if path is not None else None
    return None if identity is None else (tool, str(path), identity)
