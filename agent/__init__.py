"""Tidegate's agent: opens access to this host for as long as a signed grant says, and shuts it on the second.

Start at :mod:`agent.pipeline`, which shows the whole flow, one short function each way.
"""

VERSION = "0.1.0"
