"""What the documentation names exists, what it tells to type parses, what it shows loads."""

import dataclasses
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest

from agent import policy, trust
from agent.assembly import registry
from agent.audit import AuditEvent, EventKind, HostIdentity
from agent.audit.journald import MESSAGE_IDS, fields_of
from agent.audit.ocsf import to_ocsf
from agent.cli import courier_metrics, metrics
from agent.cli.main import cli
from agent.config import Config, Paths, load_config
from agent.control import metrics as daemon_metrics
from agent.control.metrics import families
from agent.policy.codes import CODES
from agent.policy.parse import RULE_KEYS
from agent.settings import Section
from agent.strictyaml import read_yaml
from examples.control_plane.config.fleet import read_nats
from tests.unit.lifecycle_kit import World

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
GUIDES = [page for page in PAGES if page.parent.name != "decisions"]  # a decision may name what was left behind
TOP = ("agent", "enforcers", "docs", "examples", "packaging", "systemd", "tests", "benchmarks")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")


def texts(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return [found[2] for found in BLOCK.finditer(texts(page)) if found[1] == language]


def inline(page: Path) -> list[str]:
    return INLINE.findall(BLOCK.sub("", texts(page)))


def load_make_codes() -> ModuleType:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        return importlib.import_module("make_codes")
    finally:
        sys.path.pop(0)


# Names and paths


def resolves(dotted: str) -> bool:
    """Whether ``agent.x.y`` names a module, or a member of one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        try:
            for name in parts[length:]:
                found = getattr(found, name)
        except AttributeError:
            return False
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_dotted_name_exists(page: Path) -> None:
    names = {name for text in inline(page) for name in re.findall(r"\b(?:agent|enforcers)(?:\.\w+)+", text)}
    names = {name for name in names if not name.endswith((".py", ".json", ".sql"))} - {kind.value for kind in EventKind}
    assert not {name for name in names if not resolves(name)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_method_exists(page: Path) -> None:
    """``Journal.accept`` and the like: a class of ours, wherever it is, with that member."""
    sources = "\n".join(texts(path) for folder in ("agent", "enforcers") for path in (ROOT / folder).rglob("*.py"))
    for text in inline(page):
        found = re.fullmatch(r"([A-Z][A-Za-z]+)\.(_?[a-z]\w*)", text)
        if found and re.search(rf"^class {found[1]}\b", sources, re.MULTILINE):
            bodies = re.split(rf"^class {found[1]}\b", sources, flags=re.MULTILINE)[1:]
            member = rf"def {found[2]}\b|^    {found[2]}:"
            assert any(re.search(member, body.split("\nclass ", 1)[0], re.MULTILINE) for body in bodies), text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_of_the_repository_exists(page: Path) -> None:
    paths = {text.split()[0] for text in inline(page) if re.fullmatch(rf"({'|'.join(TOP)})/[\w./-]+", text)}
    paths |= {
        word for block in blocks(page, "text") for word in re.findall(rf"^((?:{'|'.join(TOP)})/[\w./-]+)", block, re.MULTILINE)
    }
    assert not {path for path in paths if not (ROOT / path).exists() and path != "enforcers/NAME.py"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", BLOCK.sub("", texts(page))):
        path, _, anchor = target.partition("#")
        assert "://" not in target, f"{target}: documentation stands by itself"
        goal = page if not path else (page.parent / path).resolve()
        assert goal.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", texts(goal), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target


def test_decisions_are_numbered_once_each_and_say_so() -> None:
    found = sorted((ROOT / "docs/decisions").glob("*.md"))
    numbers = [path.name[:4] for path in found]
    assert len(set(numbers)) == len(numbers)
    for path in found:
        assert texts(path).startswith(f"# {int(path.name[:4])}. "), path.name


def test_files_that_sources_refer_to_in_docs_exist() -> None:
    for path in [*(ROOT / "agent").rglob("*.py"), *(ROOT / "enforcers").rglob("*.py"), *(ROOT / "packaging").glob("*.yaml")]:
        for name in re.findall(r"docs/(?:[A-Z]+\.md|decisions/\d{4})", texts(path)):
            assert list(ROOT.glob(f"{name}*")), f"{path}: {name}"


# Commands


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """``(where, words)`` of every ``tidegate ...`` in a shell block or between backquotes."""
    for page in PAGES:
        lines = [line for block in blocks(page, "sh") for line in block.splitlines()] + inline(page)
        for line in lines:
            for found in re.findall(r"(?:^|[ (])tidegate ((?:[a-z]+|-)[^|<>;&)]*)", line):
                with_values = re.sub(r"\$\{?\w+\}?", "VALUE", found)
                yield f"{page.name}: {line}", shlex.split(with_values.replace("'", ""), comments=True)


def find(words: list[str]) -> tuple[click.Command, list[str]]:
    command: click.Command = cli
    while isinstance(command, click.Group) and words and (below := command.get_command(click.Context(command), words[0])):
        command, words = below, words[1:]
    return command, words


@pytest.mark.parametrize(("where", "words"), list(command_lines()), ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_line_parses(where: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As click parses it; a line that names a command without its arguments, as prose does, only has to name one."""
    if words in (["--version"], ["-h"], ["--help"]):
        return
    command, rest = find(words)
    assert command is not cli, where
    placeholders = {"JTI", "FILE", "WHERE", "[JTI]", "[WHERE]", "CLAIMS", "RECEIPT", "S"}
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= known, where
    if rest and not placeholders & set(rest):
        arguments = [value for value in rest if not value.startswith("/etc")]
        for parameter in command.params:  # whether a file is there is not the question
            if isinstance(parameter.type, click.Path):
                monkeypatch.setattr(parameter.type, "exists", False)
        command.make_context("tidegate", list(arguments), resilient_parsing=isinstance(command, click.Group))


def test_every_command_and_option_stands_in_cli_md() -> None:
    page = texts(ROOT / "docs/CLI.md")
    for words in (["status"], ["grants", "list"], ["grants", "show"], ["revoke"], ["receipts", "list"], ["receipts", "show"],
                  ["receipts", "key"], ["receipts", "verify"], ["plan"], ["verify"], ["keygen"], ["sign"], ["policy", "check"],
                  ["config", "migrate"], ["doctor"], ["metrics"], ["enroll"]):  # fmt: skip
        heading = f"\n## tidegate {' '.join(words)}"
        assert heading in page
        section = page.split(heading, 1)[1].split("\n## ", 1)[0]
        options = {option for parameter in find(words)[0].params for option in parameter.opts if option.startswith("--")}
        assert not {option for option in options - {"--json"} if option not in section}, words
    known = {name for name in cli.list_commands(click.Context(cli)) if not isinstance(find([name])[0], click.Group)}
    assert {f"## tidegate {name}" in page for name in known} == {True}


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", texts(ROOT / "Makefile"), re.MULTILINE))
    named = {
        found for page in PAGES for text in [*inline(page), *blocks(page, "sh")] for found in re.findall(r"\bmake ([a-z]+)\b", text)
    }
    assert named <= targets


# Examples


def test_json_examples_are_json() -> None:
    for page in GUIDES:
        for block in blocks(page, "json"):
            json.loads(block)


@pytest.mark.parametrize("path", sorted((ROOT / "examples/policy.d").rglob("*.yaml")), ids=lambda path: path.name)
def test_every_example_policy_loads(path: Path) -> None:
    findings = policy.check(path, policy.decoders(registry()))
    assert not [str(found) for found in findings if found.level == "error"]


def yaml_blocks() -> list[tuple[str, str]]:
    return [(page.name, block) for page in PAGES for block in blocks(page, "yaml")]


@pytest.mark.parametrize(("page", "block"), yaml_blocks())
def test_every_yaml_block_loads(page: str, block: str, tmp_path: Path) -> None:
    path = tmp_path / "block.yaml"
    path.write_text(block)
    path.chmod(0o644)
    if page == "METRICS.md":  # Prometheus's own; test_every_metric_has_its_row_and_every_alert_its_metric reads it
        assert read_yaml(path).value
    elif page == "CONFIGURATION.md":
        assert load_config(path) == Config()
    elif page == "FLEET.md":  # a section of the control plane's
        assert read_nats(Section(read_yaml(path), required=("nats",)).member("nats"))
    else:
        assert policy.load_policy_file(path, policy.decoders(registry())).rules


def test_the_policy_of_the_readme_loads(tmp_path: Path) -> None:
    path = tmp_path / "readme.yaml"
    found = re.search(r"policy\.d/\S+ <<'END'\n(.*?)^END$", texts(ROOT / "README.md"), re.MULTILINE | re.DOTALL)
    assert found
    path.write_text(found[1])
    assert policy.load_policy_file(path, policy.decoders(registry())).rules


def test_packaged_configuration_says_the_defaults() -> None:
    shown = [line[2:] for line in texts(ROOT / "packaging/tidegate.yaml").splitlines() if re.match(r"# \w+: ", line)]
    assert {line.split(":")[0] for line in shown} >= {"uids", "tenant_group", "admin_group", "account_backend"}


def test_the_tables_of_configuration_and_policy_are_complete(tmp_path: Path) -> None:
    page = texts(ROOT / "docs/CONFIGURATION.md")
    for item in dataclasses.fields(Paths):
        assert f"| `{item.name}` | `{item.default}` |" in page
    for key in ("host_id", "uids", "tenant_group", "admin_group", "account_backend", "paths"):
        assert f"| `{key}` |" in page
    rules = texts(ROOT / "docs/POLICY.md")
    assert not {key for key in ("name", "issuers", *RULE_KEYS) if f"| `{key}` |" not in rules}
    probe = tmp_path / "x.yaml"
    probe.write_text("a: 1\n")
    assert read_yaml(probe).value


# Metrics and events


def test_every_metric_has_its_row_and_every_alert_its_metric() -> None:
    page = texts(ROOT / "docs/METRICS.md")
    every = {**daemon_metrics.CATALOGUE, **metrics.CATALOGUE, **courier_metrics.CATALOGUE}
    rows = re.findall(r"^\| `(tidegate_\w+)` \| (\w+) \| (?:`\w+`)? ?\| (.+?) \|$", page, re.MULTILINE)
    assert [name for name, _, _ in rows] == list(every)
    for name, kind, said in rows:
        assert (kind, said.startswith(every[name][1])) == (every[name][0], True), name
    known = {*every, *(f"{name}{end}" for name, (kind, _) in every.items() if kind == "histogram" for end in ("_bucket", "_sum"))}
    named = re.findall(r"\btidegate_[a-z_]+\b", page)
    assert {name for name in named if not name.endswith("_")} <= known


def test_every_label_in_the_table_is_the_one_that_is_told() -> None:
    world = World()
    world.start()
    told = {each.name: {label for sample in each.samples for label, _ in sample.labels} for each in families(world.pipeline, 0)}
    world.close()
    rows = re.findall(r"^\| `(tidegate_\w+)` \| \w+ \| (?:`(\w+)`)? ?\|", texts(ROOT / "docs/METRICS.md"), re.MULTILINE)
    seldom = {"tidegate_grants_refused_total", "tidegate_bulletin_expiry_timestamp_seconds", "tidegate_disk_free_bytes"}
    assert {name: labels for name, labels in told.items() if name not in seldom} == {
        name: {label} - {""} for name, label in rows if name in told and name not in seldom
    }


def test_every_event_has_its_row_with_its_message_id() -> None:
    rows = re.findall(r"^\| `([a-z]+\.[a-z]+)` \| `([0-9a-f]{32})` \| \S", texts(ROOT / "docs/EVENTS.md"), re.MULTILINE)
    assert rows == [(kind.value, MESSAGE_IDS[kind]) for kind in EventKind]


def test_every_journal_field_stands_in_the_page_of_events() -> None:
    event = AuditEvent(EventKind.GRANT_ENDED, 0, "j", "i", "s", "l", 1, "c", "r", "t")
    fields = fields_of(event, to_ocsf(event, HostIdentity.of_this_host("h", "0")))
    page = texts(ROOT / "docs/EVENTS.md")
    assert {name for name in fields if f"`{name}`" not in page} == {"MESSAGE", "SYSLOG_IDENTIFIER"}


# Codes


def test_the_page_of_codes_is_up_to_date() -> None:
    assert texts(ROOT / "docs/CODES.md") == load_make_codes().page(), "run: python docs/make_codes.py"


def test_every_code_that_is_raised_has_its_advice_and_no_advice_is_for_nothing() -> None:
    made = load_make_codes()
    raised = set(made.raised())
    assert raised - set(made.ADVICE) - set(CODES) - set(trust.REFUSALS) == set()
    assert set(made.ADVICE) - raised == set()


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_every_code_that_a_page_names_exists(page: Path) -> None:
    made = load_make_codes()
    known = {*made.ADVICE, *CODES, *trust.REFUSALS}
    named = r"\(`([a-z]+(?:_[a-z]+)+)`\)|`([a-z]+_(?:invalid|unknown|missing|unavailable|replayed|exhausted))`"
    claimed = set(re.findall(named, texts(page)))
    assert not {code for pair in claimed for code in pair if code and code not in known}


def test_no_table_of_codes_has_one_twice() -> None:
    made = load_make_codes()
    assert len(made.ADVICE) == sum(map(len, (made.INBOX, made.ENFORCERS, made.HOST, made.COMMAND, made.COURIER, made.DOCTOR)))


# The protocol, by other means


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_grant_signed_by_openssl_alone_is_valid(tmp_path: Path) -> None:
    found = re.search(r"<!-- run: openssl -->\n```sh\n(.*?)^```", texts(ROOT / "docs/PROTOCOL.md"), re.MULTILINE | re.DOTALL)
    assert found
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from agent.cli import main; main()"
    tool = tmp_path / "tidegate"
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -c {shlex.quote(code)} {ROOT} "$@"\n')
    tool.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOST_ID": "urn:tidegate:test-host"}
    argv = ["bash", "-euo", "pipefail", "-c", found[1]]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("valid: alice@example.com gets jit-alice")


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_every_test_that_is_named_as_proof_is_there(page: Path) -> None:
    for file, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", texts(page)):
        assert (ROOT / file).is_file(), file
        assert not name or re.search(rf"^def {name}\(", texts(ROOT / file), re.MULTILINE), f"{file}::{name}"
