"""What can go wrong with a test host, by whose fault it is."""


class HostError(Exception):
    """Base of all errors of the test bed."""


class HostUnavailable(HostError):  # noqa: N818 - the name says what is so, and tests catch it by this name
    """This machine cannot run such a host; the message is one line naming exactly what is missing."""


class HostFailed(HostError):  # noqa: N818 - as above
    """A host could be made here, but this one did not come up, or did not do what it was asked in time."""


class BuildFailed(HostError):  # noqa: N818 - as above
    """The cached Debian root could not be built; the message ends with the last lines of the tool that failed."""
