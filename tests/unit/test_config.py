"""tidegate.yaml and conf.d: every path but one can be set, and nothing wrong is taken."""

import dataclasses
from pathlib import Path

import pytest

from agent.config import Config, Paths, config_path, load_config
from agent.errors import ConfigError
from agent.sessions import shell
from tests.unit.policy_help import write


def test_no_default_file_means_defaults_but_a_named_one_must_be_there(tmp_path: Path) -> None:
    assert load_config(default=tmp_path / "none.yaml") == Config()
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "none.yaml")
    assert caught.value.code == "file_missing"


def test_every_path_and_setting_can_be_set(tmp_path: Path) -> None:
    names = [item.name for item in dataclasses.fields(Paths)]
    lines = "".join(f"  {name}: /x/{name}\n" for name in names)
    text = f"host_id: host-1\npaths:\n{lines}uids: {{first: 71000, last: 71999}}\n"
    text += "tenant_group: guests\nadmin_group: keepers\naccount_backend: passwd\n"
    found = load_config(write(tmp_path / "tidegate.yaml", text))
    assert found == Config(
        "host-1", Paths(**{name: Path("/x") / name for name in names}), 71000, 71999, "guests", "keepers", "passwd"
    )


def test_the_tenants_folder_is_the_one_that_tidegate_shell_has_built_in() -> None:
    assert str(Paths.tenants) == shell.TENANTS


def test_later_files_of_conf_d_replace_whole_settings(tmp_path: Path) -> None:
    main = write(tmp_path / "tidegate.yaml", "host_id: a\ntenant_group: guests\npaths: {keys: /a/keys, archive: /a/archive}\n")
    write(tmp_path / "conf.d/20.yaml", "host_id: c\n")
    write(tmp_path / "conf.d/10.yaml", "host_id: b\npaths: {keys: /b/keys}\n")
    found = load_config(main)
    assert (found.host_id, found.tenant_group) == ("c", "guests")
    assert (found.paths.keys, found.paths.archive) == (Path("/b/keys"), Paths().archive)
    main.unlink()
    assert load_config(default=main).host_id == "c"


@pytest.mark.parametrize(
    ("text", "code", "line", "key"),
    [
        ("hostid: a", "unknown_key", 1, "hostid"),
        ("host_id: 7", "host_id_invalid", 1, "host_id"),
        ("host_id:", "host_id_invalid", 1, "host_id"),
        ("host_id: 'a b'", "host_id_invalid", 1, "host_id"),
        ("paths:\n  key: /a", "unknown_key", 2, "paths.key"),
        ("paths:\n  tenants: /run/tidegate/tenants", "unknown_key", 2, "paths.tenants"),
        ("paths: [a]", "not_a_mapping", 1, "paths"),
        ("paths:\n  keys: a", "path_invalid", 2, "paths.keys"),
        ("paths:\n  keys: /a/../b", "path_invalid", 2, "paths.keys"),
        ("paths:\n  keys: '/a b'", "path_invalid", 2, "paths.keys"),
        ("paths:\n  keys: /a/", "path_invalid", 2, "paths.keys"),
        ("paths:\n  keys: /", "path_invalid", 2, "paths.keys"),
        ("paths:\n  keys: ~", "path_invalid", 2, "paths.keys"),
        (f"paths:\n  control_socket: /{'a' * 107}", "path_invalid", 2, "paths.control_socket"),
        ("uids: {first: 71000}", "missing_key", 1, "uids"),
        ("uids: {first: 69999, last: 71000}", "uids_invalid", 1, "uids.first"),
        ("uids: {first: 70000, last: 100000}", "uids_invalid", 1, "uids.last"),
        ("uids: {first: 70001, last: 70000}", "uids_invalid", 1, "uids"),
        ("uids: {first: true, last: 71000}", "uids_invalid", 1, "uids.first"),
        ("tenant_group: '%sudo'", "group_invalid", 1, "tenant_group"),
        ("admin_group: [a]", "group_invalid", 1, "admin_group"),
        ("tenant_group: tidegate", "groups_equal", 1, "tenant_group"),
        ("account_backend: ldap", "unknown_value", 1, "account_backend"),
        ("host_id: a\nhost_id: b", "yaml_duplicate_key", 2, "host_id"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_line_and_key(text: str, code: str, line: int, key: str, tmp_path: Path) -> None:
    path = write(tmp_path / "tidegate.yaml", text + "\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert (caught.value.code, caught.value.path, caught.value.line, caught.value.key) == (code, path, line, key)


def test_a_wrong_setting_in_conf_d_names_that_file(tmp_path: Path) -> None:
    main = write(tmp_path / "tidegate.yaml", "host_id: a\n")
    bad = write(tmp_path / "conf.d/10.yaml", "\npaths:\n  keys: a\n")
    with pytest.raises(ConfigError) as caught:
        load_config(main)
    assert (caught.value.path, caught.value.line) == (bad, 3)


def test_a_socket_path_of_107_bytes_fits(tmp_path: Path) -> None:
    longest = "/" + "a" * 106
    assert str(load_config(write(tmp_path / "t.yaml", f"paths: {{control_socket: {longest}}}")).paths.control_socket) == longest


def test_the_option_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    option, named = Path("/a.yaml"), {"TIDEGATE_CONFIG": "/b.yaml"}
    assert config_path(option, named) == option
    assert config_path(None, named) == Path("/b.yaml")
    assert config_path(None, {}) is None
    assert config_path(None, {"TIDEGATE_CONFIG": ""}) is None
    monkeypatch.setenv("TIDEGATE_CONFIG", "/c.yaml")
    assert config_path(None) == Path("/c.yaml")
