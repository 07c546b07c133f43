"""A reference control plane for Tidegate: small, real, made to be read. See docs/CONTROL_PLANE.md."""
