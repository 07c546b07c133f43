"""The table of codes and the code that raises them agree."""

import ast
from collections.abc import Iterator
from pathlib import Path

from agent.policy.codes import CODES, DENIALS, FILES, WARNINGS

ROOT = Path(__file__).parents[2]
SOURCES = [
    *sorted((ROOT / "agent/policy").glob("*.py")),
    *(ROOT / "agent" / name for name in ("config.py", "forms.py", "settings.py", "strictyaml.py")),
]
# callable → position of its code
POSITIONS = {
    "Denied": 0,
    "ConfigError": 0,
    "RefusedError": 0,
    "InvalidGrantError": 0,
    "error": 0,
    "matching": 1,
    "_matching": 1,
    "Finding": 1,
    "_refuse": 2,
    "_warning": 2,
}


def texts(node: ast.expr) -> Iterator[str]:
    for found in ast.walk(node):
        if isinstance(found, ast.Constant) and isinstance(found.value, str):
            yield found.value


def codes(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = (
                node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""
            )
            at = POSITIONS.get(name)
            if at is not None and len(node.args) > at:
                yield from texts(node.args[at])
        elif isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple):
            yield from list(texts(node.value.elts[0]))


def test_every_code_stands_in_the_table_and_the_table_has_no_other() -> None:
    raised = {code for path in SOURCES for code in codes(path)} | set(codes(ROOT / "agent/model/fields.py"))
    raised -= {"error", "warning", "U+", "U+%"}
    assert raised == set(CODES)


def test_denials_files_and_warnings_share_no_code_but_where_they_mean_the_same() -> None:
    assert set(DENIALS) & set(FILES) == {"entry_twice"} & set(FILES)
    assert set(DENIALS) & set(WARNINGS) == {"no_rule"}
    assert not set(FILES) & set(WARNINGS)


def test_each_says_in_one_line_what_to_do() -> None:
    assert all(text and "\n" not in text and len(text) <= 120 for text in CODES.values())
