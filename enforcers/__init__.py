"""The mechanisms that open and shut access, one file each; REGISTRY lists them."""

from agent.model import Enforcer
from enforcers.account import AccountEnforcer
from enforcers.group import GroupEnforcer
from enforcers.ssh import SshEnforcer
from enforcers.sudo import SudoEnforcer

REGISTRY: tuple[Enforcer, ...] = (AccountEnforcer(), SshEnforcer(), SudoEnforcer(), GroupEnforcer())

__all__ = ["REGISTRY"]
