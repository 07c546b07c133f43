"""NATS on the real server: the courier's transport, the control plane's side, and who may do what."""
