"""What a step lends to a login, as it stands in the step's journaled data (``lent``): enough to end it by, years later."""

from agent.host.lent import Lent
from agent.model.plan import Json, Step

LENT = "lent"  # that member


def to_json(lent: Lent) -> dict[str, Json]:
    """For ``Step.data["lent"]``. When it was lent is the grant's own to say."""
    return {
        "login": lent.login,
        "uid": lent.uid,
        "gids": [*sorted(lent.gids)],
        "rules": [[uid, command] for uid, command in sorted(lent.rules)],
        "alone": lent.alone,
    }


def lent_by(step: Step, since_ns: int) -> Lent | None:
    """What the step lends, since that time on the boot clock; None when it lends nothing, or in words that can't be read."""
    value = step.data.get(LENT)
    if not isinstance(value, dict):
        return None
    uid, gids, rules = value.get("uid"), value.get("gids"), value.get("rules")
    if not isinstance(uid, int) or not isinstance(gids, list) or not isinstance(rules, list):
        return None
    pairs = {(rule[0], rule[1]) for rule in rules if isinstance(rule, list) and len(rule) == 2}
    return Lent(
        str(value.get("login")),
        uid,
        frozenset(gid for gid in gids if isinstance(gid, int)),
        frozenset((run_as, command) for run_as, command in pairs if isinstance(run_as, int) and isinstance(command, str)),
        value.get("alone") is True,
        since_ns,
    )
