"""What sshd says of the connections it forwards: which of its words it is told to log, and how they read. Pure.

sshd has no log line for a forwarded connection at its default level, and a log level that has one has hundreds more.
``LogVerbose`` (sshd_config(5), OpenSSH 8.5) makes single functions speak whatever the level is. Their words are the same in
OpenSSH 9.2 and 10.0; the tag in front of them is not, and is skipped.
"""

import re
from dataclasses import dataclass

DIRECT, ASKED, REMOTE = "server_request_direct_tcpip", "server_input_global_request", "channel_post_port_listener"
VERBOSE = f"serverloop.c:{DIRECT}():*,serverloop.c:{ASKED}():*,channels.c:{REMOTE}():*"
NAMES = ("sshd", "sshd-session")  # the second since OpenSSH 9.8

_TAGGED = re.compile(r"(?:debug[123]: )?[a-z]+\.c:(\w+)\(\):\d+ \([^)]*\): (.*)", re.ASCII | re.DOTALL)
# The client chooses both texts of the first. A host that can be connected to has no blank in it, so the last match is the one.
_TARGET = re.compile(r"originator (.*) port (\d+), target (.*) port (\d+)", re.ASCII | re.DOTALL)
_LISTEN = re.compile(r"tcpip-forward listen (.*) port (\d+)", re.ASCII | re.DOTALL)
_TAKEN = re.compile(r"Connection to port (\d+) forwarding to .* port \d+ requested\.", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Forward:
    """One connection that a client asked to be forwarded, or one port it asked this host to listen on.

    ``kind``: ``local`` (from here to ``host``:``port``, for ssh -L, -D, -J and -W), ``listen`` (this host listens on it, for
    ssh -R) or ``remote`` (somebody here connected to that port). ``origin``: what the client says of its own end; not proved.
    ``words``: what sshd said, where it could not be read.
    """

    kind: str
    host: str = ""
    port: int = 0
    origin: str = ""
    words: str = ""


def read(message: str) -> Forward | None:
    """One line of sshd's; None where it is about no connection. A line about one that reads differently is never dropped."""
    tagged = _TAGGED.fullmatch(message)
    if tagged is None:
        return None
    function, words = tagged.groups()
    if function == DIRECT:
        found = _TARGET.fullmatch(words)
        return Forward("local", found[3], int(found[4]), f"{found[1]} port {found[2]}") if found else Forward("local", words=words)
    if function == REMOTE:
        found = _TAKEN.fullmatch(words)
        return Forward("remote", port=int(found[1])) if found else Forward("remote", words=words)
    found = _LISTEN.fullmatch(words) if function == ASKED else None
    return Forward("listen", found[1], int(found[2])) if found else None
