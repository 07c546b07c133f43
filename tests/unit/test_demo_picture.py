"""The picture of one access: drawn from the stored object of a real run of the demo, and the very file that README shows."""

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from examples.demo import picture

ROOT = Path(__file__).resolve().parents[2]
STORED, SHOWN = ROOT / "docs/access.json", ROOT / "docs/access.svg"
SVG = "{http://www.w3.org/2000/svg}"


def drawn_by_the_command(file: Path) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "examples.demo.picture", str(file)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_the_picture_that_readme_shows_is_what_the_command_draws_from_the_stored_run() -> None:
    done = drawn_by_the_command(STORED)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == SHOWN.read_text(encoding="utf-8"), "python -m examples.demo.picture docs/access.json > docs/access.svg"
    assert "](docs/access.svg)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_says_every_moment_in_words_too_and_needs_nothing_from_elsewhere() -> None:
    moments = json.loads(STORED.read_text(encoding="utf-8"))["access"]["moments"]
    text = SHOWN.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert root.get("role") == "img"
    described = " ".join(str(root.findtext(f"{SVG}{name}")) for name in ("title", "desc"))
    assert {at_ms for at_ms in moments.values() if picture.shown(at_ms) not in described} == set()
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|url\(|@import|<image|<script", text)
    assert "prefers-color-scheme: dark" in text
    assert len(text) < 8192


def test_whatever_lies_before_the_deadline_is_drawn_left_of_it_and_later_is_further_right() -> None:
    access = json.loads(STORED.read_text(encoding="utf-8"))["access"]
    first = access["moments"]["asked"]
    placed = [(at_ms, picture.place(at_ms, first)) for at_ms in sorted(access["moments"].values())]
    assert [x for _, x in placed] == sorted(x for _, x in placed)
    assert all((x < picture.T) == (at_ms < 0) and 0 < x < picture.WIDTH for at_ms, x in placed)
    assert picture.place(1e9, first) == picture.RIGHT


def test_names_from_the_demo_can_not_break_the_picture() -> None:
    access = json.loads(STORED.read_text(encoding="utf-8"))["access"]
    root = ElementTree.fromstring(picture.draw(access | {"who": '<b a="&">'}))
    assert '<b a="&">' in str(root.findtext(f"{SVG}desc"))


@pytest.mark.parametrize("line", [{"verdict": "fail", "error": "no host"}, {}])
def test_a_demo_that_did_not_pass_gives_no_picture(line: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "demo.json"
    file.write_text(f"a line of the timeline\n{json.dumps(line)}\n")
    done = drawn_by_the_command(file)
    assert (done.returncode, done.stdout) == (1, "")
    assert "did not pass" in done.stderr
