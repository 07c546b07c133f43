"""Debian's Chromium on a test host, without a display and as nobody, driven over two pipes (Chrome DevTools Protocol)."""

import base64
import itertools
import json
import os
import select
import subprocess
import time
from collections import deque
from typing import IO, Any

from tests.hosts.machine import Host

PACKAGES = ("chromium", "fonts-dejavu-core")
AS_NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
_HOME = "/tmp/browser"
# The browser reads commands from descriptor 3 and answers on 4: here its stdin and stdout. Its own sandbox is on.
_START = f"""
install -d -o nobody {_HOME}
cd {_HOME}
exec {" ".join(AS_NOBODY)} env HOME={_HOME} chromium --headless --disable-gpu --no-first-run --user-data-dir={_HOME}/profile \
  --window-size=1600,1200 --remote-debugging-pipe about:blank 3<&0 4>&1 0</dev/null 1>&2
"""
_ANSWER_S = 60.0


class BrowserError(Exception):
    """The browser is gone, silent, or threw."""


class Browser:
    """One page. ``complaints``: what its console, its network and its scripts complained of."""

    def __init__(self, host: Host) -> None:
        self.complaints: list[str] = []
        self._numbers = itertools.count(1)
        self._rest = b""
        self._events: deque[dict[str, Any]] = deque()
        self._process = subprocess.Popen(
            host.shell_argv(_START), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._session: str | None = None
        try:
            self.version = str(self._call("Browser.getVersion")["product"])
            pages = [found for found in self._call("Target.getTargets")["targetInfos"] if found["type"] == "page"]
            self._session = self._call("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)["sessionId"]
            for domain in ("Runtime", "Log", "Page"):
                self._call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it. It goes with its pipes, and with the host at the latest."""
        self._process.kill()
        self._process.communicate()

    def show(self, url: str) -> None:
        """Load a page, to the end. Raises BrowserError."""
        self._events.clear()
        answer = self._call("Page.navigate", url=url)
        if answer.get("errorText"):
            raise BrowserError(f"{url}: {answer['errorText']}")
        end = time.monotonic() + _ANSWER_S
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._take(end)

    def ask(self, script: str) -> Any:
        """The value of a JavaScript expression in the page; of a promise what it comes to. Raises BrowserError."""
        answer = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise BrowserError(f"{script[:80]}: {_thrown(answer['exceptionDetails'])}")
        return answer["result"].get("value")

    def picture(self) -> bytes:
        """The page as it looks: a PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot")["data"])

    def _call(self, method: str, **params: object) -> dict[str, Any]:
        number, end = next(self._numbers), time.monotonic() + _ANSWER_S
        session = {"sessionId": self._session} if self._session else {}
        request = {"id": number, "method": method, "params": params, **session}
        try:
            _stream(self._process.stdin).write(json.dumps(request).encode() + b"\0")
            _stream(self._process.stdin).flush()
        except BrokenPipeError as error:
            raise BrowserError(f"the browser is gone (status {self._process.poll()})") from error
        while True:
            message = self._take(end)
            if message.get("id") == number:
                if "error" in message:
                    raise BrowserError(f"{method}: {message['error'].get('message')}")
                found: dict[str, Any] = message["result"]
                return found

    def _take(self, end: float) -> dict[str, Any]:
        """The next message; an event is noted. Raises BrowserError."""
        answers = _stream(self._process.stdout).fileno()
        while b"\0" not in self._rest:
            if not select.select([answers], [], [], max(0.0, end - time.monotonic()))[0]:
                raise BrowserError(f"the browser said nothing for {_ANSWER_S:.0f} s")
            data = os.read(answers, 1 << 20)
            if not data:
                raise BrowserError(f"the browser is gone (status {self._process.poll()})")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self._events.append(message)
            self._listen(message["method"], message["params"])
        return message

    def _listen(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(_thrown(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(part.get("value", part.get("description"))) for part in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")


def _thrown(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details.get("text"))


def _stream(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
