"""The host that all is played on: Tidegate with its recordings, asciinema's command, a browser, and a page for the player."""

import contextlib
import hashlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from agent import trust
from tests.hosts.errors import HostFailed, HostUnavailable
from tests.player import browser
from tests.player.tape import Tape
from tests.sessions.bed import RECORDED, RECORDINGS, Bed, Tenant, booted
from tests.unit.recording_kit import IDENT

FORMATS = ("asciicast-v2", "asciicast-v3")
# asciinema-player as npm has it is no Python package; this one carries its two files unaltered.
CARRIER, PLAYER = "mkdocs-asciinema-player", "3.17.0"
_ASSETS = {
    "asciinema-player.min.js": "a13c37632e1b5c49fe9128417b9319a9b5bc64cb457dd5ae52cbba8a3aceb880",
    "asciinema-player.css": "f619fe17597043564f03b2c6918b3daf890ee8b912fb408542fba11afade4fdb",
}
_WEB, _PORT = "/srv/player", 8000
_EXPORTER = "/usr/lib/tidegate/agent/sessions/recording/export.py"
# What `--spoil` makes wrong in the host's own export: a proof that can't fail proves nothing.
SPOILS = {
    "split": ("self._decoders[frame.kind].decode(frame.data)", 'frame.data.decode("utf-8", "replace")'),
    "resize": ('yield "r", f"{size[0]}x{size[1]}"', "pass"),
    "swapped": ('yield "r", f"{size[0]}x{size[1]}"', 'yield "r", f"{size[1]}x{size[0]}"'),
    "time": ("        before = at_us\n", ""),
    "mark": ('"gap", "limit"', '"limit"'),
}


@dataclass
class Stage:
    """The host, once it is up."""

    bed: Bed
    served: str = f"http://127.0.0.1:{_PORT}/"

    def keep(self, tape: Tape) -> None:
        """Put the tape's recording, sealed by the host's key, where this host has its recordings."""
        key = trust.HostKey.load(Path(f"/proc/{self.bed.host.leader}/root/var/lib/tidegate/host.jwk"))
        self.bed.host.write(f"{RECORDINGS}/{IDENT}.tgr", tape.recorded(key), mode=0o600)

    def verdict(self, ident: str) -> dict[str, Any]:
        """What `tidegate sessions verify` says."""
        found: dict[str, Any] = json.loads(
            self.bed.host.run(["tidegate", "sessions", "verify", ident, "--json"], check=False).stdout
        )
        return found

    def export(self, ident: str, form: str) -> str:
        """`tidegate sessions export`, into the folder that the browser sees; the file's name there. Raises CommandFailed."""
        name = f"{ident}.{form}.cast"
        argv = ["tidegate", "sessions", "export", ident, "--format", form, "--output", f"{_WEB}/{name}"]
        self.bed.host.run(argv, timeout=120)
        self.bed.host.run(["chmod", "644", f"{_WEB}/{name}"])
        return name

    def lay(self, name: str, data: bytes) -> None:
        """Another file for the browser."""
        self.bed.host.write(f"{_WEB}/{name}", data)

    def path(self, name: str) -> str:
        """Where on the host such a file is."""
        return f"{_WEB}/{name}"

    def install(self, program: Path) -> str:
        """Put a program on the host; where."""
        self.bed.host.push(program, f"/usr/local/bin/{program.name}")
        return f"/usr/local/bin/{program.name}"

    def spoil(self, how: str) -> None:
        """Make this host's export wrong. Raises HostFailed when its source has no such place."""
        old, new = SPOILS[how]
        source = self.bed.host.read(_EXPORTER).decode()
        if source.count(old) != 1:
            raise HostFailed(f"{_EXPORTER} has {source.count(old)} places to spoil {how}")
        self.bed.host.write(_EXPORTER, source.replace(old, new))


@contextlib.contextmanager
def staged(suite: str) -> Iterator[Stage]:
    """Boot the host and serve the player's page on its loopback."""
    assets = _assets()
    with booted(tenants=(Tenant(RECORDED),), packages=("asciinema", *browser.PACKAGES), suite=suite) as bed:
        stage = Stage(bed)
        bed.host.run(["install", "-d", _WEB])
        for name, data in assets.items():
            stage.lay(name, data)
        stage.lay("index.html", Path(__file__).with_name("page.html").read_bytes())
        server = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", _WEB, str(_PORT)]
        bed.host.popen([*browser.AS_NOBODY, *server], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # ends with the host
        asks = f"exec 3<>/dev/tcp/127.0.0.1/{_PORT}"
        bed.host.wait_for(lambda: bed.host.run(asks, check=False).returncode == 0, what="a web server in the host")
        yield stage


def _assets() -> dict[str, bytes]:
    """The player's files, which must be those of PLAYER. Raises HostUnavailable."""
    try:
        files = {file.name: file for file in metadata.files(CARRIER) or ()}
    except metadata.PackageNotFoundError as error:
        raise HostUnavailable(f"{CARRIER} is not installed: `make player` does that") from error
    found = {name: Path(str(files[name].locate())).read_bytes() for name in _ASSETS}
    for name, digest in _ASSETS.items():
        if hashlib.sha256(found[name]).hexdigest() != digest:
            raise HostUnavailable(f"{name} is not that of asciinema-player {PLAYER}")
    return found
