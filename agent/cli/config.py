"""config migrate: the admin's files in today's form, with a backup of each."""

from pathlib import Path

import click

from agent import migrating
from agent import policy as policies
from agent.assembly import registry
from agent.cli.output import json_option, reporting, show
from agent.config import config_path
from agent.forms import CONFIGURATION, COURIER, POLICY
from agent.migrating import Change
from agent.model.text import counted, printable


@click.group()
def config() -> None:
    """The files in /etc/tidegate: their form."""


@config.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be changed.")
@json_option
@click.pass_obj
@reporting
def migrate(config_file: Path | None, dry_run: bool, as_json: bool) -> None:
    """Rewrite files of an earlier form in today's.

    tidegate.yaml and conf.d, the policy and courier.yaml: only names change, comments and order stay, and what the files say is the
    same afterwards, which is proved first. All files are changed or none. Each old one stays beside it as FILE.~VERSION~. Nothing
    needs this: earlier forms are read as well. --dry-run shows the difference.
    """
    changes = migrating.plan(config_path(config_file), policies.decoders(registry()))
    if not dry_run:
        migrating.carry_out(changes)
    result = {
        "dry_run": dry_run,
        "versions": {form.kind: form.version for form in (CONFIGURATION, POLICY, COURIER)},
        "changes": [_json(change) for change in changes],
    }
    show(result, as_json, lambda: _text(changes, dry_run))


def _json(change: Change) -> dict[str, object]:
    return {
        "file": str(change.path),
        "kind": change.form.kind,
        "from": change.version,
        "to": change.form.version,
        "backup": str(change.backup),
        "diff": change.diff(),
    }


def _text(changes: list[Change], dry_run: bool) -> str:
    if not changes:
        return "every file is in today's form"
    lines = [line for change in changes for line in change.diff().splitlines()] if dry_run else []
    for change in changes:
        what = "would be brought" if dry_run else "brought"
        lines.append(f"{change.path}: {what} from version {change.version} to {change.form.version}; before: {change.backup.name}")
    if dry_run:
        lines.append(f"nothing was changed; {counted(len(changes), 'file')} would be")
    return "\n".join(printable(line) for line in lines)
