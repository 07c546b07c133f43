"""`python3 -m tests.hosts`: build the cached root, open a root shell on a fresh host, sweep what killed runs left."""

import argparse
import importlib
import os
import subprocess
import sys

from tests.hosts import cleanup, root
from tests.hosts.errors import HostError
from tests.hosts.fallback import available
from tests.hosts.machine import Host, Prepare
from tests.hosts.shell import CommandFailed


def main() -> int:
    """Run the command line; 0 done, 1 failed, 2 usage. `shell` returns the status of the shell."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.hosts", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build the Debian root, if it is not in the cache yet")
    shell = commands.add_parser("shell", help="boot a fresh host and give a root shell on it")
    shell.add_argument("--prepare", metavar="MODULE:FUNC", type=_function, help="called on its file tree before it boots")
    shell.add_argument("--run", metavar="COMMAND", help="run by bash, as root, on the booted host before the shell starts")
    shell.add_argument("--name", help="its hostname")
    for command in (build, shell):
        command.add_argument("--suite", default=root.chosen(), help="Debian suite (default: %(default)s)")
    commands.add_parser("sweep", help="take down hosts whose owner was killed, remove half-built and outdated roots")
    arguments = parser.parse_args()
    try:
        if arguments.command == "build":
            print(root.ensure(arguments.suite))
        elif arguments.command == "sweep":
            for name in [*cleanup.sweep(), *root.prune()]:
                print(f"removed {name}")
        else:
            return _shell(arguments)
    except HostError as failure:
        print(f"tests.hosts: {failure}", file=sys.stderr)
        return 1
    return 0


def _shell(arguments: argparse.Namespace) -> int:
    # Built first, so that trying what works here says "building" before it says anything else.
    capability = available()
    host_class = capability.host_class()
    with host_class.boot(name=arguments.name, suite=arguments.suite, prepare=arguments.prepare) as host:
        if arguments.run:
            _run(host, arguments.run)
        _greet(host, capability.reason)
        # script(1) brings a terminal of the host's own: this one's name means nothing in there, and sudo and tmux ask.
        shell = ["script", "--quiet", "--return", "--command", "exec bash --login", "/dev/null"]
        environment = {"TERM": os.environ.get("TERM", "dumb")}
        return subprocess.run(host.shell_argv(shell, environment), check=False).returncode


def _run(host: Host, command: str) -> None:
    """A failure is said and the shell comes all the same: that is where to find out why."""
    try:
        host.run(command, timeout=120)
    except CommandFailed as failure:
        printed = f"{failure.stdout}{failure.stderr}".strip()
        print(f"failed with status {failure.returncode}: {command}\n{printed}", file=sys.stderr)
    except subprocess.TimeoutExpired:
        print(f"still running after 120 s, so killed: {command}", file=sys.stderr)


def _greet(host: Host, reason: str) -> None:
    print(f"host {host.name} at {host.address} (root's files seen from outside: {host.root})", file=sys.stderr)
    if reason:
        print(f"not a whole host: no systemd, logind or journald here ({reason})", file=sys.stderr)
    print("a root shell on it; it is gone when you leave", file=sys.stderr)


def _function(text: str) -> Prepare:
    module, _, name = text.partition(":")
    try:
        function: Prepare = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as failure:
        raise argparse.ArgumentTypeError(f"no function {text!r}: {failure}") from failure
    return function


if __name__ == "__main__":
    sys.exit(main())
