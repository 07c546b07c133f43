"""Rows of colon-separated databases (passwd(5), shadow(5), group(5), gshadow(5)) as bytes: only our row ever changes.

Everything else stays byte for byte: comments, NIS ``+`` rows, odd spacing, a missing final newline. Pure functions.
"""

Row = tuple[bytes, ...]


def find(data: bytes, name: str) -> tuple[int, int] | None:
    """Start and end (without its newline) of the first row of that name."""
    key = name.encode() + b":"
    at = 0 if data.startswith(key) else data.find(b"\n" + key) + 1
    if at == 0 and not data.startswith(key):
        return None
    end = data.find(b"\n", at)
    return at, len(data) if end < 0 else end


def get(data: bytes, name: str) -> Row | None:
    """The fields of the first row of that name."""
    span = find(data, name)
    return tuple(data[span[0] : span[1]].split(b":")) if span else None


def add(data: bytes, row: Row) -> bytes:
    """With the row added: before the first NIS ``+`` row, else at the end, which keeps its newline or its lack of one."""
    line = b":".join(row)
    nis = 0 if data.startswith(b"+") else data.find(b"\n+") + 1
    if nis or data.startswith(b"+"):
        return data[:nis] + line + b"\n" + data[nis:]
    if data and not data.endswith(b"\n"):
        return data + b"\n" + line
    return data + line + b"\n"


def drop(data: bytes, name: str) -> bytes:
    """Without the row of that name: the exact inverse of :func:`add`."""
    span = find(data, name)
    if span is None:
        return data
    start, end = span
    if end < len(data):
        return data[:start] + data[end + 1 :]
    return data[: max(0, start - 1)]


def put(data: bytes, row: Row) -> bytes:
    """With the row of the same name replaced."""
    span = find(data, row[0].decode())
    if span is None:
        return data
    return data[: span[0]] + b":".join(row) + data[span[1] :]


def members(row: Row) -> list[bytes]:
    """The member list of a group row."""
    return [name for name in row[3].split(b",") if name] if len(row) > 3 else []


def add_member(data: bytes, group: str, user: str) -> bytes:
    """With ``user`` at the end of the group's list; unchanged where it is in it, or where the group is not."""
    row = get(data, group)
    if row is None or len(row) != 4 or user.encode() in members(row):
        return data
    return put(data, (*row[:3], row[3] + b"," + user.encode() if row[3] else user.encode()))


def drop_member(data: bytes, group: str, user: str) -> bytes:
    """Without ``user``: the exact inverse of :func:`add_member`, wherever in the list the name now stands."""
    row = get(data, group)
    if row is None or len(row) != 4 or user.encode() not in members(row):
        return data
    names = row[3].split(b",")
    at = len(names) - 1 - names[::-1].index(user.encode())
    return put(data, (*row[:3], b",".join(names[:at] + names[at + 1 :])))


def groups_listing(data: bytes, user: str) -> list[str]:
    """Names of the groups whose list has ``user``."""
    if user.encode() not in data:
        return []
    rows = (tuple(line.split(b":")) for line in data.split(b"\n") if user.encode() in line)
    return [row[0].decode(errors="replace") for row in rows if len(row) == 4 and user.encode() in members(row)]
