"""The table: what a tenant may leave running. One row, one entry; add yours at the end of its kind.

In a script ``{sleep}`` is a sleep that can be told from every other, ``{cookie}`` its mark, ``{login}`` the tenant, ``{mobile}``
a program that forks and exits for ever (set-user-id where the row says so). Scripts are run by the tenant over ssh, with no
terminal.
"""

from dataclasses import dataclass
from typing import Literal

BASH = "/bin/bash"
Kind = Literal["tenant", "person"]


@dataclass(frozen=True)
class Row:
    """``script``: run as the tenant (or the person whose account was there before) while the grant stands.

    ``sudo``: commands of the grant, ``run_as`` whom; ``groups``: lent to a person. ``before``: run as the person before the grant
    opens, ``spared`` in it must go on after T. ``accomplice``: run by another account. ``clients``: ssh options of clients that are
    held open over T (each an argv's options; "" is none). ``needs``: what a host must have. ``alone``: a host of its own.
    ``never``: it is prevented, so nothing of it may live before T either. ``uncontainable``: it may survive, and its rule is one
    that a policy refuses without an explicit word. ``sample``: it is part of ``make test``.
    """

    name: str
    script: str = ""
    kind: Kind = "tenant"
    sudo: tuple[str, ...] = ()
    run_as: str = "root"
    groups: tuple[str, ...] = ()
    actions: tuple[str, ...] = ("login", "exec", "port-forwarding")
    before: str = ""
    accomplice: str = ""
    clients: tuple[str, ...] = ()
    upload: bool = False
    storm: int = 0
    needs: tuple[str, ...] = ()
    alone: bool = False
    never: bool = False
    uncontainable: bool = False
    sample: bool = False


def root(name: str, script: str, *, needs: tuple[str, ...] = (), uncontainable: bool = False, sample: bool = False) -> Row:
    """A row whose script is fed to a root shell, which only a policy's explicit word gives."""
    fed = f"cat > r.sh <<'END'\n{script}\nEND\nsudo -n {BASH} < r.sh"
    return Row(name, fed, sudo=(BASH,), needs=needs, uncontainable=uncontainable, sample=sample)


_SILENT = ">/dev/null 2>&1"
_QUIET = f"{_SILENT} </dev/null"
_UNIT = "[Service]\\nExecStart=/usr/bin/{sleep}\\nRestart=always\\nRestartSec=50ms\\n"
_PLACE_UNIT = f"mkdir -p .config/systemd/user; printf '{_UNIT}' > .config/systemd/user/x.service"
_ESCAPE = "mkdir -p /sys/fs/cgroup/out-$$; echo $$ > /sys/fs/cgroup/out-$$/cgroup.procs"
_SPARED = f"setsid {{spared}} {_QUIET} &"

ROWS = (
    # What a shell can do by itself
    Row("nohup", f"nohup {{sleep}} {_QUIET} &", sample=True),
    Row("setsid", f"setsid {{sleep}} {_QUIET} &"),
    Row("ignores TERM, HUP and INT", f"setsid bash -c 'trap \"\" TERM HUP INT; {{sleep}}; true' {_QUIET} &", sample=True),
    Row("double fork", f"setsid -f bash -c '(setsid {{sleep}} &)' {_QUIET}"),
    Row("another name", f"(exec -a '[kworker/u4:1]' setsid {{sleep}} {_QUIET}) &"),
    Row("an emptied environment", f"env -i setsid -f {{sleep}} {_QUIET}"),
    Row("stopped", f"setsid {{sleep}} {_QUIET} & sleep 0.3; kill -STOP $!", sample=True),
    Row("traced", f"setsid strace -f -o /dev/null {{sleep}} {_QUIET} &", needs=("strace",)),
    Row("waits in vfork", f"setsid python3 -c 'import ctypes; c=ctypes.CDLL(None); c.vfork() or c.pause()' {{cookie}} {_QUIET} &"),
    Row("set-user-id copy of its own", f"cp /bin/sleep s; chmod 4755 s; setsid ./s {{cookie}} {_QUIET} &"),
    Row("tmux", "tmux -f /dev/null new-session -d '{sleep}'", needs=("tmux",), sample=True),
    Row("user namespace", f"setsid unshare -Ur {{sleep}} {_QUIET} &", sample=True),
    Row("user and pid namespace", f"setsid unshare -Urpf {{sleep}} {_QUIET} &"),
    Row("nested user namespaces", f"setsid unshare -Urpf unshare -Urmpf {{sleep}} {_QUIET} &"),
    Row(
        "a watcher that puts keys back",
        f"ssh-keygen -q -t ed25519 -N '' -f k {_QUIET}; "
        f"setsid bash -c 'while : {{cookie}}; do mkdir -p .ssh; cp k.pub .ssh/authorized_keys; sleep 0.05; done' {_QUIET} &",
    ),
    # What ssh can do by itself
    Row("command without a terminal, its client gone", f"{{sleep}} {_QUIET} & disown; exit 0"),
    Row("mux master with a session in it", clients=("-M -S {folder}/mux -o ControlPersist=600", "-S {folder}/mux"), sample=True),
    Row("forward -N -L", clients=("-N -L {folder}/l:127.0.0.1:22",)),
    Row("forward -N -R", clients=("-N -R 127.0.0.1:0:127.0.0.1:9",)),
    Row("jump through it (-W)", clients=("-W 127.0.0.1:22",)),
    Row("terminal", clients=("-tt",), sample=True),
    # sudo
    Row("sudo", f"setsid sudo -n /usr/bin/{{sleep}} {_QUIET} &", sudo=("/usr/bin/{sleep}",), sample=True),
    Row("sudo -b", f"sudo -n -b /usr/bin/{{sleep}} {_QUIET}", sudo=("/usr/bin/{sleep}",)),
    Row("nohup sudo -u other", f"nohup sudo -n -u games /usr/bin/{{sleep}} {_QUIET} &", sudo=("/usr/bin/{sleep}",), run_as="games"),
    Row(
        "sudo -u other, a shell that empties its environment and leaves the tree",
        f"echo 'env -i setsid -f {{sleep}} {_QUIET}' | sudo -n -u games {BASH}",
        sudo=(BASH,),
        run_as="games",
    ),
    root("root shell: setsid", f"setsid -f {{sleep}} {_QUIET}", sample=True),
    Row("sudo -i", f"echo 'setsid -f {{sleep}} {_QUIET}' | sudo -n -i", sudo=(BASH,)),
    root("root shell: an emptied environment", f"env -i setsid -f {{sleep}} {_QUIET}"),
    root("root shell: moved to another cgroup", f"{_ESCAPE}; setsid -f {{sleep}} {_QUIET}", needs=("systemd",), sample=True),
    root(
        "root shell: moved, login uid reset",
        f"{_ESCAPE}; echo 4294967295 > /proc/self/loginuid; setsid -f {{sleep}} {_QUIET}",
        needs=("systemd",),
    ),
    root(
        "root shell: moved, login uid reset, environment emptied",
        f"{_ESCAPE}; echo 4294967295 > /proc/self/loginuid; env -i setsid -f {{sleep}} {_QUIET}",
        needs=("systemd",),
        uncontainable=True,
    ),
    # systemd, at, cron
    Row("systemd-run --user", "systemd-run --user --quiet {sleep}", clients=("-tt",), needs=("systemd",), sample=True),
    Row(
        "systemd-run --user --scope",
        f"setsid systemd-run --user --scope --quiet {{sleep}} {_QUIET} &",
        clients=("-tt",),
        needs=("systemd",),
    ),
    Row("user unit with Restart=always", f"{_PLACE_UNIT}; systemctl --user start x", clients=("-tt",), needs=("systemd",)),
    root("root shell: systemd-run --uid", "systemd-run --quiet --uid={login} {sleep}", needs=("systemd",)),
    root(
        "root shell: systemd-run --scope", f"setsid systemd-run --scope --quiet {{sleep}} {_QUIET} &\nsleep 0.5", needs=("systemd",)
    ),
    root("root shell: systemd-run", "systemd-run --quiet {sleep}", needs=("systemd",), uncontainable=True),
    Row("at", f"echo '{{sleep}}' | at now {_SILENT}", needs=("systemd", "at"), sample=True),
    Row("cron", "echo '* * * * * {sleep}' | crontab -", needs=("systemd", "crontab")),
    root("root shell: at", "echo '{sleep}' | at now", needs=("systemd", "at")),
    root(
        "root shell: cron", "echo '* * * * * root {sleep}' > /etc/cron.d/{login}", needs=("systemd", "crontab"), uncontainable=True
    ),
    Row(
        "sftp alone, a unit placed for the user manager",
        actions=("sftp",),
        upload=True,
        needs=("systemd",),
        never=True,
        sample=True,
    ),
    # Accomplices
    Row(
        "set-user-id copy run by an accomplice",
        "cp /bin/sleep s; chmod 4755 s; chmod 755 .",
        accomplice=f"setsid ~{{login}}/s {{cookie}} {_QUIET} &",
        before=_SPARED,
        sample=True,
    ),
    # An account that was there before
    Row(
        "person: session with a lent group", f"nohup {{sleep}} {_QUIET} &", "person", groups=("games",), before=_SPARED, sample=True
    ),
    Row("person: sg", f"setsid sg games -c '{{sleep}}' {_QUIET} &", "person", groups=("games",), before=_SPARED),
    Row(
        "person: tmux with a lent group", "tmux -f /dev/null new-session -d '{sleep}'", "person", groups=("games",), needs=("tmux",)
    ),
    Row(
        "person: user manager with a lent group",
        "systemd-run --user --quiet {sleep}",
        "person",
        groups=("games",),
        clients=("-tt",),
        needs=("systemd",),
    ),
    Row(
        "person: at job with a lent group",
        f"sg games -c \"echo '{{sleep}}' | at now\" {_QUIET}",
        "person",
        groups=("games",),
        before=_SPARED,
        needs=("systemd", "at"),
    ),
    Row(
        "person: lent sudo rule, own sudo rule goes on",
        f"setsid sudo -n /usr/bin/{{sleep}} {_QUIET} &",
        "person",
        sudo=("/usr/bin/{sleep}",),
        before=f"setsid sudo -n {{spared}} {_QUIET} &",
        sample=True,
    ),
    Row("person: lent sudo -b", f"sudo -n -b /usr/bin/{{sleep}} {_QUIET}", "person", sudo=("/usr/bin/{sleep}",), before=_SPARED),
    Row(
        "person: lent sudo -u other, a shell that leaves environment and tree",
        f"echo 'env -i setsid -f {{sleep}} {_QUIET}' | sudo -n -u games {BASH}",
        "person",
        sudo=(BASH,),
        run_as="games",
        before=_SPARED,
    ),
    Row(
        "person: lent root shell that leaves environment and tree",
        f"echo 'env -i setsid -f {{sleep}} {_QUIET}' | sudo -n {BASH}",
        "person",
        sudo=(BASH,),
        before=_SPARED,
    ),
    Row(
        "person: set-group-id copy with a lent group, run from an old session",
        "cp /bin/sleep s; chgrp games s; chmod 2755 s",
        "person",
        groups=("games",),
        before=f"echo 'while sleep 0.2; do test -g s && ./s {{cookie}}; done' > w.sh; setsid bash w.sh {_QUIET} & {_SPARED}",
        sample=True,
    ),
    # Bombs, each on a host of its own; bounded by the host's pids.max and in generations
    Row("fork bomb of a shell", f"setsid bash -c 'b() {{ b | b & }}; b' {{cookie}} {_QUIET} &", alone=True),
    Row("mobile bomb", f"for n in 1 2 3; do setsid {{mobile}} {{cookie}} {_QUIET} & done", alone=True),
    Row("mobile bomb out of at", f"echo 'setsid {{mobile}} {{cookie}}' | at now {_SILENT}", alone=True, needs=("systemd", "at")),
    Row("root shell: mobile bomb", f"echo 'setsid -f {{mobile}} {{cookie}} {_QUIET}' | sudo -n {BASH}", sudo=(BASH,), alone=True),
    Row(
        "mobile bomb of an accomplice",
        "cp {mobile} m; chmod 4755 m; chmod 755 .",
        accomplice=f"setsid ~{{login}}/m {{cookie}} {_QUIET} &",
        before=_SPARED,
        alone=True,
    ),
    Row(
        "person: mobile bomb with a lent group",
        f"for n in 1 2 3; do setsid {{mobile}} {{cookie}} {_QUIET} & done",
        "person",
        groups=("games",),
        before=_SPARED,
        alone=True,
    ),
    Row("24 clients that log in at T", f"nohup {{sleep}} {_QUIET} &", storm=24, alone=True),
)
