"""waiter.sh where there is no dash: the same, some megabytes larger. A program of its own, that imports nothing of the package."""

import contextlib
import os
import resource
import signal
import sys

IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
RECORDER, TERMINAL = 3, 4


def main(argv: list[str]) -> None:
    """Run ``argv`` on the terminal, and end as it ended."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        for fd in range(3):
            os.dup2(TERMINAL, fd)
        os.closerange(RECORDER, 7)
        os.execv(argv[0], argv)  # noqa: S606
    os.close(TERMINAL)
    status = os.waitpid(child, 0)[1]
    with contextlib.suppress(OSError):
        os.write(RECORDER, b"\n")
        os.read(RECORDER, 1)
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if os.WTERMSIG(status) != signal.SIGKILL:
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(sys.argv[1:])
