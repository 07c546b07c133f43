"""Session logs: taken in by offset, verified under the host's key, followed while they grow, exported to replay."""
