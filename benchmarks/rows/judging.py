"""What deciding about one token takes: verify, judge and plan, of one that is accepted and of ones that are refused."""

import json
from pathlib import Path

from agent.trust import sign_compact
from agent.trust.token import TYP_GRANT
from benchmarks.frame.row import OURS, Goal, Plot, Row, Run
from benchmarks.ground import standing
from tests.host.scene import account, public, ssh, sudo

_ACCEPTED, _POLICY, _FORGED = "accepted", "refused by policy", "refused by its signature"
_SAME, _JWT = "accepted", "pyjwt"
_INSIDE = Path(__file__).with_name("judging_inside.py")
_NAMES = {
    "verify": "verifying the signature",
    "decode": "decoding it, with every rule of its fields",
    "names": "the name service's answers about one new login and number (nss-systemd asks systemd for each)",
    "running": "looking through /proc for processes of that number",
    "plan": "looking at the host (accounts, groups, files) and planning",
}


def measure(run: Run) -> None:
    """In one process on the host, beside the daemon: that one's own journal, keys and policy, read only."""
    with standing(run) as ground:
        scene = ground.scene
        entries = account("jit-judged"), ssh("jit-judged", public(ground.key)), sudo("jit-judged")
        wrong = account("root-judged"), ssh("root-judged", public(ground.key)), sudo("root-judged")
        forged_key = {**scene.keys["stranger"], "kid": "cp-1"}
        private = scene.keys["cp-1"]
        given = {
            "good": scene.grant(*entries).decode(),
            "denied": scene.grant(*wrong).decode(),
            "forged": sign_compact(scene.claims(*entries), TYP_GRANT, forged_key),
            "key": {name: private[name] for name in ("kty", "crv", "x")},
            "host": scene.host_id,
        }
        ground.host.write("/usr/local/lib/judging_inside.py", _INSIDE.read_bytes())
        rounds = run.times(1000, 100)
        argv = ["python3", "-I", "/usr/local/lib/judging_inside.py", str(rounds)]
        found = json.loads(ground.host.run(argv, input=json.dumps(given), timeout=300).stdout)
    run.add(_ACCEPTED, OURS, "us", *found["accepted"])
    run.add(_ACCEPTED, _JWT, "us", *found["pyjwt"])
    for case, name in ((_POLICY, "by policy"), (_FORGED, "by signature")):
        run.add(case, OURS, "us", *found[name])
        run.add(case, _SAME, "us", *found["accepted"])
        run.part(case, _NAMES["verify"], "us", *found["verify"])
    for name, what in _NAMES.items():
        run.part(_ACCEPTED, what, "us", *found[name])


ROW = Row(
    name="judging",
    title="Deciding about one grant",
    about="Verify, decode, look for replays, judge by policy, look at the host and plan, of a grant with an account, a key "
    "and a sudo rule, by the installed code on a test host; PyJWT alone verifies the same token and looks at no more "
    "than its audience and times. Beside the refused ones stands the accepted one of the same rounds.",
    measure=measure,
    goals=(
        Goal(_ACCEPTED, "median", 500),
        Goal(_POLICY, "ratio", 1.0, against=_SAME),
        Goal(_FORGED, "ratio", 1.0, against=_SAME),
    ),
    ways={OURS: "Tidegate", _SAME: "Tidegate, accepted", _JWT: "PyJWT alone"},
    limits={_ACCEPTED: (_JWT,)},
    plots=(Plot("spread", "Deciding about one grant", (_ACCEPTED, _POLICY, _FORGED)),),
)
