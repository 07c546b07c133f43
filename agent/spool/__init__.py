"""The folders through which signed files come in and answers, receipts and events go out."""

from agent.spool.entries import shown
from agent.spool.inbox import Inbox
from agent.spool.outbox import Outbox
from agent.spool.watch import Watch

__all__ = ["Inbox", "Outbox", "Watch", "shown"]
