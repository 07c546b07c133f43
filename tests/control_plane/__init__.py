"""The reference control plane, run for real on loopback."""
