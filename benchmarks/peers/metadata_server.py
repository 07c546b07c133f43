"""A metadata server as GCE's guest agent expects one, run inside the test host: ``python3 metadata_server.py``, on port 80.

Answers are held until something changed (``wait_for_change``, ``last_etag``, ``timeout_sec``), as the real one does. Keys are put
by ``PUT /keys``: lines as the metadata attribute ssh-keys has them. Standard library alone: it runs by the host's own Python.
"""

import hashlib
import http.server
import json
import threading
import urllib.parse

_CHANGED = threading.Condition()
_KEYS = [""]
_TIMEOUT_S = 60.0


def metadata() -> bytes:
    """All of it, as ``/computeMetadata/v1/?recursive=true`` has it; what accounts are made of is in ssh-keys."""
    attributes = {"ssh-keys": _KEYS[0], "enable-oslogin": "false"}
    instance = {
        "id": 1,
        "attributes": attributes,
        "networkInterfaces": [],
        "virtualClock": {"driftToken": "0"},
        "machineType": "projects/1/machineTypes/e2-small",
    }
    project = {"attributes": {}, "projectId": "test", "numericProjectId": 1}
    return json.dumps({"instance": instance, "project": project}).encode()


def _etag() -> str:
    return hashlib.sha256(metadata()).hexdigest()[:16]


class Handler(http.server.BaseHTTPRequestHandler):
    """Reads for the agent, one write for who measures."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """The whole tree whatever was asked, at once or when it has changed."""
        asked = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        seen = asked.get("last_etag", [""])[0]
        with _CHANGED:
            if asked.get("wait_for_change", [""])[0] == "true":
                _CHANGED.wait_for(lambda: _etag() != seen, float(asked.get("timeout_sec", [str(_TIMEOUT_S)])[0]))
            body, etag = metadata(), _etag()
        self._answer(body, etag)

    def do_PUT(self) -> None:
        """New keys; or guest attributes, which are taken and forgotten."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        if self.path == "/keys":
            with _CHANGED:
                _KEYS[0] = body
                _CHANGED.notify_all()
        self._answer(b"", "")

    def _answer(self, body: bytes, etag: str) -> None:
        self.send_response(200)
        for name, value in (
            ("Metadata-Flavor", "Google"),
            ("ETag", etag),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("", 80), Handler).serve_forever()
