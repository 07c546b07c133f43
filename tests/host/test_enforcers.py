"""The enforcers on a whole Debian host: real sshd, sudo and NSS judge what was written."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.scene import sleep_until
from tests.hosts.machine import Host

pytestmark = pytest.mark.host(beside=True)
REPOSITORY = Path(__file__).resolve().parents[2]
LOGIN = "jit-alice"
SFTP = "/usr/lib/openssh/sftp-server"


def install(root: Path) -> None:
    """The two packages, the tenants' shell and group, as the package will place them."""
    home = root / "usr/lib/tidegate"
    home.mkdir(parents=True)
    for package in ("agent", "enforcers"):
        shutil.copytree(REPOSITORY / package, home / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "agent/sessions/shell.py", home / "tidegate-shell")
    (home / "tidegate-shell").chmod(0o755)
    shutil.copy(REPOSITORY / "tests/host/enforcer_driver.py", root / "root/driver.py")
    with (root / "etc/shells").open("a") as shells:
        shells.write("/usr/lib/tidegate/tidegate-shell\n")
    subprocess.run(["chroot", str(root), "groupadd", "--system", "tidegate-tenants"], check=True)
    subprocess.run(["chroot", str(root), "useradd", "-m", "deploy"], check=True)
    subprocess.run(["chroot", str(root), "groupadd", "web"], check=True)
    subprocess.run(["chroot", str(root), "useradd", "--system", "app"], check=True)


def without_userdb(root: Path) -> None:
    """The same on a host whose NSS does not know userdb records."""
    install(root)
    path = root / "etc/nsswitch.conf"
    path.write_text("\n".join(line.replace(" systemd", "") for line in path.read_text().splitlines()) + "\n")


def drive(host: Host, do: str, **order: Any) -> dict[str, Any]:
    done = host.run(["python3", "-I", "/root/driver.py"], input=json.dumps({"do": do, **order}))
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module", params=["userdb", "passwd"])
def prepared(request: pytest.FixtureRequest, suite: str) -> Iterator[Host]:
    with Host.boot(suite=suite, prepare=install if request.param == "userdb" else without_userdb) as host:
        answer = drive(host, "prepare")
        assert "code" not in answer, answer
        assert answer["backend"] == request.param
        yield host


@pytest.fixture
def opened(prepared: Host, ssh_key: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Opens a grant for jit-alice with these actions and more bodies; closed after the test."""
    live: list[dict[str, Any]] = []
    key = ssh_key.with_suffix(".pub").read_text().strip()

    def open_grant(*more: dict[str, Any], actions: tuple[str, ...] = ("login", "exec"), **ssh: Any) -> dict[str, Any]:
        bodies = [
            {"type": "account", "identifier": LOGIN, "full_name": "Alice Ng", "groups": ["web"]},
            {"type": "ssh", "identifier": LOGIN, "keys": [key], "actions": list(actions), **ssh},
            *more,
        ]
        answer = drive(prepared, "open", bodies=bodies, jti=f"t{time.monotonic_ns()}", uid=70001 + len(live))
        assert "code" not in answer, answer
        live.append(answer)
        return answer

    yield open_grant
    for answer in live:
        closed = drive(prepared, "close", steps=answer["steps"], phases=["close", "remove"])
        assert (closed["failed"], closed["residue"]) == ([], [])


@pytest.mark.host(everywhere=True)
def test_a_grant_opens_a_login_and_leaves_etc_byte_identical(prepared: Host, ssh_key: Path) -> None:
    before = prepared.snapshot(["/etc", "/home", "/var/lib/tidegate"])
    key = ssh_key.with_suffix(".pub").read_text().strip()
    bodies = [
        {"type": "account", "identifier": LOGIN, "groups": ["web"]},
        {"type": "ssh", "identifier": LOGIN, "keys": [key]},
        {"type": "sudo", "identifier": LOGIN, "run_as": ["app", "root"], "commands": ["/usr/bin/id", "/usr/bin/ls -d /root"]},
        {"type": "group", "identifier": "deploy", "groups": ["web"]},
    ]
    dry = drive(prepared, "open", bodies=bodies, jti="whole", uid=70001, dry=True)
    assert "code" not in dry
    assert prepared.snapshot(["/etc", "/home", "/var/lib/tidegate"]) == before
    answer = drive(prepared, "open", bodies=bodies, jti="whole", uid=70001)
    assert "code" not in answer, answer
    tried = "id -nG; echo $SHELL; sudo -n /usr/bin/id -u; sudo -n /usr/bin/id | head -c 5; sudo -n -u app /usr/bin/id | head -c 4; "
    done = prepared.ssh(LOGIN, ssh_key, tried + "sudo -n /usr/bin/ls -d /root; sudo -n /usr/bin/ls -d /etc; sudo -n /bin/sh")
    groups, shell, *sudo = done.stdout.splitlines()
    assert set(groups.split()) == {LOGIN, "web", "tidegate-tenants"}
    assert shell == "/bin/bash"
    assert sudo == ["uid=0uid=/root"], done
    assert "web" in prepared.run(["id", "-nG", "deploy"]).stdout.split()
    assert "web" in prepared.run(["su", "deploy", "-c", "id -nG"]).stdout.split()
    closed = drive(prepared, "close", steps=answer["steps"], phases=["close"])
    assert closed["failed"] == []
    assert prepared.ssh(LOGIN, ssh_key, "id").returncode == 255
    assert "web" not in prepared.run(["id", "-nG", "deploy"]).stdout.split()
    assert LOGIN not in prepared.run(["sudo", "-l", "-U", LOGIN], check=False).stdout.split("not allowed")[-1]
    closed = drive(prepared, "close", steps=answer["steps"], phases=["remove"])
    assert (closed["failed"], closed["residue"]) == ([], [])
    assert prepared.run(["getent", "passwd", LOGIN], check=False).returncode == 2
    assert prepared.snapshot(["/etc", "/home", "/var/lib/tidegate"]) == before


@pytest.mark.host(everywhere=True)
@pytest.mark.parametrize("action", ["login", "exec", "sftp"])
def test_each_action_is_given_alone(prepared: Host, opened: Callable[..., Any], ssh_key: Path, action: str) -> None:
    opened(actions=(action,))
    command = prepared.ssh(LOGIN, ssh_key, "echo ran")
    hidden = prepared.ssh(LOGIN, ssh_key, f"{SFTP}; echo ran")
    shell = prepared.ssh(LOGIN, ssh_key, options=("-tt",), input="echo a$((6*7))b; exit\n")
    argv = [word if word != "ssh" else "sftp" for word in prepared.ssh_argv(LOGIN, ssh_key)]
    argv = [*argv[: argv.index("-l")], "-b", "-", f"{LOGIN}@{prepared.address}"]
    sftp = subprocess.run(argv, input="pwd\n", capture_output=True, text=True, check=False)
    assert ("ran" in command.stdout) == (action == "exec")
    assert ("ran" in hidden.stdout) == (action == "exec")
    assert ("a42b" in shell.stdout) == (action == "login")
    assert (sftp.returncode == 0) == (action in {"sftp", "exec"})


@pytest.mark.host(everywhere=True)
def test_port_forwarding_is_refused_unless_given(prepared: Host, opened: Callable[..., Any], ssh_key: Path) -> None:
    opened()
    assert _forwards(prepared, ssh_key) is False


@pytest.mark.host(everywhere=True)
def test_port_forwarding_is_given(prepared: Host, opened: Callable[..., Any], ssh_key: Path) -> None:
    opened(actions=("exec", "port-forwarding"))
    assert _forwards(prepared, ssh_key) is True


def _forwards(host: Host, key: Path) -> bool:
    """Whether ``ssh -W`` to the host's own sshd says its banner."""
    argv = host.ssh_argv(LOGIN, key, options=("-W", "127.0.0.1:22"))
    done = subprocess.run(argv, input="x\n", capture_output=True, text=True, timeout=10, check=False)
    return done.stdout.startswith("SSH-2.0")


def test_a_source_address_that_is_not_the_clients_is_refused(prepared: Host, opened: Callable[..., Any], ssh_key: Path) -> None:
    opened(source_address=["203.0.113.0/24"])
    assert prepared.ssh(LOGIN, ssh_key, "id").returncode == 255


@pytest.mark.host(everywhere=True)
def test_certificates_are_taken_by_principal_and_only_with_the_ca_of_the_host(
    prepared: Host, opened: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("ca", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    sign = ["ssh-keygen", "-q", "-s", str(tmp_path / "ca"), "-I", "id", "-n", "alice@example.com", str(tmp_path / "user.pub")]
    subprocess.run(sign, check=True)
    prepared.run("mkdir -p /etc/tidegate")
    prepared.write("/etc/tidegate/ssh_user_ca.pub", (tmp_path / "ca.pub").read_text())
    opened(principals=["alice@example.com"])
    assert prepared.ssh(LOGIN, tmp_path / "user", "echo in").stdout == "in\n"
    assert prepared.ssh(LOGIN, tmp_path / "user", "tty", options=("-tt",)).stdout.startswith("/dev/pts")
    prepared.run(["rm", "/etc/tidegate/ssh_user_ca.pub"])  # hot: no reload
    assert prepared.ssh(LOGIN, tmp_path / "user", "echo in").returncode == 255


def test_a_tenants_own_keys_open_nothing_even_while_the_doors_close(
    prepared: Host, opened: Callable[..., Any], ssh_key: Path, tmp_path: Path
) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "own")], check=True)
    answer = opened()
    own = (tmp_path / "own.pub").read_text()
    planted = prepared.ssh(LOGIN, ssh_key, f"mkdir -m 700 .ssh && echo '{own}' > .ssh/authorized_keys && echo planted")
    assert planted.stdout == "planted\n"
    assert prepared.ssh(LOGIN, tmp_path / "own", "id").returncode == 255
    drive(prepared, "close", steps=answer["steps"], phases=["close"])
    assert prepared.ssh(LOGIN, tmp_path / "own", "id").returncode == 255


def test_nothing_of_the_tenants_runs_before_the_tenants_shell(prepared: Host, opened: Callable[..., Any], ssh_key: Path) -> None:
    """~/.pam_environment would preload a library into tidegate-shell, ~/.bashrc and ~/.ssh/rc would run before it."""
    opened(actions=("exec",))
    plant = (
        "printf 'LD_PRELOAD=/home/jit-alice/x.so\\nLD_AUDIT=x\\nGCONV_PATH=/home/jit-alice\\nMARK=seen\\n' > .pam_environment; "
        "mkdir -p .ssh; echo 'touch ~/sshrc-was-run' > .ssh/rc; echo 'touch ~/bashrc-was-run' > .bashrc"
    )
    assert prepared.ssh(LOGIN, ssh_key, plant).returncode == 0
    done = prepared.ssh(LOGIN, ssh_key, "env; ls -A")
    assert "LD_" not in done.stdout
    assert "GCONV_PATH" not in done.stdout
    assert "preload" not in done.stderr
    assert "sshrc-was-run" not in done.stdout
    client = prepared.ssh(LOGIN, ssh_key, "env", options=("-o", "SetEnv=LD_PRELOAD=x BASH_ENV=y FOO=z"))
    assert not {"LD_PRELOAD=x", "BASH_ENV=y", "FOO=z"} & set(client.stdout.splitlines())


@pytest.mark.host(everywhere=True)
def test_a_key_line_is_over_on_the_second_with_nobody_there(prepared: Host, ssh_key: Path) -> None:
    key = ssh_key.with_suffix(".pub").read_text().strip()
    bodies = [
        {"type": "account", "identifier": LOGIN},
        {"type": "ssh", "identifier": LOGIN, "keys": [key], "actions": ["exec"]},
        {"type": "sudo", "identifier": LOGIN, "commands": ["/usr/bin/id"]},
    ]
    exp = int(time.time()) + 8
    answer = drive(prepared, "open", bodies=bodies, jti="short", uid=70001, exp=exp)
    assert "code" not in answer, answer
    assert prepared.ssh(LOGIN, ssh_key, "sudo -n /usr/bin/id").returncode == 0
    sleep_until(exp + 0.05)
    assert prepared.ssh(LOGIN, ssh_key, "id").returncode == 255
    assert prepared.run(["su", LOGIN, "-s", "/bin/sh", "-c", "sudo -n /usr/bin/id"], check=False).returncode != 0
    assert drive(prepared, "close", steps=answer["steps"], phases=["close", "remove"])["failed"] == []


@pytest.mark.parametrize(
    ("name", "text", "keyword"),
    [
        ("00-admin.conf", "Match User jit-*\n  AuthorizedKeysFile .ssh/authorized_keys\n", "AuthorizedKeysFile"),
        ("10-all.conf", "Match All\n  PasswordAuthentication yes\n", "PasswordAuthentication"),
        (
            "49-x.conf",
            "Match Group *\n  AuthorizedKeysCommand /bin/true\n  AuthorizedKeysCommandUser nobody\n",
            "AuthorizedKeysCommand",
        ),
    ],
)
def test_another_door_in_sshds_configuration_is_found_before_a_key_is_placed(
    prepared: Host, ssh_key: Path, name: str, text: str, keyword: str
) -> None:
    before = prepared.snapshot(["/etc"])
    prepared.write(f"/etc/ssh/sshd_config.d/{name}", text)
    key = ssh_key.with_suffix(".pub").read_text().strip()
    bodies = [{"type": "account", "identifier": LOGIN}, {"type": "ssh", "identifier": LOGIN, "keys": [key]}]
    answer = drive(prepared, "open", bodies=bodies, jti="conflict", uid=70001)
    assert answer["code"] == "sshd_conflict"
    assert keyword in answer["reason"]
    assert drive(prepared, "close", steps=answer["steps"], phases=["close", "remove"])["failed"] == []
    prepared.run(["rm", f"/etc/ssh/sshd_config.d/{name}"])
    assert prepared.snapshot(["/etc"]) == before


def test_preparing_again_changes_nothing(prepared: Host) -> None:
    before = prepared.snapshot(["/etc", "/run/tidegate", "/run/userdb"])
    assert "code" not in drive(prepared, "prepare")
    assert prepared.snapshot(["/etc", "/run/tidegate", "/run/userdb"]) == before


def test_preparing_is_taken_back_where_the_host_does_not_read_it() -> None:
    with Host.boot(prepare=install) as host:
        before = host.snapshot(["/etc"])
        host.run("sed -i 's/^Include/#Include/' /etc/ssh/sshd_config; sed -i 's/^@includedir/#&/' /etc/sudoers")
        changed = host.snapshot(["/etc"])
        assert changed != before
        assert drive(host, "prepare")["code"] == "sshd_conflict"
        assert host.snapshot(["/etc"]) == changed
        host.run("sed -i 's/^#Include/Include/' /etc/ssh/sshd_config")
        assert drive(host, "prepare")["code"] == "sudoers_unreached"
        host.run("sed -i 's/^#@includedir/@includedir/' /etc/sudoers; rm /etc/ssh/sshd_config.d/50-tidegate.conf")
        assert host.snapshot(["/etc"]) == before
        host.run("echo 'broken {' > /etc/sudoers.d/zz-broken; chmod 440 /etc/sudoers.d/zz-broken")
        assert "code" not in drive(host, "prepare")
        assert "Received SIGHUP" in host.run(["journalctl", "-u", "ssh.service", "--no-pager"]).stdout
