"""The pytest plug-in: fixtures for hosts, and what becomes of host tests where there can be none.

A test marked `host` needs a whole booted host; one with `@pytest.mark.host(kinds=("nspawn", "namespaces"))` takes
either kind. Where the machine has no such kind, these tests are deselected, and the summary says how many did not run
and why. With `TIDEGATE_REQUIRE_HOSTS=1` (for CI) that is an error instead.

Two workers at once (`pytest -n 2`, as `make test` runs it): the host tests go to one of them, module after
module. Those marked `@pytest.mark.host(beside=True)`, which judge nothing by a clock, go to the other with the unit tests;
these give way to the first (nice).
"""

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import ssh, suites, tools
from tests.hosts.errors import HostError, HostUnavailable
from tests.hosts.fallback import NamespaceHost, available
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate

HostFactory = Callable[..., Host]
_NOT_RUN = pytest.StashKey[tuple[int, str]]()
_HOSTS = pytest.StashKey[list[Host]]()
_JOURNAL_LINES = 80
_GIVES_WAY = 10  # nice(2)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Before there are workers, whose words nobody hears: making a host's root takes a minute the first time, and says so."""
    capability = available()
    if capability.kind != "nspawn" and os.environ.get("TIDEGATE_REQUIRE_HOSTS") == "1":
        raise pytest.UsageError(f"host tests cannot run: {capability.reason}")
    config.stash[_NOT_RUN] = (0, capability.reason)
    _need_what_tests_ask()
    if capability.kind == "nspawn":
        suites.build(config)


def _need_what_tests_ask() -> None:
    """Workers skip what asks this machine's own sudo and sftp-server where it has none, so they are there before anybody looks.

    A package brings its users along too: no test is to find those that were not there when it began.
    """
    try:
        tools.need("cvtsudoers", *NamespaceHost.programs)
    except HostUnavailable as error:
        if os.environ.get("TIDEGATE_REQUIRE_HOSTS") == "1":
            raise pytest.UsageError(f"tests of this machine's own sudo and sshd cannot run: {error}") from error


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Which tests stay together in one worker; the order is that of the collection."""
    from tests.hosts.lanes import Lanes

    config.option.loadscopereorder = False
    return Lanes(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a worker did not run; all of them leave out the same."""
    count, reason = getattr(node, "workeroutput", {}).get("hosts_not_run", (0, ""))
    node.config.stash[_NOT_RUN] = (count, reason)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker tells the one who writes the summary."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["hosts_not_run"] = session.config.stash.get(_NOT_RUN, (0, ""))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Whoever judges by the clock goes before whoever does not, where two workers share the machine."""
    if "PYTEST_XDIST_WORKER" in os.environ and os.geteuid() == 0:
        mark = suites.of_host(item)
        os.setpriority(os.PRIO_PROCESS, 0, 0 if mark is not None and not mark.get("beside") else _GIVES_WAY)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the host tests which cannot run on this machine."""
    items.sort(key=lambda item: not item.get_closest_marker("host"))  # the longest first; stable
    marked = [(item, mark) for item in items if (mark := suites.of_host(item)) is not None]
    if not marked or config.option.collectonly:
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is None:
        capability = available()
    else:
        with capture.global_and_fixture_disabled():  # the first call may take a minute, and says what it does
            capability = available()
            if capability.kind == "nspawn" and any(suites.everywhere(item) for item, _ in marked):
                suites.build(config)
    lost = [item for item, mark in marked if capability.kind not in mark.get("kinds", ("nspawn",))]
    if not lost:
        return
    if os.environ.get("TIDEGATE_REQUIRE_HOSTS") == "1":
        raise pytest.UsageError(f"{len(lost)} host tests cannot run: {capability.reason}")
    config.stash[_NOT_RUN] = (len(lost), capability.reason)
    config.hook.pytest_deselected(items=lost)
    gone = set(lost)
    items[:] = [item for item in items if item not in gone]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many host tests did not run: a green run without them is not the whole proof."""
    count, reason = config.stash.get(_NOT_RUN, (0, ""))
    if count:
        terminalreporter.write_line(f"host tests not run: {count} ({reason})", yellow=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the end of the host's journal to the report of a failed test: the host is gone when it is read."""
    report = yield
    if report.failed and call.when == "call":
        for host in {*item.stash.get(_HOSTS, []), *suites.hosts_of(item)}:
            report.sections.append((f"journal of {host.name}", _journal(host)))
    return report


def _journal(host: Host) -> str:
    try:
        return "\n".join(host.journal().splitlines()[-_JOURNAL_LINES:])
    except (HostError, OSError, ValueError) as failure:
        return f"not readable: {failure}"


def _boot(**options: Any) -> Host:
    return available().host_class().boot(**options)


@pytest.fixture
def host_factory(request: pytest.FixtureRequest, suite: str) -> Iterator[HostFactory]:
    """A function that boots one more host, with the options of `Host.boot`; all are stopped after the test."""
    booted: list[Host] = []
    request.node.stash[_HOSTS] = booted

    def boot(**options: Any) -> Host:
        booted.append(_boot(**{"suite": suite, **options}))
        return booted[-1]

    yield boot
    for host in booted:
        host.stop()


@pytest.fixture
def host(suite: str) -> Iterator[Host]:
    """A fresh host, for this test alone, without Tidegate."""
    with _boot(suite=suite) as host:
        yield host


@pytest.fixture(scope="module")
def shared_host(suite: str) -> Iterator[Host]:
    """A host for all tests of a module, without Tidegate."""
    with _boot(suite=suite) as host:
        yield host


@pytest.fixture(scope="session")
def session_host() -> Iterator[Host]:
    """A host for all tests of the run, without Tidegate; for tests that only look."""
    with _boot() as host:
        yield host


@pytest.fixture
def tidegate_host(suite: str) -> Iterator[Host]:
    """A fresh host with Tidegate installed, for this test alone."""
    with _boot(suite=suite, prepare=install_tidegate) as host:
        yield host


@pytest.fixture(scope="module")
def shared_tidegate_host(suite: str) -> Iterator[Host]:
    """A host with Tidegate installed, for all tests of a module."""
    with _boot(suite=suite, prepare=install_tidegate) as host:
        yield host


@pytest.fixture(scope="session")
def ssh_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key (its public half beside it, with `.pub`) for the whole run."""
    return ssh.make_key(tmp_path_factory.mktemp("keys") / "id_ed25519")
