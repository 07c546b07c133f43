"""What an admin changes about people here: local accounts are made, and get other roles."""

from agent.model.text import unseen
from examples.control_plane.events.kinds import Kind
from examples.control_plane.people import local, provisioning
from examples.control_plane.people.errors import LoginRefusedError
from examples.control_plane.people.offboarding import only_admin
from examples.control_plane.people.person import LOCAL, Person, by_id, set_roles
from examples.control_plane.people.service import Leave, People
from examples.control_plane.store import audit


def add_local(people: People, name: str, full_name: str, roles: frozenset[str], password: str, by: str) -> Person:
    """A new local account. ``by`` is the admin's subject, empty for whoever may write the data folder.

    Raises:
        LoginRefusedError: ``login_method_off``, ``name_invalid``, ``password_length``, ``person_known``.
    """
    if not people.settings.local:
        raise LoginRefusedError("login_method_off", "local accounts are off here (`people: {local: true}` turns them on)")
    if not local.NAME.fullmatch(name):
        raise LoginRefusedError("name_invalid", f"a local account's name matches {local.NAME.pattern}", field="name")
    if len(full_name) > provisioning.NAME_MAX or any(map(unseen, full_name)) or {":", ","} & set(full_name):
        raise LoginRefusedError("name_invalid", "a full name is printable text without ':' and ','", field="full_name")
    kept = local.secret(password)  # takes its time: not within the transaction
    with people.store.write() as db:
        person = provisioning.add_local(db, name, full_name, roles, people.settings.prefix, people.wall())
        local.keep(db, person.id, kept)
        detail = {"login": person.login, "roles": sorted(roles), "method": "local"}
        audit.note(db, Kind.PERSON_PROVISIONED, actor=by, subject=person.subject, detail=detail)
        return person


def new_password(people: People, name: str, password: str) -> Person:
    """Another password for a local account, whose sessions end: for whoever may write the data folder.

    Raises:
        LoginRefusedError: ``person_unknown``, ``password_length``.
    """
    kept = local.secret(password)
    with people.store.write() as db:
        found = local.kept_for(db, name)
        person = by_id(db, found[0]) if found is not None else None
        if person is None:
            raise LoginRefusedError("person_unknown", f"there is no local account {name[:64]!a}")
        local.keep(db, person.id, kept)
        people.sessions.end_all(db, person.id)
        audit.note(db, Kind.PERSON_CHANGED, subject=person.subject, detail={"password": True})
        return person


def change_roles(people: People, ident: int, roles: frozenset[str], by: str, leave: Leave) -> Person:
    """Exactly these roles for a local account. ``leave`` ends what the person no longer may hold, in the same transaction.

    Raises:
        LoginRefusedError: ``person_unknown``, ``person_ended``, ``roles_by_claims``, ``last_admin``.
    """
    with people.store.write() as db:
        before = by_id(db, ident)
        if before is None:
            raise LoginRefusedError("person_unknown", f"there is no person {ident}")
        if before.ended is not None:
            raise LoginRefusedError("person_ended", "has been offboarded")
        if before.issuer != LOCAL:
            raise LoginRefusedError("roles_by_claims", "has the roles that the provider's groups give: change them there")
        if "admin" not in roles and only_admin(db, before):
            raise LoginRefusedError("last_admin", "is the only admin: give somebody else that role first")
        set_roles(db, ident, roles)
        person = by_id(db, ident) or before
        detail = {"roles": sorted(roles), "lost": sorted(before.roles - roles)}
        audit.note(db, Kind.PERSON_CHANGED, actor=by, subject=person.subject, detail=detail)
        if before.roles - roles:
            leave(db, person)
        return person
