#!/usr/bin/python3 -ISE
"""tidegate-shell: the tenants' login shell and sshd's ForceCommand, run as the tenant. One file, nothing of the package.

It lets through what the grant's actions say, then execs the real shell; nothing of it stays behind. As a forced command
alone it would be no gate (sshd runs that through ``$SHELL -c``, and bash reads ~/.bashrc first), so it is the login shell
too, and is then called as ``-c COMMAND`` by sshd, su, cron, at and tmux.

The root-owned tenant file says what holds: none means no session.
"""

import os
import pwd
import stat
import sys

TENANTS = "/run/tidegate/tenants"
SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")
FILE_MAX = 65536
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
    try:
        login = pwd.getpwuid(os.getuid()).pw_name
        shell, actions = tenant(read_file(f"{TENANTS}/{login}.json"), login)
        program, args = judge(asked(argv), shell, actions)
    except Refusal as refusal:
        return end(1, str(refusal))
    except KeyError:
        return end(1, "no access: this account is being removed")
    for name in EMPTIED:
        if os.environ.get(name) == "":
            del os.environ[name]
    os.environ.pop("SSH_ORIGINAL_COMMAND", None)  # a session is as it would be without a forced command
    os.environ["SHELL"] = shell
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
    os.write(2, f"tidegate: {message}\n".encode())
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv)
