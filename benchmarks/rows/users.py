"""What one more grant costs on a host with many users in /etc/passwd, beside useradd there."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.frame.row import OURS, Goal, Plot, Row, Run
from benchmarks.ground import standing
from benchmarks.rows.filling import USERADD, add_one, open_one
from tests.host.scene import account, public, ssh

_COUNTS = (10, 10_000)
_FIRST_UID = 20_000
_CASES = {users: f"{users} users: one more opened" for users in _COUNTS}
_GROWN = f"the same with {_COUNTS[-1]:,} users over with {_COUNTS[0]}"


def measure(run: Run) -> None:
    """A host for each number of users."""
    for users in _COUNTS:
        with standing(run, also=lambda root, users=users: _fill(root, users)) as ground:  # type: ignore[misc]
            ground.scene.open(account("jit-stands"), ssh("jit-stands", public(ground.key)), sub="s@example.com")
            number, case = iter(range(10**6)), _CASES[users]
            open_one(Run("warm"), ground, case, next(number))
            ways: dict[str, Callable[[], None]] = {
                OURS: lambda ground=ground, case=case, number=number: open_one(run, ground, case, next(number)),  # type: ignore[misc]
                USERADD: lambda ground=ground, case=case, number=number: add_one(run, ground, case, next(number)),  # type: ignore[misc]
            }
            run.turns(20, 3, ways, case)
    few, many = (run.figures[_CASES[users]] for users in _COUNTS)
    for way in (OURS, USERADD):
        run.add(_GROWN, way, "times", *(value / few[way].median for value in many[way].values))


def _fill(root: Path, users: int) -> None:
    """Rows as useradd makes them, in all three files."""
    rows = range(_FIRST_UID, _FIRST_UID + users)
    texts = {
        "passwd": "".join(f"user{uid}:x:{uid}:{uid}::/home/user{uid}:/bin/sh\n" for uid in rows),
        "shadow": "".join(f"user{uid}:!:19000:0:99999:7:::\n" for uid in rows),
        "group": "".join(f"user{uid}:x:{uid}:\n" for uid in rows),
        "gshadow": "".join(f"user{uid}:!::\n" for uid in rows),
    }
    for name, text in texts.items():
        with (root / "etc" / name).open("a") as file:
            file.write(text)


ROW = Row(
    name="users",
    title="Many users in /etc/passwd",
    about="One more grant with an account and a key, from the inbox to open, on hosts with few and with many users in "
    "passwd, shadow, group and gshadow; in turn with useradd and userdel.",
    measure=measure,
    goals=(Goal(_GROWN, "median", 1.5),),
    ways={OURS: "Tidegate", USERADD: "useradd -m"},
    limits={_GROWN: (USERADD,)},
    plots=(Plot("growth", "One more grant opened", tuple(_CASES.values()), "users in /etc/passwd"),),
)
