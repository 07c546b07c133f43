"""YAML that could mean two things, or cost without bound, is refused with its file, line and key."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ConfigError, RefusedError
from agent.settings import Section, duration, elements, members, yaml_files
from agent.strictyaml import FILE_MAX, Node, parse_yaml, read_yaml

WHERE = Path("p.yaml")


def plain(text: str) -> object:
    return parse_yaml(text.encode(), WHERE).plain()


def refused(data: bytes) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(data, WHERE)
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("Yes", "Yes"), ("off", "off"), ("y", "y"), ("12:30", "12:30"), ("2026-11-21", "2026-11-21"),
        ("1_000", "1_000"), ("0b11", "0b11"), ("=", "="), ("true", True), ("FALSE", False), ("~", None), ("null", None), ("", None),
        ("42", 42), ("-7", -7), ("+7", 7), ("0", 0), ("'42'", "42"), ('"true"', "true"), ("'0777'", "0777"), ("tRue", "tRue"),
        ("'1.5'", "1.5"), ("1.2.3", "1.2.3"), ("10.0.0.0/8", "10.0.0.0/8"), ("|\n  a\n  b", "a\nb\n"),
    ],
)  # fmt: skip
def test_plain_words_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    found = plain(f"k: {text}\n")
    assert found == {"k": value}
    assert isinstance(found, dict)
    assert type(found["k"]) is type(value)


@pytest.mark.parametrize(
    ("text", "code", "line", "key"),
    [
        ("a: 1\nb: 2\na: 3", "yaml_duplicate_key", 3, "a"),
        ("a: 1\n'a': 3", "yaml_duplicate_key", 2, "a"),
        ("x:\n  a: {b: 1, b: 2}", "yaml_duplicate_key", 2, "x.a.b"),
        ("a: 0777", "yaml_ambiguous_number", 1, "a"),
        ("a: 0o17", "yaml_ambiguous_number", 1, "a"),
        ("a: 0x1f", "yaml_ambiguous_number", 1, "a"),
        ("a: " + "9" * 5000, "yaml_ambiguous_number", 1, "a"),
        ("a: [1, 1.5]", "yaml_float", 1, "a[1]"),
        ("a: .inf", "yaml_float", 1, "a"),
        ("a: 1e3", "yaml_float", 1, "a"),
        ("a: &x [1]\nb: *x", "yaml_alias", 1, "a"),
        ("a: *x", "yaml_alias", 1, "a"),
        ("*x : a", "yaml_alias", 1, None),
        ("a: !!str 1", "yaml_tag", 1, "a"),
        ("a: ! x", "yaml_tag", 1, "a"),
        ("a:\n  - !!python/object/apply:os.system [id]", "yaml_tag", 2, "a[0]"),
        ("a: 1\n---\nb: 2", "yaml_documents", 2, None),
        ("%YAML 1.1\n---\na: 1", "yaml_directive", 1, None),
        ("%TAG ! tag:x,2000:\n---\na: 1", "yaml_directive", 1, None),
        ("1: a", "yaml_key", 1, None),
        ("true: a", "yaml_key", 1, None),
        ("~: a", "yaml_key", 1, None),
        ("? [a]\n: b", "yaml_key", 1, None),
        ("? {a: b}\n: b", "yaml_key", 1, None),
        ("k" * 129 + ": b", "yaml_key", 1, None),
        ("- a", "not_a_mapping", 1, None),
        ("just text", "not_a_mapping", 1, None),
        ("a: {b: c", "yaml_syntax", 1, None),
        ("a:\n\t- b", "yaml_syntax", 2, None),
        ("a: b: c", "yaml_syntax", 1, None),
        ('a: "\\UFFFFFFFF"', "yaml_syntax", None, None),
        ('a: "\\ud800"', "yaml_characters", 1, "a"),
        ('a: "\\0"', "yaml_characters", 1, "a"),
        ("a: 1\nb: x\u202ey", "yaml_characters", 2, None),
        ("a: x\u2028b: y", "yaml_characters", 1, None),
        ("a: " + "[" * 20, "yaml_too_deep", 1, "a" + "[0]" * 15),
        ("a: [" + "1," * 20_001 + "]", "yaml_too_many", 1, "a[19997]"),
    ],
)
def test_what_is_ambiguous_twice_or_clever_is_refused(text: str, code: str, line: int | None, key: str | None) -> None:
    error = refused(text.encode("utf-8", "surrogatepass"))
    assert (error.code, error.line, error.key) == (code, line, key)


def test_bytes_that_are_no_text_are_refused() -> None:
    assert (refused(b"a: 1\nb: \xff").code, refused(b"a: 1\nb: \xff").line) == ("yaml_encoding", 2)
    assert refused("a: 1".encode("utf-16")).code == "yaml_encoding"
    assert refused(b"a: \x07").code == "yaml_syntax"
    assert refused(b"#" * (FILE_MAX + 1)).code == "file_too_large"


def test_the_largest_files_cost_little() -> None:
    worst = [
        b"[" * FILE_MAX,
        b"{" * FILE_MAX,
        b"a: &a [" + b"*a," * 80_000,
        b"- " * (FILE_MAX // 2),
        b"? " * (FILE_MAX // 2),
        b"'" + b"x" * 200_000,
    ]
    for data in worst:
        begun = time.process_time()
        refused(data)
        assert time.process_time() - begun < 5


def test_an_empty_file_is_an_empty_mapping() -> None:
    assert plain("") == plain("# nothing\n") == plain("---\n") == plain("%YAML 1.2\n---\n{}") == {}


def test_lines_are_those_of_the_key(tmp_path: Path) -> None:
    root = parse_yaml(b"a:\n  b:\n    - c\n    - d: 1\n", WHERE)
    assert root.locate("a.b").line == 2
    assert root.locate("a.b[1].d").line == 4
    assert root.locate("a.b[1].zzz").key == "a.b[1]"
    assert root.locate("q") is root


def test_files_are_regular_owned_and_closed_to_others(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text("a: 1\n")
    good.chmod(0o644)
    assert read_yaml(good).plain() == {"a": 1}
    link, fifo, folder, loose = tmp_path / "link", tmp_path / "fifo", tmp_path / "folder", tmp_path / "loose"
    link.symlink_to(good)
    os.mkfifo(fifo)
    folder.mkdir()
    for mode in (0o664, 0o646):
        loose.write_text("a: 1\n")
        loose.chmod(mode)
        assert _code(loose) == "file_unsafe"
    assert [_code(link), _code(fifo), _code(folder), _code(Path("/dev/null"))] == ["file_unsafe"] * 4
    assert _code(tmp_path / "none") == "file_missing"
    assert _code(good / "below") == "file_unreadable"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_a_file_of_another_user_is_unsafe(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("a: 1\n")
    os.chown(path, 65534, 0)
    assert _code(path) == "file_unsafe"


def _code(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    return caught.value.code


def test_a_section_names_unknown_and_missing_keys() -> None:
    root = parse_yaml(b"a: 1\nrulez: 2\n", WHERE)
    with pytest.raises(ConfigError, match="did you mean 'rules'") as caught:
        Section(root, optional=("a", "rules"))
    assert str(caught.value) == "p.yaml:2: rulez: unknown setting; did you mean 'rules'? [unknown_key]"
    with pytest.raises(ConfigError) as caught:
        Section(root, required=("b",), optional=("a", "rulez"))
    assert caught.value.code == "missing_key"
    with pytest.raises(ConfigError) as caught:
        Section(root.locate("a"))
    assert caught.value.code == "not_a_mapping"


def test_lists_are_lists_of_distinct_members() -> None:
    section = Section(parse_yaml(b"a: 1\nb: []\nc: [x, x]\nd: [x, y]\n", WHERE), optional=("a", "b", "c", "d", "e"))
    for key, code in (("a", "not_a_list"), ("b", "list_length"), ("c", "duplicate_entry")):
        with pytest.raises(ConfigError) as caught:
            section.many(key, lambda value, _field: str(value))
        assert caught.value.code == code
    assert section.many("d", lambda value, _field: str(value)) == ("x", "y")
    assert section.many("e", lambda value, _field: str(value), default=("z",)) == ("z",)
    assert elements(section.node.locate("b"), least=0) == ()
    with pytest.raises(ConfigError, match="must be a mapping"):
        members(section.node.locate("a"))


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("8h", 28800), ("30d", 2592000)])
def test_durations_have_a_unit(text: str, seconds: int) -> None:
    assert duration(text, "f") == seconds


@pytest.mark.parametrize(
    "value", ["90", 90, "0s", "-1s", "1.5h", "1h30m", "h", "", None, True, "1 h", "1H", "9999999d", "\u0661s", "1s\n"]
)
def test_anything_else_is_no_duration(value: object) -> None:
    with pytest.raises(RefusedError) as caught:
        duration(value, "f")
    assert caught.value.code == "duration_invalid"


def test_folders_are_read_by_name_and_bounded(tmp_path: Path) -> None:
    assert list(yaml_files(tmp_path / "none")) == []
    for name in ("20-b.yaml", "10-a.yaml", ".hidden.yaml", "c.yml", "d.yaml~"):
        (tmp_path / name).touch()
    assert [path.name for path in yaml_files(tmp_path)] == ["10-a.yaml", "20-b.yaml"]
    with pytest.raises(ConfigError) as caught:
        list(yaml_files(tmp_path / "20-b.yaml"))
    assert caught.value.code == "file_unreadable"
    for number in range(260):
        (tmp_path / f"x{number}.yaml").touch()
    with pytest.raises(ConfigError) as caught:
        list(yaml_files(tmp_path))
    assert caught.value.code == "too_many_files"


@given(st.binary(max_size=300) | st.text(alphabet="ab:-[]{}'\"\\#&*!|>%@`,?~ \n\t01.uxU\u202e\ud7ff", max_size=120).map(str.encode))
def test_any_bytes_are_a_mapping_or_a_config_error(data: bytes) -> None:
    try:
        found = parse_yaml(data, WHERE)
    except ConfigError as error:
        assert error.path == WHERE
    else:
        assert isinstance(found, Node)
        assert isinstance(found.plain(), dict)
