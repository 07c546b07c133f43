"""What of an old grant's steps stands, is rewritten or goes when another takes its place, and who loses something by it."""

from typing import Any

import pytest

from agent.errors import UnenforceableError
from agent.model import Json, Phase, Plan, Stage, Step
from agent.planning import Replacement, replacement

ALICE = "jit-alice"
UIDS = {ALICE: 70001}
KEY, OTHER = "ssh-ed25519 AAAA", "ssh-ed25519 BBBB"


def step(enforcer: str, action: str, target: str, phase: Phase = Phase.CLOSE, **data: Json) -> Step:
    return Step(enforcer, action, Stage.GRANT, phase, target, f"{enforcer} {target}", data)


def create(full_name: str = "") -> Step:
    return step("account", "create", ALICE, Phase.REMOVE, name=ALICE, uid=70001, full_name=full_name)


def home(label: str = "old", archive: bool = False) -> Step:
    return step(
        "account", "home", "/home/jit-alice", Phase.REMOVE, name=ALICE, path="/home/jit-alice", label=label, archive=archive
    )


def member(group: str = "games", login: str = ALICE, enforcer: str = "account") -> Step:
    return step(enforcer, "membership", f"{login}:{group}", Phase.REMOVE, name=login, group=group)


def tenant(*actions: str, exp: int = 1) -> Step:
    words = ", ".join(f'"{action}"' for action in actions)
    return step(
        "account", "tenant", "/t/a.json", Phase.REMOVE, name=ALICE, path="/t/a.json", text=f'{{"exp": {exp}, "actions": [{words}]}}'
    )


def unlock() -> Step:
    return step("account", "unlock", ALICE, name=ALICE, uid=70001)


def keys(*lines: tuple[str, str], until: str = "20270101000000Z") -> Step:
    text = "".join(f'expiry-time="{until}",restrict{options} {key}\n' for key, options in lines)
    return step("ssh", "keys", "/k/jit-alice", name=ALICE, path="/k/jit-alice", text=text)


def rule(path: str, *commands: str, login: str = ALICE, run_as: tuple[str, ...] = ("root",), until: int = 1) -> Step:
    asked: dict[str, Json] = {
        "login": login,
        "run_as": [*run_as],
        "commands": [[*command.split()] for command in commands],
        "until": until,
    }
    return step("sudo", "rule", path, path=path, text=f"rule until {until}", rule=asked)


def change(old: list[Step], new: list[Step], uids: dict[str, int] | None = None) -> Replacement:
    held = UIDS if uids is None else uids
    return replacement(list(enumerate(old)), held, Plan("g-2", tuple(new), held))


def whole(**more: Any) -> list[Step]:
    base = {
        "create": create(),
        "home": home(),
        "member": member(),
        "tenant": tenant("login", "exec"),
        "keys": keys((KEY, ",pty")),
        "open": unlock(),
    }
    return [found for found in {**base, **more}.values() if found is not None]


def test_a_later_end_rewrites_what_has_it_and_nobody_loses_anything() -> None:
    new = whole(
        home=home("new"),
        tenant=tenant("login", "exec", exp=2),
        keys=keys((KEY, ",pty"), until="20280101000000Z"),
        sudo=rule("/s/b", "/bin/id", until=2),
    )
    found = change([*whole(), rule("/s/a", "/bin/id")], new)
    assert (found.gone, found.narrowed) == ((), ())
    assert [each.action for each in found.apply] == ["tenant", "keys", "rule"]
    assert found.apply[-1].target == found.apply[-1].data["path"] == "/s/a"  # over the old file
    assert found.taken == tuple(range(7))
    assert [each.data.get("label") for each in found.plan.steps if each.action == "home"] == ["new"]


@pytest.mark.parametrize(
    ("old", "new", "narrowed"),
    [
        ({"member": member()}, {"member": None}, True),
        ({"member": None}, {"member": member()}, False),
        ({"member": member()}, {"member": member(enforcer="group")}, False),
        ({"tenant": tenant("login", "exec")}, {"tenant": tenant("login")}, True),
        ({"tenant": tenant("login")}, {"tenant": tenant("login", "sftp")}, False),
        ({"keys": keys((KEY, ",pty"))}, {"keys": keys((KEY, ",pty"), (OTHER, ""))}, False),
        ({"keys": keys((KEY, ",pty"), (OTHER, ""))}, {"keys": keys((KEY, ",pty"))}, True),
        ({"keys": keys((KEY, ",pty"))}, {"keys": keys((OTHER, ",pty"))}, True),
        ({"keys": keys((KEY, ",pty"))}, {"keys": None}, True),
        ({"keys": keys((KEY, ",pty"))}, {"keys": keys((KEY, ",pty,port-forwarding"))}, False),
        ({"keys": keys((KEY, ",pty,port-forwarding"))}, {"keys": keys((KEY, ",pty"))}, True),
        ({"keys": keys((KEY, ""))}, {"keys": keys((KEY, ',from="10.0.0.1"'))}, True),
        ({"keys": keys((KEY, ',from="10.0.0.1"'))}, {"keys": keys((KEY, ""))}, False),
        ({"keys": keys((KEY, ',from="10.0.0.1"'))}, {"keys": keys((KEY, ',from="10.0.0.1,10.0.0.2"'))}, False),
        ({"keys": keys((KEY, ',from="10.0.0.1,10.0.0.2"'))}, {"keys": keys((KEY, ',from="10.0.0.1"'))}, True),
        ({"sudo": rule("/s/a", "/bin/id")}, {"sudo": rule("/s/b", "/bin/id", "/bin/ls")}, False),
        ({"sudo": rule("/s/a", "/bin/id", "/bin/ls")}, {"sudo": rule("/s/b", "/bin/id")}, True),
        ({"sudo": rule("/s/a", "/bin/id")}, {"sudo": rule("/s/b", "/bin/id -u")}, True),
        ({"sudo": rule("/s/a", "/bin/id", run_as=("root", "games"))}, {"sudo": rule("/s/b", "/bin/id")}, True),
        ({"sudo": rule("/s/a", "/bin/id")}, {}, True),
        ({"open": unlock()}, {"open": None}, True),
    ],
)
def test_narrowed_is_who_loses_a_right(old: dict[str, Any], new: dict[str, Any], narrowed: bool) -> None:
    assert change(whole(**old), whole(**new)).narrowed == ((ALICE,) if narrowed else ())


def test_what_the_new_one_does_not_give_is_gone() -> None:
    found = change([*whole(), rule("/s/a", "/bin/id")], whole(member=None))
    assert [each.action for _, each in found.gone] == ["membership", "rule"]
    assert [seq for seq, _ in found.gone] == [2, 6]


def test_a_persons_own_account_that_loses_something_loses_the_old_rule_whole() -> None:
    old = [rule("/s/a", "/bin/id", "/bin/ls", login="deploy")]
    less = change(old, [rule("/s/b", "/bin/id", login="deploy")], {})
    assert ([each.target for _, each in less.gone], [each.target for each in less.apply]) == (["/s/a"], ["/s/b"])
    same = change(old, [rule("/s/b", "/bin/id", "/bin/ls", login="deploy", until=2)], {})
    assert (same.gone, [each.target for each in same.apply]) == ((), ["/s/a"])


def test_the_account_itself_can_not_be_another() -> None:
    with pytest.raises(UnenforceableError) as caught:
        change(whole(), whole(create=create("Another")))
    assert caught.value.code == "supersedes_account_differs"
    with pytest.raises(UnenforceableError) as caught:
        replacement(list(enumerate(whole())), UIDS, Plan("g-2", (), {}))
    assert caught.value.code == "supersedes_other_accounts"
