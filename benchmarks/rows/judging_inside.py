"""Run on the test host by its own Python, with the installed code: what deciding about one token takes, piece by piece, in turn.

``python3 -I judging_inside.py ROUNDS < JSON``: ``good``, ``denied``, ``forged`` (tokens), ``key`` (the signer's public JWK),
``host``.
Prints an object: what → microseconds, in the order of the rounds.
"""

import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping

sys.path.insert(0, "/usr/lib/tidegate")

import jwt

from agent import planning, policy, trust
from agent.assembly import looking_only
from agent.config import load_config
from agent.errors import RefusedError
from agent.host.contract import Reader
from agent.model import Grant
from agent.pipeline import Pipeline


def main() -> None:
    """Measure and print."""
    given, rounds = json.load(sys.stdin), int(sys.argv[1])
    pipeline = looking_only(load_config())
    key = jwt.PyJWK(given["key"], algorithm="EdDSA").key
    good, denied, forged = (given[name].encode() for name in ("good", "denied", "forged"))
    works: dict[str, Callable[[], object]] = {
        "accepted": lambda: pipeline.admit(good),
        "by policy": lambda: _refused(lambda: pipeline.admit(denied)),
        "by signature": lambda: _refused(lambda: pipeline.admit(forged)),
        "pyjwt": lambda: jwt.decode(good, key, algorithms=["EdDSA"], audience=given["host"]),
    }
    decoders = policy.decoders(pipeline.enforcers)
    now_s = int(time.time())
    verified = trust.verify(good, pipeline.ring(), typ=trust.TYP_GRANT)
    grant = trust.decode(verified, host_id=given["host"], now_s=now_s, decoders=decoders)
    free = itertools.cycle(range(90000, 99000))
    pieces: dict[str, Callable[[], object]] = {
        "verify": lambda: trust.verify(good, pipeline.ring(), typ=trust.TYP_GRANT),
        "decode": lambda: trust.decode(verified, host_id=given["host"], now_s=now_s, decoders=decoders),
        "names": lambda: _names(pipeline.writer, grant.wants[0].identifier, next(free)),
        "running": lambda: pipeline.table.of({90000: ""}),
        "plan": lambda: _planned(pipeline, grant),
    }
    json.dump(_timed({**works, **pieces}, rounds), sys.stdout)


def _timed(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 20):
        for name, work in works.items():
            began = time.perf_counter_ns()
            work()
            took = time.perf_counter_ns() - began
            if number >= 20:  # the first ones warm caches
                found[name].append(took / 1000)
    return found


def _names(host: Reader, login: str, number: int) -> None:
    """What must be asked about a new account, each once: that nobody has its name or number."""
    with host.looking_once():
        host.user(login)
        host.group(login)
        host.groups_of(login)
        host.user_by_uid(number)
        host.group_by_gid(number)


def _planned(pipeline: Pipeline, grant: Grant) -> None:
    with pipeline.writer.looking_once():
        planning.plan(grant, pipeline.enforcers, pipeline.writer, pipeline._uids())


def _refused(act: Callable[[], object]) -> None:
    try:
        act()
    except RefusedError:
        return
    raise RuntimeError("it was not refused")


if __name__ == "__main__":
    main()
