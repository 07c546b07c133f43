"""Frozen values that the stages pass to each other, and the protocol of an enforcer."""

from agent.model.enforcer import Enforcer, PlanContext
from agent.model.grant import (
    AccountWant,
    Grant,
    GroupWant,
    RoleWant,
    Signer,
    SshWant,
    SudoWant,
    VerifiedToken,
    Want,
)
from agent.model.lent import lent_by
from agent.model.plan import Json, JsonObject, Phase, Plan, Residue, Stage, Step

__all__ = [
    "AccountWant",
    "Enforcer",
    "Grant",
    "GroupWant",
    "Json",
    "JsonObject",
    "Phase",
    "Plan",
    "PlanContext",
    "Residue",
    "RoleWant",
    "Signer",
    "SshWant",
    "Stage",
    "Step",
    "SudoWant",
    "VerifiedToken",
    "Want",
    "lent_by",
]
