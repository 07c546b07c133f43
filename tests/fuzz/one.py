"""One target under atheris: ``python -m tests.fuzz.one NAME [libFuzzer's own options and corpus folders]``."""

import importlib
import logging
import sys

import atheris


def main() -> None:
    """Everything of Tidegate that the target imports is instrumented; what it raises is a crash, kept by libFuzzer."""
    name = sys.argv[1]
    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["agent", "enforcers"]):
        target = importlib.import_module(f"tests.fuzz.fuzz_{name}")
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
