"""docs/COOKBOOK.md by the commands that it tells to type: every rule loads, every grant is taken or refused as it says."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from tests.pages import DOCS, Example, Recipe, marked, recipes

ROOT = DOCS.parent
PAGE = DOCS / "COOKBOOK.md"
RECIPES = recipes()
SITUATIONS = 12


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's keys, made by its own lines."""
    folder = tmp_path_factory.mktemp("keys")
    (lines,) = [block.commands for block in marked(PAGE) if block.where == "cookbook"]
    done = run(folder, lines)
    assert done.returncode == 0, done.stderr
    return folder


def run(folder: Path, commands: str) -> "subprocess.CompletedProcess[str]":
    """A block of shell, in a folder whose ``tidegate`` is this tree's."""
    tool = folder / "bin/tidegate"
    if not tool.exists():
        tool.parent.mkdir()
        code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from agent.cli import main; main()"
        tool.write_text(f'#!/bin/sh\nexec {sys.executable} -c {shlex.quote(code)} {ROOT} "$@"\n')
        tool.chmod(0o755)
    environment = {"PATH": f"{tool.parent}:{os.environ['PATH']}", "HOME": str(folder)}
    argv = ["bash", "-euo", "pipefail", "-c", commands]
    return subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


class Desk:
    """Where the page's three lines are followed, in this process: each is a call of the command."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._folder, self._capsys = folder, capsys

    def follow(self, policy: str, example: Example) -> tuple[int, dict[str, Any]]:
        """For one example, with its own signers and lifetime: the exit status and the object of the last line that was run."""
        (self._folder / "rule.yaml").write_text(policy)
        (self._folder / "rule.yaml").chmod(0o644)
        (self._folder / "grant.json").write_text(json.dumps(example.claims))
        (self._folder / "grant.jwt").unlink(missing_ok=True)
        (block,) = [block.commands for block in marked(PAGE) if block.where == "one"]
        keys = " ".join(f"--key {signer}.jwk" for signer in example.signers)
        assert "--key cp-1.jwk --for 1h" in block
        status, out = 0, ""
        for line in block.replace("--key cp-1.jwk --for 1h", f"{keys} --for {example.lifetime}").splitlines():
            name, *words = shlex.split(line)
            assert name == "tidegate"
            try:
                main([*words, "--json"])
            except SystemExit as done:
                status = int(done.code or 0)
            out = self._capsys.readouterr().out
            if status:
                break
        return status, json.loads(out)


@pytest.fixture
def desk(keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    folder = shutil.copytree(keys, tmp_path / "desk")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("TIDEGATE_CONFIG", raising=False)
    return Desk(folder, capsys)


def test_the_page_has_its_situations_and_each_refusal_is_another() -> None:
    assert len(RECIPES) == SITUATIONS
    names = re.findall(r"- name: (\S+)", PAGE.read_text(encoding="utf-8"))
    assert len(set(names)) == len(names) == SITUATIONS
    assert len({recipe.refused.code for recipe in RECIPES}) >= SITUATIONS - 2


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.title)
def test_what_the_cookbook_says_is_taken_is_taken_by_its_own_rule(desk: Desk, recipe: Recipe) -> None:
    status, found = desk.follow(recipe.policy, recipe.taken)
    assert status == 0, found
    assert (found["verdict"], found["subject"]) == ("valid", recipe.taken.claims["sub"])
    assert f"- name: {found['rule']}\n" in recipe.policy
    assert found["signers"] == list(recipe.taken.signers)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.title)
def test_what_the_cookbook_says_is_refused_is_refused_with_that_code(desk: Desk, recipe: Recipe) -> None:
    assert recipe.refused.claims != recipe.taken.claims
    status, found = desk.follow(recipe.policy, recipe.refused)
    assert (status, found["verdict"], found["code"]) == (3, "refused", recipe.refused.code), found


@pytest.mark.parametrize(
    ("title", "before", "after", "code"),
    [
        ("Break glass: a root shell", "    root_equivalent: [/bin/bash]\n", "", "command_root_equivalent"),
        ("An account that is there gets a group for an hour", "    privileged_groups: [docker]\n", "", "group_privileged"),
        ("Recorded, with what is typed", ", input: true", "", "input_not_allowed"),
    ],
)
def test_what_the_cookbook_says_of_a_line_is_true(desk: Desk, title: str, before: str, after: str, code: str) -> None:
    (recipe,) = [recipe for recipe in RECIPES if recipe.title == title]
    assert before in recipe.policy
    status, found = desk.follow(recipe.policy.replace(before, after), recipe.taken)
    assert (status, found["code"]) == (3, code), found
