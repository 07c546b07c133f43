"""The write-ahead journal: what was taken, what is about to be done, what is done, what is undone, and what was proved."""

from agent.journal.journal import Journal
from agent.journal.records import EndCause, GrantRecord, GrantState, StepState
from agent.journal.tombstones import Tombstone

__all__ = ["EndCause", "GrantRecord", "GrantState", "Journal", "StepState", "Tombstone"]
