"""The test bed keeps its promises: hosts are whole, apart from each other and the machine, and never stay behind."""

import glob
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from tests.hosts import cache, cleanup, root, tools
from tests.hosts.errors import HostFailed
from tests.hosts.fallback import NamespaceHost
from tests.hosts.machine import Host
from tests.hosts.plugin import HostFactory
from tests.hosts.shell import CommandFailed
from tests.hosts.snapshot import differences

REPOSITORY = Path(__file__).resolve().parents[2]
GONE_S = 10.0

# A test run of its own: boots a host, says what it is called, and waits to be ended.
OWNER = """
import sys, time
from tests.hosts.fallback import NamespaceHost
from tests.hosts.machine import Host
host = {"nspawn": Host, "namespaces": NamespaceHost}[sys.argv[1]].boot()
print(host.id, host.interface, host.leader, host._supervisor.pid, flush=True)
time.sleep(600)
"""


class Owner:
    """A process which owns one host."""

    def __init__(self, kind: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", OWNER, kind], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.end()
            pytest.fail("the owner booted no host")
        self.id, self.interface, leader, supervisor = line.split()
        self.leader, self.supervisor = int(leader), int(supervisor)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def owner() -> Iterator[Owner]:
    made = Owner("nspawn")
    yield made
    made.end()


def traces(name: str, interface: str) -> list[str]:
    """Whatever on this machine bears the name of a host, or its interface."""
    found = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if name in line]
    # Not Path.glob, which in Python 3.11 fails when a folder goes while it looks.
    found += glob.glob(f"/sys/fs/cgroup/**/{name}*", recursive=True)  # noqa: PTH207
    found += [str(path) for path in cache.run_folder().glob(f"{name}*")]
    found += [str(path) for path in Path("/sys/class/net").glob(interface)]
    return found


def alive(pid: int) -> bool:
    """Whether that process runs; a dead one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def add_user(host: Host, name: str, key: Path, uid: int | None = None) -> None:
    number = f"--uid {uid}" if uid else ""
    host.run(f"useradd --create-home --shell /bin/bash {number} {name}")
    host.run(f"install -d -m 700 -o {name} -g {name} /home/{name}/.ssh")
    host.write(f"/home/{name}/.ssh/authorized_keys", key.with_suffix(".pub").read_bytes(), owner=f"{name}:{name}")


def run_listing() -> set[str]:
    """The paths in the machine's /run where a host, or what starts it, could leave something."""
    names = (
        "systemd", "user", "userdb", "sshd", "netns", "mount", "lock", "tidegate", "nologin", "utmp", "credentials",
    )  # fmt: skip
    return {path for name in names for path in glob.glob(f"/run/{name}/**", recursive=True)}  # noqa: PTH207


@pytest.mark.host
def test_a_host_is_a_whole_debian_in_seconds() -> None:
    started = time.monotonic()
    with Host.boot(name="whole") as host:
        assert time.monotonic() - started < 10
        assert host.run("systemctl is-system-running").stdout.strip() == "running"
        assert host.run("hostname").stdout.strip() == "whole"
        active = ["systemd-logind", "systemd-journald", "dbus", "ssh", "cron", "atd"]
        assert host.run(["systemctl", "is-active", *active]).stdout.split() == ["active"] * len(active)
        assert Path(f"/proc/{host.leader}/comm").read_text().strip() == "systemd"
        assert "NSpid" in Path(f"/proc/{host.leader}/status").read_text()
        assert "Server listening" in host.journal("ssh")
        assert host.run("id root", env={"EXTRA": "1"}).returncode == 0


@pytest.mark.host(everywhere=True)
def test_the_host_is_of_its_suite(shared_host: Host, suite: str) -> None:
    assert shared_host.run("cut -d' ' -f3 /etc/apt/sources.list").stdout.split() == [suite]


@pytest.mark.host
def test_a_user_logs_in_by_key_over_the_network(shared_host: Host, ssh_key: Path) -> None:
    add_user(shared_host, "walter", ssh_key)
    done = shared_host.ssh("walter", ssh_key, "id -un; cat /proc/self/cgroup; echo $XDG_SESSION_ID")
    name, *cgroups, session = done.stdout.split()
    assert (done.returncode, name) == (0, "walter")
    assert any("/user.slice/user-" in line for line in cgroups)
    assert session
    assert shared_host.ssh("walter", ssh_key, "exit 7").returncode == 7
    assert shared_host.ssh("walter", ssh_key, "cat", input="by stdin").stdout == "by stdin"


@pytest.mark.host
def test_a_user_without_the_key_is_refused(shared_host: Host, ssh_key: Path) -> None:
    refused = shared_host.ssh("root", ssh_key, "true")
    assert refused.returncode == 255
    assert "Permission denied" in refused.stderr
    assert shared_host.ssh("root", None, "true").returncode == 255


@pytest.mark.host
def test_a_user_logs_in_with_paramiko(shared_host: Host, ssh_key: Path) -> None:
    add_user(shared_host, "paula", ssh_key)
    with shared_host.paramiko("paula", ssh_key) as client:
        assert client.exec_command("id -un")[1].read().decode().strip() == "paula"
    with pytest.raises(paramiko.AuthenticationException):
        shared_host.paramiko("root", ssh_key)


@pytest.mark.host
def test_run_is_root_outside_every_session(shared_host: Host) -> None:
    cgroup = shared_host.run("grep ^0:: /proc/self/cgroup").stdout
    assert cgroup.startswith("0::/system.slice/outside-")
    assert shared_host.run("cat /proc/self/loginuid").stdout == "4294967295"
    assert shared_host.run(["cat"], input="ünïcode").stdout == "ünïcode"
    assert shared_host.run("echo $HOME $LANG $X", env={"X": "more"}).stdout.split() == ["/root", "C.UTF-8", "more"]
    assert shared_host.run("exit 3", check=False).returncode == 3
    with pytest.raises(CommandFailed, match="the reason"):
        shared_host.run("echo the reason >&2; exit 1")


@pytest.mark.host
def test_run_kills_all_it_started_when_it_takes_too_long(shared_host: Host) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        shared_host.run("setsid sleep 4242 & sleep 4242", timeout=0.5)
    assert shared_host.run("pgrep -fc '^sleep 424[2]'", check=False).stdout.strip() == "0"


@pytest.mark.host
def test_no_host_can_set_the_machines_clock(shared_host: Host) -> None:
    set_to_now = "import time; time.clock_settime(time.CLOCK_REALTIME, time.time())"  # harmless, should it be let through
    assert "PermissionError" in shared_host.run(["python3", "-c", set_to_now], check=False).stderr
    unit = ["systemd-run", "--wait", "--pipe", "--quiet", "python3", "-c", set_to_now]
    assert "PermissionError" in shared_host.run(unit, check=False).stderr


@pytest.mark.host
def test_popen_runs_beside_the_test(shared_host: Host) -> None:
    with shared_host.popen("read line; echo got $line") as process:
        assert process.communicate("it\n", timeout=10)[0] == "got it\n"


@pytest.mark.host
def test_files_go_in_whole_and_come_out_the_same(shared_host: Host, tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    shared_host.write("/srv/data", data, mode=0o640, owner="0:4")
    assert shared_host.read("/srv/data") == data
    assert shared_host.run("stat -c '%a %u %g' /srv/data; ls -A /srv").stdout.split() == ["640", "0", "4", "data"]
    with pytest.raises(FileNotFoundError):
        shared_host.read("/srv/none")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "script").write_text("#!/bin/sh\necho pushed\n")
    (tmp_path / "folder" / "script").chmod(0o755)
    shared_host.push(tmp_path / "folder", "/opt/deep/copy")
    assert shared_host.run(["/opt/deep/copy/script"]).stdout == "pushed\n"


@pytest.mark.host
def test_a_snapshot_sees_every_kind_of_change(host: Host) -> None:
    host.run("mkdir /srv/a; echo one > /srv/a/changed; touch /srv/a/gone /srv/a/mode; ln -s x /srv/a/link")
    before = host.snapshot(["/srv"])
    assert differences(before, host.snapshot(["/srv"])) == []
    host.run("cd /srv/a; echo two > changed; rm gone; chmod 600 mode; ln -sfn y link; mkfifo new; chown 5 /srv")
    changes = differences(before, host.snapshot(["/srv"]))
    assert [line.split()[:2] for line in changes] == [
        ["gone:", "/srv/a/gone"],
        ["new:", "/srv/a/new"],
        ["changed:", "/srv:"],
        ["changed:", "/srv/a/changed:"],
        ["changed:", "/srv/a/link:"],
        ["changed:", "/srv/a/mode:"],
    ]


@pytest.mark.host
def test_wait_for_gives_up(shared_host: Host) -> None:
    assert shared_host.wait_for(lambda: "value") == "value"
    with pytest.raises(HostFailed, match="never"):
        shared_host.wait_for(lambda: False, timeout=0.1, what="never")


@pytest.mark.host
@pytest.mark.parametrize("clean", [True, False])
def test_a_reboot_keeps_files_and_forgets_run(host: Host, clean: bool) -> None:
    host.run("echo kept > /etc/kept; mkdir /run/userdb; echo lost > /run/userdb/lost")
    leader, boots = host.leader, host.run("journalctl --list-boots | wc -l").stdout
    host.reboot(clean=clean)
    assert host.leader != leader
    assert host.read("/etc/kept") == b"kept\n"
    assert host.run("test -e /run/userdb/lost", check=False).returncode == 1
    assert int(host.run("journalctl --list-boots | wc -l").stdout) == int(boots) + 1
    assert ("Reached target" in host.run("journalctl -b -1").stdout.rpartition("shutdown.target")[0]) is clean


@pytest.mark.host
def test_five_hosts_boot_side_by_side() -> None:
    started = time.monotonic()
    hosts = Host.boot_many(5)
    try:
        assert time.monotonic() - started < 20
        assert len({host.address for host in hosts}) == 5
        assert len({host.read("/etc/machine-id") for host in hosts}) == 5
        assert {host.run("systemctl is-active ssh").stdout for host in hosts} == {"active\n"}
    finally:
        for host in hosts:
            host.stop()
    assert [trace for host in hosts for trace in traces(host.id, host.interface)] == []


@pytest.mark.host
def test_killing_a_users_slice_on_one_host_spares_the_same_uid_on_another(host_factory: HostFactory, ssh_key: Path) -> None:
    hosts = [host_factory(), host_factory()]
    sessions = []
    for host in hosts:
        add_user(host, "alice", ssh_key, uid=70001)
        argv = host.ssh_argv("alice", ssh_key, "echo in; read line; echo $line")
        sessions.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    try:
        assert [session.stdout.readline() for session in sessions if session.stdout] == ["in\n", "in\n"]
        hosts[0].run("echo 1 > /sys/fs/cgroup/user.slice/user-70001.slice/cgroup.kill")
        assert sessions[0].wait(timeout=10) != 0
        assert sessions[1].communicate("still here\n", timeout=10)[0] == "still here\n"
        assert sessions[1].returncode == 0
    finally:
        for session in sessions:
            session.kill()
            session.communicate()


FORK_LOOP = """
import os, time
for n in range(400):
    try:
        if os.fork() == 0:
            os.close(1)
            os.close(2)
            time.sleep(60)
            os._exit(0)
    except BlockingIOError:
        break
print(n)
"""


@pytest.mark.host
def test_a_fork_loop_stops_at_the_hosts_bound(host_factory: HostFactory) -> None:
    host = host_factory(pids_max=150)
    # Bounded by itself too: 400 children that sleep are no danger to the machine, should the bound not hold.
    done = host.run(["python3", "-c", FORK_LOOP])
    assert 50 < int(done.stdout) < 150


# In a network namespace of its own which forwards, as a machine with containers does: this one must not be changed.
NEIGHBOURS = """
from pathlib import Path
from tests.hosts.machine import Host
Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
connect = "import socket,sys; socket.create_connection((sys.argv[1], 22), timeout=1).recv(4)"
def open_route(host):
    head, _, last = host.address.rpartition(".")
    host.run(f"ip route add default via {head}.{int(last) - 1}")
with Host.boot() as first, Host.boot() as second:
    def reaches(address):
        return first.run(["python3", "-c", connect, address], check=False).returncode == 0
    print(len(first.run("ip -4 route").stdout.splitlines()), reaches(first.address), reaches(second.address))
    open_route(first)
    open_route(second)
    print(reaches(second.address))
    for host in (first, second):
        Path(f"/proc/sys/net/ipv4/conf/{host.interface}/forwarding").write_text("1")
    print(reaches(second.address))
"""


@pytest.mark.host
def test_a_host_reaches_its_machine_and_nothing_else() -> None:
    argv = ["unshare", "--net", sys.executable, "-c", NEIGHBOURS]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=REPOSITORY, check=False, timeout=120)
    # Not without a route, and not with one; only where the machine's own end of the pair is opened by hand.
    assert done.stdout.splitlines() == ["1 True False", "False", "True"], done.stderr


@pytest.mark.host
def test_a_stopped_host_leaves_nothing_on_the_machine() -> None:
    before = run_listing()
    with Host.boot() as host:
        leader = host.leader
        assert alive(leader)
        assert len(traces(host.id, host.interface)) > 3
    assert traces(host.id, host.interface) == []
    assert not alive(leader)
    assert not host.running
    assert run_listing() == before
    host.stop()  # once more does no harm


@pytest.mark.host
def test_a_host_whose_preparation_fails_leaves_nothing() -> None:
    trees: list[Path] = []

    def prepare(root: Path) -> None:
        assert (root / "etc/os-release").exists()
        trees.append(root)
        raise RuntimeError("by the test")

    with pytest.raises(RuntimeError, match="by the test"):
        Host.boot(prepare=prepare)
    assert not trees[0].parent.exists()
    assert str(trees[0]) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.host
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_leaves_nothing(owner: Owner, number: signal.Signals) -> None:
    assert traces(owner.id, owner.interface)
    owner.process.send_signal(number)
    owner.process.wait(timeout=20)
    assert tools.wait_until(lambda: not traces(owner.id, owner.interface), GONE_S), traces(owner.id, owner.interface)
    assert not alive(owner.leader)


@pytest.mark.host
def test_with_its_supervisor_killed_too_the_processes_end_and_the_next_run_sweeps(owner: Owner) -> None:
    os.kill(owner.supervisor, signal.SIGKILL)
    owner.process.kill()
    assert tools.wait_until(lambda: not alive(owner.leader), GONE_S)
    assert tools.wait_until(lambda: not Path("/sys/class/net", owner.interface).exists(), GONE_S)
    assert owner.id in cleanup.sweep()
    assert traces(owner.id, owner.interface) == []


@pytest.mark.host
def test_a_sweep_spares_a_living_run(owner: Owner) -> None:
    assert owner.id not in cleanup.sweep()
    assert owner.process.poll() is None
    assert alive(owner.leader)
    assert traces(owner.id, owner.interface)


@pytest.mark.host(kinds=("nspawn", "namespaces"))
def test_the_fallback_is_a_host_to_log_in_to_that_changes_nothing_here(ssh_key: Path) -> None:
    tools.need(*NamespaceHost.programs)  # a package brings its users to this machine, and none of that is the host's doing
    before = run_listing()
    users = Path("/etc/passwd").read_bytes()
    with NamespaceHost.boot(name="fallback") as host:
        add_user(host, "nora", ssh_key)
        host.write("/etc/sudoers.d/nora", "nora ALL=(root) NOPASSWD: /usr/bin/id\n", mode=0o440)
        done = host.ssh("nora", ssh_key, "hostname; sudo -n id -u; sudo -n true")
        assert done.stdout.split() == ["fallback", "0"], done
        assert done.returncode != 0
        with host.paramiko("nora", ssh_key) as client:
            assert client.exec_command("cat /etc/hostname")[1].read() == b"fallback\n"
        assert host.run("ps -e -o comm= | sort -u").stdout.split().count("sshd") == 1
        assert "Accepted publickey for nora" in host.journal()
        set_to_now = "import time; time.clock_settime(time.CLOCK_REALTIME, time.time())"
        assert "PermissionError" in host.run(["python3", "-c", set_to_now], check=False).stderr
        assert host.run("echo 0 > /proc/sys/net/ipv4/ip_forward", check=False).returncode != 0
        for place in ("/etc", "/run", "/var", "/home", "/root", "/tmp", "/usr/lib", "/opt"):
            host.write(f"{place}/tidegate-bed-probe", "x")
            assert not Path(place, "tidegate-bed-probe").exists()
        before_reboot = host.snapshot(["/run"])
        assert "/run/tidegate-bed-probe" in before_reboot
        host.reboot()
        assert "/run/tidegate-bed-probe" not in host.snapshot(["/run"])
        assert host.run("test -e /opt/tidegate-bed-probe").returncode == 0
    assert traces(host.id, host.interface) == []
    assert run_listing() == before
    assert Path("/etc/passwd").read_bytes() == users


@pytest.mark.host(kinds=("nspawn", "namespaces"))
def test_a_killed_run_leaves_nothing_of_the_fallback() -> None:
    made = Owner("namespaces")
    try:
        assert traces(made.id, made.interface)
        made.process.kill()
        assert tools.wait_until(lambda: not traces(made.id, made.interface), GONE_S), traces(made.id, made.interface)
        assert not alive(made.leader)
    finally:
        made.end()


NO_HOSTS = """
import pytest
@pytest.mark.host
def test_needs_a_host(): raise AssertionError("must not run")
def test_needs_none(): pass
"""


def pytest_without_hosts(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_sample.py").write_text(NO_HOSTS)
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.hosts.plugin",
        "-p",
        "no:cacheprovider",
        "-c",
        "pyproject.toml",
    ]
    return subprocess.run(
        [*argv, "--rootdir", str(folder), str(folder)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
        timeout=120,
        env={**os.environ, "TIDEGATE_TEST_HOSTS": "none", **environment},
    )


def test_without_hosts_the_summary_says_how_many_tests_did_not_run(tmp_path: Path) -> None:
    done = pytest_without_hosts(tmp_path, TIDEGATE_REQUIRE_HOSTS="")
    assert done.returncode == 0, done.stdout
    assert "host tests not run: 1 (TIDEGATE_TEST_HOSTS=none)" in done.stdout
    assert "1 passed, 1 deselected" in done.stdout


def test_where_hosts_are_required_their_lack_is_a_failure(tmp_path: Path) -> None:
    done = pytest_without_hosts(tmp_path, TIDEGATE_REQUIRE_HOSTS="1")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout
    assert "1 host tests cannot run" in done.stderr


def test_more_packages_leave_the_cached_root_alone(host_factory: HostFactory) -> None:
    base = root.ensure(root.chosen())
    host = host_factory(packages=("git",))
    assert host.run("git --version").stdout.startswith("git version")
    assert root.ensure(root.chosen()) == base and not (base / "usr/bin/git").exists()
