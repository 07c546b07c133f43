"""The parts of Tidegate put together: for the daemon, and for a look at what a grant would do while no daemon runs."""

from agent import VERSION, policy, trust
from agent.audit import AuditEvent, EventKind, HostIdentity, Trail
from agent.config import Config
from agent.expiry.behind import Behind
from agent.expiry.ending import Ending
from agent.expiry.executions import Executions
from agent.expiry.ledger import Ledger
from agent.expiry.logged import Logged
from agent.expiry.proving import Prover
from agent.expiry.recordings import Recordings
from agent.expiry.reserve import Reserve
from agent.expiry.teardown import Teardown
from agent.expiry.tombstones import Tombstones
from agent.host.asking import HostAsker
from agent.host.cgroups import Cgroups
from agent.host.clock import Clock, RealClock
from agent.host.processes import ProcProcesses
from agent.host.system import SystemHost
from agent.host.timers import SystemdTimers
from agent.journal import Journal
from agent.model import Enforcer
from agent.pipeline import Pipeline
from agent.sessions.execs.kernel import HostKernel
from agent.sessions.who import Sessions
from agent.spool import Inbox, Outbox
from enforcers import REGISTRY


def registry() -> dict[str, Enforcer]:
    """The enforcers by the authorization_details type that each serves."""
    return {enforcer.type: enforcer for enforcer in REGISTRY}


def assemble(config: Config, keys: trust.KeyStore, journal: Journal, host_key: trust.HostKey, *, by: str = "tidegated") -> Pipeline:
    """Every part, none of it started: nothing is read or written here, so nothing is allowed and nobody trusted.

    ``by``: the program that it is for, as receipts tell it.
    """
    paths, clock, enforcers = config.paths, RealClock(), registry()
    host_id = config.host_id or host_key.host_id
    writer = SystemHost(config)
    table = ProcProcesses(config.uid_first, config.uid_last)
    trail = Trail(paths.outbox, HostIdentity.of_this_host(host_id, VERSION), clock)
    outbox = Outbox(
        paths.outbox,
        clock,
        host_key.sign,
        on_drop=lambda dropped: trail.emit([_dropped(clock, kind, name) for kind, name in dropped]),
    )
    ledger = Ledger(clock)
    cgroups = Cgroups.find()
    uids = config.uid_first, config.uid_last
    kernel = HostKernel(*uids, paths.run_dir / "audit-was-off")
    reserve = Reserve(paths.state_db.parent / "orders.reserve", paths.run_dir / "orders.reserve")
    return Pipeline(
        config=config,
        host_id=host_id,
        clock=clock,
        writer=writer,
        enforcers=enforcers,
        ring=lambda: keys.ring,
        policies=policy.PolicyStore(paths.policy_dir, policy.decoders(enforcers)),
        host_key=host_key,
        journal=journal,
        ledger=ledger,
        table=table,
        prover=Prover(HostAsker(writer), config, clock, journal, ledger, trail),
        executions=Executions(kernel, paths.execs, uids, clock, journal, ledger, trail),
        logged=Logged(writer, clock, journal, ledger, trail),
        teardown=Teardown(writer, enforcers, table, cgroups, clock, others=ledger.lent),
        inbox=Inbox(paths.inbox),
        ending=Ending(host_id, clock, host_key, journal, ledger, outbox, trail, reserve, by=by),
        behind=Behind(config.backstop, SystemdTimers(), journal, ledger, clock),
        outbox=outbox,
        trail=trail,
        tombstones=Tombstones(writer, table, journal, ledger, trail, clock),
        sessions=Sessions(table, cgroups, clock),
        recordings=Recordings(host_id, clock, host_key, journal, ledger),
    )


def looking_only(config: Config) -> Pipeline:
    """A pipeline that can ``admit`` and no more, from this host's files alone: what root sees with no daemon.

    It makes no folder and no key, and opens the journal read-only. The files are read once, and a bad one is an error: there
    is no older policy or key ring that would stay in force.

    Raises:
        ConfigError: the policy, the keys, or this host's own key (``key_file_missing`` where no daemon ever ran).
        JournalError: there is no journal, or it can't be read.
    """
    host_key = trust.HostKey.load(config.paths.host_key)
    keys = trust.KeyStore(config.paths.trust_dir)
    pipeline = assemble(config, keys, Journal(config.paths.state_db, read_only=True), host_key)
    for store in (keys, pipeline.policies):
        store.reload()
        if store.error is not None:
            raise store.error
    pipeline.ledger.read(pipeline.journal)
    return pipeline


def _dropped(clock: Clock, kind: str, name: str) -> AuditEvent:
    reason = f"the outbox is full: {name} was deleted"
    return AuditEvent(EventKind.OUTBOX_DROPPED, clock.wall_ns(), reason=reason, ok=False, detail={"kind": kind, "file": name})
