"""Grants, plans and steps for the tests of the journal and of expiry."""

from agent.model import AccountWant, Grant, Phase, Plan, Stage, Step

WALL = 1_800_000_000
NS = 1_000_000_000


def grant(jti: str = "g-1", *, exp: int = WALL + 600, login: str = "jit-alice", nbf: int = WALL, iss: str = "https://cp") -> Grant:
    """One grant of one account."""
    want = AccountWant(identifier=login)
    return Grant(iss, "host", "alice@example.com", nbf, nbf, exp, jti, (want,), (), f"{jti:0<64}", reason="why", ticket="T-1")


def step(n: int, phase: Phase = Phase.CLOSE, enforcer: str = "fake") -> Step:
    """One step; its target says which."""
    return Step(enforcer, "make", Stage.CREATE, phase, f"t{n}", f"step {n}", {"n": n})


def plan(jti: str = "g-1", steps: int = 3, uids: dict[str, int] | None = None) -> Plan:
    """Steps that alternate between the phases."""
    made = tuple(step(n, Phase.REMOVE if n % 2 == 0 else Phase.CLOSE) for n in range(steps))
    return Plan(jti, made, {} if uids is None else uids)
