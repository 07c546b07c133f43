"""Which Debian the hosts of a run are: the pytest plug-in's `--suite`, and the tests that run on a second one by themselves.

Told nothing, every test runs on `root.DEFAULT_SUITE`, and those marked `@pytest.mark.host(everywhere=True)` on each of
`ALSO` once more, with the suite in their names. Told a suite (`--suite`, `$TIDEGATE_SUITE`), all run on that one alone.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hosts import root
from tests.hosts.errors import HostError
from tests.hosts.machine import Host

ALSO = ("trixie",)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--suite NAME`."""
    told = f"Debian suite of the test hosts, and no other: bookworm, trixie, sid (default: ${root.VARIABLE})"
    parser.addoption("--suite", default=os.environ.get(root.VARIABLE, ""), help=told)


def pytest_configure(config: pytest.Config) -> None:
    """Programs that tests start boot the same (examples.demo); an empty word is none."""
    if suite := config.getoption("suite"):
        os.environ[root.VARIABLE] = suite


def others(config: pytest.Config) -> tuple[str, ...]:
    """The suites that some tests run on beside `root.chosen`."""
    return () if config.getoption("suite", "") else ALSO


def build(config: pytest.Config) -> None:
    """Build the roots of those that are not there yet, which takes a minute each and is said on stderr.

    What fails here is said by the tests that need it.
    """
    for name in others(config):
        with contextlib.suppress(HostError):
            root.ensure(name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Whatever stands on a host is asked for its suite; the usual one is not in the tests' names."""
    if "suite" not in metafunc.fixturenames:
        return
    more = others(metafunc.config) if everywhere(metafunc.definition) else ()
    names = (pytest.HIDDEN_PARAM, *more)
    metafunc.parametrize("suite", (root.chosen(), *more), indirect=True, scope="module", ids=names)


def everywhere(item: pytest.Item) -> bool:
    """Whether the test is marked to run on the other suites as well."""
    return (of_host(item) or {}).get("everywhere", False) is True


def of_host(item: pytest.Item) -> dict[str, Any] | None:
    """What the test's `host` marks say, that nearest to it before its file's; None without one."""
    marks = [mark.kwargs for mark in item.iter_markers("host")]
    return {name: value for kwargs in reversed(marks) for name, value in kwargs.items()} if marks else None


@pytest.fixture(scope="module")
def suite(request: pytest.FixtureRequest) -> Iterator[str]:
    """The Debian suite of the test's hosts. A fixture that boots one takes this one, or its host would outlive it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(root.VARIABLE, request.param)
        yield request.param


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """A fixture that forgot to take `suite` would pass off a host of one suite as one of another."""
    wanted = getattr(item, "funcargs", {}).get("suite")
    for host in hosts_of(item) if everywhere(item) else ():
        if host.kind == Host.kind and host.suite != wanted:
            pytest.fail(f"the test is to run on {wanted}, and was given a host of {host.suite}: its fixture must take `suite`")


def hosts_of(item: pytest.Item) -> list[Host]:
    """The hosts among what the test's fixtures gave it, on their own or as the `host` of something."""
    given = getattr(item, "funcargs", {}).values()
    return [found for value in given for found in (value, getattr(value, "host", None)) if isinstance(found, Host)]
