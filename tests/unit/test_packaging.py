"""The packages, as far as no host is needed: the same bytes each time, whole, and what they say of the commands is so."""

import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("agent", "enforcers", "docs", "examples", "packaging", "systemd", "CHANGELOG.md", "LICENSE")


def load(folder: str, name: str) -> ModuleType:
    sys.path.insert(0, str(ROOT / folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


def built(checkout: Path, out: Path, **environment: str) -> dict[str, str]:
    """File name → SHA-256 of what ``packaging/build.py`` makes there."""
    argv = [sys.executable, str(checkout / "packaging/build.py"), "--out", str(out)]
    subprocess.run(argv, check=True, timeout=120, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, cwd="/")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}


def test_two_builds_of_one_commit_are_the_same_bytes_wherever_and_by_whomever(tmp_path: Path) -> None:
    date = "1790000000"
    first = built(ROOT, tmp_path / "first", SOURCE_DATE_EPOCH=date)
    other = tmp_path / "elsewhere"
    other.mkdir()
    for name in SOURCES:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, other / name)
    shutil.copytree(load("packaging", "vendor").CACHE, other / "build/vendored")  # fetched once is enough
    for path in other.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700 | 0o020)
        os.utime(path, (1, 1))
    assert len(first) == 6
    assert built(other, tmp_path / "second", SOURCE_DATE_EPOCH=date, TZ="Asia/Tokyo", LC_ALL="C.UTF-8", USER="x") == first
    assert not set(built(ROOT, tmp_path / "third", SOURCE_DATE_EPOCH="1790000001").values()) & set(first.values())


def staged(package: str, folder: Path) -> Path:
    subprocess.run([str(ROOT / "packaging/install.sh"), "--files", package, str(folder)], check=True, timeout=60)
    return folder


PARTS = ("tidegate", "tidegate-courier", "tidegate-courier-nats")


def test_every_module_is_in_one_package(tmp_path: Path) -> None:
    inside = [modules(staged(name, tmp_path / name)) for name in PARTS]
    sources = {str(path.relative_to(ROOT)) for part in ("agent", "enforcers") for path in (ROOT / part).rglob("*.py")}
    assert set().union(*inside) | {"agent/sessions/shell.py"} == sources  # that one is tidegate-shell
    assert sum(map(len, inside)) == len(sources) - 1


@pytest.mark.parametrize("count", [1, 2])
def test_a_packages_modules_need_no_package_that_it_does_not_depend_on(count: int, tmp_path: Path) -> None:
    names = set().union(*(modules(staged(part, tmp_path)) for part in PARTS[:count]))
    named = sorted(name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in names)
    named = [name for name in named if not name.endswith(("__main__", "sessions.waiter"))]  # programs
    folder = str(tmp_path / "usr/lib/tidegate")
    # A checkout that is installed as editable would be found in place of a module that is missing.
    code = f"import sys, importlib\nsys.path.insert(0, {folder!r})\nsys.modules['nats'] = None\n"
    code += "sys.meta_path = [finder for finder in sys.meta_path if 'editable' not in repr(finder)]\n"
    code += f"for name in {named!r}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-I", "-B", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def modules(folder: Path) -> set[str]:
    home = folder / "usr/lib/tidegate"
    return {str(path.relative_to(home)) for part in ("agent", "enforcers") for path in (home / part).rglob("*.py")}


def test_enroll_without_the_couriers_package_says_which_is_missing(tmp_path: Path) -> None:
    program = staged("tidegate", tmp_path) / "usr/bin/tidegate"
    program.write_text(program.read_text().replace("/usr/lib/tidegate", str(tmp_path / "usr/lib/tidegate")))
    argv = [sys.executable, "-I", "-B", str(program)]
    asked = [*argv, "enroll", "https://cp.example", "--token", "x", "--json"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, "not_installed"), done.stderr
    assert "package tidegate-courier" in done.stdout
    shown = subprocess.run([*argv, "--help"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert "Not installed here: package tidegate-courier" in shown


def test_what_the_package_puts_into_etc_is_the_admins_to_change(tmp_path: Path) -> None:
    build = load("packaging", "build")
    entries = build.contents("tidegate", staged("tidegate", tmp_path))
    in_etc = {entry["dst"]: entry.get("type") for entry in entries if entry["dst"].startswith("/etc/")}
    assert in_etc.pop("/etc/tidegate/tidegate.yaml") == "config|noreplace"
    assert set(in_etc.values()) == {"dir"}
    assert not [entry["dst"] for entry in entries if entry.get("file_info", {}).get("mode", 0) & 0o022]


def test_libraries_that_are_imported_are_dependencies_of_both_packages() -> None:
    """click stands in Debian as python3-click, and so on; what may be absent is recommended."""
    known = {"click": "click", "cryptography": "cryptography", "yaml": "yaml|pyyaml", "watchdog": "watchdog"}
    known |= {"paramiko": "paramiko", "systemd": "systemd"}
    sources = [
        path.read_text() for part in ("agent", "enforcers") for path in (ROOT / part).rglob("*.py") if "courier" not in path.parts
    ]
    imported = {name for text in sources for name in re.findall(r"^ *(?:from|import) (\w+)", text, re.MULTILINE)}
    used = {name for name in imported - set(sys.stdlib_module_names) - {"agent", "enforcers"} if not name.startswith("_")}
    assert used <= set(known), used - set(known)
    for kind, said in yaml.safe_load((ROOT / "packaging/nfpm.yaml").read_text())["packages"]["tidegate"]["overrides"].items():
        needs = {line.split()[0].removeprefix("python3-") for line in [*said["depends"], *said["recommends"]]}
        assert not {name for name in used & set(known) if not set(known[name].split("|")) & needs}, kind


def test_every_link_in_a_page_of_the_package_leads_to_a_file_of_the_package(tmp_path: Path) -> None:
    folder = staged("tidegate", tmp_path) / "usr/share/doc/tidegate"
    pages = sorted(folder.rglob("*.md"))
    links = [
        (page, link.partition("#")[0])
        for page in pages
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    ]
    assert (folder / "openapi.yaml").is_file() and len(list((folder / "decisions").glob("*.md"))) > 40 and len(links) > 50
    dead = [(page.name, link) for page, link in links if link and not (page.parent / link).resolve().is_file()]
    assert not dead


def test_no_page_of_the_manual_has_a_control_character_and_a_list_keeps_its_lines() -> None:
    pages = load("docs", "make_man").pages()
    for name, text in pages.items():
        assert not [char for char in text if char < " " and char != "\n"], name
    assert ".nf\nAt 3 a.m.:\n  tidegate status " in pages["tidegate.1"]


def test_the_manual_pages_are_up_to_date() -> None:
    made = load("docs", "make_man").pages()
    found = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs/man").iterdir()}
    assert found == made, "run: python docs/make_man.py"


def test_the_manual_names_every_command_and_option() -> None:
    make_man, main = load("docs", "make_man"), importlib.import_module("agent.cli.main")
    page = re.sub(r"\\f[BIR]", "", (ROOT / "docs/man/tidegate.1").read_text()).replace("\\-", "-")
    for words, command in make_man._leaves(main.cli, ("tidegate",)):
        section = page.split(f".SS {' '.join(words)}", 1)[1].split("\n.SS ", 1)[0]
        missing = [name for option in command.params for name in option.opts if name.startswith("-") and name not in section]
        assert not missing, words


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("tidegate re", {"receipts", "revoke"}),
        ("tidegate grants ", {"list", "show"}),
        ("tidegate revoke --dr", {"--drain"}),
        ("tidegate sessions export r-1 --format asciicast-v", {"asciicast-v2", "asciicast-v3"}),
    ],
)
def test_bash_completes_commands_options_and_choices(line: str, offered: set[str], tmp_path: Path) -> None:
    program = tmp_path / "tidegate"
    program.write_text(
        f"#!{sys.executable} -I\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom agent.cli import main\nmain()\n"
    )
    program.chmod(0o755)
    words = line.split(" ")
    script = f"""
        source {ROOT}/packaging/completions/tidegate.bash
        COMP_WORDS=({" ".join(words)} {'""' if not words[-1] else ""}); COMP_CWORD={len(words) - 1}
        _tidegate_completion tidegate; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=30, check=True)
    assert set(done.stdout.split()) == offered, done.stderr
