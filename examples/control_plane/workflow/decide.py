"""Who may what: pure functions over frozen values. Each returns what was decided, or raises the Problem that says why not."""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence

from agent.model.text import same_person
from examples.control_plane.api.problems import Problem
from examples.control_plane.config.policy import Policy, Rule, Template
from examples.control_plane.signing.ssh import principal_of
from examples.control_plane.workflow.model import Approval, Ask, Host, Judged, Party, Request


def concerns(rule: Rule, party: Party) -> bool:
    """Whether the rule is about this person."""
    return bool(rule.roles & party.roles) or party.subject in rule.subjects


def reaches(rule: Rule, host: Host) -> bool:
    """Whether the rule is about this host: by its name, or by all of the rule's labels."""
    labelled = bool(rule.labels) and all(host.labels.get(key) == value for key, value in rule.labels.items())
    return host.name in rule.hosts or labelled


def offers(party: Party, policy: Policy, hosts: Sequence[Host]) -> Iterator[tuple[Template, Rule, tuple[Host, ...]]]:
    """What this person may ask for: template, rule and the hosts that it is for."""
    for rule in policy.rules:
        if concerns(rule, party) and (reached := tuple(host for host in hosts if reaches(rule, host))):
            for name in sorted(rule.templates):
                yield policy.templates[name], rule, reached


def judge(ask: Ask, party: Party, policy: Policy, hosts: Mapping[str, Host], *, certificates: bool) -> Judged:
    """The first rule that allows all of it, and what the grants would say. ``hosts``: those enrolled, by name.

    Raises:
        Problem: ``template_unknown``, ``host_unknown``, ``not_offered``, or why the first rule that is about it does not allow it.
    """
    template = policy.templates.get(ask.template)
    if template is None:
        raise Problem("template_unknown", f"no template is called {ask.template!r}", field="template")
    for index, name in enumerate(ask.hosts):
        if name not in hosts:
            raise Problem("host_unknown", f"no enrolled host is called {name!r}", field=f"hosts[{index}]")
    wanted = tuple(hosts[name] for name in sorted(ask.hosts))
    first: Problem | None = None
    for rule in policy.rules:
        if concerns(rule, party) and template.name in rule.templates and all(reaches(rule, host) for host in wanted):
            found = _refusal(rule, ask)
            if found is None:
                return Judged(rule, template, wanted, _asked(ask, party, template, wanted, certificates=certificates))
            first = first or found
    raise first or Problem("not_offered", "no rule lets you ask for this template on these hosts")


def _refusal(rule: Rule, ask: Ask) -> Problem | None:
    if ask.duration_s > rule.max_duration_s:
        return Problem("duration_too_long", f"at most {rule.max_duration_s} s are allowed", field="duration_s")
    if rule.ticket and not ask.ticket and not ask.break_glass:
        return Problem("ticket_required", "a ticket is needed", field="ticket")
    if ask.break_glass and not rule.break_glass:
        return Problem("break_glass_not_allowed", "break-glass is not for this", field="break_glass")
    return None


def _asked(ask: Ask, party: Party, template: Template, hosts: Sequence[Host], *, certificates: bool) -> dict[str, object]:
    """Everything that an approver approves: who, what exactly, where, for how long, why."""
    source = _source(ask.source_address, template.source_address)
    return {
        "subject": party.subject,
        "login": party.login,
        "template": template.name,
        "hosts": [{"name": host.name, "host_id": host.host_id} for host in hosts],
        "duration_s": ask.duration_s,
        "reason": ask.reason,
        "ticket": ask.ticket,
        "break_glass": ask.break_glass,
        "extends": ask.extends,
        "keys": list(ask.keys),
        "source_address": list(ask.source_address),
        "authorization_details": details(ask, party, template, source, certificates=certificates),
        "recording": {name: True for name, wanted in template.recording.items() if wanted},
    }


def details(
    ask: Ask, party: Party, template: Template, source: tuple[str, ...], *, certificates: bool
) -> list[Mapping[str, object]]:
    """The entries of authorization_details for this person. Raises Problem ``certificates_off``."""
    if not ask.keys and not certificates:
        raise Problem("certificates_off", "no certificates are made here: name a public key", field="keys")
    name = "".join(" " if character in ":," else character for character in party.name).strip()
    account = {"type": "account", "identifier": party.login, **({"full_name": name} if name else {}), **template.account}
    credentials = {"keys": list(ask.keys)} if ask.keys else {"principals": [principal_of(party.subject)]}
    ssh: dict[str, object] = {"type": "ssh", "identifier": party.login, **credentials, "actions": list(template.actions)}
    if source:
        ssh["source_address"] = list(source)
    return [account, ssh, *({**entry, "identifier": party.login} for entry in template.more)]


def _source(asked: tuple[str, ...], allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Where from: what was asked, inside of what the template allows; all of that when nothing was asked."""
    if not asked or not allowed:
        return asked or allowed
    limits = [ipaddress.ip_network(one) for one in allowed]
    for index, one in enumerate(asked):
        try:
            network = ipaddress.ip_network(one)
        except ValueError as caught:
            raise Problem("grant_invalid", "is no address or strict CIDR", field=f"source_address[{index}]") from caught
        if not any(network.version == limit.version and network.subnet_of(limit) for limit in limits):  # type: ignore[arg-type]  # of one version
            raise Problem("not_offered", f"must lie within {', '.join(allowed)}", field=f"source_address[{index}]")
    return asked


def same(one: str, other: str) -> bool:
    """A second spelling of oneself is no second person."""
    return same_person(one, other)


def own(request: Request, party: Party) -> bool:
    """Whether it is this person's own request, however their name is spelled."""
    return same(request.subject, party.subject) or request.login == party.login


def approvable(request: Request, party: Party, roles: frozenset[str], digest: str, now: int) -> None:
    """Whether this person may approve exactly this, now. ``roles``: those that may, by the policy of now.

    Raises:
        Problem: ``not_waiting``, ``own_request``, ``not_an_approver``, ``digest_mismatch``, ``already_decided``.
    """
    decidable(request, party, roles, now)
    if digest != request.digest:
        raise Problem("digest_mismatch", "this is not what was asked: look at the request again", field="digest")
    if any(same(approval.by, party.subject) for approval in request.approvals):
        raise Problem("already_decided", "you have decided on it already")


def decidable(request: Request, party: Party, roles: frozenset[str], now: int) -> None:
    """Whether this person may decide on it at all: it waits, is not theirs, and they have a role that decides.

    Raises:
        Problem: ``not_waiting``, ``own_request``, ``not_an_approver``.
    """
    if request.state != "waiting" or request.lapses_at <= now:
        raise Problem("not_waiting", f"the request is {request.state if request.state != 'waiting' else 'lapsed'}")
    if own(request, party):
        raise Problem("own_request", "nobody decides on their own request")
    if not roles & party.roles:
        raise Problem("not_an_approver", f"it is for {', '.join(sorted(roles))} to decide")


def counted(request: Request, digest: str, approvers: Mapping[str, Party], roles: frozenset[str]) -> int:
    """How many approvals count: each by another person, of this very digest, by somebody who may approve still.

    ``approvers``: by subject, those who are known and active now.
    """
    people: set[str] = set()
    for approval in request.approvals:
        party = approvers.get(approval.by)
        if party is None or approval.verdict != "approved" or approval.digest != digest:
            continue
        if roles & party.roles and not own(request, party):
            people.add(party.login)
    return len(people)


def revocable(request: Request, party: Party) -> None:
    """Its owner, an approver of it, an admin. Raises Problem ``not_yours``."""
    if not (own(request, party) or party.roles & (request.approver_roles | {"admin"})):
        raise Problem("not_yours", "it is for its owner, its approvers and admins to end it")


def reviewable(request: Request, party: Party) -> None:
    """Raises Problem ``not_to_review``, ``own_request``."""
    if request.review != "open":
        raise Problem("not_to_review", "it waits for no review")
    if own(request, party):
        raise Problem("own_request", "nobody reviews their own break-glass")


def sees_all(party: Party, policy: Policy) -> bool:
    """Whether somebody sees requests of others: admins, auditors, and whoever approves anything."""
    deciding = frozenset({"admin", "auditor", "approver"}).union(*(rule.approver_roles for rule in policy.rules))
    return bool(deciding & party.roles)


def restored(asked: Mapping[str, object]) -> Ask:
    """The ask again, from what was kept of it."""

    def texts(name: str) -> tuple[str, ...]:
        found = asked[name]
        return tuple(str(item) for item in found) if isinstance(found, list) else ()

    hosts = asked["hosts"]
    names = tuple(str(host["name"]) for host in hosts if isinstance(host, Mapping)) if isinstance(hosts, list) else ()
    return Ask(
        template=str(asked["template"]),
        hosts=names,
        duration_s=int(str(asked["duration_s"])),
        reason=str(asked["reason"]),
        ticket=str(asked["ticket"]),
        keys=texts("keys"),
        source_address=texts("source_address"),
        break_glass=asked["break_glass"] is True,
        extends=str(asked["extends"]),
    )


def approved_by(approvals: Sequence[Approval]) -> list[str]:
    """Subjects that approved."""
    return [approval.by for approval in approvals if approval.verdict == "approved"]
