"""The file about a tenant that tidegate-shell and the recorder read: the real shell, what is allowed, how it is recorded."""

import json

from agent.host.contract import RecorderSeen
from agent.model import AccountWant, Grant, Json, Recording, SshWant


def ssh_of(want: AccountWant, grant: Grant) -> SshWant | None:
    """The ssh entry of the same grant for this login."""
    return next((w for w in grant.wants if isinstance(w, SshWant) and w.identifier == want.identifier), None)


def tenant_file(want: AccountWant, grant: Grant, uid: int, recorder: RecorderSeen) -> str:
    """Its text: one JSON object in ASCII. Without a member ``recording`` nothing of the tenant's is recorded."""
    ssh = ssh_of(want, grant)
    value: dict[str, Json] = {
        "login": want.identifier,
        "uid": uid,
        "shell": want.shell,
        "actions": list(ssh.actions) if ssh else [],
        "grant": {"jti": grant.jti, "sub": grant.sub, "exp": grant.exp, "reason": grant.reason, "ticket": grant.ticket},
    }
    if grant.recording is not None and not recorder.why:
        value["recording"] = _recording(grant.recording, recorder.uid)
    return json.dumps(value) + "\n"


def _recording(asked: Recording, recorder_uid: int) -> Json:
    return {
        "required": asked.required,
        "input": asked.input,
        "limit": asked.limit,
        "on_failure": "pause" if asked.pause_s else "close",
        "pause_s": asked.pause_s,
        "recorder_uid": recorder_uid,
    }
