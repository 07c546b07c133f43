"""Programs that speak over ssh: scp, sftp, rsync, git, paramiko; masters, agents, forwards, and very many sessions."""

import hashlib
import random
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.sessions.bed import BLOB, BLOB_SIZE, Person
from tests.sessions.case import Case, Outcome

SHORT = 1000
_BATCH = """mkdir d
put small d/one
put big d/two
chmod 600 d/one
rename d/two d/three
symlink three d/link
ls -1 d
get d/three back
rm d/one
-rm d/nothing
ln d/three d/hard
ls -1 d
"""


def tree(folder: Path) -> bytes:
    """Names, modes and contents of all below a folder."""
    lines = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            lines.append(f"{path.relative_to(folder)} -> {path.readlink()}")
        elif path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            lines.append(f"{path.relative_to(folder)} {path.stat().st_mode & 0o777:o} {digest}")
    return "\n".join(lines).encode()


def sample(folder: Path) -> Path:
    """Files of all kinds."""
    made = folder / "tree"
    (made / "sub/deep").mkdir(parents=True)
    chance = random.Random(4)
    for name, size in (("empty", 0), ("small", 11), ("big", 3_000_001), ("sub/gr\u00fcn \u6f22", 70_000), ("sub/deep/x", 32768)):
        (made / name).write_bytes(chance.randbytes(size))
    (made / "sub/run").write_text("#!/bin/sh\n")
    (made / "sub/run").chmod(0o755)
    (made / "link").symlink_to("small")
    return made


def programs(name: str, *commands: Sequence[str], clean: str = "rm -rf ~/*", slow: bool = False) -> Case:
    """Client programs one after the other, in a folder with ``tree``: statuses, output, and the files here afterwards.

    ``@`` in a word is the ssh configuration of who plays.
    """

    def play(person: Person) -> Outcome:
        folder = person.fresh()
        sample(folder)
        found: Outcome = {}
        for number, words in enumerate(commands):
            done = person.run([word.replace("@", str(person.config)) for word in words], timeout=300, cwd=folder)
            found |= {f"{number} status": done.returncode, f"{number} stdout": done.stdout, f"{number} stderr": done.stderr}
        found["files"] = tree(folder)
        person.ssh(clean)
        return found

    return Case(name, play, slow=slow)


def _batch(person: Person) -> Outcome:
    folder = person.fresh()
    made = sample(folder)
    done = person.run(["sftp", "-q", "-b", "-", "-F", str(person.config), "t"], _BATCH.encode(), cwd=made)
    person.ssh("rm -rf ~/*")
    return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr, "files": tree(folder)}


def _git(person: Person) -> Outcome:
    folder = person.fresh()
    who = ["-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "init.defaultBranch=main", "-c", "protocol.version=2"]
    (folder / "work").mkdir()
    sample(folder / "work")
    work = ["git", "-C", "work", *who]
    fixed = {"GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z"}
    found: Outcome = {}
    steps: list[Sequence[str]] = [
        ["ssh", "-F", str(person.config), "t", "git init -q --bare r.git && git -C r.git symbolic-ref HEAD refs/heads/main"],
        [*work, "init", "-q"], [*work, "add", "."],
        ["env", *(f"{key}={value}" for key, value in fixed.items()), *work, "commit", "-qm", "first"],
        [*work, "push", "-q", "t:r.git", "main"],
        ["git", "clone", "-q", "t:r.git", "copy"],
        ["git", "-C", "copy", "log", "--format=%H %s"],
        ["git", "ls-remote", "t:nothing.git"],
    ]  # fmt: skip
    for number, words in enumerate(steps):
        done = person.run(words, timeout=120, cwd=folder)
        found |= {f"{number} status": done.returncode, f"{number} stdout": done.stdout, f"{number} stderr": done.stderr}
    found["files"] = tree(folder / "copy/tree")
    person.ssh("rm -rf ~/*")
    return found


def _paramiko_exec(person: Person) -> Outcome:
    with person.host.paramiko(person.login, person.key) as client:
        stdin, stdout, stderr = client.exec_command("cat; echo err >&2; exit 42", timeout=30)
        stdin.write(b"\x00\xff" * 1000)
        stdin.channel.shutdown_write()
        return {"stdout": stdout.read(), "stderr": stderr.read(), "status": stdout.channel.recv_exit_status()}


def _paramiko_shell(person: Person) -> Outcome:
    with person.host.paramiko(person.login, person.key) as client:
        channel = client.invoke_shell("vt100", 90, 30)
        channel.settimeout(20)
        channel.sendall(b"stty -echo; PS1=; echo '<G''O>'\nstty size; echo $TERM; tty | cut -c1-8; exit 7\n")
        seen = b""
        while data := channel.recv(65536):
            seen += data
        return {"screen": seen.partition(b"<GO>\r\n")[2].replace(b"\x1b[?2004l\r", b"").replace(b"\x1b[?2004h", b""),
                "status": channel.recv_exit_status()}  # fmt: skip


def _paramiko_storm(person: Person) -> Outcome:
    """500 sizes at once by a client that waits for none, each asked for by the program on the terminal at the end."""
    with person.host.paramiko(person.login, person.key) as client:
        channel = client.get_transport().open_session()  # type: ignore[union-attr]
        channel.settimeout(20)
        channel.get_pty("xterm", 80, 24)
        channel.exec_command("stty -echo; trap 'n=$((n+1))' WINCH; echo ready; read x; echo $((n>0)); stty size; exit 3")
        seen = b""
        while b"ready" not in seen:
            seen += channel.recv(65536)
        for number in range(500):
            channel.resize_pty(60 + number % 80, 20 + number % 40)
        channel.resize_pty(77, 33)
        time.sleep(0.7)
        channel.sendall(b"\n")
        while data := channel.recv(65536):
            seen += data
        return {"screen": seen.partition(b"ready\r\n")[2], "status": channel.recv_exit_status()}


def _paramiko_sftp(person: Person) -> Outcome:
    folder = person.fresh()
    with person.host.paramiko(person.login, person.key) as client, client.open_sftp() as sftp:
        data = random.Random(5).randbytes(2_000_000)
        with sftp.open("f", "wb") as file:
            file.set_pipelined(True)
            file.write(data)
        with sftp.open("f", "rb") as file:
            file.seek(1_000_000)
            half = file.read()
        sftp.get("f", str(folder / "f"))
        found: Outcome = {
            "half": half == data[1_000_000:],
            "whole": (folder / "f").read_bytes() == data,
            "size": sftp.stat("f").st_size,
        }
        sftp.mkdir("d")
        sftp.rename("f", "d/g")
        found["names"] = (sftp.listdir("."), sftp.listdir("d"), sftp.normalize("d") == f"/home/{person.login}/d")
        for attempt in ("nothing", "/etc/shadow"):
            try:
                sftp.open(attempt).close()
            except OSError as error:
                found[attempt] = type(error).__name__
        sftp.remove("d/g")
        sftp.rmdir("d")
        return found


def _master(person: Person) -> Outcome:
    """Several sessions of all kinds over one connection, some at the same time."""
    path = person.fresh() / "m"
    over = ("-S", str(path))
    master = subprocess.Popen(
        person.argv(None, ("-M", "-N", *over)), env=person.environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        for _ in range(200):
            if path.exists():
                break
            time.sleep(0.05)
        with ThreadPoolExecutor(6) as pool:
            many = list(pool.map(lambda n: person.ssh(f"sleep 0.{n}; echo {n}; exit {n}", options=over), range(6)))
        terminal = person.ssh("stty size >/dev/null; echo $?; exit 8", options=("-tt", *over))
        sftp = person.run(["sftp", "-q", "-b", "-", "-o", f"ControlPath={path}", "-F", str(person.config), "t"], b"pwd\n")
        ended = person.ssh(None, options=("-O", "exit", *over)).returncode
        return {
            "many": [(done.returncode, done.stdout) for done in many], "terminal": (terminal.returncode, terminal.stdout[-3:]),
            "sftp": (sftp.returncode, b"home" in sftp.stdout), "exit": ended, "master": master.wait(10),
        }  # fmt: skip
    finally:
        master.kill()
        master.communicate()


def _thousand(person: Person) -> Outcome:
    """A thousand logins, eight at a time: each its own status and its own words."""

    def one(number: int) -> tuple[int, bytes, bytes]:
        done = person.ssh(f"echo {number}; exit {number % 200}", timeout=120)
        return done.returncode, done.stdout, done.stderr

    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(one, range(SHORT)))
    wrong = [(number, found) for number, found in enumerate(seen) if found != (number % 200, b"%d\n" % number, b"")]
    return {"sessions": len(seen), "wrong": wrong[:3]}


def _forward(options: Sequence[str]) -> Callable[[Person], Outcome]:
    def play(person: Person) -> Outcome:
        done = person.ssh("echo ${SSH_AUTH_SOCK:+agent} ${DISPLAY:+display}", options=("-v", "-o", "LogLevel=INFO", *options))
        return {"status": done.returncode, "stdout": done.stdout}

    return play


def _local_forward(person: Person) -> Outcome:
    """sshd's own banner, through a tunnel to itself (-W)."""
    done = person.ssh(None, b"x\r\n", timeout=20, options=("-W", "127.0.0.1:22"))
    return {"status": done.returncode, "banner": done.stdout[:8]}


def _sftp_large(person: Person) -> Outcome:
    folder = person.fresh()
    got = person.run(["sftp", "-q", "-F", str(person.config), f"t:{BLOB}", "down"], cwd=folder, timeout=300)
    size = (folder / "down").stat().st_size
    digest = hashlib.sha256((folder / "down").read_bytes()).hexdigest()
    put = person.run(["sftp", "-q", "-b", "-", "-F", str(person.config), "t"], b"put down up\n", cwd=folder, timeout=300)
    up = person.ssh("sha256sum up; rm up").stdout
    (folder / "down").unlink()
    return {"statuses": (got.returncode, put.returncode), "size": size == BLOB_SIZE, "sha256": digest, "up": up}


_SCP = ("scp", "-q", "-F", "@")
_RSYNC = ("rsync", "-a", "-e", "ssh -F @")
TRANSFERS: list[Case] = [
    *(
        programs(f"scp{' -O' if old else ''}", [*_SCP, *old, "-r", "-p", "tree", "t:up"], [*_SCP, *old, "-r", "-p", "t:up", "down"],
                 [*_SCP, *old, "t:nothing", "x"], [*_SCP, *old, "tree/small", "t:/root/x"])
        for old in ((), ("-O",))
    ),
    Case("sftp, a batch", _batch),
    programs("sftp of nothing", ["sftp", "-q", "-F", "@", "t:nothing", "x"]),
    programs("rsync", [*_RSYNC, "tree/", "t:up"], [*_RSYNC, "--delete", "--checksum", "t:up/", "down"], [*_RSYNC, "-n", "-i", "t:up/", "down"],
             [*_RSYNC, "t:nothing", "x"]),
    Case("git: push and clone", _git),
    programs("tar through a pipe", ["sh", "-c", "tar -c tree | ssh -F @ t 'tar -x && tar -c tree' | tar -x -C . --one-top-level=back"]),
    Case("paramiko: a command", _paramiko_exec),
    Case("paramiko: a shell", _paramiko_shell),
    Case("paramiko: a storm of sizes", _paramiko_storm),
    Case("paramiko: sftp", _paramiko_sftp),
    Case("a master with many sessions", _master),
    Case("an agent is not forwarded", _forward(("-A",))),
    Case("X11 is not forwarded", _forward(("-X",))),
    Case("a tunnel", _local_forward),
    Case("200 MB by sftp, each way", _sftp_large, slow=True),
    Case("a thousand short sessions", _thousand, slow=True),
]  # fmt: skip
