"""What amounts to root is recognised, and what does not is left alone."""

import shlex
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import RefusedError
from agent.policy.patterns import TicketPattern, command, name_pattern, ticket_pattern
from agent.policy.privileged import PRIVILEGED_GROUPS, privileged_group, root_equivalent

ROOT_EQUIVALENT = """
/bin/sh
/bin/bash -c id
/usr/bin/bash-static
/bin/busybox
/usr/bin/python3.11 /opt/x.py
/usr/bin/python3.11-dbg
/usr/bin/perl5.36.0
/usr/bin/x86_64-linux-gnu-gcc-12 a.c
/usr/bin/lua5.4
/usr/bin/vim.basic /etc/motd
/usr/bin/vim
/usr/bin/emacs-nox
/usr/bin/editor
/usr/bin/nano /etc/nginx/nginx.conf
/usr/bin/less /var/log/syslog
/usr/bin/man ls
/usr/bin/find / -name x
/usr/bin/tar -czf /backup/a.tgz /srv
/usr/bin/env
/usr/bin/xargs
/usr/bin/awk 1
/usr/bin/git pull
/usr/bin/systemctl
/usr/bin/systemctl edit nginx
/usr/bin/systemctl link /opt/x.service
/usr/bin/systemctl enable nginx
/usr/bin/systemctl set-environment A=b
/usr/bin/systemctl status nginx
/usr/bin/systemctl restart /opt/x.service
/usr/bin/systemctl --root=/srv restart nginx
/usr/bin/systemctl -H other restart nginx
/usr/bin/systemctl start debug-shell.service
/usr/bin/systemctl stop tidegated
/usr/bin/systemctl stop tidegate-recorder.service
/usr/sbin/service nginx status
/usr/bin/journalctl -u nginx
/usr/bin/mount /dev/sdb1
/usr/bin/cp a b
/usr/bin/tee /etc/motd
/usr/bin/dd if=a of=b
/usr/bin/chmod 644 a
/usr/bin/apt install nginx
/usr/bin/apt-get update -o APT::Update::Pre-Invoke::=id
/usr/bin/dpkg -l
/usr/bin/pip3 install x
/usr/bin/ssh host
/usr/bin/rsync a b
/usr/bin/docker run x
/usr/bin/docker exec web ls
/usr/bin/docker -H tcp://x ps
/usr/bin/podman run x
/usr/bin/crontab -l
/usr/sbin/useradd x
/usr/sbin/visudo
/usr/sbin/modprobe x
/usr/bin/gdb
/usr/bin/strace ls
/usr/bin/sudoedit /etc/motd
/usr/bin/su
/usr/sbin/ip netns exec a ls
/usr/sbin/sysctl -w kernel.core_pattern=x
/lib64/ld-linux-x86-64.so.2 /opt/x
/home/alice/run
/tmp/run
/dev/shm/run
/proc/self/cwd/run
/usr/bin/cat /etc/shadow
/usr/bin/cat /etc//shadow
/usr/bin/cat /etc/./shadow
/usr/bin/cat /root/.ssh/id_ed25519
/usr/bin/grep --file=/etc/shadow x
/usr/bin/head -c/etc/shadow
/usr/sbin/named -c /tmp/named.conf
/usr/bin/cat /dev/sda
/usr/bin/somewhat --exec=x
/usr/bin/pkill -9 tidegated
/usr/sbin/sysctl -n kernel.core_pattern=x
/usr/bin/networkctl --no-pager edit eth0
/usr/bin/dpkg-query -l
/usr/bin/mysqldump --result-file=/etc/cron.d/x db
/opt/wrapper --as root /bin/bash
/opt/wrapper --shell-is=/usr/bin/python3
/usr/bin/thing tidegate
/usr/sbin/nginx -c /opt/nginx.conf
/usr/bin/journalctl
/usr/bin/journalctl --no-pager --file=/srv/x.journal
/usr/bin/journalctl --no-pager --vacuum-size=1
/usr/bin/journalctl --no-pager -D /srv
/usr/bin/journalctl --no-pager -fD
/usr/bin/journalctl --no-pager --rotate
/usr/bin/journalctl -u nginx --pager
/usr/bin/ss -K
/usr/bin/ss -tD /srv/x
/usr/bin/date -s 12:00
/usr/bin/date --set=12:00
/usr/bin/date 010112002027
/usr/sbin/hwclock --hctosys
/usr/bin/chronyc makestep
/usr/bin/timedatectl set-time 12:00
/usr/bin/more /var/log/syslog
/usr/bin/most
/usr/bin/batcat /etc/motd
/usr/bin/view /etc/motd
/usr/bin/ed
/usr/bin/sed -i s/a/b/ /srv/x
/usr/bin/node
/usr/bin/ruby3.1
/usr/bin/nodejs /opt/x.js
/usr/bin/expect
/usr/bin/sqlite3 /srv/x.db
/usr/bin/mysql
/usr/bin/psql
/usr/bin/mongosh
/usr/bin/timeout 5 ls
/usr/bin/nice ls
/usr/bin/nohup ls
/usr/bin/stdbuf -o0 ls
/usr/bin/flock /srv/lock ls
/usr/bin/watch df
/usr/bin/top
/usr/bin/htop
/usr/bin/screen
/usr/bin/tmux
/usr/bin/script
/usr/bin/at now
/usr/bin/mv a b
/usr/bin/ln -s a b
/usr/bin/install a b
/usr/bin/chown alice a
/usr/bin/setfacl -m u:alice:rw a
/usr/sbin/tcpdump -i eth0
/usr/bin/nmap localhost
/usr/bin/curl -o a http://x
/usr/bin/wget http://x
/usr/bin/scp a b:
/usr/bin/gem install x
/usr/bin/npm install
/usr/bin/make
/usr/bin/zip a b
/usr/bin/unzip a
/usr/bin/gpg a
/usr/bin/openssl
/usr/bin/pkexec ls
/usr/bin/nsenter -t 1
/usr/bin/unshare
/usr/sbin/chroot /srv
/usr/bin/systemd-run ls
/usr/bin/run0
/usr/bin/sudo-rs
/usr/bin/su-rs
/usr/bin/sudo.ws
/usr/bin/sudoedit-rs /etc/motd
/usr/bin/visudo-rs
/usr/bin/varlinkctl call x y {}
/usr/bin/systemd-notify --exec
/usr/bin/systemd-pty-forward ls
/usr/bin/systemd-stdio-bridge
/usr/bin/systemd-mount /dev/sdb1
/usr/bin/systemd-creds decrypt a b
/usr/bin/systemd-sysinstall
/usr/bin/ctr images
/usr/bin/kubectl get pods
/usr/bin/virsh list
/usr/bin/lxc list
/usr/bin/systemctl mask nginx
/usr/bin/systemctl daemon-reexec
/usr/bin/systemctl kill nginx
/usr/bin/systemctl isolate rescue.target
/usr/bin/systemctl start emergency.target
/usr/bin/systemctl stop tidegated.service
/usr/sbin/service tidegated stop
/usr/sbin/iptables --modprobe=/srv/x
/usr/bin/pidstat
/usr/bin/certbot renew
/usr/sbin/ifup eth0
/usr/sbin/dmidecode
/usr/bin/tic x
""".strip().splitlines()

HARMLESS = """
/usr/bin/systemctl restart nginx
/usr/bin/systemctl restart nginx php8.2-fpm
/usr/bin/systemctl --no-pager status nginx
/usr/bin/systemctl status nginx --no-pager
/usr/bin/systemctl is-active postgresql@15-main
/usr/bin/systemctl reload apache2.service
/usr/sbin/service nginx restart
/usr/bin/journalctl --no-pager -u nginx
/usr/bin/journalctl -u nginx --no-pager
/usr/bin/journalctl -fu nginx --no-pager
/usr/bin/journalctl --no-pager --unit=nginx --since=today -n100 -o cat
/usr/bin/journalctl --no-pager -p err -b -1
/usr/bin/ss -tulpn
/usr/bin/date
/usr/bin/date -u +%s
/usr/bin/tail -f /var/log/nginx/error.log
/usr/bin/head /var/log/auth.log
/usr/bin/zcat /var/log/syslog.1.gz
/usr/bin/ls -l /var/log
/usr/bin/du -sh /srv
/usr/bin/free -m
/usr/bin/uptime
/usr/bin/ps aux
/usr/bin/lsof -i
/usr/sbin/dmesg -T
/usr/bin/wc -l /var/log/syslog
/usr/bin/stat /srv/data
/usr/bin/systemctl stop nginx
/usr/bin/systemctl start postgresql@15-main
/usr/bin/systemctl try-restart nginx
/usr/bin/systemctl --no-pager list-units
/usr/bin/systemctl --no-pager cat nginx
/usr/bin/systemctl is-enabled nginx
/usr/bin/systemctl reset-failed nginx
/usr/sbin/service apache2 reload
/usr/sbin/apachectl graceful
/usr/sbin/apache2ctl configtest
/usr/sbin/haproxy -c -f /etc/haproxy/haproxy.cfg
/usr/sbin/named-checkconf
/usr/sbin/postqueue -p
/usr/bin/postconf -n
/usr/sbin/shutdown -r now
/usr/bin/docker stop web
/usr/bin/podman ps
/usr/bin/lsblk
/usr/sbin/ip -br addr
/usr/bin/ping -c 3 db
/usr/sbin/nginx -t
/usr/sbin/nginx -s reload
/usr/bin/docker restart web
/usr/bin/docker ps -a
/usr/bin/docker logs -f web
/usr/bin/apt-get update
/usr/bin/tail -n 100 /var/log/nginx/error.log
/usr/bin/cat /var/log/syslog
/usr/sbin/reboot
/usr/bin/dmesg
/usr/bin/id
/usr/bin/networkctl --no-pager status eth0
/usr/sbin/sysctl -a
/opt/app/bin/deploy production
/usr/local/bin/find-orders
/usr/local/sbin/cp-backup.sh
/opt/tools/top.sh
/usr/sbin/ip addr
/usr/bin/df -h
/usr/bin/grep error /var/log/syslog
/usr/bin/echo /dev/null
/usr/bin/thing http://example.com/x
""".strip().splitlines()


@pytest.mark.parametrize("line", ROOT_EQUIVALENT)
def test_a_command_that_amounts_to_root_is_recognised(line: str) -> None:
    assert root_equivalent(shlex.split(line))


@pytest.mark.parametrize("line", HARMLESS)
def test_a_plain_command_is_not(line: str) -> None:
    assert root_equivalent(shlex.split(line)) is None


def test_no_words_and_a_relative_program_are_never_harmless() -> None:
    assert root_equivalent([])
    assert root_equivalent(["ls"])


@given(st.lists(st.text(string.printable, max_size=20), max_size=6))
def test_recognition_takes_any_words(words: list[str]) -> None:
    assert root_equivalent(words) is not None or words[0].startswith("/")
    assert root_equivalent(["/usr/bin/bash", *words]) is not None
    root_equivalent(["/usr/bin/systemctl", *words])
    root_equivalent(["/usr/sbin/service", *words])


def test_privileged_groups_say_why() -> None:
    for name in (
        "root",
        "sudo",
        "wheel",
        "admin",
        "docker",
        "lxd",
        "libvirt",
        "adm",
        "disk",
        "shadow",
        "kmem",
        "systemd-journal",
        "kvm",
    ):
        assert PRIVILEGED_GROUPS[name]
    assert privileged_group("tidegate")
    assert privileged_group("tidegate-tenants")
    assert privileged_group("dba") is None
    assert privileged_group("dba", ["dba"])


def pattern(text: str) -> TicketPattern:
    return ticket_pattern(text, "f")


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("INC-#", ["INC-1", "INC-000123"], ["INC-", "INC-1a", "inc-1", "XINC-1", "INC-1\n", "INC-\u0661"]),
        ("[A-Z]+-[0-9]+", ["A-1", "ABC-99"], ["-1", "A-", "a-1", "A1"]),
        ("[A-Z]{2,4}-#{3}", ["AB-123", "ABCD-999"], ["A-123", "ABCDE-123", "AB-12", "AB-1234"]),
        ("#", ["7"], ["", "a"]),
        ("a{2}b+", ["aab", "aabbb"], ["ab", "aa", "aaab"]),
        ("[A-Z]+[A-Z0-9]+X", ["ABX", "A1X"], ["AX", "1AX"]),
        ("v[0-9.]+", ["v1.2"], ["v"]),
        ("[a-]#", ["-1", "a1"], ["b1"]),
    ],
)
def test_ticket_patterns_match_the_whole_ticket(text: str, yes: list[str], no: list[str]) -> None:
    assert [ticket for ticket in yes if not pattern(text).matches(ticket)] == []
    assert [ticket for ticket in no if pattern(text).matches(ticket)] == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "(a)",
        "a|b",
        "a*",
        "a?",
        ".",
        "^a$",
        "[^a]",
        "[]",
        "[a",
        "a++",
        "+a",
        "{2}",
        "a{0}",
        "a{100}",
        "\\d",
        "[b-a]",
        "[a-Z]",
        "[!]",
        "a{3,2}",
        "a" * 201,
        "[a]{99}" * 3,
        "\u00e9",
        7,
        None,
    ],
)
def test_anything_but_the_small_language_is_refused(text: object) -> None:
    with pytest.raises(RefusedError) as caught:
        ticket_pattern(text, "f")
    assert caught.value.code == "ticket_pattern_invalid"


def test_the_worst_pattern_on_the_longest_ticket_is_quick() -> None:
    worst = pattern("[a-z]+" * 33)
    begun = time.process_time()
    assert not worst.matches("a" * 499 + "!")
    assert not worst.matches("a" * 501)
    assert not pattern("[a]{99}[a]{1,99}b").matches("a" * 500)
    assert time.process_time() - begun < 5


def test_name_patterns_mean_exactly_one_domain() -> None:
    found = name_pattern("*@example.com", "f")
    assert found.matches("a@example.com")
    for name in ("@example.com", "a@sub.example.com", "a@b@example.com", "a@EXAMPLE.com", "example.com", "a@example.com.evil"):
        assert not found.matches(name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ls",
        "/bin/../sh",
        "/bin/ls *",
        "/bin/ls a\\b",
        "/bin/ls ''",
        "/bin/ls ..",
        "/bin/ls a/../b",
        "/bin/ls 'a",
        "/bin/ls [a]",
        "/bin/ls a\nb",
        "/bin/ls " + "a " * 64,
        "/bin/ls " + "a" * 1024,
        "ALL",
        "/bin/ls ^x$",
        7,
    ],
)
def test_commands_are_literal_words(text: object) -> None:
    with pytest.raises(RefusedError) as caught:
        command(text, "f")
    assert caught.value.code in {"command_invalid", "path_invalid", "not_a_string"}
