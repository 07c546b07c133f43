"""What a page of the documentation has marked to be run, and the recipes of the cookbook, for the tests that follow them."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).resolve().parents[1] / "docs"
_MARKED = re.compile(r"^<!-- run: ([^\n]+) -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_RECIPE = re.compile(r"^## \d+\. ([^\n]+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_RULE = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_GRANT = re.compile(
    r"^(?:Takes|Refuses with `(?P<code>\w+)`), signed by (?P<by>[^\n]+) for `(?P<lifetime>\w+)`:\n\n```json\n(?P<json>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Marked(NamedTuple):
    """A block of shell: where it is to be run, and what."""

    where: str
    commands: str


class Example(NamedTuple):
    """A grant of the cookbook: its claims but for the times, who signs it, for how long, and the code of its refusal (or empty)."""

    claims: dict[str, Any]
    signers: tuple[str, ...]
    lifetime: str
    code: str


class Recipe(NamedTuple):
    """One situation."""

    title: str
    policy: str
    taken: Example
    refused: Example


def marked(page: Path) -> list[Marked]:
    """The marked blocks of a page, in order."""
    return [Marked(found[1], found[2]) for found in _MARKED.finditer(page.read_text(encoding="utf-8"))]


def recipes() -> list[Recipe]:
    """All of docs/COOKBOOK.md. A refused example holds what differs from the taken one; null takes a member out."""
    found = []
    for title, text in _RECIPE.findall((DOCS / "COOKBOOK.md").read_text(encoding="utf-8")):
        rules, examples = _RULE.findall(text), [_example(match) for match in _GRANT.finditer(text)]
        assert (len(rules), len(examples)) == (1, 2), title
        taken, refused = examples
        assert refused.code and not taken.code, title
        whole = {name: value for name, value in {**taken.claims, **refused.claims}.items() if value is not None}
        found.append(Recipe(title, rules[0], taken, refused._replace(claims=whole)))
    return found


def _example(found: re.Match[str]) -> Example:
    signers = tuple(re.findall(r"`([^`]+)`", found["by"]))
    return Example(json.loads(found["json"]), signers, found["lifetime"], found["code"] or "")
