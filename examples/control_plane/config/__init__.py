"""The one configuration file: what listens where, who may ask for what, where events go."""

from examples.control_plane.config.settings import Settings, load

__all__ = ["Settings", "load"]
