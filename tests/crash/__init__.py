"""The crash sweep: tidegated killed at every journal boundary and every mutating system call, then started again.

`make crash` runs all of it. How it goes, from the outside in:

* `sweep` (on this machine) boots two hosts, lists the points, shares them out, and prints the result.
* `driver` (in a host, as root) takes one point after the other: it forks a tidegated from modules that are loaded already,
  lets it open or end a grant, has it killed at the point, starts another one, and looks at what is left (`checks`).
* `tracer` is what kills: ptrace(2), stopped by a seccomp filter at mutating calls only (`syscalls`).
* `agent_process` is tidegated itself, `agent.daemon.Daemon` whole; only its clock can be moved, since no host has its own.

Nothing here knows the steps of a grant: a point is the n-th mutating call after the trigger, whatever makes it, and what must
be true afterwards is told by snapshots and by the journal.
"""
