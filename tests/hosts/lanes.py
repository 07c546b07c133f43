"""How two workers share the tests (pytest-xdist): who judges by a clock runs one after the other, and everything else beside it."""

import functools
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

_ROOT = Path(__file__).resolve().parents[2]
_BESIDE = "pytest.mark.host(beside=True)"


class Lanes(LoadScopeScheduling):
    """Every file stays whole, since its tests share a host; host tests that judge by a clock are all one work unit."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if _beside(file) else "by the clock"


@functools.cache
def _beside(file: str) -> bool:
    """Whether the file's tests may run beside those others: by its mark, for the workers alone know more."""
    text = (_ROOT / file).read_text()
    return "pytest.mark.host" not in text or _BESIDE in text
