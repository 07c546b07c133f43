"""The host's own ceiling: whatever a grant's signer may be, nothing beyond the admin's policy is opened.

Reading (:mod:`load`) takes files to one frozen :class:`~agent.policy.model.Policy`; judging (:mod:`judge`) is pure.
"""

from agent.policy.check import Finding, check
from agent.policy.judge import judge
from agent.policy.live import PolicyStore
from agent.policy.load import Decoders, load_policy, load_policy_file
from agent.policy.model import Allowed, Denied, Live, LiveGrant, Policy
from agent.policy.roles import decoders

__all__ = [
    "Allowed",
    "Decoders",
    "Denied",
    "Finding",
    "Live",
    "LiveGrant",
    "Policy",
    "PolicyStore",
    "check",
    "decoders",
    "judge",
    "load_policy",
    "load_policy_file",
]
