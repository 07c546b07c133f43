"""A command whose files others than root can change is root's whole power, however plain its text."""

import os
from pathlib import Path

import pytest

from agent.errors import HostError
from agent.host.chain import chain
from agent.host.contract import Group, Node, User
from agent.host.fake import FakeHost
from agent.model import GroupWant, SudoWant
from agent.planning import changeable
from agent.policy import Allowed, Denied, judge
from tests.unit.policy_help import ACCOUNT, NOW, grant, policy, rule_text

SCRIPT = Path("/opt/app/bin/run")
APP, DEPLOY, DEV = 990, 1000, 500


def host(*nodes: Node) -> FakeHost:
    made = FakeHost.with_rows(
        [
            User("root", 0, 0, "/root", "/bin/bash"),
            User("app", APP, APP, "/opt/app", "/usr/sbin/nologin"),
            User("deploy", DEPLOY, DEPLOY, "/home/deploy", "/bin/bash"),
        ],
        [Group("dev", DEV, ("deploy",))],
    )
    made.nodes = {node.path: node for node in nodes}
    return made


def why(
    found: FakeHost, *words: str, run_as: tuple[str, ...] = ("root",), login: str = "jit-a", groups: tuple[str, ...] = ()
) -> str:
    return changeable(SudoWant(login, run_as, (words,)), words, groups, found) or ""


def node(path: str | Path, uid: int = 0, gid: int = 0, mode: int = 0o755, interpreter: str = "", *, folder: bool = False) -> Node:
    return Node(Path(path), uid, gid, mode, folder, interpreter)


def test_what_is_roots_alone_is_plain() -> None:
    assert why(host(), str(SCRIPT), "production", "/etc/app.conf") == ""


@pytest.mark.parametrize(
    "weak",
    [
        node(SCRIPT, uid=APP),
        node(SCRIPT, gid=DEV, mode=0o775),
        node(SCRIPT, mode=0o757),
        node("/opt/app/bin", uid=APP, folder=True),
        node("/opt/app", gid=DEV, mode=0o2775, folder=True),
        node("/opt", mode=0o1777, folder=True),
    ],
)
def test_a_program_that_others_can_replace_is_named_with_what_lets_them(weak: Node) -> None:
    assert f"can be replaced: {weak.path} " in why(host(weak), str(SCRIPT))


def test_an_interpreter_is_as_good_as_the_script() -> None:
    found = host(node(SCRIPT, interpreter="/opt/venv/bin/python"), node("/opt/venv/bin/python", uid=DEPLOY))
    assert "/opt/venv/bin/python" in why(found, str(SCRIPT))
    assert "interpreter is a script" in why(host(node(SCRIPT, interpreter=str(SCRIPT))), str(SCRIPT))


def test_what_runs_as_one_account_may_be_that_accounts() -> None:
    own = node(SCRIPT, uid=APP, gid=APP, mode=0o775)
    assert why(host(own), str(SCRIPT), run_as=("app",)) == ""
    assert why(host(own), str(SCRIPT), run_as=("app", "root")) != ""


def test_a_file_that_is_read_may_be_a_services_but_not_the_tenants() -> None:
    log = node("/var/log/nginx", uid=APP, gid=DEV, mode=0o775, folder=True)
    words = ("/usr/bin/cat", "/var/log/nginx/error.log")
    assert why(host(log), *words) == ""
    assert "which the account is in" in why(host(log), *words, login="deploy")
    assert "which the account is in" in why(host(log), *words, groups=("dev",))
    assert "who gets the rule" in why(host(node(log.path, uid=DEPLOY, folder=True)), *words, login="deploy")
    assert "by everybody" in why(host(node(log.path, mode=0o777, folder=True)), *words)
    assert why(host(node(log.path, mode=0o1777, folder=True)), *words) == ""


def test_a_program_in_the_arguments_is_a_program() -> None:
    hook = node("/srv/hook", uid=APP)
    assert "a program that can be replaced" in why(host(hook), "/usr/bin/tool", "--with=/srv/hook")
    assert why(host(node("/srv/hook", uid=APP, mode=0o644)), "/usr/bin/tool", "--with=/srv/hook") == ""


def test_the_policy_needs_its_explicit_line_and_the_receipt_says_why(tmp_path: Path) -> None:
    wants = (ACCOUNT, SudoWant("jit-alice", ("root",), ((str(SCRIPT),),)), GroupWant("jit-alice", ("dev",)))
    seen: list[frozenset[str]] = []

    def others_can(_want: SudoWant, _words: tuple[str, ...], groups: frozenset[str]) -> str | None:
        seen.append(groups)
        return "can be replaced"

    def decide(more: str = "") -> Allowed | Denied:
        text = rule_text(f"groups: [dev]\nsudo: {{commands: [{SCRIPT}]}}\n{more}")
        return judge(grant(*wants), policy(tmp_path, text), now_s=NOW, live=(), is_ours=lambda _: False, changeable=others_can)

    denied = decide()
    assert isinstance(denied, Denied) and denied.code == "command_root_equivalent" and "can be replaced" in denied.reason
    allowed = decide(f"root_equivalent: [{SCRIPT}]")
    assert isinstance(allowed, Allowed) and allowed.not_containable == (f"sudo {SCRIPT} can be replaced",)
    assert set(seen) == {frozenset({"dev"})}


def test_a_chain_follows_links_and_names_every_folder_they_lead_through(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    script = tmp_path / "real/run"
    script.write_text("#! /bin/sh -e\n")
    script.chmod(0o755)
    (tmp_path / "link").symlink_to("real/../real")
    (tmp_path / "loop").symlink_to("loop")
    found = chain(tmp_path / "link/run")
    assert [each.path for each in found][-3:] == [tmp_path, tmp_path / "real", script] or found[-1].path == script
    assert found[-1].interpreter == "/bin/sh"
    assert found[0].path == Path("/") and tmp_path / "real" in {each.path for each in found}
    assert chain(tmp_path / "absent/run")[-1].path == tmp_path
    assert chain(script / "below")[-1].path == script
    with pytest.raises(HostError, match="too many"):
        chain(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    assert chain(tmp_path / "pipe")[-1].interpreter == ""
