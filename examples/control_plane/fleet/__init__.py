"""NATS for fleets: tokens pushed from the outbox, hosts' words taken in, the broker told who its hosts are. docs/FLEET.md."""
