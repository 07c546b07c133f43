"""Sessions on a terminal: job control, keys, sizes, and the programs people live in."""

from tests.sessions.bed import BLOB
from tests.sessions.case import Case, Normal, chain, escapes_only, ordinals, squeezed, without_erasing
from tests.sessions.play import Step, session, terminal

_SHELL = "exec bash --norc --noprofile -i"
_PROMPT: Step = (b"<GO>.*[$#] ", b"PS1='<P''> '; bind 'set enable-bracketed-paste off'; HISTFILE=\n")


def _typed(name: str, *steps: Step, size: tuple[int, int] = (80, 24), normal: Normal = bytes) -> Case:
    """A dialogue with an interactive bash; ends with ``exit 4``."""
    return terminal(name, _SHELL, _PROMPT, *steps, (b"<P> ", b"exit 4\n"), size=size, normal=normal)


_P = b"<P> "
_KEYS = (
    "trap 'echo INT' INT; trap 'echo QUIT' QUIT; trap 'echo TSTP' TSTP; echo ready; for i in 1 2 3; do read x; echo got $x; done"
)
_WINCH = "trap 'n=$((n+1))' WINCH; echo ready; read x; echo at least $((n > 0)); stty size"
_EDIT: tuple[Step, ...] = ((b"~.*~", b"ihello gr\xc3\xbcn\x1b"), (b"gr.*n", b":w\r"), (b"written", b":q\r"))

TERMINALS: list[Case] = [
    terminal("a terminal's name", "tty | sed 's/[0-9]*$//'; test -t 0; echo $?; test -t 1; echo $?; test -t 2; echo $?"),
    terminal("SSH_TTY is the terminal", '[ "$SSH_TTY" = "$(tty)" ]; echo $?; stat -c "%U %a" $(tty)'),
    terminal("settings", "stty -a", size=(101, 37)),
    terminal("settings of another client", "stty -a", options=("-tt",), size=(132, 50)),
    terminal("TERM and environment", "env | sort"),
    terminal("size", "stty size; tput cols; tput lines", size=(33, 7)),
    *(terminal(f"exit {status} on a terminal", f"exit {status}") for status in (0, 1, 127, 255)),
    *(terminal(f"killed by SIG{name} on a terminal", f"ulimit -c 0; kill -{name} $$") for name in ("TERM", "KILL", "HUP", "INT")),
    terminal("stdout and stderr are one", "echo out; echo err >&2; printf 'a\\nb\\r\\n\\tc'"),
    terminal("every byte to a raw terminal", "stty raw -echo; echo ready; head -c 256 | od -An -tx1", (b"ready", bytes(range(256)))),
    terminal("every byte from a raw terminal", "stty raw; head -c 5000 /srv/blob"),
    terminal("UTF-8 cut anywhere", "for b in '\\303' '\\274' '\\346' '\\274' '\\242' '\\n'; do printf $b; sleep 0.05; done"),
    terminal("UTF-8 typed byte by byte", "read x; echo \"<$x>\" | od -An -c", *((b"", bytes([byte])) for byte in "grün漢\n".encode())),
    terminal("signals held and ignored on a terminal", "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status"),
    terminal("processes by their shape on a terminal", "ps -o tty,pid,pgid,tpgid,sess,stat,comm --no-headers -t $(tty)", normal=ordinals),
    terminal("descriptors on a terminal", "ls /proc/$$/fd | wc -l; umask; ulimit -a"),
    terminal("who sits there", "who -m | wc -l; mesg; logname", normal=squeezed),
    terminal("Ctrl-C, Ctrl-\\ and Ctrl-Z trapped", _KEYS, (b"ready", b"\x03"), (b"INT", b"\x1c"), (b"QUIT", b"\x1a"), (b"TSTP", b"x\n"),
             (b"got", b"y\n"), (b"got", b"z\n")),
    terminal("Ctrl-C kills", "echo ready; exec cat", (b"ready", b"x\n"), (b"x\r\nx", b"\x03")),
    terminal("Ctrl-\\ kills", "ulimit -c 0; echo ready; exec sleep 20", (b"ready", 0.7), (b"", b"\x1c")),
    terminal("Ctrl-D ends", "echo ready; cat; echo after $?", (b"ready", b"last\n"), (b"last\r\nlast", b"\x04")),
    terminal("Ctrl-D in the middle of a line", "echo ready; cat; echo after", (b"ready", b"half\x04"), (b"halfhalf", b"\x04\x04")),
    terminal("erase, kill, literal", "echo ready; read x; echo \"<$x>\"", (b"ready", b"abx\x7fc\x15new\x16\x03\n")),
    terminal("Ctrl-S and Ctrl-Q", "echo ready; read x; echo got $x", (b"ready", b"\x13"), (b"", 0.3), (b"", b"\x11go\n")),
    terminal("no echo", "stty -echo; echo ready; read x; stty echo; echo $x | rev", (b"ready", b"secret\n")),
    terminal("read -s", "bash -c 'echo ready; read -s x; echo got ${#x}'", (b"ready", 0.2), (b"", b"hunter2\n")),
    terminal("a large paste", "stty -echo; echo ready; sha256sum", (b"ready", (b"x" * 70 + b"\n") * 500), (b"", b"\x04")),
    terminal("a background job", "sleep 0.2 & echo started; wait; echo waited $?"),
    terminal("background output at the end", "(sleep 0.5; echo late) & echo early"),
    terminal("a hangup reaches the background", "nohup sleep 0.1 >/dev/null 2>&1 & echo bye"),
    terminal("a new session has no terminal", "setsid -w sh -c 'ps -o tty= -p $$; (: </dev/tty) 2>&1 | tail -c 30'"),
    _typed("Ctrl-Z, jobs, fg, bg", (_P, b"cat\n"), (b"cat\r\n", 0.2), (b"", b"a\n"), (b"a\r\na", b"\x1a"), (b"Stopped.*<P> ", b"jobs\n"),
           (b"Stopped.*<P> ", b"fg\n"), (b"cat\r\n", b"b\n"), (b"b\r\nb", b"\x04")),
    _typed("Ctrl-C at the prompt", (_P, 0.3), (b"", b"not this"), (b"not this", b"\x03"), (_P, b"echo this\n")),
    _typed("history and line editing", (_P, b"echo one\n"), (_P, b"\x10\x01\x06\x06\x06\x06\x06x\n")),
    _typed("a here-document typed", (_P, b"cat <<E\n"), (b"> ", b"in $((2*3))\n"), (b"> ", b"E\n")),
    _typed("completion", (_P, b"cd /us\t\n"), (_P, b"pwd\n")),
    _typed("a wide line wraps", (_P, b"echo " + b"w" * 60 + b"\n"), size=(30, 10)),
    _typed("a subshell with its own jobs", (_P, b"bash --norc\n"), (b"[$] ", b"sleep 20\n"), (b"20\r\n", 0.5), (b"", b"\x1a"),
           (b"Stopped.*[$] ", b"kill -9 %1; sleep 0.3; echo over$((1))\n"), (b"over1.*[$] ", b"exit\n"), normal=escapes_only),
    terminal("the login shell", None, (b"[$#] ", b"echo '<G''O>'; echo $0 $-; shopt login_shell; exit 9\n"), normal=squeezed),
    terminal("the login shell ends by Ctrl-D", None, (b"[$#] ", b"printf '<G''O>'; PS1='<P''> '\n"), (_P, b"\x04")),
    terminal("resizing is told", _WINCH, (b"ready", (100, 40)), (b"", 0.5), (b"", b"\n")),
    terminal("a storm of sizes", _WINCH, (b"ready", 0.0), *((b"", (40 + n % 90, 10 + n % 50)) for n in range(300)), (b"", (91, 31)),
             (b"", 0.7), (b"", b"\n")),
    terminal("vi", "exec vi -u NONE -N new.txt", *_EDIT, normal=escapes_only),
    terminal("what vi wrote", "cat new.txt; rm new.txt"),
    terminal("vi in another size", "exec vi -u NONE -N new2.txt", (b"~", (120, 45)), (b"", 0.4), *_EDIT, normal=escapes_only),
    terminal("less", "seq 500 >n.txt; exec less n.txt", (b"23", b" "), (b"46", b"/333\r"), (b"333", b"q"), normal=escapes_only),
    terminal("top", "exec top -d 0.2", (b"PID", 0.6), (b"", b"q"), normal=escapes_only),
    terminal("top in batches", "top -b -n1 | head -7 | cut -d: -f1 | cut -c1-5"),
    terminal("tmux", "exec tmux -f /dev/null -L s", (b"\\[0\\]", b"echo in-$((40+2)); tty | cut -c1-8\n"), (b"in-42", b"\x02%"), (b"", 0.5),
             (b"", b"exit\n"), (b"", 0.4), (b"", b"exit\n"), (b"exited", 0.0), normal=chain(escapes_only, without_erasing)),
    terminal("tmux detached and attached", "tmux -f /dev/null -L d new -d 'sleep 60'; tmux -L d ls | cut -d: -f1; tmux -L d kill-server"),
    terminal("script inside", "script -q -c 'tty | cut -c1-8; exit 3' -e /dev/null; echo $?"),
    terminal("sudo asks on the terminal", "sudo -k; sudo -l 2>&1 | tail -c 80; echo", (b"password", b"x\n"), (b"orry.*password", b"y\n"), (b"orry.*password", b"z\n"), normal=lambda _: b""),
    terminal("Ctrl-C where sudo asks", "sudo -k; exec sudo -l", (b"password", 0.3), (b"", b"\x03"), normal=lambda _: b""),
    terminal("python at a prompt", "exec python3 -q", (b">>> ", b"6*7\n"), (b"42.*>>> ", b"\x04")),
    session("-tt without a terminal here", "stty -a; echo; test -t 0; echo $?; cat", b"typed\n\x04", options=("-tt",)),
    session("a login shell fed by a pipe with -tt", None, b"stty -echo; echo '<G''O>'\necho x\nexit 3\n", options=("-tt",),
            normal=lambda data: data.rpartition(b"<GO>")[2].replace(b"\r", b"").splitlines()[-1:][0] if data else data),
    terminal("20 MB to a terminal", f"stty raw -echo; head -c 20000000 {BLOB}; exit 2", large=True),
    terminal("200 MB to a terminal", f"stty raw -echo; cat {BLOB}; exit 2", large=True),
    terminal("200 MB from a terminal", f"stty raw -echo; printf READY; head -c {200 << 20} | sha256sum",
             (b"READY", 0.1), *((b"", bytes(range(256)) * 256) for _ in range(3200)), large=True),
]  # fmt: skip
