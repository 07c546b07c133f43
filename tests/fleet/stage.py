"""What the fleet stands on: the server, its configuration for every host, and the processes; all gone at the end."""

import contextlib
import multiprocessing
import os
import re
import resource
import secrets
import shutil
import ssl
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from agent.courier.nats import NatsSettings
from agent.courier.natswire import parse_credentials
from examples.control_plane.nats_config import Login, Tls, by_certificate, server_config
from tests.fleet import couriers, crowd, host, intake
from tests.nats import pki
from tests.nats.bed import token_of
from tests.nats.server import Server

ANSWER_S = 240.0
CONTROL = token_of("control plane")


@dataclass(slots=True)
class Worker:
    """A process of ours, and the pipe to it."""

    process: Any
    pipe: Connection

    def ask(self, word: str, value: object = None) -> Any:
        self.tell(word, value)
        return self.answer()

    def tell(self, word: str, value: object = None) -> None:
        self.pipe.send((word, value))

    def answer(self) -> Any:
        if not self.pipe.poll(ANSWER_S):
            raise TimeoutError("a process of the fleet does not answer")
        return self.pipe.recv()


@dataclass(slots=True)
class Stage:
    """Server and hosts. ``simulated`` and ``real`` are host tokens."""

    server: Server
    folder: Path
    simulated: list[str]
    real: list[str]
    authority: pki.Authority | None
    sync: bool = False
    passwords: dict[str, str] = field(default_factory=dict)
    seeds: dict[str, Path] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{'tls' if self.authority else 'nats'}://{self.server.listen}"

    def configure(self) -> None:
        """Every host by its own login, with permissions for its own subjects only."""
        tls = None
        if self.authority:
            own = self.authority.server()
            tls = Tls(own.certificate, own.key, self.authority.ca)
            logins = [(token, by_certificate(token)) for token in (*self.simulated, *self.real)]
            control = by_certificate(CONTROL)
        else:
            self.passwords = {token: secrets.token_hex(8) for token in self.simulated}
            logins = [(token, Login(user=token, password=password)) for token, password in self.passwords.items()]
            for token in self.real:
                self.seeds[token] = self.folder / f"{token}.nk"
                self.seeds[token].write_text(pki.seed())
                logins.append((token, Login(nkey=parse_credentials(self.seeds[token].read_text()).public)))
            control = Login("control", "secret")
        server = self.server
        config = server_config(control, logins, store=server.store, listen=server.listen, tls=tls, sync_always=self.sync)
        server.configure(config)

    def crowd(self, count: int) -> list[Worker]:
        """The simulated hosts, in so many processes."""
        made: list[Any] = [(token, self.passwords.get(token, ""), self._files(token)) for token in self.simulated]
        return [self._worker(crowd.main, made[part::count], self.server.port, login) for part in range(count)]

    def couriers(self) -> Worker:
        """The real ones, in one process."""
        settings = []
        for token in self.real:
            files = self._files(token)
            named = {"ca": Path(files[0]), "certificate": Path(files[1]), "key": Path(files[2])} if files else {}
            settings.append(NatsSettings((self.url,), token, credentials=self.seeds.get(token), **named))  # type: ignore[arg-type]
        return self._worker(couriers.main, settings, self.folder / "couriers")

    def intake(self) -> Worker:
        return self._worker(intake.main, self.url, self._files(CONTROL))

    def client_options(self) -> dict[str, Any]:
        """How the control plane connects."""
        files = self._files(CONTROL)
        return {"tls": _context(files)} if files else {"user": "control", "password": "secret"}

    def _files(self, token: str) -> tuple[str, str, str] | None:
        if not self.authority:
            return None
        pair = self.authority.host(token)
        return str(self.authority.ca), str(pair.certificate), str(pair.key)

    def _worker(self, main: Callable[..., None], *arguments: Any) -> Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=main, args=(theirs, *arguments), daemon=True)
        process.start()
        theirs.close()
        self.workers.append(Worker(process, ours))
        return self.workers[-1]

    def close(self) -> None:
        """Every process ends, killed if need be."""
        for worker in self.workers:
            with contextlib.suppress(OSError):
                worker.tell("stop")
        for worker in self.workers:
            worker.process.join(10)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join(10)
            worker.pipe.close()
        self.server.stop()


def login(made: tuple[str, str, tuple[str, str, str] | None]) -> host.Login:
    """A simulated host's login, in its own process."""
    token, password, files = made
    return host.Login(token, password, _context(files) if files else None)


def _context(files: tuple[str, str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=files[0])
    context.load_cert_chain(files[1], files[2])
    return context


@contextlib.contextmanager
def stage(hosts: int, real: int, *, tls: bool, sync: bool) -> Iterator[Stage]:
    """All of it, in a temporary folder; nothing is left behind."""
    _descriptors(hosts + 1000)
    folder = Path(tempfile.mkdtemp(prefix="tidegate-fleet-"))
    made = Stage(
        Server(folder),
        folder,
        [token_of(f"simulated {number}") for number in range(hosts - real)],
        [token_of(f"real {number}") for number in range(real)],
        pki.Authority(folder / "pki") if tls else None,
        sync,
    )
    try:
        made.configure()
        made.server.start()
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


def _descriptors(needed: int) -> None:
    """Raise the limit of open files, for us and what we start. Raises SystemExit where it may not be raised so far."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed and os.geteuid() == 0:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, needed))
            return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SystemExit(f"fleet: {needed} open files are needed and at most {hard} allowed: raise `ulimit -Hn`, or --hosts fewer")
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else hard, hard))


def pss_kib(pid: int) -> int:
    """What the process holds of memory, shared pages by their share (proc(5), smaps_rollup)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    assert found
    return int(found[1])


def cpu_s(pid: int) -> float:
    """Processor seconds that it has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
