"""The account files' rows as marks, to find those that are new or changed: eight characters for a row, Tidegate's own left out."""

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from agent.host.found import Found
from agent.host.trees import printable

ROWS_MAX = 4096
TOLD_MAX = 64
_DATABASE_MAX = 4 << 20


def mark(value: str | bytes) -> str:
    data = value if isinstance(value, bytes) else os.fsencode(value)
    return base64.b64encode(hashlib.blake2b(data, digest_size=6).digest()).decode()


class Rows:
    """The account files' rows, Tidegate's own left out."""

    BASES = ("passwd", "shadow", "group", "gshadow")
    _OURS = range(70000, 100000)

    def __init__(self, rows: Mapping[str, list[tuple[str, ...]]]) -> None:
        self._rows = rows
        self._tenants = {row[0] for row in rows.get("passwd", []) if self._ours(row)}

    @classmethod
    def read(cls, etc: Path, out: list[str]) -> "Rows":
        """From the files; what can't be read is noted in ``out``."""
        rows: dict[str, list[tuple[str, ...]]] = {}
        for base in cls.BASES:
            try:
                data = (etc / base).read_bytes()[:_DATABASE_MAX]
            except FileNotFoundError:
                continue
            except OSError as error:
                out.append(f"{etc / base}: {error.strerror}")
                continue
            lines = data.decode("utf-8", "surrogateescape").splitlines()
            rows[base] = [tuple(line.split(":")) for line in lines if line]
            if len(lines) > ROWS_MAX:
                out.append(f"{etc / base}: {len(lines)} rows, of which {ROWS_MAX} are kept")
        return cls(rows)

    def homes(self) -> list[tuple[str, str]]:
        """Login and home of everybody but tenants, each home once."""
        rows = [row for row in self._rows.get("passwd", []) if len(row) >= 6 and not self._ours(row)]
        return [(login, home) for home, login in {row[5]: row[0] for row in reversed(rows) if row[5].startswith("/")}.items()]

    def marks(self, base: str) -> str:
        """Of each row eight characters, in one text."""
        return "".join(mark for mark, _ in self.of(base)[:ROWS_MAX])

    def of(self, base: str) -> list[tuple[str, tuple[str, ...]]]:
        """Mark and row of everybody but tenants; tenants are left out of member lists too."""
        found = []
        for row in self._rows.get(base, []):
            if self._ours(row) or row[0] in self._tenants:
                continue
            if base in {"group", "gshadow"} and row[-1]:
                kept = sorted(name for name in row[-1].split(",") if name not in self._tenants)
                row = (*row[:-1], ",".join(kept))  # noqa: PLW2901  # the row as it is without us
            found.append((mark(":".join(row)), row))
        return found

    def _ours(self, row: tuple[str, ...]) -> bool:
        return len(row) > 2 and row[2].isdigit() and int(row[2]) in self._OURS


def account_differences(before: Mapping[str, object], rows: Rows, lent: frozenset[tuple[str, str]]) -> list[Found]:
    """New or changed rows. ``lent``: memberships (login, group) that Tidegate itself made since, or has taken back."""
    kept = before.get("account")
    found: list[Found] = []
    for base in Rows.BASES:
        text = str(kept.get(base, "")) if isinstance(kept, dict) else ""
        known = {text[at : at + 8] for at in range(0, len(text), 8)}
        listed = rows.of(base)
        changed = [row for mark, row in listed if mark not in known and not _only_lent(row, known, lent)]
        if len(listed) > ROWS_MAX and len(changed) >= len(listed) - ROWS_MAX:
            continue  # those beyond what was kept; a change among them can't be told
        for row in changed[:TOLD_MAX]:
            found.append(
                Found("account", f"/etc/{base}: {printable(row[0])}", f"{_about(base, row)}new or changed since the grant opened")
            )
    return found


def _about(base: str, row: tuple[str, ...]) -> str:
    if base == "passwd" and len(row) > 2:
        return "uid 0, root by another name, " if row[2].strip("0") == "" and row[0] != "root" else f"uid {printable(row[2])}, "
    return f"members {printable(row[-1])}, " if base == "group" and row[-1] else ""


def _only_lent(row: tuple[str, ...], known: set[str], lent: frozenset[tuple[str, str]]) -> bool:
    """Whether it is a known row but for members that Tidegate put in or took out."""
    names = {login for login, group in lent if group == row[0]}
    members = set(filter(None, row[-1].split(",")))
    variants = [members | names, members - names, *({*members, name} for name in names), *(members - {name} for name in names)]
    return bool(names) and any(mark(":".join((*row[:-1], ",".join(sorted(each))))) in known for each in variants)
