"""Frozen values that the stages pass to each other, and the protocol of an enforcer."""

from agent.model.enforcer import Enforcer, PlanContext
from agent.model.grant import (
    AccountWant,
    Grant,
    GroupWant,
    Recording,
    RoleWant,
    Signer,
    SshWant,
    SudoWant,
    VerifiedToken,
    Want,
)
from agent.model.lent import lent_by
from agent.model.order import Bulletin, Revocation, SubjectFormat
from agent.model.plan import Json, JsonObject, Phase, Plan, Residue, Stage, Step

__all__ = [
    "AccountWant",
    "Bulletin",
    "Enforcer",
    "Grant",
    "GroupWant",
    "Json",
    "JsonObject",
    "Phase",
    "Plan",
    "PlanContext",
    "Recording",
    "Residue",
    "Revocation",
    "RoleWant",
    "Signer",
    "SshWant",
    "Stage",
    "Step",
    "SubjectFormat",
    "SudoWant",
    "VerifiedToken",
    "Want",
    "lent_by",
]
