"""Which processes hold what a grant lent to an account that was there before, and which are the person's own."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.host.lent import Lent, Look, Row, holders, merged
from agent.model import Phase, Stage, Step, lent_by
from agent.model.lent import to_json

DEPLOY, GAMES, ROOT, MATE = 1000, 5, 0, 1001
GROUP = 60
OPENED = 1_000
BY_GROUP = Lent("deploy", DEPLOY, gids=frozenset({GROUP}), since_ns=OPENED)
BY_RULE = Lent("deploy", DEPLOY, rules=frozenset({(ROOT, "/usr/bin/id -u"), (GAMES, "/bin/bash")}), since_ns=OPENED)


def row(pid: int, uid: int = DEPLOY, *, ppid: int = 1, name: str = "sh", gids: tuple[int, ...] = (1000,), **more: object) -> Row:
    plain = Row(pid, ppid, name, (uid,) * 4, frozenset(gids), DEPLOY, OPENED + 1)
    return replace(plain, **more)  # type: ignore[arg-type]


def found(
    *rows: Row, lent: Lent, env: dict[int, dict[str, str]] | None = None, argv: dict[int, list[str]] | None = None
) -> set[int]:
    look = Look(lambda pid: (argv or {}).get(pid, []), lambda pid, name: (env or {}).get(pid, {}).get(name, ""))
    marks = holders({each.pid: each for each in rows}, [lent], look)
    assert {uid for _, uid in marks.values()} <= {DEPLOY}
    return set(marks)


def under_sudo(command: str) -> dict[str, str]:
    return {"SUDO_UID": str(DEPLOY), "SUDO_COMMAND": command}


def test_a_lent_group_marks_every_process_of_the_person_that_carries_it_and_no_other() -> None:
    rows = (
        row(10, gids=(1000, GROUP)),
        row(11),  # a session from before
        row(12, MATE, gids=(GROUP,), loginuid=MATE),  # somebody whose own group it is
        row(13, gids=(GROUP,), started_ns=1),  # exec newgrp in an old shell
        replace(row(14), uids=(MATE, DEPLOY, MATE, MATE), gids=frozenset({GROUP})),
    )
    assert found(*rows, lent=BY_GROUP) == {10, 13, 14}


def test_a_lent_group_taken_along_into_anothers_set_user_id_program_is_known_by_the_login_uid() -> None:
    assert found(row(10, MATE, gids=(GROUP,)), row(11, MATE, gids=(GROUP,), started_ns=1), lent=BY_GROUP) == {10}
    assert found(row(12, ROOT, gids=(GROUP,), name="sshd"), lent=BY_GROUP) == set()


def test_sudo_its_command_and_all_below_it_are_the_rules() -> None:
    rows = (
        row(10),
        row(20, ppid=10, name="sudo", uids=(DEPLOY, 0, 0, 0)),
        row(21, ROOT, ppid=20, name="sudo"),  # its monitor
        row(22, ROOT, ppid=21, name="id"),
        row(23, ROOT, ppid=22, name="x"),
        row(24, MATE, ppid=23, loginuid=-1),
    )
    assert found(*rows, lent=BY_RULE, env={22: under_sudo("/bin/id -u")}) == {20, 21, 22, 23, 24}


def test_sudo_that_has_not_started_its_command_yet_is_known_by_its_words() -> None:
    rows = (row(20, name="sudo", uids=(DEPLOY, 0, 0, 0)), row(21, name="sudo", uids=(DEPLOY, 0, 0, 0)))
    argv = {20: ["sudo", "-n", "-u", "root", "id", "-u"], 21: ["sudo", "-n", "id", "-g"]}
    assert found(*rows, lent=BY_RULE, argv=argv) == {20}


def test_the_persons_own_sudo_goes_on() -> None:
    rows = (
        row(20, name="sudo", uids=(DEPLOY, 0, 0, 0)),
        row(21, ROOT, ppid=20),
        row(22, ROOT),
        row(23, ROOT, started_ns=1),
        row(24, ROOT, name="sshd"),
        row(25, GAMES),
    )
    env = {
        21: under_sudo("/usr/bin/id -g"),
        22: under_sudo("/bin/sh"),
        23: under_sudo("/usr/bin/id -u"),
        25: under_sudo("/bin/sh x"),
    }
    assert found(*rows, lent=BY_RULE, env=env, argv={20: ["sudo", "id", "-g"]}) == set()


def test_anothers_words_in_an_environment_mark_nothing_of_the_persons() -> None:
    env = {20: {"SUDO_UID": "1001", "SUDO_COMMAND": "/usr/bin/id -u"}, 21: under_sudo("/usr/bin/id -u")}
    assert found(row(20, ROOT, loginuid=MATE), row(21, MATE, loginuid=MATE), lent=BY_RULE, env=env) == set()


def test_what_emptied_its_environment_and_left_the_tree_is_known_by_login_uid_and_run_as_user() -> None:
    assert found(row(20, GAMES), lent=BY_RULE) == {20}
    assert found(row(20, GAMES, started_ns=1), lent=BY_RULE) == set()
    assert found(row(20, GAMES, loginuid=MATE), lent=BY_RULE) == set()
    assert found(row(20, GAMES), lent=BY_RULE, env={20: under_sudo("/bin/sh")}) == set(), "a sudo rule of the person's own"


def test_who_has_no_other_sudo_rights_cant_pass_a_process_off_as_theirs() -> None:
    alone = replace(BY_RULE, alone=True)
    assert found(row(20, GAMES), lent=alone, env={20: under_sudo("/bin/sh")}) == {20}
    assert found(row(20, ROOT), lent=alone) == {20}
    assert found(row(20, ROOT), lent=BY_RULE) == set()


def test_roots_half_of_the_persons_sessions_and_what_su_started_go_on() -> None:
    alone = replace(BY_RULE, alone=True)
    rows = (
        row(20, ROOT, name="sshd"),
        row(21, ROOT, name="su"),
        row(22, ROOT, ppid=21),
        row(23, GAMES, ppid=22),
        row(24, ROOT, ppid=20),
    )
    assert found(*rows, lent=alone) == set()


def test_what_others_lend_too_is_not_ended() -> None:
    both = Lent("deploy", DEPLOY, gids=frozenset({GROUP, 7}), rules=BY_RULE.rules, alone=True)
    (left,) = merged([both], [Lent("deploy", DEPLOY, gids=frozenset({7}), rules=frozenset({(ROOT, "/usr/bin/id -u")}))])
    assert (set(left.gids), set(left.rules), left.alone) == ({GROUP}, {(GAMES, "/bin/bash")}, False)
    assert merged([BY_GROUP], [replace(BY_GROUP, uid=MATE)]) == (BY_GROUP,)
    assert merged([BY_GROUP], [BY_GROUP]) == ()


def test_two_entries_for_one_person_are_one() -> None:
    (one,) = merged([replace(BY_GROUP, since_ns=9), replace(BY_RULE, alone=True)])
    assert (one.gids, one.rules, one.alone, one.since_ns) == (BY_GROUP.gids, BY_RULE.rules, True, 9)


def test_a_command_is_the_same_by_its_base_name_and_all_its_arguments() -> None:
    assert BY_RULE.matches("/usr/bin/id -u") and BY_RULE.matches("/bin/id -u") and BY_RULE.matches("/usr/bin/bash")
    assert not any(
        BY_RULE.matches(other) for other in ("/usr/bin/id", "/usr/bin/id -u -n", "/usr/bin/xid -u", "", "/bin/bash -c x")
    )


@given(st.frozensets(st.integers(0, 2**31)), st.frozensets(st.tuples(st.integers(0, 2**31), st.text())), st.booleans())
def test_what_is_journaled_reads_back(gids: frozenset[int], rules: frozenset[tuple[int, str]], alone: bool) -> None:
    lent = Lent("deploy", DEPLOY, gids, rules, alone)
    assert lent_by(made({"lent": to_json(lent)}), 0) == lent


def made(data: dict[str, object]) -> Step:
    return Step("group", "membership", Stage.GRANT, Phase.CLOSE, "x", "x", data)  # type: ignore[arg-type]


def test_words_that_cant_be_read_lend_nothing_and_raise_nothing() -> None:
    halves: list[object] = [{"uid": "1"}, {"uid": 1, "gids": 3, "rules": []}, {"uid": 1, "gids": [], "rules": None}]
    for value in (None, 1, [], {}, *halves):
        assert lent_by(made({"lent": value}), 0) is None
    odd = lent_by(made({"lent": {"uid": 1, "gids": ["x", 2], "rules": [1, [1], ["a", "b"], [3, "c"]]}}), 0)
    assert odd and (set(odd.gids), set(odd.rules)) == ({2}, {(3, "c")})
