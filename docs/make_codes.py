"""Writes docs/CODES.md: `python docs/make_codes.py`. Every stable code, from the tables in the code and the advice below.

:func:`raised` reads from the source which codes are raised where there is no table; a test holds ADVICE against it, and
CODES.md against this script.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent.policy.codes import DENIALS, FILES, WARNINGS  # noqa: E402  # the repository must be importable first
from agent.trust import REFUSALS  # noqa: E402

TARGET = ROOT / "docs" / "CODES.md"
SOURCES = (
    "agent/pipeline.py",
    "agent/admitted.py",
    "agent/backstop.py",
    "agent/keeping.py",
    "agent/expiry",
    "agent/migrating.py",
    "agent/rewriting.py",
    "agent/spool",
    "agent/journal",
    "agent/planning",
    "agent/enforcement",
    "agent/host",
    "agent/control",
    "agent/cli",
    "agent/courier",
    "enforcers",
)
_ERRORS = frozenset(
    {
        "UntrustedError",
        "InvalidGrantError",
        "UnenforceableError",
        "HostError",
        "JournalError",
        "ConfigError",
        "CourierError",
        "RefusedError",
        "BusError",
    }
)
_CODE = re.compile(r"[a-z][a-z0-9_]*")

INBOX = {
    "backstop_unavailable": "systemd made no timer behind the grant (see the text): mend that, or set `backstop: best-effort` in tidegate.yaml. Sign a new grant.",
    "ended_while_opening": "The grant ended, or was revoked, while it was being opened. Nothing of it is left; sign a new one if it is still wanted.",
    "file_absent": "Nothing to do: the file was gone when it was looked at. It is never answered.",
    "file_empty": "Deliver the token whole: write under a name that ends in .part, then rename.",
    "file_linked": "Deliver a file of its own, not a hard link.",
    "file_not_regular": "Deliver a regular file: no link, folder, fifo, socket or device.",
    "file_too_large": "Deliver one token of at most 64 KiB.",
    "file_unreadable": "The disk or the name is bad: see the text, and `journalctl -u tidegated`.",
    "forwards_unseen": "A grant that requires recording gives port-forwarding, and sshd's words about it do not come by journald (see the text): mend that, or ask without `port-forwarding`.",
    "host_not_ready": "`tidegate status` says what is wrong with this host; mend it, then sign a new grant.",
    "jti_replayed": "Sign a new grant with a new jti: one is good once, also after a refusal while it was being opened.",
    "recording_unavailable": "`tidegate status` says why this host records nothing now; mend it, or ask without recording where the rule allows it. An account of the host's own is never recorded.",
    "bulletin_replayed": "Give each bulletin of an issuer a higher seq than the one before, and deliver them in that order.",
    "grant_revoked": "It was revoked, by its id or its subject's, before it came: sign a new grant, issued after the revocation.",
    "supersedes_account_differs": "Give the same full_name and account as the grant whose place it takes; else revoke that, then deliver this one without supersedes.",
    "supersedes_begins_later": "Let nbf have come and the issuer's bulletin be fresh: until then the old grant stands.",
    "supersedes_not_open": "The grant it names is suspended, draining or ending. Deliver it again when that one is open, or without supersedes when it is over.",
    "supersedes_other_accounts": "Give account entries for exactly the logins of the grant whose place it takes.",
    "supersedes_other_subject": "Supersede only grants of the same sub.",
    "supersedes_unknown": "The grant it names has ended, never came, or is another issuer's: deliver this one without supersedes.",
}
ENFORCERS = {
    "account_exists": "Choose another login: one of that name is there, and nothing is adopted.",
    "account_is_root": "Name another account: root is never granted.",
    "account_missing": "Add an account entry for the login to the same grant, or name an account of this host.",
    "account_not_granted": "Add an account entry for the same login to the same grant.",
    "account_of_other_grant": "Name an account of this grant, or one that people made.",
    "command_invalid": "Write the command as plain words, the first an absolute path: no wildcard, backslash, quote inside a word, or '..'.",
    "command_missing": "Install the program, or correct its path.",
    "group_exists": "Choose another login: a group of that name is there.",
    "group_lists_name": "Take the name out of the group's list (`gpasswd -d LOGIN GROUP`), or choose another login.",
    "group_missing": "Make the group, or leave it out. The tenants' own group: `systemd-sysusers tidegate.conf`, and wait 15 s, or `systemctl kill -s HUP tidegated`.",
    "group_reserved": "Leave Tidegate's own groups out: every account is in the tenants', none may be in the admins'.",
    "home_exists": "Move the old home away, or choose another login.",
    "at_spool": "Look at the folder it names: jobs of at(1) in it may run with a group that was taken back. The end is tried again by itself.",
    "home_left": "Something in the home can't be removed (a mount, an immutable file). Remove it; the end is tried again by itself.",
    "key_blob": "Give the public key as `ssh-keygen` wrote it. RSA needs 2048 to 8192 bits.",
    "key_invalid": "Give one bare public key: type, blank, base64; no options.",
    "key_type": "Use Ed25519, ECDSA, RSA or their security-key forms; no DSA, no certificate.",
    "login_reserved": "Choose another login: those that begin with tidegate- are Tidegate's own.",
    "no_enforcer": "Leave the entry out: nothing on this host enforces its type. If it is a journaled step, install the version that made it.",
    "run_as_missing": "Name an account of this host in run_as.",
    "same_target": "Ask for each thing once: two entries of the grant want the same.",
    "shell_missing": "Install the shell, or name another.",
    "ssh_ca_missing": "Put your SSH user CA's public key into /etc/tidegate/ssh_user_ca.pub, or grant keys instead of principals.",
    "ssh_files_exist": "Another grant for that login is live or not over: wait, or choose another login.",
    "ssh_missing": "Install openssh-server.",
    "ssh_no_credential": "Give the ssh entry keys, principals or both.",
    "sshd_conflict": "Another part of sshd's configuration wins over Tidegate's block for tenants. Change the keyword it names, or move it out of the earlier Match.",
    "sshd_failed": "Run `sshd -t` and mend what it says; then `systemctl kill -s HUP tidegated`.",
    "sudo_missing": "Install sudo.",
    "sudo_rule_unprovable": "cvtsudoers (in package sudo) reads another rule than the one asked for. Write the command more plainly.",
    "sudo_unsupported": "This host's sudo is another than sudo.ws (sudo-rs, say), which skips what a rule needs to end on time. Make `sudo` the program of package sudo; sudo-rs may stay installed beside it.",
    "sudoers_unreached": "Let /etc/sudoers hold `@includedir /etc/sudoers.d`; then `systemctl kill -s HUP tidegated`.",
    "tenant_shell_missing": "Install tidegate-shell again: without it a login without exec can't be held.",
    "uid_taken": "Somebody took the reserved UID just now: deliver a new grant.",
    "uids_exhausted": "Widen `uids` in tidegate.yaml, or find out what was left behind: see residue in the receipts.",
}
HOST = {
    "no_grant": "Only the recorder gets this: the uid is no tenant's any more, so nothing of it is signed or taken.",
    "not_a_terminal": "Only the recorder gets this: the descriptor that came is no pseudo-terminal. The session is refused; log in anew.",
    "terminal_failed": "The session's terminal could not be taken out of its user's reach (see the text); the session is refused.",
    "closing_only": "The journal or the host's key was damaged, so everything is ended first: `tidegate status` says how far. Files wait in the inbox.",
    "journal_damaged": "Nothing to do but to find out why (disk, power): what stood is ended, the file is kept beside as `state.db.damaged-*`. Sign new grants.",
    "systemd_refused": "systemd refuses a timer: see the text, and `journalctl -b`.",
    "systemd_unreachable": "systemd (PID 1) does not answer at /run/systemd/private: `systemctl is-system-running`.",
    "timer_refused": "systemd took the timer and does not hold it active: see `systemctl list-timers --all`.",
    "account_not_ours": "The name now has another UID, so it is somebody else's and is left alone. Find out who made it.",
    "account_taken": "Another record of that name came between plan and act. Choose another login.",
    "accounts_busy": "Somebody holds the lock of /etc/passwd (vipw, a hung useradd). End that; it is tried again.",
    "audit_absent": "The kernel's audit can't be read: see the text. In a container it never can; else boot with audit=1, and not locked (enabled 2). Grants open all the same.",
    "exits_absent": "The kernel has no process connector (CONFIG_PROC_EVENTS): how a tenant's commands end is not known.",
    "archive_failed": "The home could not be packed: make room under /var/lib/tidegate/archive. The end is tried again.",
    "bad_step": "A journaled step of another version can't be read. Install the version that wrote it.",
    "file_too_long": "A file that Tidegate reads is longer than it should be; the text names it.",
    "grant_state": "The grant ended meanwhile: nothing to do.",
    "group_not_local": "The group comes from LDAP or the like, and its list can't be changed here. Use a local group.",
    "home_failed": "The home could not be made: see the text (room, /etc/skel, the folder's owner).",
    "home_taken": "Something else has the home's name. Move it away.",
    "inbox_discard_failed": "The inbox can't be written (read-only, full). Mend it; the file is taken again.",
    "inbox_unreadable": "Make /var/lib/tidegate/spool/inbox a folder of root's again; it is tried every 5 s.",
    "internal": "A fault in Tidegate: `journalctl -u tidegated` has the traceback. Please report it.",
    "journal_failed": "The journal can't be written: make room at /var/lib/tidegate. New grants wait in the inbox; ends go on.",
    "journal_newer": "A newer Tidegate wrote the journal: what stood is ended, the file is kept beside as `state.db.newer-*`. Sign new grants; or install that version again.",
    "journal_unreadable": "state.db can't be opened: see the text. Don't delete it while grants are live: it is what knows them.",
    "kill_failed": "A process could not be signalled; it is tried again. Look at it with ps if it stays.",
    "kill_refused": "Refused to signal PID 1. Please report it.",
    "narrowing_failed": "Something that the old grant gave could not be ended, so both were ended. See the text, then deliver a new grant.",
    "not_a_file": "Something else has a file's name: a symlink, a folder. Remove it.",
    "outbox_too_large": "One file is longer than the whole outbox may be.",
    "outbox_unwritable": "Mend /var/lib/tidegate/spool/outbox. Receipts wait in the journal until then.",
    "path_unreadable": "A path of a sudo command leads through too many links, or a folder on it can't be looked at; so nobody can say who may change it.",
    "proc_unreadable": "/proc can't be read, so nobody knows what lives. The end kills unseen, and is tried again.",
    "read_failed": "A file can't be read: see the text.",
    "remove_failed": "A file can't be removed (immutable, read-only). Mend it; the end is tried again.",
    "search_failed": "The search for what a tenant left could not be made: see the text. It is tried again, and later made up for.",
    "search_stopped": "The daemon stopped meanwhile. The search begins anew at its next start.",
    "socket_unavailable": "The control socket can't be made: see the text (the folder /run/tidegate).",
    "step_crashed": "A fault in an enforcer: the grant was undone. Please report it.",
    "timer_unavailable": "The kernel gives no timerfd. Without it there are no deadlines, so the daemon does not start.",
    "tool_failed": "A program of the host failed: see the text.",
    "tool_late": "A program of the host took too long and was killed: see the text.",
    "tool_missing": "Install the program that the text names.",
    "uid_spoken_for": "That UID is another grant's or has left something behind. Deliver a new grant.",
    "undo_crashed": "A fault in an enforcer's undo: the rest was undone, and this is tried again. Please report it.",
    "unknown_backend": "Set account_backend to auto, userdb or passwd.",
    "unknown_step": "A journaled step of another version. Install the version that wrote it.",
    "userdb_unresolved": "Install libnss-systemd, or set account_backend to auto.",
    "watch_unavailable": "A folder that is watched is missing or a link, or inotify's limits are reached (sysctl fs.inotify).",
    "write_failed": "A file can't be written: room, or a read-only file system. The text names it.",
}
COMMAND = {
    "metrics_unreadable": "The daemon and the command are of different versions: `systemctl restart tidegated`.",
    "agent_forbidden": "Ask as root, or join the group tidegate.",
    "agent_running": "Tidegate is being removed, and tidegated could not be stopped: `systemctl stop tidegated`, then again.",
    "agent_unreachable": "`systemctl status tidegated`; start it if it is down.",
    "answer_too_large": "Ask for less: the answer is over 64 MiB.",
    "backup_exists": "Move away the files `FILE.~VERSION~` that lie beside it: no backup is ever overwritten.",
    "file_changed": "Somebody writes to the file: run `tidegate config migrate` again.",
    "migration_failed": "Nothing was changed, and the file is read as it is. Change the names by hand, or lay it out more plainly; the text says what stands in the way.",
    "file_unwritable": "Name a file in a folder that is there and that you may write to.",
    "grant_unknown": "`tidegate grants list --ended` shows the ids there are.",
    "not_installed": "Install the package that the text names.",
    "not_root": "Run it as root.",
    "key_file_exists": "Choose another file, or move the old key away. A key is never overwritten.",
    "receipt_malformed": "The file is signed by the host and is no receipt.",
    "receipt_unknown": "The grant is live: there is a receipt once it has ended.",
    "request_malformed": "The request to the control socket is not what this version takes.",
    "recording_ambiguous": "Give more of the id: the text names some that begin so.",
    "recording_damaged": "`tidegate sessions verify ID` tells each place. What can be read was shown or exported all the same.",
    "recording_needs_terminal": "Run it on a terminal, or take `tidegate sessions export ID --format text`.",
    "recording_not_found": "`tidegate sessions list --recorded` shows those there are. Old ones are removed by the retention.",
    "recording_unfinished": "Its end was cut off, or the recorder died and did not come back: `journalctl -u tidegate-recorder`. What is there is sound up to its last seal.",
    "recording_text_not_found": "Nothing like it was shown on one line. `export --format text` and grep look further.",
    "session_unknown": "It has ended, or the id is mistyped: `tidegate sessions list` shows those there are.",
    "request_unknown": "The command is newer than the daemon: `systemctl restart tidegated` after an upgrade.",
}
COURIER = {
    "ca_not_presented": "Compare the fingerprint with the control plane's CA (`openssl x509 -in ca.pem -outform DER | sha256sum`), and let its server send the CA with its own certificate. Nothing was sent.",
    "courier_account_missing": "`systemd-sysusers tidegate.conf` makes the account tidegate-courier.",
    "courier_busy": "Nothing to do: the control plane says that it can't now, and is asked again. See its own log if that lasts.",
    "courier_certificate": "What came is no certificate for this host's new key. Ask whoever runs the control plane; the old one stays in use.",
    "courier_certificate_invalid": "A file in /var/lib/tidegate/courier is damaged, or its parts are of different pairs: `tidegate enroll` again.",
    "courier_denied": "The control plane does not know this host's certificate, or has shut it out: ask there, then `tidegate enroll` again.",
    "courier_flood": "More came than may: ask whoever runs the control plane, or what stands between. Nothing of it was kept.",
    "courier_protocol": "The other side does not speak as docs/PROTOCOL.md has it; the text says where. Perhaps a proxy answers in its place.",
    "courier_redirected": "Put the URL that it redirects to into courier.yaml, if that is the control plane's: redirects are not followed.",
    "courier_refused": "The control plane refuses this one request: see the text, and its own log.",
    "courier_server_untrusted": "The server's certificate is not of the CA that was pinned, or for another name: if the control plane has a new CA, `tidegate enroll` again.",
    "courier_slow": "The other side answers too slowly, or not at all: look at the network between. It is tried again.",
    "courier_stopped": "Nothing to do: the courier was told to stop.",
    "courier_thread": "A fault in the courier: `journalctl -u tidegate-courier` has the traceback, and it is started again. Please report it.",
    "courier_tls": "No TLS connection: see the text. An expired client certificate looks like this too: `tidegate status` shows its end, `tidegate enroll` makes a new one.",
    "courier_unacknowledged": "The control plane takes records and does not say that it keeps them: see its own log. They are sent again.",
    "courier_unreachable": "See the text: name, port, firewall, proxy (`proxy` in courier.yaml). It is tried again, at most a minute later.",
    "csr_invalid": "See the control plane's log: it does not take a P-256 key with a SAN URI.",
    "enrolment_refused": "See the text, and the control plane's log.",
    "host_known": "Have the control plane forget this host, or allow it to enrol again, then ask for a new token.",
    "inbox_unwritable": "Let /var/lib/tidegate/spool/inbox be root's with group tidegate-courier and mode 1770 (`systemd-tmpfiles --create tidegate.conf`), with room on the disk.",
    "limit_invalid": "Give a whole number, large enough for one token.",
    "nats_batch": "A fault in the courier: more at once than a transport takes. Please report it.",
    "nats_credentials": "Give the credentials file one user seed: a .creds file as it was made, or the line SU... alone, readable for tidegate-courier.",
    "nats_forbidden": "The broker's permissions for this host lack what the text names: write its configuration as docs/FLEET.md has it, and reload it. Or host_id is another host's.",
    "nats_full": "The stream at the broker is full: see that the control plane takes records in, or raise its max_bytes. This host keeps them meanwhile.",
    "nats_name": "Write host_id and bucket as the broker has them.",
    "nats_server": "Write all servers as tls://HOST:PORT. nats:// has no encryption and is for loopback only.",
    "nats_unavailable": "Nothing at the broker answers for the stream: let the control plane make bucket and streams, and look at JetStream there.",
    "nats_not_offered": "Leave `--transport nats` out, or set up NATS at the control plane (its section `nats`). The token is used up: get one that may replace the host.",
    "nats_invalid": "Write servers as tls://HOST:PORT, a plain bucket name, an absolute path of the credentials.",
    "not_enrolled": "Run `tidegate enroll`; the courier waits for it and then goes on by itself.",
    "proof_invalid": "Compare this host's clock and the URL with the control plane's: the proof names both.",
    "proxy_invalid": "Write http://HOST:PORT, with USER:PASSWORD@ before the host if the proxy asks for it.",
    "renew_unavailable": "NATS issues no certificates: `tidegate enroll` over https before this one ends, or use a credentials file.",
    "recording_unreadable": "Let the courier read it: /var/lib/tidegate/sessions has mode 2750 and group tidegate-courier, its files 0640 (`systemd-tmpfiles --create tidegate.conf`). The others are carried meanwhile.",
    "signing_key_absent": "Compare the thumbprint with the control plane's: it names other keys. Nothing was installed, and the token is used up.",
    "ssh_ca_absent": "Compare the fingerprint with the control plane's SSH CA. Nothing was installed, and the token is used up.",
    "token_expired": "Ask the control plane for a new token: they live for minutes.",
    "token_unknown": "Copy the token whole, and use it at the control plane that made it.",
    "token_used": "Ask for a new token. If nobody here used this one, somebody else has: tell whoever runs the control plane.",
    "transport_unavailable": "Install what the text names (package tidegate-courier-nats), or set `transport: https`.",
    "url_invalid": "Write https://HOST, with :PORT and a path if need be.",
}
DOCTOR = {
    "backstop_none": "Boot with systemd, or keep tidegated under a supervisor: with it dead, live sessions have no other end.",
    "backstop_program_missing": "`systemctl restart tidegated` writes it; if it is missing again, `journalctl -u tidegated` says why.",
    "boot_backstop_none": "Start tidegated before sshd, and cron and atd after it.",
    "boot_backstop_off": "`systemctl unmask tidegate-boot.service`, or install the package again.",
    "bulletin_expired": "Let the control plane send a bulletin, and look at what carries it: grants that need a fresh one are suspended.",
    "certificate_ended": "`tidegate status` says why it was not renewed. Make another: `tidegate enroll`.",
    "certificate_near_end": "It was to be renewed at two thirds of its life: `tidegate status` says why it is not.",
    "cgroup2_missing": "Boot with the unified cgroup hierarchy: without it sessions are ended process by process.",
    "clock_unsynchronised": "Run an NTP client: grants end by this host's clock.",
    "courier_trouble": "See the text, and `journalctl -u tidegate-courier`.",
    "daemon_other_version": "`systemctl restart tidegated`: the package is newer than what runs. Nobody's session ends by it.",
    "daemon_problem": "Mend what the text names: a file is taken up at once, all else within 15 s.",
    "disk_low": "Make room: without it new grants wait and no end can be written down. Doors still shut on time.",
    "disk_unreadable": "Start tidegated, which makes the folder, or let its parent be read.",
    "drop_in_missing": "tidegated writes it when it starts: `journalctl -u tidegated` says why it could not.",
    "execs_hidden": "See the text and `auditctl -l`: a rule of the host's keeps some of what tenants run from being told.",
    "execs_unseen": "Boot with audit=1 and without enabled 2, then restart tidegated. A container has no audit of its own.",
    "log_unread": "Let systemd-journald run, and journalctl be installed.",
    "no_trusted_key": "Put the control plane's public JWK Set into trust.d as NAME.jwks.",
    "sees_less": "Run `tidegate doctor` as root: some checks see less without.",
    "nss_systemd_missing": "Install libnss-systemd, then restart tidegated: without it accounts are rows of /etc/passwd, which outlive a reboot.",
    "nsswitch_without_systemd": "Add `systemd` to `passwd:` and `group:` in /etc/nsswitch.conf, or set `account_backend: auto`.",
    "recorder_down": "`systemctl restart tidegate-recorder`; `journalctl -u tidegate-recorder` says why it stopped. Who must be recorded gets no session meanwhile.",
    "recorder_socket_missing": "`systemctl restart tidegate-recorder`. Who must be recorded gets no session meanwhile.",
    "recorder_unready": "Install the package again: it makes the account and tidegate-shell's interpreter; then restart tidegated.",
    "sshd_missing": "Install openssh-server.",
    "sshd_too_old": "Use OpenSSH 9.1 or later: older ones take no UTC time in key files.",
    "systemd_absent": "Run tidegated under a supervisor that starts it again.",
    "uid_kept_back": "See the text for what is left and what to do; the UID is given away again once nothing is.",
}
ADVICE = {**INBOX, **ENFORCERS, **HOST, **COMMAND, **COURIER, **DOCTOR}

_HEAD = """\
# Codes

Every refusal and every failure carries a code. Codes are stable; the words beside them are not. You meet them in the answer in the
outbox, in `tidegate status`, in `--json` output, and in square brackets at the end of a message.

Generated by `python docs/make_codes.py` from the tables in the code. Don't edit by hand.
"""


def page() -> str:
    """The whole of CODES.md."""
    sections = (
        (
            "The token",
            "Exit status 3. Nothing was changed. From `agent/trust/codes.py`; some also point at a file in trust.d.",
            REFUSALS,
        ),
        (
            "The inbox, and what this version can't do",
            "Exit status 3 from `plan`; otherwise in the answer. Nothing is left of the grant.",
            INBOX,
        ),
        (
            "This host's policy",
            "Exit status 3. The grant is well signed, and this host does not allow it. From `agent/policy/codes.py`.",
            DENIALS,
        ),
        (
            "What this host can't enforce",
            "Exit status 3. The grant is allowed, and can't be done exactly here. From `enforcers/`.",
            ENFORCERS,
        ),
        (
            "The admin's files",
            "Exit status 1, with file, line and key. The old policy stays in force until the next start; after one, nothing of the policy is in "
            "force and every grant is refused. From `agent/policy/codes.py`.",
            FILES,
        ),
        ("Warnings of `tidegate policy check`", "The policy loads all the same.", WARNINGS),
        (
            "This host",
            "Exit status 1. While a grant is opened such a failure undoes it, and its code stands in the answer; while one is ended it "
            "stands in `tidegate status`, and the end is tried again after 0.25 s, 0.5 s, 1 s and so on, at most a minute apart, at most a second while a process lives.",
            HOST,
        ),
        ("The command", "Exit status 1.", COMMAND),
        (
            "The courier, and `tidegate enroll`",
            "In `tidegate status`, `tidegate doctor` and `journalctl -u tidegate-courier`; from `enroll` with exit status 1, or 3 where the control "
            "plane refuses. None of them opens, keeps or ends access.",
            COURIER,
        ),
        (
            "Findings of `tidegate doctor`",
            "Some of its findings have codes from above: what is wrong with the policy, the keys or sshd is the same wherever it is met.",
            DOCTOR,
        ),
    )
    return "\n".join([_HEAD, *(_section(*section) for section in sections)])


def _section(title: str, about: str, table: Mapping[str, str]) -> str:
    rows = "".join(f"| `{code}` | {_cell(table[code])} |\n" for code in sorted(table))
    return f"## {title}\n\n{about}\n\n| code | what to do |\n|---|---|\n{rows}"


def _cell(text: str) -> str:
    shown = text[0].upper() + text[1:]
    return (shown if shown.endswith(".") else f"{shown}.").replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def raised(sources: Iterable[str] = SOURCES) -> dict[str, set[str]]:
    """Code → the files that raise it, for every source without a table of its own."""
    found: dict[str, set[str]] = {}
    for source in sources:
        path = ROOT / source
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in files:
            if file.name == "fake.py":  # the tests' host
                continue
            for code in _codes(ast.parse(file.read_text(encoding="utf-8"))):
                found.setdefault(code, set()).add(str(file.relative_to(ROOT)))
    return found


def _codes(tree: ast.AST) -> Iterator[str]:
    """First arguments of errors; and of ``(wrong, "code", reason)`` rows, the second members."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in _ERRORS or name == "refuse" or _is_finding(node.func):
                yield from _texts(node.args[0])
        elif isinstance(node, ast.Tuple) and len(node.elts) == 3 and not isinstance(node.elts[0], ast.Constant):
            yield from _texts(node.elts[1])
        elif isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "code" for target in node.targets):
            yield from (text for text in _texts(node.value))


def _is_finding(called: ast.expr) -> bool:
    """``Finding.warn`` and ``Finding.fail`` of `tidegate doctor`."""
    return isinstance(called, ast.Attribute) and called.attr in {"warn", "fail"} and getattr(called.value, "id", "") == "Finding"


def _texts(node: ast.expr) -> Iterator[str]:
    for found in (node.body, node.orelse) if isinstance(node, ast.IfExp) else (node,):
        if isinstance(found, ast.Constant) and isinstance(found.value, str) and _CODE.fullmatch(found.value):
            yield found.value


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
