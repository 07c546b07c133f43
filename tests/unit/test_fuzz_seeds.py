"""Every fuzzer's seeds, and every input that once failed, run once; `make fuzz` looks for more (tests/fuzz)."""

from pathlib import Path

import pytest

from tests.fuzz import SEEDS, names, target

FILES = sorted(path for name in names() for path in (SEEDS / name).iterdir())


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_seed_is_answered_as_promised(path: Path) -> None:
    target(path.parent.name).check(path.read_bytes())


def test_every_target_has_seeds_and_bounds_its_inputs() -> None:
    assert {path.parent.name for path in FILES} == set(names())
    for name in names():
        assert 0 < target(name).MAX_LEN <= 8192
        assert all(path.stat().st_size <= target(name).MAX_LEN for path in FILES if path.parent.name == name)
