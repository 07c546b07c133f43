"""Files of an earlier form are read as well; of a newer one, never. Rewritten they say the same, in the admin's own layout."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import forms
from agent.config import Config, load_config
from agent.courier.settings import load_settings
from agent.errors import ConfigError
from agent.forms import ANY, Form, Rename, current, version_of
from agent.policy import load_policy_file
from agent.rewriting import rewritten
from agent.strictyaml import parse_yaml

WHERE = Path("/etc/tidegate/policy.d/a.yaml")
# Two steps: a member of every rule, then a setting at the top and that member once more.
THREE = Form(
    "trial",
    (
        (Rename(("rules", ANY, "recording", "limit"), "max_bytes"),),
        (Rename(("group",), "tenant_group"), Rename(("rules", ANY, "recording", "max_bytes"), "most")),
    ),
)
OLD = """\
# Contractors: reviewed by Ann.
group: tenants   # who they are
rules:
  - name: "limit"     # no key
    recording: {mode: required, "limit": 4096 }  # limit: 4 KiB

  - recording:
      # as long as it takes
      'limit' : 0
      pause: 30s
  - recording: required
limit: stays
"""
NEW = """\
version: 3
# Contractors: reviewed by Ann.
tenant_group: tenants   # who they are
rules:
  - name: "limit"     # no key
    recording: {mode: required, most: 4096 }  # limit: 4 KiB

  - recording:
      # as long as it takes
      most : 0
      pause: 30s
  - recording: required
limit: stays
"""


def plain(text: str, form: Form = THREE) -> object:
    return current(parse_yaml(text.encode(), WHERE), form).plain()


def after(text: str, form: Form = THREE) -> str:
    return rewritten(text.encode(), WHERE, form).decode()


def code_of(text: str, form: Form = THREE) -> tuple[str, int | None]:
    with pytest.raises(ConfigError) as caught:
        plain(text, form)
    return caught.value.code, caught.value.line


def test_only_names_change_and_comments_order_quotes_and_blanks_stay() -> None:
    assert after(OLD) == NEW
    assert after(NEW) == NEW
    assert plain(OLD) == plain(NEW)


def test_a_file_of_an_earlier_form_is_read_as_one_of_todays() -> None:
    assert plain("rules: [{recording: {limit: 5}}]\ngroup: g\n") == {"rules": [{"recording": {"most": 5}}], "tenant_group": "g"}
    assert plain("version: 2\nrules: [{recording: {max_bytes: 5}}]\n") == {"rules": [{"recording": {"most": 5}}]}


def test_a_file_that_says_no_version_may_have_later_names() -> None:
    assert plain("rules: [{recording: {most: 5}}, {recording: {limit: 6}}]\n") == plain(
        "version: 3\nrules: [{recording: {most: 5}}, {recording: {most: 6}}]\n"
    )
    assert after("tenant_group: g\n") == "tenant_group: g\n", "nothing of it is of an earlier form"


@pytest.mark.parametrize("text", ["version: 4", "version: 999999"])
def test_a_newer_form_is_refused_by_name(text: str) -> None:
    assert code_of(f"# written later\n{text}\n") == ("version_newer", 2)


@pytest.mark.parametrize("text", ["0", "-1", '"2"', "true", "[2]", "{}", "", "two"])
def test_a_version_is_a_whole_number(text: str) -> None:
    assert code_of(f"version: {text}\n")[0] == "version_invalid"


def test_an_earlier_name_in_a_file_that_says_it_is_of_a_later_form_is_told_with_the_new_one() -> None:
    with pytest.raises(
        ConfigError, match=r"a\.yaml:3: rules\[0\]\.recording\.limit: is called 'max_bytes' since version 2"
    ) as caught:
        plain("version: 2\nrules:\n  - recording: {limit: 5}\n")
    assert caught.value.code == "setting_renamed"


def test_one_setting_under_both_names_is_refused_and_neither_wins() -> None:
    assert code_of("tenant_group: a\ngroup: b\n") == ("setting_in_two_forms", 2)
    with pytest.raises(ConfigError, match="setting_in_two_forms"):
        after("tenant_group: a\ngroup: b\n")


def test_an_error_in_an_earlier_form_names_line_and_key_as_the_file_has_them(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("rules:\n  - name: a\n    issuers: [x]\n    recording:\n      limit: much\n")
    with pytest.raises(ConfigError, match=r"p\.yaml:5: rules\[0\]\.recording\.limit: "):
        load_policy_file(path, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{group: g}\n", "{version: 3, tenant_group: g}\n"),
        ("---\ngroup: g\n...\n", "---\nversion: 3\ntenant_group: g\n...\n"),
        ("%YAML 1.2\n--- # ours\n# all\ngroup: g\n", "%YAML 1.2\n--- # ours\nversion: 3\n# all\ntenant_group: g\n"),
        ("# a\r\ngroup: g\r\nlast: 1", "version: 3\r\n# a\r\ntenant_group: g\r\nlast: 1"),
        ("\ufeffgroup: g\n", "\ufeffversion: 3\ntenant_group: g\n"),
        ("  group: g\n  other: h\n", "  version: 3\n  tenant_group: g\n  other: h\n"),
        ("? group\n: g\n", "version: 3\n? tenant_group\n: g\n"),
        ("a: 1\nversion: 1  # first\n", "a: 1\nversion: 3  # first\n"),
        ('group: "\U0001f600é"\nrules: [{recording: {limit: 5}}]\n', None),
        ("text: |\n  group: not a key\n  limit: 3\ngroup: >-\n  folded\n  text\n", None),
    ],
)
def test_however_the_file_is_laid_out(text: str, expected: str | None) -> None:
    made = after(text)
    assert expected is None or made == expected
    assert plain(made) == plain(text)
    assert made != text


def test_a_layout_that_could_not_be_kept_is_left_alone_and_said() -> None:
    with pytest.raises(ConfigError) as caught:
        after("--- {group: g, a: 1}\n... # end\n---\n")
    assert caught.value.code == "yaml_documents"


BLANK = st.sampled_from(["", " ", "  # limit: here", "   "])
RULE = st.sampled_from(
    [
        "  - recording: {{limit: {0}, pause: 1s}}{1}\n",
        "  - recording:{1}\n      limit: {0}{1}\n",
        '  -{1}\n    name: limit\n    recording:\n      "limit":{1}\n        {0}\n',
        "  - {{recording: {{mode: off,\n      'limit': {0} }}}}{1}\n",
        "  - name: none{1}\n",
    ]
)


@settings(max_examples=200, deadline=None)
@given(
    rules=st.lists(st.tuples(RULE, st.integers(0, 10**9), BLANK), min_size=1, max_size=5),
    head=st.sampled_from(["", "# top\n", "---\n", "group: x\n", "version: 1\n", "version: 1 # one\ngroup: y\n"]),
)
def test_whatever_is_rewritten_says_the_same_and_is_left_alone_the_next_time(rules: list[tuple[str, int, str]], head: str) -> None:
    text = head + "rules:\n" + "".join(rule.format(number, blank) for rule, number, blank in rules)
    made = after(text)
    assert plain(made) == plain(text)
    assert after(made) == made
    comments = re.findall(r"#.*", text)
    assert re.findall(r"#.*", made) == comments


# The real ones


def test_the_first_real_step_what_was_limit_is_max_bytes(tmp_path: Path) -> None:
    rule = "rules:\n  - {{name: a, issuers: [x], recording: {{mode: required, {0}: 4096}}}}\n"
    path = tmp_path / "p.yaml"
    found = []
    for text in (rule.format("limit"), "version: 2\n" + rule.format("max_bytes"), rule.format("max_bytes")):
        path.write_text(text)
        found.append(load_policy_file(path, {}).rules[0].recording)
    assert found[0].limit == 4096
    assert found[0] == found[1] == found[2]
    assert after(rule.format("limit"), forms.POLICY) == "version: 2\n" + rule.format("max_bytes")
    path.write_text("version: 2\n" + rule.format("limit"))
    with pytest.raises(ConfigError, match="max_bytes"):
        load_policy_file(path, {})


def test_every_kind_of_file_takes_its_version_and_refuses_the_next(tmp_path: Path) -> None:
    path = tmp_path / "tidegate.yaml"
    read: dict[str, Callable[[Path], object]] = {
        "configuration": load_config,
        "policy": lambda at: load_policy_file(at, {}),
        "courier": load_settings,
    }
    for form, good in ((forms.CONFIGURATION, ""), (forms.POLICY, "rules: []\n"), (forms.COURIER, "url: https://a\n")):
        for version, code in ((form.version, None), (form.version + 1, "version_newer")):
            path.write_text(f"version: {version}\n{good}")
            if code is None:
                assert read[form.kind](path) is not None
            else:
                with pytest.raises(ConfigError) as caught:
                    read[form.kind](path)
                assert caught.value.code == code
    path.write_text("version: 1\nadmin_group: ops\n")
    assert load_config(path) == Config(admin_group="ops")


def test_the_shape_of_the_table() -> None:
    """No step gives a name another meaning: what was renamed away never comes back at the same place."""
    for form in (forms.CONFIGURATION, forms.POLICY, forms.COURIER):
        gone: set[tuple[str, ...]] = set()
        for step in form.steps:
            for rename in step:
                assert (*rename.where[:-1], rename.name) not in gone
                gone.add(rename.where)
    assert version_of(parse_yaml(b"a: 1\n", WHERE), forms.POLICY) is None
