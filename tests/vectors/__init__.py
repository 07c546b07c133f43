"""Tokens, good and bad, each with the verdict that any implementation of docs/PROTOCOL.md gives."""
