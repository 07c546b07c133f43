"""The scene of `make demo-fleet`: three booted hosts, a nats-server, a control plane that reaches the hosts by it."""

import contextlib
import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from examples.demo.plane import Person, Plane
from examples.demo.scene import WITH_SYSTEMD, courier, enrolled, machine_address
from tests.hosts import tools
from tests.hosts.errors import HostUnavailable
from tests.hosts.fallback import available
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate
from tests.nats.server import Server, binary, version

HOSTS = 3
SECTION = 'nats: {{servers: ["tls://{listen}"], accounts_file: {folder}/accounts.conf, pid_file: {folder}/nats.pid}}\n'


@dataclass(frozen=True, slots=True)
class Fleet:
    """All of it. ``hosts``: by the name that people give to them."""

    hosts: dict[str, Host]
    plane: Plane
    alice: Person
    carol: Person

    @property
    def key(self) -> Path:
        """Alice's private key; the certificate lies beside it."""
        return self.alice.home / "access" / "tidegate"


@contextlib.contextmanager
def fleet(say: Callable[[str], None], count: int = HOSTS) -> Iterator[Fleet]:
    """Everything set up, for so many hosts; all of it is gone when the block ends.

    Raises:
        HostUnavailable: this machine boots no hosts, or has no nats-server and no way to one.
        RuntimeError: something does not start.
    """
    capability = available()
    if capability.kind != "nspawn":
        raise HostUnavailable(f"the fleet needs whole booted hosts: {capability.reason}")
    say(
        f"Debian's nats-server {version(binary())} is there; {count} disposable hosts boot, with Tidegate and nats-py installed ..."
    )
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        hosts = Host.boot_many(count, prepare=_prepare)
        for host in hosts:
            stack.callback(host.stop)
        address = machine_address(hosts[0])
        for host in hosts[1:]:  # each host reaches this machine alone; by this way at that one address of it, too
            via = machine_address(host)
            tools.run(["nsenter", "--net", f"--target={host.leader}", "ip", "route", "add", f"{address}/32", "via", via])
        yield _made(stack, folder, address, {f"web{number}": host for number, host in enumerate(hosts, start=1)}, say)


def _made(stack: contextlib.ExitStack, folder: Path, address: str, hosts: dict[str, Host], say: Callable[[str], None]) -> Fleet:
    (folder / "broker").mkdir()
    broker = Server(folder / "broker", address)
    section = SECTION.format(listen=broker.listen, folder=broker.folder)
    plane = Plane(folder, address, WITH_SYSTEMD.allowed, recorded=True, more=section).make()
    say("The control plane makes the broker's certificate and configuration; nats-server starts, then the control plane ...")
    plane.server("nats", "--folder", str(broker.folder), "--listen", broker.listen, "--name", address)
    stack.callback(broker.stop)
    broker.start()
    stack.enter_context(plane)
    say("Each host enrols by a token that is good once, is told of NATS, and goes on by it; the broker learns to know it ...")
    with ThreadPoolExecutor(len(hosts)) as pool:
        list(pool.map(lambda name: enrolled(hosts[name], plane, WITH_SYSTEMD, name), hosts))
    for name, host in hosts.items():
        if courier(host).get("transport") != "nats":
            raise RuntimeError(f"{name} is not on NATS: {courier(host)}")
    return Fleet(hosts, plane, plane.person("alice", "contractor"), plane.person("carol", "approver"))


def _prepare(root: Path) -> None:
    """Tidegate, and nats-py as the package for it will bring it: beside the agent, pure Python."""
    install_tidegate(root)
    found = importlib.util.find_spec("nats")
    if found is None or found.origin is None:
        raise HostUnavailable("nats-py is missing: install the extra nats")
    target = root / "usr/lib/tidegate/nats"
    shutil.copytree(Path(found.origin).parent, target, ignore=shutil.ignore_patterns("__pycache__"))
