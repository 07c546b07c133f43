#!/usr/bin/python3 -ISE
"""tidegate-shell: the tenants' login shell and sshd's ForceCommand, run as the tenant. One file, nothing of the package.

It lets through what the grant's actions say, then execs the real shell. As a forced command alone it would be no gate (sshd
runs that through ``$SHELL -c``, and bash reads ~/.bashrc first), so it is the login shell too, and is then called as
``-c COMMAND`` by sshd, su, cron, at and tmux.

The root-owned tenant file says what holds: none means no session. Where it asks for a recording, the recorder gets the terminal or
the streams, and gives others for them; the program that is then run has nothing left of the old ones.

Nothing of this program stays behind but a waiter on a recorded terminal: when its child has ended sshd shows only what is there,
and the recorder has yet to bring the last of it. So the child that sshd knows waits, and the shell runs below it.
"""

# C modules: what stands around them in the library (socket, signal) would cost more than all of this program.
import _signal
import os
import pwd
import stat
import sys

TENANTS = "/run/tidegate/tenants"
SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")
RECORDER = "/run/tidegate/recorder/sock"
RECORDER_S = 5.0  # for all of it
COMMAND_MAX = 32768
FILE_MAX = 65536
COERCED = ("C.UTF-8", "C.utf8", "UTF-8")
ON_TERMINAL = "--on-terminal"
DASH = "/bin/dash"
WAITERS = "/usr/lib/tidegate/agent/sessions"
OUTLIVED = (1, 2, 3, 15)  # signals that a waiter ignores: HUP INT QUIT TERM
EMPTIED = (
    "BASH_ENV",
    "ENV",
    "LD_PRELOAD",
    "LD_AUDIT",
    "LD_LIBRARY_PATH",
    "GLIBC_TUNABLES",
    "GCONV_PATH",
    "LOCPATH",
)  # as enforcers/sshd_match.py


class Refusal(Exception):  # noqa: N818  (no error of the program's: an answer)
    """Why there is no session, for the tenant to read."""


def main(argv: list[str]) -> None:
    """Judge the call and exec; returns only by exit: 1 refused, 127 nothing to exec."""
    if argv[1:2] == [ON_TERMINAL]:
        return on_terminal(argv[2], argv[3], argv[4:])
    try:
        login = pwd.getpwuid(os.getuid()).pw_name
        data = read_file(f"{TENANTS}/{login}.json")
        shell, actions = tenant(data, login)
        command = asked(argv)
        program, args = judge(command, shell, actions)
        terminal = record(data, command, program)
    except (Refusal, KeyError) as refusal:
        return end(1, str(refusal) if isinstance(refusal, Refusal) else "no access: this account is being removed")
    as_before()
    for name in EMPTIED:
        if os.environ.get(name) == "":
            del os.environ[name]
    os.environ.pop("SSH_ORIGINAL_COMMAND", None)  # a session is as it would be without a forced command
    os.environ["SHELL"] = shell
    if terminal is None:
        return run(program, args)
    return wait_below(*terminal, program, args)


def run(program: str, args: list[str]) -> None:
    """Exec it; returns only by exit."""
    try:
        os.execv(program, args)  # noqa: S606  (an exec without a shell is the point)
    except OSError as error:
        end(127, f"{program}: {error.strerror}")


def asked(argv: list[str]) -> str | None:
    """The command this call is for; None is an interactive session. Called by its own path, sshd's original command counts."""
    if len(argv) == 1:
        return None
    if len(argv) != 3 or argv[1] != "-c":
        raise Refusal("no access: called with arguments that are not '-c COMMAND'")
    return os.environ.get("SSH_ORIGINAL_COMMAND") if argv[2] == argv[0] else argv[2]


def judge(command: str | None, shell: str, actions: list[str]) -> tuple[str, list[str]]:
    """What is run for it: the program, and its argv."""
    name = shell.rpartition("/")[2]
    if command is None:
        if "login" not in actions:
            raise Refusal("no access: this grant has no interactive login")
        return shell, ["-" + name]
    server = sftp_server(command)
    if server and ("sftp" in actions or "exec" in actions):
        return server, [server]
    if "exec" not in actions:
        raise Refusal("no access: this grant does not run commands")
    return shell, [name, "-c", command]


def sftp_server(command: str) -> str | None:
    """The host's sftp server, if that is all the command is: then it is run directly, and options are dropped."""
    word, _, options = command.partition(" ")
    if word != "internal-sftp" and word not in SFTP_SERVERS:
        return None
    if not all(letter.isalnum() or letter in " -_" for letter in options):
        return None
    return next((path for path in SFTP_SERVERS if os.access(path, os.X_OK)), None)


def read_file(path: str) -> bytes:
    """The tenant file: a regular file, root's, that nobody else may write."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        raise Refusal("no access: no grant is open for this account") from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
            raise Refusal("no access: the tenant file is not root's alone")
        return os.read(fd, FILE_MAX)
    finally:
        os.close(fd)


def tenant(data: bytes, login: str) -> tuple[str, list[str]]:
    """The real shell and the actions."""
    try:
        value = parse(data.decode("ascii"))
    except ValueError:
        value = None
    if not isinstance(value, dict) or value.get("login") != login:
        raise Refusal("no access: the tenant file is not this account's")
    shell, actions = value.get("shell"), value.get("actions")
    if not isinstance(shell, str) or not shell.startswith("/") or not isinstance(actions, list):
        raise Refusal("no access: the tenant file is malformed")
    return shell, actions


def recording(data: bytes) -> tuple[bool, int] | None:
    """Whether it is required, and the recorder's uid; None where no recording is asked for."""
    value = parse(data.decode("ascii"))
    if not isinstance(value, dict) or value.get("recording") is None:
        return None
    asked_for = value["recording"]
    if not isinstance(asked_for, dict) or type(asked_for.get("recorder_uid")) is not int:
        raise Refusal("no access: the tenant file is malformed")
    return asked_for.get("required") is not False, asked_for["recorder_uid"]


def record(data: bytes, command: str | None, program: str) -> tuple[int, int] | None:
    """Exchange standard input, output and error for the recorder's, if this session is to be recorded.

    Returns the connection with the recorder and the new terminal, where the shell is to run below a waiter.
    """
    wanted = recording(data)
    if wanted is None:
        return None
    required, recorder_uid = wanted
    below = None
    before = _signal.signal(_signal.SIGHUP, _signal.SIG_IGN)  # the old terminal hangs up
    try:
        kind = "pty" if os.isatty(0) else "sftp" if program in SFTP_SERVERS else "pipe"
        ours = [fd for fd in range(3) if kind == "pty" and os.isatty(fd) and os.fstat(fd).st_rdev == os.fstat(0).st_rdev]
        word, banner, fds, connection = ask_recorder(kind, command or "", recorder_uid)
        if word == "OK":
            if kind == "pty":
                below = take_terminal(connection, fds[0], ours)
            for fd, new in enumerate(fds if kind != "pty" else ()):  # none of them is 0, 1 or 2: those are in use
                os.dup2(new, fd)
            if command is None and kind == "pty":  # a shell that a program talks to says nothing of its own
                os.write(fds[0], banner)
    except (OSError, ValueError, IndexError, Refusal) as error:
        if required:
            raise Refusal(f"no access: this session must be recorded, and can't be: {error}") from None
    _signal.signal(_signal.SIGHUP, before)
    if below is None:
        os.closerange(3, 65536)
    return below


def ask_recorder(kind: str, command: str, recorder_uid: int) -> tuple[str, bytes, list[int], int]:
    """The recorder's word (OK, GO), its banner, what it gives for the standard descriptors, and the connection."""
    import _socket  # noqa: PLC0415
    import time  # noqa: PLC0415

    until = time.monotonic() + RECORDER_S
    with_recorder = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    with_recorder.settimeout(RECORDER_S)
    while True:
        try:
            with_recorder.connect(RECORDER)
            break
        except BlockingIOError:  # many ask at once
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
    if int.from_bytes(with_recorder.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)[4:8], sys.byteorder) != recorder_uid:
        raise Refusal("whoever answers is not the recorder")
    said = (os.environ.get("SSH_CONNECTION", "")[:200], os.environ.get("TERM", "")[:64])
    question = b"\0".join((b"1", kind.encode(), os.fsencode(command)[:COMMAND_MAX], *map(os.fsencode, said)))
    rights = b"".join(fd.to_bytes(4, sys.byteorder) for fd in range(3))
    with_recorder.sendmsg([question], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    with_recorder.settimeout(max(0.01, until - time.monotonic()))
    answer, control, _flags, _address = with_recorder.recvmsg(8192, _socket.CMSG_LEN(12), _socket.MSG_CMSG_CLOEXEC)
    word, _, rest = answer.partition(b"\0")
    fds = [int.from_bytes(body[at : at + 4], sys.byteorder) for _, _, body in control for at in range(0, len(body), 4)]
    with_recorder.settimeout(None)
    if word == b"GO" or (word == b"OK" and len(fds) == (1 if kind == "pty" else 3)):
        return word.decode(), rest.partition(b"\0")[2], fds, with_recorder.detach()
    raise Refusal(rest.decode(errors="replace") if word == b"NO" else "the recorder does not answer")


def take_terminal(connection: int, slave: int, instead_of: list[int]) -> tuple[int, int] | None:
    """Standard input, output and error where they were the old one; or none yet, for a shell below a waiter (see record)."""
    import fcntl  # noqa: PLC0415
    import termios  # noqa: PLC0415

    leads = os.getsid(0) == os.getpid()  # not so with su, where the terminal is somebody else's
    if leads:
        try:  # noqa: SIM105  (contextlib would have to be imported)
            fcntl.ioctl(0, termios.TIOCNOTTY)
        except OSError:
            pass
        if "SSH_TTY" in os.environ:
            os.environ["SSH_TTY"] = os.ttyname(slave)
        if len(instead_of) == 3:
            return connection, slave
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in instead_of:
        os.dup2(slave, fd)
    return None


def wait_below(connection: int, slave: int, program: str, args: list[str]) -> None:
    """Exec a waiter, that runs the shell. Its descriptors: 3 the recorder, 4 the terminal, 5 and 6 a pipe, the others silent."""
    import fcntl  # noqa: PLC0415

    default = [str(number) for number in OUTLIVED if _signal.getsignal(number) != _signal.SIG_IGN]
    silence = os.open("/dev/null", os.O_RDWR)
    fds = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in (silence, silence, silence, connection, slave, *os.pipe()[::-1])]
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
    os.closerange(len(fds), 65536)
    below = [sys.executable, "-ISE", os.path.realpath(__file__), ON_TERMINAL, ",".join(default), program, *args]
    try:
        os.execv(DASH, ["tidegate-session", f"{WAITERS}/waiter.sh", *below])  # noqa: S606
    except OSError:
        run(sys.executable, ["tidegate-session", "-ISE", f"{WAITERS}/waiter.py", *below])


def on_terminal(default: str, program: str, args: list[str]) -> None:
    """Below a waiter: lead a session on the terminal that is standard input, then exec. ``default``: signals to be so again."""
    import fcntl  # noqa: PLC0415
    import termios  # noqa: PLC0415

    for number in default.split(",") if default else ():
        _signal.signal(int(number), _signal.SIG_DFL)
    try:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # this process group is in the foreground of it
    except OSError as error:
        end(127, f"the terminal can't be used: {error.strerror}")
    as_before()
    run(program, args)


def as_before() -> None:
    """Undo what the interpreter has changed for itself, and the real shell would inherit."""
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)
    if list(os.environ)[-1:] == ["LC_CTYPE"] and os.environ["LC_CTYPE"] in COERCED and not os.environ.get("LC_ALL"):
        import _locale  # noqa: PLC0415

        try:
            known = os.environ.get("LANG", "") not in ("", "C", "POSIX") and _locale.setlocale(_locale.LC_CTYPE, os.environ["LANG"])
        except _locale.Error:  # type: ignore[attr-defined]  # locale.Error, which typeshed has there only
            known = ""
        if not known:  # so it was the C locale, where the interpreter adds this, as the last one (PEP 538)
            del os.environ["LC_CTYPE"]


def parse(text: str) -> object:
    """JSON by the interpreter's own scanner: importing json (and re) would double the 10 ms this program takes."""
    try:
        from _json import make_scanner  # noqa: PLC0415
    except ImportError:
        import json  # noqa: PLC0415

        return json.loads(text)

    class Context:
        strict = True
        object_hook = object_pairs_hook = None
        parse_float, parse_int, parse_constant = float, int, str

    try:
        return make_scanner(Context)(text, 0)[0]  # type: ignore[arg-type]  # it reads just these attributes (json/scanner.py)
    except StopIteration:
        raise ValueError("no JSON") from None


def end(code: int, message: str) -> None:
    """Say why on stderr, and end."""
    try:  # noqa: SIM105  (contextlib would have to be imported)
        os.write(2, f"tidegate: {message}\n".encode())
    except OSError:
        pass
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv)
