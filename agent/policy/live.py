"""The policy in force. A bad file never replaces a good policy, and never goes unsaid."""

from pathlib import Path

from agent.errors import ConfigError
from agent.policy.load import Decoders, load_policy
from agent.policy.model import Policy


class PolicyStore:
    """Holds the policy of one folder; ``policy`` may be read from any thread while another reloads.

    Before the first good load it is the policy that allows nothing.
    """

    def __init__(self, folder: Path, decoders: Decoders) -> None:
        self._folder = folder
        self._decoders = decoders
        self._state: tuple[Policy, ConfigError | None] = (Policy(), None)
        self._loaded = False

    @property
    def folder(self) -> Path:
        """What to watch."""
        return self._folder

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._state[0]

    @property
    def error(self) -> ConfigError | None:
        """Why the files as they are now are not in force, None when they are; ``tidegate status`` shows it."""
        return self._state[1]

    @property
    def loaded(self) -> bool:
        """Whether a policy of this folder was ever read whole since the start; until then none is in force."""
        return self._loaded

    def reload(self) -> bool:
        """Read the files again; True when they are now in force, False when the old policy stays (see :attr:`error`)."""
        try:
            self._state = (load_policy(self._folder, self._decoders), None)
        except ConfigError as error:
            self._state = (self._state[0], error)
            return False
        self._loaded = True
        return True
