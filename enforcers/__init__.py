"""The mechanisms that open and shut access, one file each; REGISTRY lists them."""
