"""One access on a time line, from the request to the receipt, as an SVG.

`python -m examples.demo.picture FILE > docs/access.svg`; FILE is what `make demo ARGS=--json` printed, or ``-``, and only its last
line counts. Left of T seconds, right of it milliseconds on a logarithmic scale: what takes a person seconds takes the host
milliseconds. The same object is always the same bytes.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

WIDTH, ROW, TOP = 860, 24, 58
LEFT, T, RIGHT = 24.0, 424.0, 836.0  # the first second, the deadline, the end of the last decade
AFTER_MS = (1, 10_000)  # what the right half spans
MINUS = "\N{MINUS SIGN}"
LETTER = 6.6  # widest mean of a letter at 12 px, to find out whether a label fits

STYLE = """\
text { font-family: system-ui, sans-serif; font-size: 12px; fill: #24292f }
.small { font-size: 11px; fill: #57606a }
.grid { stroke: #d0d7de; stroke-width: 1 }
.deadline { stroke: #cf222e; stroke-width: 2 }
.over { fill: #cf222e; font-weight: 600 }
.open { fill: #1a7f37 }
.shut { fill: #cf222e }
.span { fill: #1a7f37; opacity: .25 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.small { fill: #9198a1 }
.grid { stroke: #3d444d }
.deadline { stroke: #f85149 }
.over, .shut { fill: #f85149 }
.open, .span { fill: #3fb950 }
}"""


class Row(NamedTuple):
    """One moment, and until when what begins there lasts (``until``: another moment, or empty)."""

    moment: str
    words: str
    until: str = ""


def rows(access: Mapping[str, Any]) -> Sequence[Row]:
    """What is shown, from top to bottom: in the order in which it happened."""
    who, approver, host = (str(access[name]) for name in ("who", "approver", "host"))
    listed = (
        Row("asked", f"{who} asks for {host}"),
        Row("approved", f"{approver} approves; the grant is signed and pushed"),
        Row("opened", f"{host} has opened it: {who} may log in", "doors"),
        Row("accepted", f"sshd accepts {who}'s certificate"),
        Row("session", f"{who}'s session", "cut"),
        Row("doors", "doors shut"),
        Row("refused", "a new login refused"),
        Row("cut", "the session cut"),
        Row("last_process", "last process dead"),
        Row("receipt", "receipt signed"),
    )
    return sorted(listed, key=lambda row: float(access["moments"][row.moment]))


def place(at_ms: float, first_ms: float) -> float:
    """Where a moment lies, in pixels from the left; ``first_ms`` is the first of all, before T."""
    if at_ms <= 0:
        return LEFT + (T - LEFT) * (1 - at_ms / first_ms)
    least, most = (math.log10(value) for value in AFTER_MS)
    share = (math.log10(max(at_ms, AFTER_MS[0])) - least) / (most - least)
    return T + 16 + (RIGHT - T - 16) * min(share, 1.0)


def shown(at_ms: float) -> str:
    """A moment in words: milliseconds in the second after T, else seconds."""
    if 0 < at_ms < 1000:
        return f"T + {at_ms:.0f} ms"
    return f"T {'+' if at_ms > 0 else MINUS} {abs(at_ms) / 1000:.1f} s"


def draw(access: Mapping[str, Any]) -> str:
    """The picture of the demo's ``access``.

    Raises:
        KeyError: a moment is missing, so the demo did not pass.
    """
    moments: Mapping[str, float] = access["moments"]
    listed = rows(access)
    first = moments["asked"]
    bottom = TOP + ROW * len(listed)
    when = f"{str(access['deadline'])[:19]}Z"
    title = f"One access to {access['host']}, for {access['lifetime_s']} seconds, on a time line"
    told = "; ".join(f"{shown(moments[row.moment])}: {row.words}" for row in listed)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 40}" width="{WIDTH}" height="{bottom + 40}" '
        'role="img" aria-labelledby="title desc">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="desc">{escape(f"T is the end of the grant. {told}.")}</desc>',
        f"<style>{STYLE}</style>",
        *_scales(first, bottom),
        *(line for number, row in enumerate(listed) for line in _row(row, TOP + ROW * number + ROW / 2, moments, first)),
        f'<text class="small" x="{LEFT:.0f}" y="{bottom + 30}">Measured by make demo; T is {escape(when)}.</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _scales(first_ms: float, bottom: float) -> list[str]:
    before = [-float(seconds) * 1000 for seconds in range(5, int(-first_ms / 1000) + 1, 5)]
    after = [float(AFTER_MS[0]) * 10**power for power in range(round(math.log10(AFTER_MS[1] / AFTER_MS[0])) + 1)]
    names = {1: "1 ms", 10: "10 ms", 100: "100 ms", 1000: "1 s", 10_000: "10 s"}
    lines = []
    for at_ms in (*before, *after):
        x = place(at_ms, first_ms)
        name = names[round(at_ms)] if at_ms > 0 else f"{MINUS}{-at_ms / 1000:.0f} s"
        lines.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP - 12}" x2="{x:.1f}" y2="{bottom}"/>')
        lines.append(f'<text class="small" x="{x:.1f}" y="{TOP - 18}" text-anchor="middle">{name}</text>')
    return [
        f'<text class="small" x="{LEFT:.0f}" y="16">before T, in seconds</text>',
        f'<text class="small" x="{RIGHT:.0f}" y="16" text-anchor="end">after T, each line ten times the one before</text>',
        *lines,
        f'<line class="deadline" x1="{T:.1f}" y1="22" x2="{T:.1f}" y2="{bottom}"/>',
        f'<text class="over" x="{T:.1f}" y="16" text-anchor="middle">T: the grant ends</text>',
    ]


def _row(row: Row, y: float, moments: Mapping[str, float], first_ms: float) -> list[str]:
    at_ms = moments[row.moment]
    x = place(at_ms, first_ms)
    words = f"{row.words}: {shown(at_ms)}"
    lines = []
    if row.until:
        end = place(moments[row.until], first_ms)
        lines.append(f'<rect class="span" x="{x:.1f}" y="{y - 8:.1f}" width="{end - x:.1f}" height="16" rx="3"/>')
    lines.append(f'<circle class="{"open" if at_ms <= 0 else "shut"}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>')
    fits = x + 10 + LETTER * len(words) <= WIDTH
    where = f'x="{x + 10:.1f}"' if fits else f'x="{x - 10:.1f}" text-anchor="end"'
    lines.append(f'<text {where} y="{y + 4:.1f}">{escape(words)}</text>')
    return lines


def main() -> None:
    """Print the picture; exits 1 where the demo did not pass."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo.picture", description=__doc__)
    parser.add_argument("file", type=argparse.FileType(encoding="utf-8"))
    found = json.loads(parser.parse_args().file.read().splitlines()[-1])
    if found.get("verdict") != "pass":
        sys.exit("the demo did not pass: there is nothing to draw")
    sys.stdout.write(draw(found["access"]))


if __name__ == "__main__":
    main()
