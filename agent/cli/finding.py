"""One check of `tidegate doctor`: what it looked at, how it stands, and what to do."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """``level``: ok, warn (less protection) or fail (grants can't be enforced). ``mend``: what to do, ``code``: for scripts.

    A code is stable, empty where nothing is wrong; docs/CODES.md has all.
    """

    name: str
    level: str
    detail: str
    mend: str = ""
    code: str = ""

    @classmethod
    def ok(cls, name: str, detail: str) -> "Finding":
        """Nothing to do."""
        return cls(name, "ok", detail)

    @classmethod
    def warn(cls, code: str, name: str, detail: str, mend: str) -> "Finding":
        """Less protection than there could be."""
        return cls(name, "warn", detail, mend, code)

    @classmethod
    def fail(cls, code: str, name: str, detail: str, mend: str) -> "Finding":
        """Something keeps grants from being enforced."""
        return cls(name, "fail", detail, mend, code)

    def to_json(self) -> dict[str, str]:
        """For ``--json``."""
        return {"name": self.name, "level": self.level, "code": self.code, "detail": self.detail, "mend": self.mend}
