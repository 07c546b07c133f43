"""Attacks from the client: forwards, agents, tunnels, subsystems, and SFTP used for what it is not meant for."""

import contextlib
import hashlib
import subprocess
import time
from collections.abc import Sequence

import paramiko

from tests.bypass.inside import both
from tests.bypass.stage import LIMITED, LOGIN_ONLY, Attack, Play, Seen, Stage

_FAIL = ("-o", "ExitOnForwardFailure=yes")
_BANNER = b"SSH-2.0"


def denied_forward(options: Sequence[str], reaches: str) -> Play:
    """By a tenant without ``port-forwarding``. ``reaches`` is run on this machine, or (``host:``) in the host, while the client stands."""

    def play(stage: Stage) -> Seen:
        person = stage.bed.people[LIMITED]
        client = subprocess.Popen(
            person.argv(None, ("-N", "-v", "-o", "LogLevel=DEBUG1", *options)), env=person.environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            time.sleep(3)
            if reaches.startswith("host:"):
                got = stage.bed.host.run(reaches[5:], check=False).stdout.encode()
            else:
                got = subprocess.run(["bash", "-c", reaches], capture_output=True, timeout=20, check=False).stdout
        finally:
            client.terminate()
            out, err = client.communicate()
        return Seen(err + out, ["something came through"] if _BANNER in got else [])

    return play


def through(options: Sequence[str]) -> Play:
    """-W by a tenant without ``port-forwarding``: stdin and stdout are the connection."""

    def play(stage: Stage) -> Seen:
        done = stage.bed.people[LIMITED].ssh(None, b"x\r\n", options=("-v", "-o", "LogLevel=DEBUG1", *options))
        return Seen(done.stderr, ["something came through"] if _BANNER in done.stdout else [])

    return play


def forward_is_told(stage: Stage) -> Seen:
    """With ``port-forwarding`` it works, and leaves an event that names where it went."""
    done = stage.tenant.ssh(None, b"x\r\n", options=("-W", "127.0.0.1:22"))
    worked = _BANNER in done.stdout
    asked = "journalctl -b --no-pager -o verbose -t tidegated EVENT_KIND=connection.forwarded"
    for _ in range(50):
        if worked and "TARGET_USER" in stage.bed.host.run(asked, check=False).stdout:
            return Seen(done.stdout)
        time.sleep(0.1)
    return Seen(done.stdout, ["a forwarded connection left no event"] if worked else [], ran=worked)


def requested(person_login: str, command: str | None, options: Sequence[str], stdin: bytes = b"pwd\n") -> Play:
    """What a session of that tenant answers to a request its grant does not give; the mark must not come."""

    def play(stage: Stage) -> Seen:
        text = command.replace("{m}", stage.echo) if command is not None else None
        done = stage.bed.people[person_login].ssh(text, stdin, options=options)
        return Seen(both(done) + b" answered")

    return play


def inside_is_empty(options: Sequence[str], words: str) -> Play:
    """A variable that a forward would set."""

    def play(stage: Stage) -> Seen:
        agent = subprocess.run(["ssh-agent", "-s"], capture_output=True, check=True).stdout.decode()
        path, pid = (agent.partition(f"{name}=")[2].partition(";")[0] for name in ("SSH_AUTH_SOCK", "SSH_AGENT_PID"))
        try:
            opts = ("-o", f"IdentityAgent={path}", *options)
            done = stage.tenant.ssh(f"echo [{words}] answered", options=opts)
        finally:
            subprocess.run(["kill", pid], check=False)
        return Seen(both(done), [] if b"[] answered" in done.stdout else [f"there is {done.stdout[:80]!r}"])

    return play


# SFTP


def server(request: str | None, *paths: str) -> Play:
    """A server asked for by that command (None: the subsystem); it reads a file that holds the mark by each of these paths."""

    def play(stage: Stage) -> Seen:
        login, host = stage.tenant.login, stage.bed.host
        host.write(f"/home/{login}/secret", stage.mark)
        host.run(f"chown {login} /home/{login}/secret; ln -sfn / /home/{login}/up; echo planted >/home/{login}/attack.log")
        seen = b""
        with host.paramiko(login, stage.tenant.key) as client:
            channel = client.get_transport().open_session()  # type: ignore[union-attr]
            channel.settimeout(15)
            channel.exec_command(request) if request else channel.invoke_subsystem("sftp")
            with contextlib.suppress(Exception):  # refused in one of many ways
                sftp = paramiko.SFTPClient(channel)
                for path in paths or ("secret",):
                    with contextlib.suppress(OSError), sftp.open(path.replace("~", f"/home/{login}")) as file:
                        seen += file.read()
                sftp.close()
            with contextlib.suppress(Exception):
                seen += channel.recv(4096) + channel.recv_stderr(4096)
        host.run(f"rm -f /home/{login}/secret /home/{login}/up")
        return Seen(seen + b" asked")

    return play


def writes(*paths: str) -> Play:
    """SFTP writes the mark where it might reach the client, or harm."""

    def play(stage: Stage) -> Seen:
        before = _sums(stage)
        seen = b""
        with stage.bed.host.paramiko(stage.tenant.login, stage.tenant.key) as client:
            for path in paths:
                channel = client.get_transport().open_session()  # type: ignore[union-attr]
                channel.settimeout(5)
                channel.invoke_subsystem("sftp")
                with contextlib.suppress(Exception):
                    sftp = paramiko.SFTPClient(channel)
                    with sftp.open(path, "r+") as file:
                        file.write(stage.mark)
                    seen += channel.recv(4096)
                channel.close()
        return Seen(seen + b" written", [] if before == _sums(stage) else ["Tidegate's own files were changed"])

    return play


def raw(*packets: bytes) -> Play:
    """Bytes that are no SFTP, or too much of it; then the mark, asked for in a way that a reader of the stream may miss."""

    def play(stage: Stage) -> Seen:
        login, host = stage.tenant.login, stage.bed.host
        host.write(f"/home/{login}/secret", stage.mark)
        host.run(f"chown {login} /home/{login}/secret")
        seen = b""
        with host.paramiko(login, stage.tenant.key) as client:
            channel = client.get_transport().open_session()  # type: ignore[union-attr]
            channel.settimeout(3)
            channel.invoke_subsystem("sftp")
            with contextlib.suppress(Exception):
                for packet in packets:
                    channel.sendall(packet)
                while data := channel.recv(65536):
                    seen += data
        host.run(f"rm -f /home/{login}/secret")
        return Seen(seen + b" sent")

    return play


def _sums(stage: Stage) -> str:
    return hashlib.sha256(
        stage.bed.host.run(
            "find /run/tidegate/tenants /usr/lib/tidegate /etc/tidegate -type f | sort | xargs sha256sum"
        ).stdout.encode()
    ).hexdigest()


def _packet(kind: int, *fields: bytes | int) -> bytes:
    body = bytes([kind]) + b"".join(field if isinstance(field, bytes) else field.to_bytes(4) for field in fields)
    return len(body).to_bytes(4) + body


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


_INIT = _packet(1, 3)
_OPEN = _packet(3, 1, _string(b"secret"), 1, 0)
_GUESSED = b"".join(_packet(5, 2, _string(handle.to_bytes(4)), bytes(8), 4096) for handle in range(2))

OUTSIDE: list[Attack] = [
    Attack("-N -L without the right", denied_forward(("-L", "17022:127.0.0.1:22", *_FAIL), "exec 3<>/dev/tcp/127.0.0.1/17022; head -c 7 <&3"), "Authenticated"),
    Attack("-N -D without the right", denied_forward(("-D", "17023"),
        "exec 3<>/dev/tcp/127.0.0.1/17023; printf '\\5\\1\\0' >&3; head -c 2 <&3 >/dev/null; printf '\\5\\1\\0\\1\\177\\0\\0\\1\\0\\26' >&3; timeout 5 head -c 17 <&3"), "Authenticated"),
    Attack("-N -R without the right", denied_forward(("-R", "17024:127.0.0.1:22", *_FAIL), "host:timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/17024 && echo SSH-2.0'"), "Authenticated"),
    Attack("-L to a socket of Tidegate's", denied_forward(("-L", "17025:/run/tidegate/recorder/sock"), "exec 3<>/dev/tcp/127.0.0.1/17025; timeout 3 head -c 7 <&3"), "Authenticated"),
    Attack("-R of a socket", denied_forward(("-R", "/tmp/x.sock:127.0.0.1:22", *_FAIL), "host:test -S /tmp/x.sock && echo SSH-2.0"), "Authenticated"),
    Attack("-W without the right", through(("-W", "127.0.0.1:22")), "Authenticated"),
    Attack("-w, a tunnel device", denied_forward(("-w", "0:0"), "host:ls /sys/class/net | grep -q tun && echo SSH-2.0"), "Authenticated"),
    Attack("-J through the host", requested(LIMITED, None, ("-W", "127.0.0.1:22"), b""), "answered"),
    Attack("-N alone", denied_forward((), "true"), "Authenticated"),
    Attack("-A", inside_is_empty(("-A",), "$SSH_AUTH_SOCK"), "answered"),
    Attack("-X", inside_is_empty(("-X",), "$DISPLAY"), "answered"),
    Attack("a forward that the grant gives is told", forward_is_told),
    Attack("a command without the right to commands", requested(LOGIN_ONLY, "{m}", ()), "answered"),
    Attack("the same with a terminal", requested(LOGIN_ONLY, "{m}", ("-tt",)), "answered"),
    Attack("sftp without the right", requested(LOGIN_ONLY, "sftp", ("-s",)), "answered"),
    Attack("internal-sftp without the right", requested(LOGIN_ONLY, "internal-sftp", ()), "answered"),
    *(Attack(f"subsystem {name!a}", requested(LIMITED, name, ("-s",)), "answered")
      for name in ("nothing", "sftp -f x", "internal-sftp", "netconf", "sftp;id", "sftp\n{m}", "../sftp", "")),
    Attack("the sftp subsystem", server(None), "asked"),
    *(Attack(f"sftp as {request!a}", server(request), "asked") for request in (
        "internal-sftp", "/usr/lib/openssh/sftp-server", "/usr/lib/openssh/../openssh/sftp-server", "/usr/lib/sftp-server",
        "exec /usr/lib/openssh/sftp-server", "/usr/lib/openssh/sftp-server -d / -l DEBUG3", "/usr/lib/openssh/sftp-server; :",
        "internal-sftp -f AUTH -P read", "sh -c /usr/lib/openssh/sftp-server", "env X=1 /usr/lib/openssh/sftp-server",
        "cp /usr/lib/openssh/sftp-server s && ./s", "internal-sftp\t", "  internal-sftp")),
    Attack("sftp by crooked paths", server(None, "up/home/jit-rec-a/secret", "/proc/self/root/home/jit-rec-a/secret", "/proc/self/cwd/secret",
                                           "./././secret", "//home//jit-rec-a/secret", "/dev/fd/../../../home/jit-rec-a/secret"), "asked"),
    Attack("sftp writes to where its own output goes", writes("/proc/self/fd/1", "/dev/stdout", "/dev/fd/2", "/proc/self/mem"), "written", gap_is_enough=True),
    Attack("sftp writes to Tidegate's files", writes("/run/tidegate/tenants/jit-rec-a.json", "/usr/lib/tidegate/tidegate-shell",
                                                     "/run/tidegate/recorder/sock", "/var/lib/tidegate/sessions/x.tgr"), "written"),
    Attack("sftp writes to every terminal", writes(*(f"/dev/pts/{number}" for number in range(4)), "/dev/tty", "/dev/console"), "written"),
    Attack("sftp that is none", raw(b"\x1b]0;x\x07" * 1000), "sent", gap_is_enough=True),
    Attack("sftp with a handle guessed", raw(_INIT, _OPEN + _GUESSED), "sent", gap_is_enough=True),
    Attack("sftp with the same id ten times", raw(_INIT, *([_OPEN] * 10), _GUESSED), "sent", gap_is_enough=True),
    Attack("sftp with 5,000 files open", raw(_INIT, _OPEN * 5000, _GUESSED), "sent", gap_is_enough=True),
    Attack("sftp with a packet that never ends", raw(_INIT, b"\xff\xff\xff\xff\x05" + bytes(100_000)), "sent", gap_is_enough=True),
]  # fmt: skip
