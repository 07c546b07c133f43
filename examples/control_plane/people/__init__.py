"""People: who they say they are, by OpenID Connect or a local account; what roles that gives; their sessions; their end here."""

from examples.control_plane.people.person import PEOPLE_SCHEMA, Person
from examples.control_plane.people.service import People

__all__ = ["PEOPLE_SCHEMA", "People", "Person"]
