"""Groups and commands that amount to root, with why; written from what each program offers, in our own words.

A policy may still allow them, by its own explicit line (``privileged_groups``, ``root_equivalent``). The table errs towards
calling a command root-equivalent: that costs an admin one line, the other mistake costs the host. A program it does not know
is taken for harmless unless it lies in, or is pointed at, a folder that users can write to: the admin's exact command list is
the first ceiling, this table only the second.
"""

import re
from collections.abc import Collection, Sequence
from functools import lru_cache

from agent.policy.programs import ANYTHING, PLAIN_OPTIONS, PROGRAMS, RESTRICTED, SAFE_SYSTEMCTL_OPTIONS, SAFE_UNIT_VERBS

PRIVILEGED_GROUPS = {
    "root": "owns much of the system",
    "sudo": "may run anything as root",
    "wheel": "may run anything as root",
    "admin": "may run anything as root on older Ubuntu",
    "sudoers": "may run anything as root where sudoers names it",
    "docker": "may start a container that mounts the host",
    "podman": "may start containers as root where the socket is shared",
    "lxd": "may start a container that mounts the host",
    "lxc": "may start a container that mounts the host",
    "incus": "may start containers",
    "incus-admin": "may start a container that mounts the host",
    "libvirt": "may attach the host's disks to a virtual machine",
    "libvirt-qemu": "may read and write virtual machines' disks",
    "kvm": "may use the virtualisation device, and with it attack the kernel",
    "disk": "may read and write raw disks",
    "shadow": "may read password hashes",
    "kmem": "may read the kernel's memory",
    "mem": "may read the kernel's memory",
    "adm": "may read the system's logs, with what secrets they hold",
    "systemd-journal": "may read every service's log",
    "staff": "may write /usr/local, which root's PATH begins with",
    "src": "may change source that root may build",
    "tty": "may write to other users' terminals",
    "utmp": "may change who appears to be logged in",
    "video": "may read the console's screen",
    "input": "may read every keystroke of the console",
    "uinput": "may type as the console's user",
    "dialout": "may reach serial consoles",
    "netdev": "may change the network's configuration",
    "plugdev": "may mount removable disks",
    "operator": "may read raw disks or shut down",
    "backup": "may read what is backed up",
    "bin": "owns programs on some systems",
    "daemon": "shares files with system daemons",
    "sys": "shares files with system daemons",
    "crontab": "may read and write users' crontabs",
    "ssl-cert": "may read the host's private TLS keys",
    "ssh_keys": "may read the host's private SSH keys",
    "_ssh": "may trace ssh-agent",
    "wireshark": "may capture the host's traffic",
    "mysql": "may read databases' files",
    "postgres": "may read databases' files",
    "microk8s": "may start a container that mounts the host",
    "k3s": "may start a container that mounts the host",
    "messagebus": "may speak as the system bus",
    "polkitd": "may change what polkit allows",
}
_OWN = "belongs to Tidegate itself"

# Folders where somebody other than root can put a file.
_WRITABLE = (
    "/home", "/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/user", "/run/lock", "/var/lock", "/var/crash",  # noqa: S108 - named, not used
    "/mnt", "/media", "/run/media", "/var/spool/cron", "/var/mail", "/var/spool/mail",
)  # fmt: skip
_DEVICES = ("/dev", "/proc")
_HARMLESS = frozenset({"/dev/null", "/dev/stdin", "/dev/stdout", "/dev/stderr"})
_SECRETS = ("/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/sudoers.d", "/root", "/etc/ssh", "/etc/ssl/private",
            "/etc/tidegate", "/var/lib/tidegate", "/run/tidegate")  # fmt: skip
_TRUSTED = (
    "/boot", "/etc/apt", "/etc/cron.d", "/etc/cron.daily", "/etc/cron.hourly", "/etc/cron.monthly", "/etc/cron.weekly",
    "/etc/crontab", "/etc/group", "/etc/init.d", "/etc/ld.so.conf.d", "/etc/ld.so.preload", "/etc/pam.d", "/etc/passwd",
    "/etc/polkit-1", "/etc/profile", "/etc/profile.d", "/etc/systemd", "/etc/udev", "/lib/systemd", "/run/systemd",
    "/usr/lib/systemd",
)  # fmt: skip
_LOADER = re.compile(r"ld(?:-linux.*|-musl.*|64)?\.so.*|ld-[0-9.]+\.so")
_RUNNING_OPTIONS = frozenset({
    "-exec", "--exec", "-execdir", "--command", "--shell", "--rsh", "--pager", "--editor", "--modprobe", "--eval", "--to-command",
    "--use-compress-program", "--checkpoint-action", "--unzip-command", "--compress-program", "--up",
})  # fmt: skip
# Programs that come under several names: emacs-nox, vim.basic, python3.11-dbg, qemu-system-arm.
_FAMILIES = frozenset({
    "bash", "busybox", "dash", "emacs", "fsck", "gdb", "git", "grub", "ksh", "lua", "lxc", "mkfs", "mount", "nano", "nc",
    "netcat", "nvim", "perl", "php", "pypy", "python", "qemu", "rpm", "ruby", "ssh", "tclsh", "telnet", "tidegate", "umount",
    "vim", "wish", "zsh",
})  # fmt: skip
_PROGRAM_FOLDER = re.compile(r"(?:/usr(?:/local)?)?/s?bin/[^/]+")
_VERSION = re.compile(r"[-.]?[0-9][0-9.]*$")
_TRIPLET = re.compile(r"^(?:x86_64|aarch64|i[3-6]86|arm[a-z0-9]*|riscv64|powerpc64le|s390x)-(?:[a-z0-9]+-)*gnu[a-z0-9]*-")
_DANGEROUS_UNITS = ("debug-shell", "rescue", "emergency", "console-getty", "tidegate", "tidegated")


def privileged_group(name: str, extra: Collection[str] = ()) -> str | None:
    """Why membership of ``name`` needs the policy's explicit line, None when it does not. ``extra``: the host's own."""
    if name in extra:
        return "is privileged on this host (extra_privileged_groups)"
    if name == "tidegate" or name.startswith("tidegate-"):
        return _OWN
    return PRIVILEGED_GROUPS.get(name)


def root_equivalent(words: Sequence[str], extra: Collection[str] = ()) -> str | None:
    """Why the command ``words`` (the first its absolute path) amounts to root when run by sudo; None when it does not.

    ``extra``: program paths that are so on this host. ``run_as`` does not matter: what can run anything as another user can
    also leave something behind as that user.
    """
    if not words or not words[0].startswith("/") or words[0].endswith("/"):
        return "is not named by its absolute path"
    if words[0] in extra:
        return "is root-equivalent on this host (extra_root_equivalent)"
    if _inside(words[0], (*_WRITABLE, *_DEVICES)):
        return "lies in a folder that users can write to"
    return _by_table(tuple(words))


@lru_cache(maxsize=512)  # pure, and asked twice of each command: whether it may, and what to tell in the receipt
def _by_table(words: tuple[str, ...]) -> str | None:
    by_name = _by_name(words)
    return by_name if by_name is not None else _by_arguments(words)


def _by_name(words: Sequence[str]) -> str | None:
    base = words[0].rsplit("/", 1)[1]
    if _LOADER.fullmatch(base):
        return "is the dynamic loader, which runs any program"
    for name in _names(base):
        if name in {"systemctl", "service", "rc-service", "invoke-rc.d"}:
            return _unit_command(name, words[1:])
        if name in PLAIN_OPTIONS:
            return _plain_options(name, words[1:])
        if name in RESTRICTED:
            safe, reason = RESTRICTED[name]
            return None if _is_safe(words[1:], safe) else reason
        if name in PROGRAMS:
            return PROGRAMS[name]
    return None


def _names(base: str) -> list[str]:
    """The names a program may be known by: ``python3.11`` is ``python``, and of a family ``vim.basic`` is ``vim``."""
    found = base.lower()
    native = _TRIPLET.sub("", found)
    names = [found, native, _VERSION.sub("", native)]
    stem = _VERSION.sub("", re.split(r"[-.]", native, maxsplit=1)[0])
    return [*names, stem] if stem in _FAMILIES else names


def _is_safe(arguments: Sequence[str], safe: Collection[tuple[str, ...]]) -> bool:
    """Whether the arguments are one of the word sequences known to do no harm; see ``programs.RESTRICTED``."""
    for start in safe:
        fixed = start[:-1] if start[-1:] == (ANYTHING,) else start
        rest = arguments[len(fixed) :]
        if tuple(arguments[: len(fixed)]) != fixed or (not fixed and rest):
            continue
        if fixed != start or not any(word.startswith(("-", "+")) for word in rest):
            return True
    return False


def _plain_options(name: str, arguments: Sequence[str]) -> str | None:
    """Programs that are harmless with their plain options: see ``programs.PLAIN_OPTIONS``."""
    letters, long, needed, start, reason = PLAIN_OPTIONS[name]
    for word in arguments:
        if word.startswith("--"):
            plain = word.partition("=")[0] in long
        elif word.startswith("-"):
            plain = set(word[1:]) <= set(letters)
        else:
            plain = word.startswith(start)
        if not plain:
            return reason
    return None if needed <= set(arguments) else reason


def _unit_command(name: str, arguments: Sequence[str]) -> str | None:
    """systemctl and its like: verbs on named units are harmless; editing, linking and paging are not."""
    plain = [word for word in arguments if not word.startswith("-")]
    options = [word for word in arguments if word.startswith("-")]
    if name != "systemctl":
        plain = [plain[1], plain[0], *plain[2:]] if len(plain) >= 2 else plain
    if any(option not in SAFE_SYSTEMCTL_OPTIONS for option in options):
        return "takes an option that may act on another root, host or user"
    verb, units = (plain[0], plain[1:]) if plain else ("", [])
    if verb in {"", "status", "show", "list-units", "list-timers", "cat", "list-unit-files"}:
        if name == "systemctl" and "--no-pager" in options:
            return None if not any("/" in unit for unit in units) else "names a unit by its path"
        return "shows its output in a pager, which can run a shell (--no-pager avoids that)"
    if verb not in SAFE_UNIT_VERBS:
        return "can change units or systemd itself: only start, stop, restart, reload and queries are plain"
    for unit in units:
        if "/" in unit:
            return "names a unit by its path"
        if unit.partition(".")[0].partition("@")[0] in _DANGEROUS_UNITS:
            return f"acts on {unit[:64]}, which opens a root shell or is Tidegate itself"
    return None


def _by_arguments(words: Sequence[str]) -> str | None:
    for word in words[1:]:
        if word.partition("=")[0] in _RUNNING_OPTIONS:
            return f"takes {word[:40]}, which runs another program"
        for path in _paths(word):
            if path in _HARMLESS:
                continue
            if _inside(path, _WRITABLE):
                return f"is pointed at {path[:64]}, where users can write"
            if _inside(path, _DEVICES):
                return f"is pointed at {path[:64]}, a device or a process's own file"
            if _inside(path, _SECRETS):
                return f"is pointed at {path[:64]}, which holds the host's secrets or rules"
            if _inside(path, _TRUSTED):
                return f"is pointed at {path[:64]}, which root runs or believes"
            if _PROGRAM_FOLDER.match(path) and _names_program(path):
                return f"is given {path[:64]}, a program that it may run"
        if "tidegate" in word:
            return "acts on Tidegate itself"
    return None


def _paths(word: str) -> list[str]:
    """Every absolute path an argument may hold: all of it, after ``=``, ``:``, ``,`` or ``@``, or glued to a short option."""
    found = [part for part in re.split(r"[=:,@\s]", word) if part.startswith("/")]
    if re.match(r"-[A-Za-z0-9]/", word):
        found.append(word[2:])
    return [re.sub(r"/(?:\.?/)+", "/", path).rstrip("/") or "/" for path in found]


def _names_program(path: str) -> bool:
    return any(name in PROGRAMS for name in _names(path.rsplit("/", 1)[1]))


def _inside(path: str, folders: Collection[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)
