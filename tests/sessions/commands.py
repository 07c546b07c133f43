"""Commands without a terminal: bytes, streams, statuses, signals, and what surrounds a process."""

import hashlib
import subprocess
import time

from tests.sessions.bed import BLOB, Person
from tests.sessions.case import Case, Outcome, ordinals
from tests.sessions.play import session

_BINARY = bytes(range(256)) * 300
_HERE = "cat <<'A'; cat <<-B\none $HOME `x`\nA\n\ttwo $((1+1)) grün\n\tB\n"
_ORDER = "for i in 1 2 3 4 5; do echo out$i; echo err$i >&2; done"


def _signals() -> list[Case]:
    names = ("HUP", "INT", "QUIT", "KILL", "SEGV", "PIPE", "ALRM", "TERM", "USR1", "ABRT")
    own = [session(f"killed by SIG{name}", f"ulimit -c 0; kill -{name} $$") for name in names]
    told = [
        Case(f"what ssh is told of SIG{name}", lambda person, name=name: _told(person, f"ulimit -c 0; kill -{name} $$"))  # type: ignore[misc]
        for name in ("TERM", "KILL", "INT")
    ]
    return [
        *own,
        *told,
        session("a child killed", "sh -c 'kill -9 $$'; echo $?", normal=ordinals),
        session("exec, then killed", "exec sh -c 'kill -TERM $$'"),
    ]


def _told(person: Person, command: str) -> Outcome:
    """The requests that sshd sends at the end (RFC 4254, section 6.10), as the client's own debug output names them."""
    done = person.ssh(command, options=("-v", "-o", "LogLevel=DEBUG1"))
    lines = [line for line in done.stderr.splitlines() if b"rtype" in line]
    return {"status": done.returncode, "told": b"\n".join(lines)}


def _download(person: Person) -> Outcome:
    done = person.ssh(f"cat {BLOB}", timeout=240)
    return {"status": done.returncode, "size": len(done.stdout), "sha256": hashlib.sha256(done.stdout).hexdigest()}


def _upload(person: Person) -> Outcome:
    done = person.ssh("sha256sum; exit 4", bytes(1000) + b"\xff\r\n\x00\x03\x04\x1a" * (200 * 1024 * 1024 // 7), timeout=240)
    return {"status": done.returncode, "stdout": done.stdout}


def _both_ways(person: Person) -> Outcome:
    done = person.ssh("tee /dev/stderr", _BINARY * 100, timeout=120)
    same = (done.stdout == _BINARY * 100, done.stderr == _BINARY * 100)
    return {"status": done.returncode, "same": same}


def _lasts(person: Person, command: str) -> Outcome:
    """The output, and whether the session lasted longer than a second."""
    began = time.monotonic()
    done = person.ssh(command, stdin=None)
    lasted = time.monotonic() - began
    return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr, "longer than 1.5 s": lasted > 1.5}


def _client_leaves(person: Person, command: str, after: str, options: tuple[str, ...] = ()) -> Outcome:
    """The client is killed while the command runs; then what a second session sees of it."""
    client = subprocess.Popen(
        person.argv(command, options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=person.environment(),
    )  # fmt: skip
    assert client.stdout is not None and client.stdin is not None
    said = client.stdout.readline()
    client.kill()
    client.communicate()
    seen = b""
    for _ in range(40):
        if seen := person.ssh(after).stdout:
            break
        time.sleep(0.1)
    return {"said": b"ready" in said, "seen": seen}


def _reader_leaves(person: Person) -> Outcome:
    """Who read the output is gone: the command must notice, as it would on a pipe."""
    reader = f"ssh -F {person.config} t 'yes; echo $? >yes.status' | head -c 100000 | wc -c"
    done = person.run(["sh", "-c", reader], timeout=60)
    left = b"x"
    for _ in range(50):
        if not (left := person.ssh("pgrep -x yes").stdout):
            break
        time.sleep(0.1)
    return {"stdout": done.stdout, "left": bool(left)}


def _lasting() -> list[Case]:
    commands = {
        "a background process that holds stdout keeps the session": "sleep 2 & echo done",
        "one that holds stderr only": "sleep 2 >/dev/null </dev/null & echo done",
        "one that holds stdin only": "sleep 2 >/dev/null 2>&1 & echo done",
        "one that holds nothing": "sleep 2 >/dev/null 2>&1 </dev/null & echo done",
        "setsid that holds stdout": "setsid sleep 2 & echo done",
        "late words of a background process": "(sleep 2; echo late; exit 9) & echo early",
    }
    return [Case(name, lambda person, command=command: _lasts(person, command)) for name, command in commands.items()]  # type: ignore[misc]


COMMANDS: list[Case] = [
    *(session(f"exit {status}", f"exit {status}") for status in (0, 1, 2, 126, 127, 254, 255)),
    session("no such command", "nosuchcommand"),
    session("a syntax error", "if"),
    *_signals(),
    session("a plain command", "echo hello; uname -s; pwd; id -un"),
    session("a long command", "echo " + "x" * 30000),
    session("a command in UTF-8 and with quotes", "printf '%s|' 'grün 漢字' \"a b\" \\$x '*'"),
    session("here-documents", _HERE),
    session("here-documents typed into a shell", None, _HERE.encode() + b"\nexit 3\n"),
    session("a script on stdin", "bash -s a b", b'echo $# "$@"; read x; echo "read $x"\nnext line\nexit 12\n'),
    session("no output at all", "true"),
    session("binary from the host", "head -c 100000 /srv/blob"),
    session("binary there and back", "cat", _BINARY),
    session("every control byte there and back", "od -An -c", bytes(range(256)) * 3),
    session("an empty stdin", "wc -c; cat | wc -c"),
    session("no stdin (-n)", "cat; echo end", options=("-n",)),
    session("stdout and stderr apart", _ORDER),
    session("stdout and stderr in one, in order", f"exec 2>&1; {_ORDER}"),
    session("much on stderr", "head -c 3000000 /srv/blob >&2; exit 6"),
    session("stdin read in part", "head -c 5; exit 3", b"0123456789" * 100_000),
    session("stdin closed by the command", "exec <&-; sleep 0.3; echo still here", b"0123456789" * 100_000),
    session("stdout closed by the command", "exec >&-; sleep 0.3; echo err >&2; exit 3"),
    session("both closed by the command", "exec >&- 2>&-; sleep 0.3; exit 5"),
    session("an early end of stdin", "cat >/dev/null; sleep 0.3; echo done", b"x" * 10),
    session("a reader of stdin that comes late", "sleep 0.5; sha256sum", _BINARY * 10),
    Case("both ways at once", _both_ways),
    Case("the reader leaves", _reader_leaves),
    *_lasting(),
    Case("a client that is killed, without a terminal", lambda person: _client_leaves(
        person, "trap 'echo HUP >hup.txt' HUP PIPE; echo ready; sleep 1.5; echo x; echo $? >left.txt", "sleep 2; cat left.txt hup.txt 2>&1")),
    Case("a client that is killed, with a terminal", lambda person: _client_leaves(
        person, "trap 'echo HUP >tty.txt; exit' HUP; echo ready; while :; do sleep 0.1; done", "cat tty.txt 2>/dev/null", ("-tt",))),
    session("nothing is a terminal", "for n in 0 1 2; do test -t $n; echo $?; done; tty; ps -o tty= -p $$"),
    session("kinds of descriptors", "stat -L -c %F /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2"),
    session("descriptors", "ls /proc/self/fd | wc -l; n=$(echo /proc/$$/fd/*); echo $n | wc -w"),
    session("stdin opened by name", "echo x | cat /dev/stdin; cat /dev/stdin; echo $?", b"again\n"),
    session("environment", "env | sort"),
    session("environment sent", "env | grep -E '^(LANG|LC_)' | sort", options=("-o", "SetEnv=LC_ALL=C.UTF-8 LC_X=grün")),
    session("locale", "locale; printf 'grün\\n' | wc -m"),
    session("umask and limits", "umask; ulimit -a; ulimit -Ha"),
    session("signals held and ignored", "grep -E '^Sig(Blk|Ign|Cgt)|^ShdPnd' /proc/self/status; sh -c 'trap'"),
    session("niceness, scheduling, oom", "nice; cat /proc/self/oom_score_adj /proc/self/timerslack_ns 2>&1; chrt -p $$ | cut -d: -f2"),
    session("groups, capabilities, no_new_privs", "id; grep -E '^(Cap|NoNew|Seccomp|Dumpable)' /proc/self/status; cat /proc/self/cgroup"),
    session("processes by their shape", "ps -o tty,pid,ppid,pgid,tpgid,sess,stat,comm --no-headers --ppid $$ --pid $$", normal=ordinals),
    session("start-up files of the shell", "echo 'echo from bashrc' >.bashrc; bash -c true; echo $-; rm .bashrc"),
    session(".bashrc is read for a command", "echo a $BASH_FILE; echo export BASH_FILE=1 >.bashrc"),
    session(".bashrc was read for a command", "echo b $BASH_FILE; rm .bashrc"),
    session("python, perl, awk", "python3 -c 'import sys; sys.exit(len(sys.stdin.read()))'; echo $?; perl -e 'print 6*7'", b"12345"),
    session("a pipe and its statuses", "yes | head -1; echo ${PIPESTATUS[@]}; false | true; echo ${PIPESTATUS[@]}"),
    session("nohup", "nohup sh -c 'echo in' 2>&1; echo $?"),
    session("the runtime folder", "ls -ld $XDG_RUNTIME_DIR | cut -c1-10; systemctl --user is-system-running >/dev/null 2>&1; echo $?"),
    session("su of itself asks", "su - root -c id 2>&1; echo $?"),
    Case("200 MB from the host", _download, slow=True),
    Case("200 MB to the host", _upload, slow=True),
]  # fmt: skip
