"""The recorder: one unprivileged service that relays and records every session."""
