"""``make fuzz``: every target for a bounded time, ``python -m tests.fuzz [NAME ...] [--seconds N]``.

Ends with ``N targets, M crashes`` and 1 where there was one; its input is kept, and how to see it again is printed.
``--replay`` runs a target's seeds (or the files named) once, with no fuzzer.
"""

import argparse
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz import SEEDS, names, target

ROOT = Path(__file__).resolve().parents[2]
FOUND = ROOT / ".fuzz"  # what a run finds; not part of the tree
_SLOW_S = 20  # for one input, before it counts as a hang
_MEMORY_MB = 2048


def main() -> int:
    """Exit status: 0 when nothing crashed."""
    asked = _arguments()
    chosen = asked.targets or names()
    if asked.replay:
        for name in chosen:
            for path in asked.files or sorted(SEEDS.joinpath(name).iterdir()):
                target(name).check(path.read_bytes())  # what is wrong comes out as it is
                print(f"{name}: {path}: good")
        return 0
    crashes = sum(_fuzz(name, asked.seconds) for name in chosen) + (_lives(asked.lives) if asked.lives else 0)
    print(f"{len(chosen)} targets, {crashes} crashes")
    return 1 if crashes else 0


def _fuzz(name: str, seconds: int) -> int:
    """One target in a process of its own; returns how many crashes it ended with (libFuzzer stops at the first)."""
    corpus, crashes = FOUND / "corpus" / name, FOUND / "crashes" / name
    for folder in (corpus, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    before = set(crashes.iterdir())
    words = FOUND / f"{name}.dict"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target(name).WORDS))
    options = [
        *(f"-max_total_time={seconds}", f"-max_len={target(name).MAX_LEN}", f"-timeout={_SLOW_S}", f"-rss_limit_mb={_MEMORY_MB}"),
        *(
            f"-artifact_prefix={crashes}/",
            "-print_final_stats=1",
            "-verbosity=0",
            *([f"-dict={words}"] if target(name).WORDS else []),
        ),
    ]
    began = time.monotonic()
    log = FOUND / f"{name}.log"
    with log.open("wb") as output:
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.one", name, *options, str(corpus), str(SEEDS / name)],
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
            cwd=ROOT,
            timeout=seconds + 300,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
        )
    said = log.read_text(errors="replace")
    runs = next((line.split()[-1] for line in said.splitlines() if "number_of_executed_units" in line), "?")
    found = sorted(set(crashes.iterdir()) - before)
    print(f"{name}: {runs} inputs in {time.monotonic() - began:.0f} s, {len(found)} crashes", flush=True)
    if done.returncode != 0 and not found:
        print(f"{name}: ended with status {done.returncode}:\n{said[-3000:]}")
        return 1
    for path in found:
        where = path.relative_to(ROOT)
        print(f"{_traceback(said)}\n  input: {path.read_bytes()[:200]!r}")
        print(
            f"  again: {Path(sys.executable).relative_to(ROOT) if _below(sys.executable) else sys.executable}"
            f" -m tests.fuzz {name} --replay --files {where}"
        )
        print(f"  mended? keep it: cp {where} {(SEEDS / name).relative_to(ROOT)}/")
    return len(found)


def _lives(count: int) -> int:
    """That many random lives of grants (tests/unit/test_lifecycle_machine.py), each time others; 1 when one went wrong."""
    log = FOUND / "lives.log"
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/test_lifecycle_machine.py"]
    with log.open("wb") as output:
        done = subprocess.run(
            argv,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
            cwd=ROOT,
            timeout=60 + 10 * count,
            env={**os.environ, "TIDEGATE_MACHINE_RUNS": str(count)},
        )
    print(f"lives of grants: {count}" if done.returncode == 0 else log.read_text(errors="replace")[-8000:])
    return int(done.returncode != 0)


def _traceback(said: str) -> str:
    lines = said.splitlines()
    start = max((n for n, line in enumerate(lines) if "Uncaught Python exception" in line or "ALARM: working" in line), default=0)
    kept = itertools.takewhile(
        lambda line: "libFuzzer: fuzz target exited" not in line and not line.startswith("MS: "), lines[start:]
    )
    return "\n".join(line[:500] for line in itertools.islice(kept, 60))


def _escaped(word: str) -> str:
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in word.encode("utf-8", "replace")
    )


def _below(path: str) -> bool:
    return Path(path).is_relative_to(ROOT)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[[], *names()], help="which; all by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--lives", type=int, default=0, help="and so many random lives of grants")
    parser.add_argument("--replay", action="store_true", help="run the seeds (or --files) once, without atheris")
    parser.add_argument("--files", nargs="*", type=Path, default=[], help="inputs to replay")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
