"""Draws docs/charts/*.svg from benchmarks/results/*.json: readable on light and dark pages, without a library.

python benchmarks/charts.py
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

REPO = Path(__file__).parents[1]
RESULTS = REPO / "benchmarks" / "results"
CHARTS = REPO / "docs" / "charts"
WIDTH = 760
LEFT, RIGHT = 230, 150
ROW, BAR = 34, 20
TOP = 74
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-size: 16px; font-weight: 600 }
  .note { font-size: 12px; fill: #59636e }
  .bar { fill: #8c959f } .ours { fill: #0969da } .lost { fill: #cf222e }
  .line { stroke: #59636e; stroke-dasharray: 4 4 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .note { fill: #9198a1 } .line { stroke: #9198a1 }
    .bar { fill: #656c76 } .ours { fill: #4493f8 } .lost { fill: #f85149 }
  }
"""


@dataclass(frozen=True)
class Bar:
    """One bar: what it is of, how long, what stands behind it, and its class (bar, ours, lost)."""

    label: str
    value: float
    told: str
    kind: str = "bar"


@dataclass(frozen=True)
class Chart:
    """Horizontal bars on one scale, with a dashed line at `mark` where there is one."""

    title: str
    note: str
    bars: Sequence[Bar]
    mark: float = 0

    def svg(self) -> str:
        """The picture."""
        height = TOP + ROW * len(self.bars) + 12
        scale = (WIDTH - LEFT - RIGHT) / max(bar.value for bar in self.bars)
        spoken = "; ".join(f"{bar.label}: {bar.told}" for bar in self.bars)
        label = escape(f"{self.title}. {spoken}")
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">',
            f"<style>{STYLE}</style>",
            f'<text class="title" x="16" y="26">{escape(self.title)}</text>',
            f'<text class="note" x="16" y="48">{escape(self.note)}</text>',
        ]
        for number, bar in enumerate(self.bars):
            y = TOP + ROW * number
            middle = y + BAR / 2 + 5
            long = max(2.0, bar.value * scale)
            lines += [
                f'<text x="{LEFT - 12}" y="{middle}" text-anchor="end">{escape(bar.label)}</text>',
                f'<rect class="{bar.kind}" x="{LEFT}" y="{y}" width="{long:.1f}" height="{BAR}" rx="3"/>',
                f'<text x="{LEFT + long + 8:.1f}" y="{middle}">{escape(bar.told)}</text>',
            ]
        if self.mark:
            x = LEFT + self.mark * scale
            lines.append(f'<line class="line" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 10}" y2="{height - 8}"/>')
        return "\n".join([*lines, "</svg>", ""])


def ways_to_map(found: dict[str, Any]) -> Chart:
    """Seconds of each way; one that was given up is drawn as long as it was let go on."""
    figures = found["figures"]
    names = {
        "threads": "bare threads, nothing kept",
        "rowshot": "Rowshot, its limit on",
        "map_untagged": ".map, no tag",
        "map_tagged": ".map, a tag without a limit",
        "map_then": ".map, then .map",
        "map_tagged_limited": ".map, a tag limit of {wide}",
    }
    bars = []
    for key, name in names.items():
        one = figures[key]
        kind = "ours" if key == "rowshot" else "bar"
        label = name.format(wide=figures["wide"])
        if "seconds" in one:
            bars.append(Bar(label, one["seconds"], f"{one['seconds']:.1f} s", kind))
        else:
            after = one["gave_up_after_s"]
            bars.append(Bar(label, after, f"{one['done']:,} done in {after} s", "lost"))
    title = f"{figures['rows']:,} rows of {figures['row_s']:g} s, {figures['wide']} at once"
    note = f"First call to last image; red: given up. Dashed: the ideal, {figures['ideal_s']:g} s. {_where(found)}"
    return Chart(title, note, bars, figures["ideal_s"])


def cost_a_row(found: dict[str, Any]) -> Chart:
    """Milliseconds of CPU a row, by the size of the file."""
    bars = [
        Bar(f"{one['rows']:,} rows, {who}", one[key], f"{one[key]:.1f} ms", kind)
        for one in found["figures"].values()
        for who, key, kind in (("client", "client_cpu_ms_a_row", "ours"), ("server", "server_cpu_ms_a_row", "bar"))
    ]
    return Chart("What a row costs, by the size of its file", f"Milliseconds of CPU a row. {_where(found)}", bars)


def _where(found: dict[str, Any]) -> str:
    return f"{found['date']}, {found['cores']} cores, {found['memory_gib']} GiB."


def main() -> None:
    """Draw what there are results of."""
    CHARTS.mkdir(exist_ok=True)
    for name, result, draw in (
        ("ways-to-map", "ways_to_map", ways_to_map),
        ("cost-a-row", "hundred_thousand_rows", cost_a_row),
    ):
        kept = RESULTS / f"{result}.json"
        if kept.exists():
            (CHARTS / f"{name}.svg").write_text(draw(json.loads(kept.read_text())).svg(), encoding="utf-8")
            print(CHARTS / f"{name}.svg")
        else:
            print(f"No {kept.name} yet: run {result}.py --keep")


if __name__ == "__main__":
    main()
