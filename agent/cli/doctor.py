"""doctor: what is wrong with this host, and how to mend it. Looks only; changes nothing."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import click

from agent import policy as policies
from agent import trust
from agent.assembly import registry
from agent.cli.courier_view import courier_finding
from agent.cli.health import Finding, host_findings
from agent.cli.output import EXIT_DONE, EXIT_FAILED, json_option, reporting, show
from agent.config import DEFAULT_PATH, Config, config_path, load_config
from agent.control import client
from agent.errors import ConfigError, TidegateError
from agent.expiry.tombstones import advice
from agent.model.text import counted, printable

_GRAVES_SHOWN = 20
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
    findings = [finding, *_agent(config), *_files(config), *host_findings(config), courier_finding(config)]
    bad = any(finding.level == "fail" for finding in findings)
    result = {"ok": not bad, "checks": [finding.to_json() for finding in findings]}
    show(result, as_json, lambda: "\n".join(_lines(findings)))
    sys.exit(EXIT_FAILED if bad else EXIT_DONE)


def _lines(findings: list[Finding]) -> Iterator[str]:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        yield f"{_SIGNS[finding.level]}  {finding.name.ljust(width)}  {printable(finding.detail)}"
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
        return Config(), Finding("config", "fail", str(error), mend)
    read = path or DEFAULT_PATH
    return found, Finding("config", "ok", str(read) if read.exists() else f"{read} is not there: every setting has its default")


def _agent(config: Config) -> Iterator[Finding]:
    if os.geteuid() != 0:
        yield Finding("privilege", "warn", "not root: some checks see less", "run it as root")
    try:
        status = cast(dict[str, object], client.call(config.paths.control_socket, "status"))
    except TidegateError as error:
        yield Finding("daemon", "fail", str(error), "systemctl enable --now tidegated; journalctl -u tidegated")
        return
    yield Finding("daemon", "ok", f"tidegated {status['version']} answers; this host is {status['host_id']}")
    for problem in cast(list[str], status["problems"]):
        yield Finding(
            "daemon",
            "fail",
            problem,
            "mend what it names: a file is taken up at once, all else within 15 s, or by: systemctl kill -s HUP tidegated",
        )

    yield _executions(status)
    yield _logged(status)
    yield from _kept_back(config)


def _executions(status: dict[str, object]) -> Finding:
    """Whether what tenants run is captured from the kernel's audit."""
    found = status.get("executions")
    state = cast(dict[str, object], found) if isinstance(found, dict) else {"absent": "this daemon is older", "limits": []}
    if state["absent"]:
        mend = "a container has no audit of its own; else boot with audit=1 and without enabled 2, and restart tidegated"
        return Finding("commands", "warn", f"what tenants run is not captured: {state['absent']}", mend)
    limits = cast(list[str], state["limits"])
    if limits:
        return Finding(
            "commands", "warn", f"what tenants run may be hidden: {'; '.join(limits)}", "auditctl -l; see docs/SECURITY.md"
        )
    return Finding("commands", "ok", "every exec of a tenant is captured from the kernel's audit")


def _logged(status: dict[str, object]) -> Finding:
    """Whether what sshd and sudo log of tenants is seen."""
    found = status.get("logged")
    absent = found.get("absent") if isinstance(found, dict) else "this daemon is older"
    if absent:
        mend = "it takes systemd-journald; a grant that requires recording is refused port-forwarding until then"
        return Finding("journal", "warn", f"what tenants forward, and run by sudo, is not seen: {absent}", mend)
    return Finding("journal", "ok", "what tenants forward, and run by sudo, is seen in the journal")


def _kept_back(config: Config) -> Iterator[Finding]:
    """UIDs of former tenants of whom something is left; the daemon looks again before it answers."""
    try:
        answer = cast(dict[str, object], client.call(config.paths.control_socket, "tombstones", look=True))
    except TidegateError as error:
        yield Finding("uids", "warn", f"not known which UIDs are kept back: {error}", "journalctl -u tidegated")
        return
    graves = cast(list[dict[str, object]], answer["tombstones"])
    if not graves:
        yield Finding("uids", "ok", "nothing is left of former tenants")
    for grave in graves[:_GRAVES_SHOWN]:
        left = [found for found in cast(list[dict[str, str]], grave["left"]) if isinstance(found, dict)]
        first = left[0] if left else {"kind": "", "where": "unknown", "detail": ""}
        detail = f"{grave['uid']} ({grave['login']}) is kept back since {grave['since']}, {grave['count']} left, such as "
        yield Finding("uids", "warn", f"{detail}{first['kind']} {first['where']}: {first['detail']}", advice(first["kind"]))
    if len(graves) > _GRAVES_SHOWN:
        more = f"{len(graves) - _GRAVES_SHOWN} more UIDs are kept back"
        yield Finding("uids", "warn", more, "tidegate doctor --json shows no more either; mend the first, and ask again")


def _files(config: Config) -> Iterator[Finding]:
    decoders = policies.decoders(registry())
    yield _checked("policy", lambda: _policy(config, decoders))
    yield _checked("keys", lambda: _keys(config))


def _checked(name: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except (ConfigError, OSError) as error:
        return Finding(name, "fail", str(error), "mend the file; the daemon takes it up at once")


def _policy(config: Config, decoders: policies.Decoders) -> Finding:
    findings = policies.check(config.paths.policy_dir, decoders)
    for finding in findings:
        if finding.level == "error":
            return Finding("policy", "fail", str(finding), "tidegate policy check")
    rules = len(policies.load_policy(config.paths.policy_dir, decoders).rules)
    if not rules:
        return Finding("policy", "warn", f"{config.paths.policy_dir} has no rule: every grant is refused", "see docs/POLICY.md")
    warnings = f", {counted(len(findings), 'warning')}: tidegate policy check" if findings else ""
    return Finding("policy", "ok", f"{counted(rules, 'rule')}{warnings}")


def _keys(config: Config) -> Finding:
    ring = trust.load_keyring(config.paths.trust_dir)
    if not len(ring):
        mend = "put the control plane's public JWK Set there as NAME.jwks"
        return Finding("keys", "warn", f"{config.paths.trust_dir} has no key: nobody can sign a grant for this host", mend)
    issuers = sorted({issuer for key in ring for issuer in key.issuers})
    return Finding("keys", "ok", f"{counted(len(ring), 'key')}, for {', '.join(issuers)}")
