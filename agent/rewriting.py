"""A file of the admin's in today's form: text to text. Only names change, at the very places where they stand.

Comments, order, quotes and blanks stay as they are, since nothing is written anew: PyYAML says where each key begins and
ends, and no more than that is replaced. What comes out is read again and must say what went in, by the other way of reading
older forms (:mod:`agent.forms`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agent.errors import ConfigError
from agent.forms import ANY, KEY, Form, Step, current, version_of
from agent.strictyaml import parse_yaml


@dataclass(frozen=True, slots=True)
class _Word:
    """A key's place in the file: the names on the way to it (list entries as ``*``), and where it and its value begin and end."""

    where: tuple[str, ...]
    begin: int
    end: int
    value: tuple[int, int]


def rewritten(data: bytes, path: Path, form: Form) -> bytes:
    """The same settings in today's form, with ``version`` said. A file that has nothing of an earlier form comes back as it is.

    Raises:
        ConfigError: all of :func:`agent.strictyaml.parse_yaml` and :func:`agent.forms.current`; ``migration_failed``: the file is
            written in a way that can't be kept, such as its whole in one line behind ``---``.
    """
    root = parse_yaml(data, path)
    said, meant = version_of(root, form), current(root, form).plain()
    text = before = data.decode("utf-8")
    for step in form.steps[(said or 1) - 1 :]:
        text = _step(text, step)
    if text == before and (said or form.version) == form.version:
        return data
    made = _with_version(text, form.version).encode()
    try:
        again = parse_yaml(made, path)
        kept = version_of(again, form) == form.version and current(again, form).plain() == meant
    except ConfigError as error:
        raise ConfigError("migration_failed", f"would not be read again: {error.reason}", path=path) from error
    if not kept:
        raise ConfigError("migration_failed", "would say something else afterwards", path=path)
    return made


def _step(text: str, step: Step) -> str:
    words = list(_words(text))
    edits = []
    for rename in step:
        edits += [(word.begin, word.end, rename.name) for word in words if _at(word.where, rename.where)]
    return _edited(text, edits)


def _with_version(text: str, version: int) -> str:
    """``version`` in its own line at the top; a comment that stands over the first setting stays over it."""
    for word in _words(text):
        if word.where == (KEY,):
            return _edited(text, [(*word.value, str(version))])
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    if root.flow_style:
        at = root.start_mark.index + 1
        return _edited(text, [(at, at, f"{KEY}: {version}, ")])
    start: Any = next(event for event in yaml.parse(text, Loader=yaml.SafeLoader) if isinstance(event, yaml.DocumentStartEvent))
    at = text.find("\n", start.end_mark.index) + 1 if start.explicit else int(text.startswith("\ufeff"))
    ending = "\r\n" if text.partition("\n")[0].endswith("\r") else "\n"
    return _edited(text, [(at, at, f"{' ' * root.start_mark.column}{KEY}: {version}{ending}")])


def _edited(text: str, edits: Sequence[tuple[int, int, str]]) -> str:
    for begin, end, new in sorted(edits, reverse=True):
        text = text[:begin] + new + text[end:]
    return text


def _at(where: Sequence[str], wanted: Sequence[str]) -> bool:
    return len(where) == len(wanted) and all(want in {ANY, name} for name, want in zip(where, wanted, strict=True))


def _words(text: str) -> Iterator[_Word]:
    """Every key of the file. It was parsed before, so it holds nothing but mappings, lists and scalars, and is not deep."""

    def below(node: object, where: tuple[str, ...]) -> Iterator[_Word]:
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                yield from below(item, (*where, ANY))
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*where, key.value)
                yield _Word(here, key.start_mark.index, key.end_mark.index, (value.start_mark.index, value.end_mark.index))
                yield from below(value, here)

    yield from below(yaml.compose(text, Loader=yaml.SafeLoader), ())
