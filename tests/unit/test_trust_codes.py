"""Every code that trust and the field rules raise has its line of help, and no line is for nothing."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from agent.model import fields
from agent.trust import REFUSALS
from agent.trust import codes as codes_module

SOURCES = [*Path(codes_module.__file__).parent.glob("*.py"), Path(fields.__file__)]
# Called with the code as this argument: an error class, strictjson's own name for the class, and the maker of pattern rules.
CODE_ARGUMENT = {"UntrustedError": 0, "InvalidGrantError": 0, "ConfigError": 0, "error": 0, "matching": 1}
# These pass on a code that was raised, or given, elsewhere in the same modules.
PASSED_ON = {"caught.code", "code"}


def raised() -> Iterator[tuple[str, ast.expr]]:
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name in CODE_ARGUMENT:
                    yield f"{source.name}:{node.lineno}", node.args[CODE_ARGUMENT[name]]


def test_the_table_holds_exactly_the_codes_that_are_raised() -> None:
    found = {ast.literal_eval(argument) for _, argument in raised() if isinstance(argument, ast.Constant)}
    assert found == set(REFUSALS)


def test_no_code_is_made_up_at_run_time() -> None:
    computed = {place: ast.unparse(argument) for place, argument in raised() if not isinstance(argument, ast.Constant)}
    assert set(computed.values()) <= PASSED_ON, computed


def test_every_raise_is_one_of_the_known_classes() -> None:
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and node.exc is not None:
                text = ast.unparse(node.exc)
                assert re.match(r"(self\.)?(UntrustedError|InvalidGrantError|ConfigError|error|ValueError)\(", text), (
                    source.name,
                    text,
                )


def test_help_is_one_printable_line() -> None:
    for code, line in REFUSALS.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", code)
        assert line.isprintable()
        assert line.endswith(".")
