"""What others say of themselves, and what stands in their source: read, not measured here. Shown apart, with where it stands."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Read:
    """One line of that table."""

    what: str
    figure: str
    source: str


READ = (
    Read("Teleport: memory of its agent, idle", "35 MB", "Teleport's RFD 244"),
    Read("Teleport: memory of its agent, one session; each further one", "65 MB; about 23 MB more", "Teleport's RFD 244"),
    Read("Teleport: `ssh localhost true`", "206.7 ms", "Teleport's RFD 244"),
    Read(
        "Teleport: a temporary user whose connection did not close in order is removed",
        "by a ticker, every 5 minutes",
        "Teleport's source, usermgmt.go",
    ),
    Read("Teleport: what ends a live session", "SIGKILL to the shell's process alone", "Teleport's source, sess.go"),
    Read("GCE's guest agent: live sessions at the end", "go on", "guest-agent's source, and measured here"),
    Read("Azure's agent (JIT): access removed", "at a new goal state only", "WALinuxAgent's source"),
)
