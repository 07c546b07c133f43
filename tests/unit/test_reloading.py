"""What is said of a bad file is so: the old is in force where it was read since the start, and where it was not, nothing is."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from agent.host.clock import FakeClock
from agent.host.config_store import ConfigStore
from agent.pipeline import Pipeline
from agent.policy import PolicyStore, decoders
from agent.reloading import Reloading
from agent.trust import KeyStore, generate_key
from tests.unit.enforcer_fixtures import ENFORCERS
from tests.unit.lifecycle_kit import ISSUER, POLICY


class Daemon:
    """One start of it: ``problems`` is what ``status`` shows."""

    def __init__(self, root: Path) -> None:
        self.policies = PolicyStore(root / "policy", decoders(ENFORCERS))
        self.keys = KeyStore(root / "trust")
        self.problems: dict[str, str] = {}
        pipeline = SimpleNamespace(policies=self.policies, trail=SimpleNamespace(emit=lambda _: None), clock=FakeClock())
        self.reloading = Reloading(
            cast(ConfigStore, None), self.keys, cast(Pipeline, pipeline), self.problems, lambda: pytest.fail("nothing to start for")
        )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("policy", "trust"):
        (tmp_path / name).mkdir(mode=0o755)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o644)


def test_a_bad_policy_leaves_the_old_one_and_after_a_start_none(root: Path) -> None:
    daemon = Daemon(root)
    write(root / "policy/a.yaml", POLICY)
    daemon.reloading.policy()
    assert not daemon.problems and daemon.policies.policy.rules
    write(root / "policy/a.yaml", "rules: [")
    daemon.reloading.policy()
    assert daemon.problems["policy"].endswith("; the old policy stays in force") and daemon.policies.policy.rules
    daemon = Daemon(root)
    for _ in range(2):  # trying again reads no policy either
        daemon.reloading.policy()
        assert daemon.problems["policy"].endswith("[yaml_syntax]; no policy is in force: every grant is refused")
        assert not daemon.policies.policy.rules
    write(root / "policy/a.yaml", POLICY)
    daemon.reloading.policy()
    assert not daemon.problems


def test_a_bad_key_file_leaves_what_was_of_it_and_after_a_start_nothing(root: Path) -> None:
    def good(kid: str) -> str:
        return json.dumps({"keys": [generate_key(kid, [ISSUER])[1]]})

    daemon = Daemon(root)
    write(root / "trust/a.jwks", good("cp-1"))
    daemon.reloading.keys()
    assert not daemon.problems
    write(root / "trust/a.jwks", "junk")
    daemon.reloading.keys()
    assert daemon.problems["keys"].endswith("; of a file at fault only what was in force since the start counts")
    assert [key.kid for key in daemon.keys.ring] == ["cp-1"]
    daemon = Daemon(root)
    daemon.reloading.keys()
    assert daemon.problems["keys"].endswith("; no key is in force: every grant is refused") and not len(daemon.keys.ring)
    write(root / "trust/b.jwks", good("cp-2"))
    daemon.reloading.keys()
    assert daemon.problems["keys"].endswith("since the start counts")
    assert [key.kid for key in daemon.keys.ring] == ["cp-2"], "of a.jwks nothing was"
