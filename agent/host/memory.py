"""Python's collector of cyclic garbage, kept from what it need not look at."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """While much is made that is all to be kept: a look for what could go would go through all of it, again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def keep_for_good() -> None:
    """What is there now stays, and no later look goes through it: each holds up every thread meanwhile."""
    gc.freeze()
