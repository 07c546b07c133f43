"""The API for hosts (docs/PROTOCOL.md): mutual TLS, and a host reaches only what is its own."""
