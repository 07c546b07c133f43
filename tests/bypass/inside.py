"""Attacks from a session: against the recorder, the starting shell, the terminals, the descriptors, the start-up files, the disk."""

import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.bypass.stage import Attack, Play, Seen, Stage

_TTY = ("-tt",)


def both(done: "subprocess.CompletedProcess[bytes]") -> bytes:
    """What the client was given."""
    return done.stdout + done.stderr


def command(text: str, options: Sequence[str] = (), stdin: bytes = b"", timeout: float = 60.0) -> Play:
    """One session; in ``text`` {m} prints the mark, {NAME!} runs that attack of `tests.bypass.tenant`."""

    def play(stage: Stage) -> Seen:
        return Seen(both(stage.tenant.ssh(filled(stage, text), stdin, timeout, options)))

    return play


def filled(stage: Stage, text: str) -> str:
    """The text with the stage's own words."""
    while (at := text.find("{run:")) >= 0:
        name = text[at + 5 : text.index("}", at)]
        text = text.replace(f"{{run:{name}}}", stage.inside(name))
    return text.replace("{m}", stage.echo)


def beside(name: str, sessions: int = 20, text: str = "{m}; sleep 0.3", options: Sequence[str] = _TTY) -> Play:
    """That attack in one session, while others begin beside it: what any of their clients sees counts."""

    def play(stage: Stage) -> Seen:
        first = subprocess.Popen(
            stage.tenant.argv(stage.inside(name), _TTY), env=stage.tenant.environment(),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            time.sleep(2.0)
            with ThreadPoolExecutor(3) as pool:
                jobs = [pool.submit(stage.tenant.ssh, filled(stage, text), b"", 60.0, options) for _ in range(sessions)]
                seen = b"".join(both(job.result()) for job in jobs)
            out, _ = first.communicate(timeout=60)
        finally:
            first.kill()
        return Seen(seen + out)

    return play


def startup(path: str, content: str = "{m}\n", ways: Sequence[tuple[str | None, tuple[str, ...]]] = ()) -> Attack:
    """A start-up file is planted; then sessions of every kind."""

    def play(stage: Stage) -> Seen:
        text = filled(stage, content) + f'\necho "read {path}" >>~/attack.log\n' * (not path.endswith(("environment", "inputrc")))
        stage.tenant.ssh(f"mkdir -p .ssh && cat >{path} && chmod 700 {path}", text.encode())
        seen = b""
        for asked, options in ways or ((None, _TTY), ("true", ()), ("true", _TTY)):
            seen += both(stage.tenant.ssh(asked, b"exit\n", options=options))
        seen += both(stage.tenant.run(["sftp", "-q", "-b", "-", "-F", str(stage.tenant.config), "t"], b"pwd\n"))
        there = stage.bed.host.run(f"ls ~{stage.tenant.login}/{path}", check=False).returncode == 0
        stage.bed.host.run(f"rm -rf ~{stage.tenant.login}/{path}")
        return Seen(seen, ran=there)

    return Attack(f"start-up file {path}", play)


def environment(name: str, value: str) -> Attack:
    """A variable that the client sends, and the same in ~/.ssh/environment and ~/.pam_environment."""

    def play(stage: Stage) -> Seen:
        filling = value.replace("{a}-{b}", "-".join(stage.words))
        files = f"{name}={filling}\n"
        stage.tenant.ssh("mkdir -p .ssh; tee .ssh/environment >.pam_environment", files.encode())
        seen = b"".join(
            both(stage.tenant.ssh("true", options=(*options, "-o", f"SetEnv={name}={filling}", "-o", f"SendEnv={name}")))
            for options in ((), _TTY)
        )
        stage.bed.host.run(f"rm -f ~{stage.tenant.login}/.pam_environment ~{stage.tenant.login}/.ssh/environment")
        return Seen(seen)

    return Attack(f"variable {name}", play)


def flood(options: Sequence[str], what: str) -> Play:
    """A client that stops reading while the command writes all it can; the judge logs in meanwhile."""

    def play(stage: Stage) -> Seen:
        argv = stage.tenant.argv(f"echo flooding >attack.log; exec {what}", options)
        clients = [
            subprocess.Popen(
                argv, env=stage.tenant.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            for _ in range(5)
        ]
        try:
            time.sleep(6)
            trouble = stage.control()
            size = memory(stage)
        finally:
            for client in clients:
                client.kill()
                client.communicate()
        harm = [trouble] if trouble else []
        return Seen(harm=harm + ([f"the recorder holds {size} MB"] if size > 200 else []))

    return play


def memory(stage: Stage) -> int:
    """Of the recorder, in MB."""
    status = stage.bed.host.run(f"grep VmRSS /proc/{stage.recorder()}/status", check=False).stdout.split()
    return int(status[1]) // 1024 if len(status) > 1 else 0


def full(folder: str) -> Play:
    """A small disk under that folder, filled from a session; what the client sees afterwards must still be recorded."""

    def play(stage: Stage) -> Seen:
        host, login = stage.bed.host, stage.tenant.login
        place = folder.replace("~", f"/home/{login}")
        host.run(f"mount -t tmpfs -o size=16m,mode=1777 none {place}")
        try:
            text = f"dd if=/dev/zero of={place}/fill bs=1M; df {place} | tail -1; {stage.echo}; echo filled"
            return Seen(both(stage.tenant.ssh(text)) + both(stage.tenant.ssh(stage.echo, options=_TTY)))
        finally:
            host.run(f"umount -l {place}")

    return play


def recordings_full(stage: Stage) -> Seen:
    """The disk of the recordings themselves, filled by output: whatever the client still sees must have been written down."""
    host = stage.bed.host
    host.run(
        "mount -t tmpfs -o size=24m,mode=755 none /var/lib/tidegate/sessions && chown --reference=/run/tidegate/recorder /var/lib/tidegate/sessions"
    )
    try:
        done = stage.tenant.ssh(f"head -c 60000000 /dev/urandom | base64 -w0 >&2; {stage.echo}", timeout=90, options=_TTY)
        filled_up = "100%" in host.run("df /var/lib/tidegate/sessions").stdout
        harm = [] if stage.mark not in done.stdout or stage.recorded(stage.mark) else ["output went on with a full disk"]
        return Seen(b"", harm, ran=filled_up)
    finally:
        host.run("umount -l /var/lib/tidegate/sessions")


def five_hundred(stage: Stage) -> Seen:
    """500 sessions at once over ten connections: all that were answered are recorded."""

    def one(number: int) -> list[bytes]:
        with stage.bed.host.paramiko(stage.tenant.login, stage.tenant.key, timeout=60) as client:
            outs = []
            for each in range(50):
                try:
                    outs.append(
                        client.exec_command(f"printf '%s=%s\\n' {stage.words[0]} {number * 50 + each}; sleep 5", timeout=90)[1]
                    )
                except Exception:  # refused: nothing ran
                    break
            return [out.read() for out in outs]

    with ThreadPoolExecutor(10) as pool:
        seen = [text for texts in pool.map(one, range(10)) for text in texts if stage.words[0].encode() in text]
    time.sleep(2)
    lost = [text for text in seen if not stage.recorded(text.strip())]
    return Seen(f"{len(seen)} sessions answered".encode(), [f"{len(lost)} sessions not recorded, {lost[0]!r}"] if lost else [])


def as_another(user: str) -> Play:
    """The recorder's socket asked by somebody who is no tenant."""

    def play(stage: Stage) -> Seen:
        stage.bed.host.run(
            ["runuser", "-u", user, "--", "env", "HOME=/tmp/other", "sh", "-c", f"mkdir -p /tmp/other; {stage.inside('junk')}"]
        )
        notes = stage.bed.host.run("cat /tmp/other/attack.log; rm -rf /tmp/other").stdout
        return Seen(
            harm=["the recorder made a session for nobody's login"] if "done b'OK" in notes else [], ran="junk is over" in notes
        )

    return play


def mux(stage: Stage) -> Seen:
    """The second and third session of a connection, and one that outlives the first."""
    path = stage.tenant.fresh() / "m"
    over = ("-S", str(path))
    master = subprocess.Popen(
        stage.tenant.argv("sleep 4", ("-M", *over)),
        env=stage.tenant.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    time.sleep(2)
    seen = b"".join(both(stage.tenant.ssh(f"{stage.echo}; echo second", options=(*options, *over))) for options in ((), _TTY))
    late = stage.tenant.ssh(f"sleep 4; {stage.echo}", options=over)
    master.wait(20)
    return Seen(seen + both(late))


def stopped_login(stage: Stage) -> Seen:
    """Sessions that are started and cut at once, by the hundred, so that the recorder meets every half-way state."""
    for number in range(100):
        client = subprocess.Popen(
            stage.tenant.argv(stage.echo, _TTY if number % 2 else ()), env=stage.tenant.environment(),
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(0.02 * (number % 20))
        client.kill()
        client.communicate()
    return Seen(b"cut 100 times")


def links(stage: Stage) -> Seen:
    """Links in the home where a program of root's or the recorder's might follow them."""
    made = "ln -sfn /etc/shadow .bashrc; ln -sfn /var/lib/tidegate/sessions .ssh; mkfifo .hushlogin; ln -sfn / .cache; echo links >attack.log"
    seen = both(stage.tenant.ssh(made))
    seen += both(stage.tenant.ssh(stage.echo)) + both(stage.tenant.ssh(stage.echo, options=_TTY))
    stage.bed.host.run(f"cd ~{stage.tenant.login} && rm -rf .bashrc .ssh .hushlogin .cache")
    return Seen(seen)


def _row(name: str, text: str, ran: str, options: Sequence[str] = ()) -> Attack:
    return Attack(name, command(text, options), ran)


_OWN: dict[str, str] = {
    "script inside": "script -q -c \"{m}\" /dev/null; echo was here",
    "a shell without descriptors": "exec 3<&0; exec 0<&- 1>&- 2>&-; exec 1>/dev/tty; {m}; echo was here",
    "setsid": "setsid -w sh -c '{m}; echo was here'; setsid -c -w sh -c '{m} >/dev/tty' || true",
    "env -i and another shell": "env -i /bin/sh -c '{m}; echo was here'",
    "nested logins": "/usr/lib/tidegate/tidegate-shell -c '{m}; echo was here'",
    "nested with SSH_ORIGINAL_COMMAND": "SSH_ORIGINAL_COMMAND='{m}; echo was here' /usr/lib/tidegate/tidegate-shell -c /usr/lib/tidegate/tidegate-shell",
    "nested with closed descriptors": "/usr/lib/tidegate/tidegate-shell -c '{m}' <&- >&- 2>&-; echo was here",
    "nested with others' interpreters": "PYTHONPATH=. PYTHONSTARTUP=x PYTHONINSPECT=1 /usr/lib/tidegate/tidegate-shell -c '{m}; echo was here'",
    "tmux that stays": "tmux -f /dev/null -L x new -d '{m} >/dev/tty; sleep 2'; sleep 1; tmux -L x ls; {m}; echo was here",
    "a background process that stays": "(sleep 1; {m}) & echo was here",
    "chsh": "chsh -s /bin/sh </dev/null; {m}; echo was here",
    "a window title and a reset": "printf '\\033]0;x\\007\\033c\\033[2J'; {m}; echo was here",
}  # fmt: skip

_HOSTILE: dict[str, tuple[str, str]] = {
    "kill": ("signals for the recorder", "kill recorder: PermissionError"),
    "trace": ("ptrace, memory, descriptors, limits of the recorder", "attach recorder: .*getfd recorder: "),
    "files": ("the recordings' files", "write /var/lib/tidegate/sessions: .*files is over"),
    "old_terminal": ("sshd's terminal, opened again", "looked at all terminals"),
    "push": ("TIOCSTI into one's own terminal", "push is over"),
    "descriptors": ("every open descriptor", "open: "),
    "away": ("a daemon that keeps the descriptors", "away in a session of its own"),
    "junk": ("junk into the recorder's socket", "junk is over"),
    "half": ("half sessions into the recorder's socket", "half is over"),
    "inner": ("tidegate-shell under limits that break it", "inner is over"),
    "everyone": ("every process of one's own killed", r"kill\(-1\)"),
}

INSIDE: list[Attack] = [
    *(Attack(told, command(f"{{run:{name}}}; {{m}}; sleep 1", options), ran)
      for name, (told, ran) in _HOSTILE.items() for options in (_TTY,)),
    Attack("the same descriptors without a terminal", command("{run:descriptors}"), "open: "),
    Attack("a daemon without a terminal", command("{run:away}; sleep 2"), "away in a session of its own"),
    Attack("a starting shell hunted, with a terminal", beside("hunt"), "hunted a starting shell"),
    Attack("a starting shell hunted, without", beside("hunt", options=()), "hunted a starting shell"),
    Attack("a starting shell hunted, on its way to sftp-server", beside("hunt", text="internal-sftp", options=()), "hunted a starting shell"),
    Attack("every new terminal opened at once", beside("terminals", text="sleep 1"), "opened /dev/pts/.*watched all terminals"),
    Attack("a crowd at the recorder's socket", beside("crowd", sessions=5, options=()), "crowd of [1-9]"),
    *(Attack(f"the recorder's socket asked by {user}", as_another(user)) for user in ("nobody", "games")),
    *(_row(name, text, "was here", _TTY) for name, text in _OWN.items()),
    *(startup(path) for path in (".bashrc", ".profile", ".bash_profile", ".bash_login", ".bash_logout", ".ssh/rc", ".hushlogin")),
    startup(".ssh/environment", "BASH_ENV=/home/jit-rec-a/.x\nLD_PRELOAD=/x.so\nSHELL=/bin/sh\n"),
    startup(".inputrc", '"@": "{m}\\n"\n$include /home/jit-rec-a/.x\n'),
    startup("python3.py", "import os; os.write(1, b'x')", ((None, _TTY),)),
    *(environment(name, value) for name, value in {
        "LD_PRELOAD": "/x/{a}-{b}.so", "LD_AUDIT": "/x/{a}-{b}.so", "LD_DEBUG": "all", "BASH_ENV": "/x/{a}-{b}", "ENV": "/x/{a}-{b}",
        "SHELL": "/bin/sh", "SSH_ORIGINAL_COMMAND": "echo {a}-{b}", "PYTHONSTARTUP": "/x", "PYTHONVERBOSE": "1", "PYTHONHOME": "/x/{a}-{b}",
        "PYTHONPATH": "/home/jit-rec-a", "PYTHONINSPECT": "1", "LC_ALL": "../../home/jit-rec-a/{a}-{b}", "LC_X": "() {{ echo {a}-{b}; }}",
        "GLIBC_TUNABLES": "glibc.malloc.check=3", "GCONV_PATH": "/x", "TERM": "../../x/{a}-{b}", "HOME": "/x", "MALLOC_TRACE": "/tmp/{a}-{b}",
    }.items()),
    Attack("a flood on a terminal that nobody reads", flood(_TTY, "yes"), "flooding"),
    Attack("a flood without a terminal", flood((), "cat /dev/zero"), "flooding"),
    Attack("a flood on stderr", flood((), "sh -c 'cat /dev/urandom >&2'"), "flooding"),
    *(Attack(f"a full disk: {folder}", full(folder), "filled") for folder in ("~", "/tmp", "/dev/shm")),
    Attack("links in the home", links, "links"),
    Attack("sessions over one connection", mux, "second"),
    Attack("sessions cut while they start", stopped_login, "cut 100"),
    Attack("500 sessions at once", five_hundred, "[1-9][0-9]+ sessions answered"),
    Attack("a full disk: the recordings'", recordings_full),
]  # fmt: skip
