"""What the recorder is compared with: a bare copy between two terminals in C, script(1), tlog-rec(8) as Debian has it.

On a test host they run as installed there; on this machine tlog-rec is unpacked in a folder where it is not installed.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.frame.row import Absent
from benchmarks.peers.compiled import compiled, ran

PACKAGES = ("tlog",)
# From one terminal to another, both ways: what a relay that records nothing has to do.
_COPY = r"""
#define _GNU_SOURCE
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
static int copy(int from, int to) {
    static char buffer[65536];
    for (ssize_t n; (n = read(from, buffer, sizeof buffer)) > 0;)
        for (ssize_t at = 0, put; at < n; at += put)
            if ((put = write(to, buffer + at, n - at)) < 0) return 1;
    return 0;
}
int main(int argc, char **argv) {
    int master;
    struct termios mode;
    if (argc < 2 || tcgetattr(0, &mode) < 0) return 2;
    pid_t child = forkpty(&master, NULL, &mode, NULL);
    if (child == 0) { execvp(argv[1], argv + 1); _exit(127); }
    cfmakeraw(&mode);
    tcsetattr(0, TCSANOW, &mode);
    pid_t typing = fork();
    if (typing == 0) _exit(copy(0, master));
    int failed = copy(master, 1);
    kill(typing, SIGKILL);
    waitpid(child, NULL, 0);
    return failed;
}
"""
# tlog-rec notes its session in utmp, and does nothing where it can't: it is told that it has.
_UTEMPTER = "int utempter_add_record(int fd, const char *from) { (void)fd; (void)from; return 1; }\n"
_UTEMPTER += "int utempter_remove_record(int fd) { (void)fd; return 1; }\n"
_VERSION = "UTEMPTER_1.1 { global: utempter_*; };\n"
_FETCHED = ("tlog", "libtlog0", "libjson-c5", "libcurl3-gnutls")


def copy_in_c(folder: Path) -> Path:
    """The program that copies and records nothing; it runs on other hosts too. Raises Absent."""
    return compiled(_COPY, folder / "tidegate-copy", "-static", "-lutil")


def script(folder: Path, command: str) -> list[str]:
    """script(1) around a shell's command. Raises Absent."""
    program = shutil.which("script")
    if not program:
        raise Absent("script(1) is not installed")
    return [program, "-q", "-c", command, str(folder / "typescript")]


def tlog_rec(folder: Path, argv: Sequence[str]) -> list[str]:
    """tlog-rec(8) around a command, this machine's own or one that is fetched. Raises Absent."""
    program = shutil.which("tlog-rec")
    around = [program] if program else _unpacked(folder)
    return [*around, "--writer=file", f"--file-path={folder / 'tlog'}", *argv]


def _unpacked(folder: Path) -> list[str]:
    """It reads its configuration beside the folder it stands in, if that is called .libs, as when it has just been built."""
    place = folder / "tlog-rec"
    programs, unpacked = place / ".libs", place / "unpacked"
    programs.mkdir(parents=True)
    ran("apt-get", "download", *_FETCHED, cwd=place)
    for package in place.glob("*.deb"):
        ran("dpkg", "-x", str(package), str(unpacked))
    shutil.copy(unpacked / "usr/bin/tlog-rec", programs)
    for name in ("usr/share/tlog/tlog-rec.default.conf", "etc/tlog/tlog-rec.conf"):
        shutil.copy(unpacked / name, place)
    version = place / "version"
    version.write_text(_VERSION)
    compiled(_UTEMPTER, place / "libutempter.so.0", "-shared", "-fPIC", f"-Wl,--version-script={version}")
    (libraries,) = {path.parent for path in unpacked.glob("usr/lib/*/libtlog.so.0")}
    around = ["/usr/bin/env", f"LD_LIBRARY_PATH={place}:{libraries}", str(programs / "tlog-rec")]
    ran(*around, "--version", cwd=place)
    return around
