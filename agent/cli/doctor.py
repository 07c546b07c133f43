"""doctor: what is wrong with this host, and how to mend it. Looks only; changes nothing."""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import cast

import click

from agent import VERSION
from agent import policy as policies
from agent.assembly import registry
from agent.cli.courier_view import courier_finding
from agent.cli.finding import Finding
from agent.cli.health import host_findings
from agent.cli.keys import bulletin_findings, certificate_findings, keys_finding
from agent.cli.output import EXIT_DONE, EXIT_FAILED, json_option, reporting, show
from agent.config import DEFAULT_PATH, Config, config_path, load_config
from agent.control import client
from agent.errors import ConfigError, TidegateError
from agent.expiry.tombstones import advice
from agent.model.text import counted, printable

Status = dict[str, object]
_GRAVES_SHOWN = 20
_CODE = re.compile(r"\[([a-z][a-z0-9_]*)\]")
_ROOT = frozenset({"gives_root", "gives_privileged_group"})
_SIGNS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


@click.command()
@json_option
@click.pass_obj
@reporting
def doctor(config_file: Path | None, as_json: bool) -> None:
    """What is wrong with this host, and how to mend it.

    Looks only, changes nothing. Exits 1 when something would keep grants from being enforced.
    """
    config, finding = _configuration(config_path(config_file))
    status, agent = _agent(config)
    findings = [finding, *agent, *_files(config, status), *host_findings(config)]
    findings += [courier_finding(config), *certificate_findings(config)]
    bad = any(finding.level == "fail" for finding in findings)
    result = {"ok": not bad, "checks": [finding.to_json() for finding in findings]}
    show(result, as_json, lambda: "\n".join(_lines(findings)))
    sys.exit(EXIT_FAILED if bad else EXIT_DONE)


def _lines(findings: list[Finding]) -> Iterator[str]:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        code = f" [{finding.code}]" if finding.code and f"[{finding.code}]" not in finding.detail else ""
        yield f"{_SIGNS[finding.level]}  {finding.name.ljust(width)}  {printable(finding.detail)}{code}"
        if finding.mend and finding.level != "ok":
            yield f"      {' ' * width}  -> {printable(finding.mend)}"


def _configuration(path: Path | None) -> tuple[Config, Finding]:
    """The configuration; where it can't be read the default one, so that the rest of the host is looked at all the same."""
    try:
        found = load_config(path)
    except ConfigError as error:
        mend = (
            "mend the file; it is taken up at once, and the last good one counts until then; the checks below are of the defaults"
        )
        return Config(), Finding.fail(error.code, "config", str(error), mend)
    read = path or DEFAULT_PATH
    return found, Finding.ok("config", str(read) if read.exists() else f"{read} is not there: every setting has its default")


def _agent(config: Config) -> tuple[Status, list[Finding]]:
    """What the daemon answers to `status` (nothing when it does not), and what is to be said of it."""
    found: list[Finding] = []
    if os.geteuid() != 0:
        found.append(Finding.warn("sees_less", "privilege", "not root: some checks see less", "run it as root"))
    try:
        status = cast(Status, client.call(config.paths.control_socket, "status"))
    except TidegateError as error:
        mend = "systemctl enable --now tidegated; journalctl -u tidegated"
        return {}, [*found, Finding.fail(error.code, "daemon", str(error), mend)]
    return status, [*found, _version(status), *_problems(status), _executions(status), _logged(status), *_kept_back(config)]


def _version(status: Status) -> Finding:
    """A package that was upgraded takes effect with the daemon's next start."""
    if status["version"] != VERSION:
        detail = f"tidegated {status['version']} runs, and {VERSION} is installed"
        return Finding.warn("daemon_other_version", "daemon", detail, "systemctl restart tidegated; nobody's session ends by it")
    return Finding.ok("daemon", f"tidegated {VERSION} answers; this host is {status['host_id']}")


def _problems(status: Status) -> Iterator[Finding]:
    """What the daemon itself says is wrong: sshd's and sudo's configuration, as it proved them, among it."""
    mend = "mend what it names: a file is taken up at once, all else within 15 s, or by: systemctl kill -s HUP tidegated"
    for problem in cast(list[str], status["problems"]):
        codes = _CODE.findall(problem)
        if codes:
            yield Finding.fail(codes[-1], "daemon", problem, mend)
        else:
            yield Finding.fail("daemon_problem", "daemon", problem, mend)


def _executions(status: Status) -> Finding:
    """Whether what tenants run is captured from the kernel's audit."""
    found = status.get("executions")
    state = cast(dict[str, object], found) if isinstance(found, dict) else {"absent": "this daemon is older", "limits": []}
    if state["absent"]:
        mend = "a container has no audit of its own; else boot with audit=1 and without enabled 2, and restart tidegated"
        return Finding.warn("execs_unseen", "commands", f"what tenants run is not captured: {state['absent']}", mend)
    limits = cast(list[str], state["limits"])
    if limits:
        detail = f"what tenants run may be hidden: {'; '.join(limits)}"
        return Finding.warn("execs_hidden", "commands", detail, "auditctl -l; see /usr/share/doc/tidegate/SECURITY.md")
    return Finding.ok("commands", "every exec of a tenant is captured from the kernel's audit")


def _logged(status: Status) -> Finding:
    """Whether what sshd and sudo log of tenants is seen."""
    found = status.get("logged")
    absent = found.get("absent") if isinstance(found, dict) else "this daemon is older"
    if absent:
        mend = "it takes systemd-journald; a grant that requires recording is refused port-forwarding until then"
        return Finding.warn("log_unread", "journal", f"what tenants forward, and run by sudo, is not seen: {absent}", mend)
    return Finding.ok("journal", "what tenants forward, and run by sudo, is seen in the journal")


def _kept_back(config: Config) -> Iterator[Finding]:
    """UIDs of former tenants of whom something is left; the daemon looks again before it answers."""
    try:
        answer = cast(dict[str, object], client.call(config.paths.control_socket, "tombstones", look=True))
    except TidegateError as error:
        yield Finding.warn(error.code, "uids", f"not known which UIDs are kept back: {error}", "journalctl -u tidegated")
        return
    graves = cast(list[dict[str, object]], answer["tombstones"])
    if not graves:
        yield Finding.ok("uids", "nothing is left of former tenants")
    for grave in graves[:_GRAVES_SHOWN]:
        left = [found for found in cast(list[dict[str, str]], grave["left"]) if isinstance(found, dict)]
        first = left[0] if left else {"kind": "", "where": "unknown", "detail": ""}
        detail = f"{grave['uid']} ({grave['login']}) is kept back since {grave['since']}, {grave['count']} left, such as "
        detail += f"{first['kind']} {first['where']}: {first['detail']}"
        yield Finding.warn("uid_kept_back", "uids", detail, advice(first["kind"]))
    if len(graves) > _GRAVES_SHOWN:
        more = f"{len(graves) - _GRAVES_SHOWN} more UIDs are kept back"
        yield Finding.warn(
            "uid_kept_back", "uids", more, "tidegate doctor --json shows no more either; mend the first, and ask again"
        )


def _files(config: Config, status: Status) -> Iterator[Finding]:
    decoders = policies.decoders(registry())
    yield from _checked("policy", lambda: _policy(config, decoders, status))
    yield from _checked("keys", lambda: [keys_finding(config)])


def _checked(name: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    mend = "mend the file; the daemon takes it up at once"
    try:
        return list(look())
    except ConfigError as error:
        return [Finding.fail(error.code, name, str(error), mend)]
    except OSError as error:
        return [Finding.fail("file_unreadable", name, str(error), mend)]


def _policy(config: Config, decoders: policies.Decoders, status: Status) -> Iterator[Finding]:
    """Whether it loads, and each line of it that gives root: `tidegate policy check` has the rest."""
    folder = config.paths.policy_dir
    findings = policies.check(folder, decoders)
    for finding in findings:
        if finding.level == "error":
            yield Finding.fail(finding.code, "policy", str(finding), "tidegate policy check")
            return
    policy = policies.load_policy(folder, decoders)
    if not policy.rules:
        yield Finding.warn("no_rule", "policy", f"{folder} has no rule: every grant is refused", "see tidegate-policy(5)")
        return
    rest = [finding for finding in findings if finding.code not in _ROOT]
    warnings = f", {counted(len(rest), 'warning')}: tidegate policy check" if rest else ""
    yield Finding.ok("policy", f"{counted(len(policy.rules), 'rule')}{warnings}")
    for finding in findings:
        if finding.code in _ROOT:
            mend = "make sure that it is meant, and ask for approvals in the same rule; else take the line out"
            yield Finding.warn(finding.code, "policy", str(finding), mend)
    if status:
        yield from bulletin_findings(status, policy)
