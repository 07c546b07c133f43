"""Result files, one for each row: all that was measured, on what, of which commit. The page and the comparison read them back."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.frame.figure import rounded
from benchmarks.frame.row import Row, Run, judged

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks/results"
Result = dict[str, Any]


def made(row: Row, run: Run, took_s: float) -> Result:
    """What the file of one run of one row says."""
    return {
        "row": row.name,
        "quick": run.quick,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "took_s": round(took_s),
        "commit": commit(),
        "machine": machine(),
        "versions": dict(sorted(run.versions.items())),
        "goals": [{**found, "found": _short(found["found"])} for found in (judged(goal, run) for goal in row.goals)],
        "cases": {case: {way: figure.to_json() for way, figure in ways.items()} for case, ways in run.figures.items()},
        "ratios": {
            case: {way: {name: rounded(getattr(over, name)) for name in ("value", "low", "high")} for way, over in ways.items()}
            for case, ways in run.ratios().items()
        },
        "parts": {case: {what: figure.to_json() for what, figure in found.items()} for case, found in run.parts.items()},
        "absent": run.absent,
        "notes": run.notes,
    }


def write(result: Result, folder: Path = FOLDER) -> Path:
    """Put it in its file: a line for each figure, so that changes can be read."""
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f"{result['row']}.json"
    path.write_text(_laid_out(result) + "\n")
    return path


def read_all(names: Iterable[str], folder: Path = FOLDER) -> dict[str, Result]:
    """Row → its result, for those of these that have one."""
    paths = {name: folder / f"{name}.json" for name in names}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}


def committed(name: str) -> Result | None:
    """What the last commit has of that row; None where it has nothing, or this is no clone."""
    asked = ["git", "show", f"HEAD:benchmarks/results/{name}.json"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    found: Result | None = json.loads(done.stdout) if done.returncode == 0 else None
    return found


def commit() -> str:
    """The commit that was measured, with ``+`` where what ran differs from it (results apart)."""
    head = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--", "agent", "enforcers", "packaging", "systemd", "benchmarks/*.py")
    return head + ("+" if head and changed else "")


def machine() -> dict[str, object]:
    """Cores that may be used, the processor, the kernel, the load when it was asked."""
    text = Path("/proc/cpuinfo").read_text()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": names[0] if names else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607
    return done.stdout.strip()


def _short(found: object) -> object:
    return rounded(found) if isinstance(found, float) else found


def _laid_out(value: object, depth: int = 0) -> str:
    """JSON with dictionaries of dictionaries broken into lines, and all below them on one."""
    if isinstance(value, dict) and value and (depth == 0 or any(isinstance(each, dict) for each in value.values())):
        inner = ",\n".join(f"{' ' * (depth + 1)}{json.dumps(key)}: {_laid_out(each, depth + 1)}" for key, each in value.items())
        return "{\n" + inner + "\n" + " " * depth + "}"
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        return "[\n" + ",\n".join(" " * (depth + 1) + json.dumps(each) for each in value) + "\n" + " " * depth + "]"
    return json.dumps(value, ensure_ascii=False)
