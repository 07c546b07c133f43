"""What the recorder is compared with, made ready in a folder: a bare copy between two terminals in C, script(1), tlog-rec(8).

Nothing is installed. Where the host has no tlog-rec, Debian's package is fetched by apt-get and unpacked in that folder.
"""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

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
_PACKAGES = ("tlog", "libtlog0", "libjson-c5", "libcurl3-gnutls")


class Absent(Exception):  # noqa: N818  (an answer)
    """Why there is nothing to compare with."""


def copy_in_c(folder: Path) -> Path:
    """The program that copies and records nothing; it runs on other hosts too. Raises Absent."""
    program = folder / "tidegate-copy"
    _compile(_COPY, program, "-static", "-lutil")
    return program


def script(folder: Path, command: str) -> list[str]:
    """script(1) around a shell's command. Raises Absent."""
    program = shutil.which("script")
    if not program:
        raise Absent("script(1) is not installed")
    return [program, "-q", "-c", command, str(folder / "typescript")]


def tlog_rec(folder: Path, argv: Sequence[str]) -> list[str]:
    """tlog-rec(8) around a command, the host's own or one that is fetched. Raises Absent."""
    program = shutil.which("tlog-rec")
    around = [program] if program else _fetched(folder)
    return [*around, "--writer=file", f"--file-path={folder / 'tlog'}", *argv]


def _fetched(folder: Path) -> list[str]:
    """It reads its configuration beside the folder it stands in, if that is called .libs, as when it has just been built."""
    place = folder / "tlog-rec"
    programs, unpacked = place / ".libs", place / "unpacked"
    programs.mkdir(parents=True)
    _run("apt-get", "download", *_PACKAGES, cwd=place)
    for package in place.glob("*.deb"):
        _run("dpkg", "-x", str(package), str(unpacked))
    shutil.copy(unpacked / "usr/bin/tlog-rec", programs)
    for name in ("usr/share/tlog/tlog-rec.default.conf", "etc/tlog/tlog-rec.conf"):
        shutil.copy(unpacked / name, place)
    version = place / "version"
    version.write_text(_VERSION)
    _compile(_UTEMPTER, place / "libutempter.so.0", "-shared", "-fPIC", f"-Wl,--version-script={version}")
    (libraries,) = {path.parent for path in unpacked.glob("usr/lib/*/libtlog.so.0")}
    around = ["/usr/bin/env", f"LD_LIBRARY_PATH={place}:{libraries}", str(programs / "tlog-rec")]
    _run(*around, "--version", cwd=place)
    return around


def _compile(text: str, made: Path, *options: str) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise Absent("there is no C compiler")
    source = made.with_suffix(".c")
    source.write_text(text)
    _run(compiler, "-O2", "-o", str(made), str(source), *options)


def _run(*argv: str, cwd: Path | None = None) -> None:
    try:
        subprocess.run(argv, cwd=cwd, check=True, capture_output=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", b"") or b""
        raise Absent(f"{error} {said.decode(errors='replace').strip()[-200:]}") from error
