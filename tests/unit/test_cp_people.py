"""People of the control plane: who they become, what they may, and that nothing of it is ever somebody else's."""

import contextlib
import re
import statistics
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ConfigError
from agent.model.fields import LOGIN
from agent.strictyaml import read_yaml
from examples.control_plane.people import PEOPLE_SCHEMA, People, changing, local, offboarding
from examples.control_plane.people.errors import LoginRefusedError
from examples.control_plane.people.oidc import Claims, Provider
from examples.control_plane.people.person import by_id
from examples.control_plane.people.provisioning import RoleMap, arrive, logins, roles_for, slug
from examples.control_plane.people.settings import PeopleSettings, public, read
from examples.control_plane.store import Store

ISSUER = "https://login.example.com"
ROLES: RoleMap = {"contractors": frozenset({"contractor"}), "leads": frozenset({"contractor", "approver"})}
NOW = 1_795_300_000.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(tmp_path / "data", PEOPLE_SCHEMA)
    yield found
    found.close()


@pytest.fixture
def people(store: Store) -> People:
    return People(store, PeopleSettings(roles=ROLES), wall=lambda: NOW)


def claims(subject: str = "u-1", **changed: object) -> Claims:
    right: dict[str, object] = {
        "name": "Alice Ng",
        "email": "alice@example.com",
        "username": "alice",
        "groups": frozenset({"contractors"}),
        "sid": "",
        "expires": int(NOW) + 300,
        "fingerprint": "f",
    }
    return Claims(issuer=ISSUER, subject=subject, **(right | changed))  # type: ignore[arg-type]  # one keyword each


def arrived(store: Store, given: Claims) -> tuple[str, str, set[str], set[str]]:
    """Subject, login, roles, lost roles."""
    with store.write() as db:
        found = arrive(db, given, ROLES, "jit-", NOW)
        return found.person.subject, found.person.login, set(found.person.roles), set(found.lost)


@contextlib.contextmanager
def refused(code: str) -> Iterator[None]:
    with pytest.raises(LoginRefusedError) as error:
        yield
    assert error.value.code == code


# Provisioning


def test_a_first_login_makes_the_person_from_their_claims(store: Store) -> None:
    assert arrived(store, claims()) == ("alice@example.com", "jit-alice", {"contractor"}, set())
    with store.read() as db:
        person = by_id(db, 1)
    assert person is not None
    assert (person.name, person.email, person.issuer) == ("Alice Ng", "alice@example.com", ISSUER)


def test_a_later_login_has_the_groups_of_then_and_says_what_is_lost(store: Store) -> None:
    arrived(store, claims(groups=frozenset({"leads"})))
    assert arrived(store, claims(groups=frozenset({"contractors"})))[2:] == ({"contractor"}, {"approver"})
    assert arrived(store, claims(groups=frozenset()))[2:] == (set(), {"contractor"})
    assert arrived(store, claims(groups=frozenset({"leads"})))[2:] == ({"contractor", "approver"}, set())


def test_nobody_is_made_of_somebody_without_a_role(store: Store) -> None:
    with refused("no_role"):
        arrived(store, claims(groups=frozenset({"visitors"})))
    with store.read() as db:
        assert db.execute("SELECT count(*) FROM person").fetchone()[0] == 0


def test_an_address_that_was_given_to_a_colleague_makes_another_person(store: Store) -> None:
    """The old one's grants name the address: a new one of the same subject would be let in by them, and revoked with them."""
    old = arrived(store, claims("u-1"))
    new = arrived(store, claims("u-2"))
    assert old[:2] == ("alice@example.com", "jit-alice")
    assert new[:2] == ("jit-alice-2", "jit-alice-2")
    assert arrived(store, claims("u-3", email="ALICE@example.com"))[:2] == ("jit-alice-3", "jit-alice-3")
    assert arrived(store, claims("u-1", email="alice.ng@example.com", name="A. Ng"))[:2] == old[:2]


@pytest.mark.parametrize(
    "email", ["", "\u0430lice@example.com", "alice o@example.com", "a" * 200 + "@example.com", "alice'@example.com"]
)
def test_what_is_no_verified_plain_address_is_no_subject(store: Store, email: str) -> None:
    subject, login, _, _ = arrived(store, claims(email=email, username="boss@example.com"))
    assert subject == login
    assert LOGIN.fullmatch(login)


def test_a_name_that_somebody_chose_is_never_another_persons_subject(store: Store, people: People) -> None:
    changing.add_local(people, "root-ops", "", frozenset({"admin"}), "a long password", by="")
    assert arrived(store, claims("u-9", email="root-ops@example.com"))[1] == "jit-root-ops-2"
    with refused("person_known"):
        changing.add_local(people, "root-ops", "", frozenset({"admin"}), "a long password", by="")


def test_an_offboarded_persons_login_and_subject_stay_theirs(store: Store, people: People) -> None:
    arrived(store, claims("u-1"))
    offboarding.offboard(people, 1, "admin", "left", lambda _, __: None)
    assert arrived(store, claims("u-2"))[:2] == ("jit-alice-2", "jit-alice-2")
    with refused("person_ended"):
        arrived(store, claims("u-1"))


@given(st.text(max_size=60), st.sampled_from(["jit-", "t", "tmp-access-x-"]))
def test_every_login_is_one_that_hosts_take(wished: str, prefix: str) -> None:
    tried = list(logins(prefix, wished, "https://issuer subject"))
    assert all(LOGIN.fullmatch(login) and login.startswith(prefix) for login in tried)
    assert len(set(tried)) == len(tried)


def test_names_become_logins_as_a_person_would_write_them() -> None:
    assert [slug(name) for name in ("Zoë O'Neil", "--x--", "李雷", "a_b.c", "ROOT")] == ["zoe-o-neil", "x", "", "a-b-c", "root"]


def test_only_named_groups_give_roles() -> None:
    assert roles_for({"contractors", "admin", "CONTRACTORS"}, ROLES) == {"contractor"}
    assert roles_for((), ROLES) == frozenset()


# Sessions


def test_a_session_ends_at_its_time_and_only_a_hash_of_it_is_kept(store: Store, people: People) -> None:
    arrived(store, claims())
    with store.write() as db:
        opened = people.sessions.open(db, 1, NOW)
    kept = b"".join(path.read_bytes() for path in (store._path, store._path.with_suffix(".db-wal")) if path.exists())
    assert opened.bearer.encode() not in kept
    assert people.sessions.person(opened.bearer, opened.expires - 1) is not None
    assert people.sessions.person(opened.bearer, opened.expires) is None
    assert opened.expires == NOW + people.settings.session_s
    for other in ("", opened.bearer + "x", opened.bearer[:-1], "tgs_", "é" * 40, "tgs_" + "x" * 10_000):
        assert people.sessions.person(other, NOW) is None


def test_a_lost_role_is_lost_in_every_session_at_once(store: Store, people: People) -> None:
    arrived(store, claims(groups=frozenset({"leads"})))
    with store.write() as db:
        opened = [people.sessions.open(db, 1, NOW) for _ in range(2)]
    arrived(store, claims(groups=frozenset({"contractors"})))
    assert [found.roles for one in opened if (found := people.sessions.person(one.bearer, NOW))] == [{"contractor"}] * 2
    arrived(store, claims(groups=frozenset()))
    assert [people.sessions.person(one.bearer, NOW) for one in opened] == [None, None]


def test_a_person_has_at_most_sixteen_sessions_and_the_oldest_goes(store: Store, people: People) -> None:
    arrived(store, claims())
    opened = []
    for number in range(18):
        with store.write() as db:
            opened.append(people.sessions.open(db, 1, NOW + number))
    alive = [people.sessions.person(one.bearer, NOW + 20) is not None for one in opened]
    assert alive == [False] * 2 + [True] * 16


# Local accounts


def with_account(people: People, name: str = "carol", roles: frozenset[str] = frozenset({"contractor"})) -> str:
    password = local.new_password()
    changing.add_local(people, name, "Carol Diaz", roles, password, by="")
    return password


def test_the_right_password_lets_in_and_any_other_does_not(people: People) -> None:
    password = with_account(people)
    opened, person = people.login_local("carol", password)
    assert (person.subject, person.login) == ("carol", "jit-carol")
    assert people.sessions.person(opened.bearer, NOW) == person
    for name, tried in (
        ("carol", password + "x"),
        ("carol", ""),
        ("nobody", password),
        ("Carol", password),
        ("carol", "\ud800" * 12),
    ):
        with refused("login_refused"):
            people.login_local(name, tried)


def test_the_same_work_is_done_for_a_name_that_nobody_has(people: People) -> None:
    """Medians of real scrypt on this machine; without the work for nobody the ratio is over 20."""
    with_account(people)
    took: dict[str, list[float]] = {"carol": [], "nobody": []}
    for _ in range(5):
        for name, times in took.items():
            begin = time.perf_counter()
            with pytest.raises(LoginRefusedError):
                people.accounts.check(name, "not the password", _kept(people, name), time.monotonic() + len(times) * 1e6)
            times.append(time.perf_counter() - begin)
    ratio = statistics.median(took["carol"]) / statistics.median(took["nobody"])
    assert 0.4 < ratio < 2.5


def _kept(people: People, name: str) -> tuple[int, local.Secret] | None:
    with people.store.read() as db:
        return local.kept_for(db, name)


def test_wrong_tries_wait_longer_and_longer_whether_somebody_has_the_name_or_not() -> None:
    def waits(name: str) -> list[int]:
        tries, found, at = local.Tries(), [], 0.0
        for _ in range(14):
            try:
                tries.begin(name, at)
            except LoginRefusedError as error:
                assert error.retry_after_s is not None
                found.append(error.retry_after_s)
                at += error.retry_after_s
                tries.begin(name, at)
        return found

    assert waits("carol") == waits("nobody") == waits(" CAROL ")
    assert waits("carol")[:4] == [2, 3, 5, 9]
    assert max(waits("carol")) <= local.WAIT_MAX_S + 1


def test_a_spelling_of_the_name_is_no_way_around_the_wait_and_success_ends_it() -> None:
    tries = local.Tries()
    for spelled in ("carol", "CAROL", " carol", "carol ", "Carol"):
        tries.begin(spelled, 0.0)
    with refused("login_rate_limited"):
        tries.begin("carol", 0.5)
    tries.succeeded("carol")
    tries.begin("carol", 0.6)


def test_names_that_are_made_up_cost_bounded_memory() -> None:
    tries = local.Tries()
    for number in range(5000):
        tries.begin(f"name-{number}", 0.0)
    assert len(tries._failed) == local._NAMES_MAX


def test_passwords_that_are_made_here_are_long_random_and_easy_to_type() -> None:
    made = {local.new_password() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"([a-hjkmnp-z2-9]{4}-){4}[a-hjkmnp-z2-9]{4}", one) for one in made)


def test_a_short_password_is_not_taken(people: People) -> None:
    with refused("password_length"):
        changing.add_local(people, "dave", "", frozenset({"contractor"}), "short", by="")


# Their end


def test_offboarding_ends_sessions_roles_and_password_at_once_and_may_be_done_again(people: People) -> None:
    with_account(people, "root", frozenset({"admin"}))
    password = with_account(people)
    opened, person = people.login_local("carol", password)
    told: list[str] = []
    for _ in range(2):
        found = offboarding.offboard(people, person.id, "root", "left", lambda _, subject: told.append(subject))
        assert found.person.ended == NOW
    assert told == ["carol", "carol"]
    assert people.sessions.person(opened.bearer, NOW) is None
    with people.store.read() as db:
        assert people.find(db, "carol") is None
    with refused("login_refused"):
        people.login_local("carol", password)


def test_a_crash_while_offboarding_leaves_all_of_it_or_nothing(people: People) -> None:
    with_account(people, "root", frozenset({"admin"}))
    opened, person = people.login_local("carol", with_account(people))

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        offboarding.offboard(people, person.id, "root", "left", cut)
    assert people.sessions.person(opened.bearer, NOW) == person


def test_the_last_admin_can_neither_be_offboarded_nor_lose_the_role(people: People) -> None:
    with_account(people, "root", frozenset({"admin"}))
    with refused("last_admin"):
        offboarding.offboard(people, 1, "root", "left", lambda _, __: None)
    with refused("last_admin"):
        changing.change_roles(people, 1, frozenset({"approver"}), "root", lambda _, __: None)
    with_account(people, "second", frozenset({"admin"}))
    assert offboarding.offboard(people, 1, "second", "left", lambda _, __: None).person.ended == NOW


def test_roles_that_the_provider_gives_are_not_set_here(people: People, store: Store) -> None:
    arrived(store, claims())
    with refused("roles_by_claims"):
        changing.change_roles(people, 1, frozenset({"admin"}), "root", lambda _, __: None)


def test_whoever_loses_a_role_loses_what_it_allowed_in_the_same_step(people: People) -> None:
    with_account(people, "dora", frozenset({"contractor", "approver"}))
    left: list[frozenset[str]] = []
    changing.change_roles(people, 1, frozenset({"contractor"}), "root", lambda _, person: left.append(person.roles))
    changing.change_roles(people, 1, frozenset({"contractor", "auditor"}), "root", lambda _, person: left.append(person.roles))
    assert left == [{"contractor"}]


def test_who_was_restored_has_no_role_until_somebody_gives_one(people: People) -> None:
    with_account(people, "root", frozenset({"admin"}))
    with_account(people)
    offboarding.offboard(people, 2, "root", "mistaken", lambda _, __: None)
    person = offboarding.restore(people, 2, "root", "it was another Carol")
    assert (person.ended, person.roles) == (None, frozenset())


def test_where_the_device_flow_is_off_a_token_of_it_lets_nobody_in(store: Store) -> None:
    """Before anything is fetched or verified: it has no nonce, which a browser's always has."""
    provider = Provider("https://127.0.0.1:9", "tidegate", device_flow=False)
    closed = People(store, PeopleSettings(provider=provider, roles=ROLES), wall=lambda: NOW)
    with refused("id_token_nonce"):
        closed.login_oidc("e30.e30.e30", None, lambda _, __: None)
    with refused("id_token_algorithm"):
        closed.login_oidc("e30.e30.e30", "a nonce", lambda _, __: None)


# Settings


def settings(tmp_path: Path, text: str) -> PeopleSettings:
    path = tmp_path / "people.yaml"
    path.write_text(text)
    return read(read_yaml(path))


OIDC = "oidc:\n  issuer: https://login.example.com\n  client_id: tidegate\n  roles:\n    leads: [approver]\n"


def test_the_settings_that_the_documentation_shows_load(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/PEOPLE.md").read_text(encoding="utf-8")
    block = re.search(r"^people:\n((?:  .*\n)+)", page, re.MULTILINE)
    assert block is not None
    found = settings(tmp_path, textwrap.dedent(block[1]))
    assert found.provider == Provider("https://login.example.com", "tidegate", device_flow=False), (
        "what is shown beside are the defaults"
    )
    assert (found.session_s, found.prefix) == (PeopleSettings().session_s, PeopleSettings().prefix)
    assert found.roles["it"] == {"admin"}


def test_with_a_provider_local_accounts_are_off_unless_asked_for(tmp_path: Path) -> None:
    assert public(settings(tmp_path, OIDC))["methods"] == ["oidc"]
    assert public(settings(tmp_path, OIDC + "local: true\n"))["methods"] == ["oidc", "local"]
    assert public(read(None)) == {"methods": ["local"]}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (OIDC.replace("https:", "http:"), "issuer_invalid"),
        (OIDC + "  algorithms: [HS256]\n", "unknown_value"),
        (OIDC + "  algorithms: [none]\n", "unknown_value"),
        (OIDC.replace("    leads: [approver]\n", "    leads: [Approver]\n"), "role_invalid"),
        (OIDC.replace("  roles:\n    leads: [approver]\n", ""), "missing_key"),
        ("session: 30d\n", "out_of_range"),
        ("login_prefix: a-very-long-prefix-\n", "login_prefix_invalid"),
        ("locals: true\n", "unknown_key"),
    ],
)
def test_a_wrong_setting_refuses_the_start(tmp_path: Path, text: str, code: str) -> None:
    with pytest.raises(ConfigError) as error:
        settings(tmp_path, text)
    assert error.value.code == code
