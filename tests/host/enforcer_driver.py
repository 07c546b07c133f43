"""Runs inside a test host, as root: the enforcers on the real host, one JSON order on stdin, one JSON answer on stdout."""

import json
import sys
import time
from typing import Any

sys.path.insert(0, "/usr/lib/tidegate")

from agent.config import Config
from agent.enforcement import apply, revert
from agent.errors import TidegateError
from agent.host.system import SystemHost
from agent.model import Grant, Phase, Step
from agent.planning import plan
from enforcers import REGISTRY

ENFORCERS = {enforcer.type: enforcer for enforcer in REGISTRY}


def main(order: dict[str, Any]) -> dict[str, Any]:
    """Orders: prepare, open, close (both phases, or the one named)."""
    host = SystemHost(Config())
    begun = time.perf_counter()
    answer: dict[str, Any] = {"backend": host.backend.name}
    try:
        match order["do"]:
            case "prepare":
                for enforcer in ENFORCERS.values():
                    if prepare := getattr(enforcer, "prepare", None):
                        prepare(host)
            case "open":
                begun = time.perf_counter()
                planned = plan(_grant(order), ENFORCERS, host, lambda _: order["uid"])
                answer["plan_ms"] = (time.perf_counter() - begun) * 1000
                answer["steps"] = [step.to_json() for step in planned.steps]
                begun = time.perf_counter()
                if not order.get("dry"):
                    apply(planned.steps, ENFORCERS, host)
            case "close":
                steps = [Step.from_json(step) for step in order["steps"]]
                failed = [f for phase in order["phases"] for f in revert(steps, ENFORCERS, Phase(phase), host)]
                answer["failed"] = [str(error) for _, error in failed]
                answer["residue"] = [
                    found.to_json() for e in REGISTRY for found in e.residue([s for s in steps if s.enforcer == e.type], host)
                ]
    except TidegateError as error:
        answer |= {"code": error.code, "reason": error.reason}
    answer["ms"] = (time.perf_counter() - begun) * 1000
    return answer


def _grant(order: dict[str, Any]) -> Grant:
    now = int(time.time())
    wants = tuple(ENFORCERS[body["type"]].decode(body, "body") for body in order["bodies"])
    exp = order.get("exp", now + 600)
    return Grant("i", "a", "s", now, now, exp, order["jti"], wants, (), "", reason="a test")


if __name__ == "__main__":
    json.dump(main(json.load(sys.stdin)), sys.stdout)
