"""Takes mounts away, as the host sees them. A process of its own: the daemon has a mount namespace to itself.

Mount points come as JSON on stdin, in the order to go; the answer is the error of each, empty when it is gone.
"""

import json
import sys
from pathlib import Path

if __name__ == "__main__":  # run by its path, with no package around it
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agent.host.mounts import detach, join_hosts_namespace


def main() -> None:
    """One order, one answer."""
    points: list[str] = json.load(sys.stdin)
    join_hosts_namespace()
    errors: list[str] = []
    for point in points:
        try:
            detach(point)
        except OSError as error:
            errors.append(error.strerror or "refused")
        else:
            errors.append("")
    json.dump(errors, sys.stdout)


if __name__ == "__main__":
    main()
