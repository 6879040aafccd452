"""Writes the figures of benchmarks/results/*.json into the tables of benchmarks/README.md, between their marks.

python benchmarks/tables.py
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
MARKED = re.compile(r"(<!-- (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
CHARTS = {
    "ways_to_map": "![Bars: seconds of each way](../docs/charts/ways-to-map.svg)",
    "hundred_thousand_rows": "![Bars: CPU a row, by the size of the file](../docs/charts/cost-a-row.svg)",
}
NOT_YET = "*Not measured yet.*\n"
Figures = Mapping[str, Any]


def ways_to_map(figures: Figures) -> list[tuple[str, str]]:
    """Seconds from the first call to the last image."""
    names = {
        "threads": "bare threads, which keep nothing",
        "rowshot": "**Rowshot, with the global limit on**",
        "map_untagged": "`.map` in a thread pool, no tag",
        "map_tagged": "`.map`, a tag that has no limit",
        "map_then": "`.map`, then `.map` over its futures",
        "map_tagged_limited": f"`.map`, a tag limit of {figures['wide']}",
    }
    rows = [("the ideal", f"{figures['ideal_s']:g} s")]
    for key, name in names.items():
        one = figures[key]
        after = f"given up after {one.get('gave_up_after_s')} s, {one.get('done'):,} done" if "done" in one else ""
        rows.append((name, after or f"{one['seconds']:.1f} s"))
    ratios = ", ".join(f"{ratio:.3f}" for ratio in figures["ratios"])
    return [*rows, ("Rowshot to bare threads, round by round", f"**{figures['ratio']:.3f}** ({ratios})")]


def ten_thousand_rows(figures: Figures) -> list[tuple[str, str]]:
    """One run on SQLite, its rerun and a burst."""
    return [
        ("the ideal", f"{figures['ideal_s']:g} s"),
        ("first call to last image", f"{figures['first_call_to_last_image_s']:g} s"),
        ("efficiency", f"**{figures['efficiency']:.3f}**"),
        ("the whole command", f"{figures['command_s']:g} s"),
        ("task runs recorded", f"**{figures['task_runs_recorded']:,} of {figures['rows']:,}**"),
        ("the client's CPU a row", f"{figures['client_cpu_ms_a_row']:g} ms"),
        ("the client's peak memory", f"{figures['client_peak_mb']} MB"),
        ("the server's database, a row", f"{figures['server_database_kb_a_row']:g} KB"),
        ("the ledger, a row", f"{figures['ledger_kb_a_row']:g} KB"),
        (
            "run again when all is done",
            f"{figures['rerun_s']:g} s, {figures['rerun_calls']} calls, {figures['rerun_peak_mb']} MB",
        ),
        (
            f"a burst of {figures['burst_rows']:,} rows that are answered at once",
            f"{figures['burst_rows_a_second']:g} a second, {figures['burst_task_runs_recorded']:,} recorded",
        ),
    ]


def hundred_thousand_rows(figures: Figures) -> list[tuple[str, ...]]:
    """A column for each size."""
    sizes = list(figures.values())
    told: dict[str, Callable[[Figures], str]] = {
        "seconds": lambda one: f"{one['seconds']:,.0f} s",
        "rows a second": lambda one: f"{one['rows_a_second']:g}",
        "CPU a row: the run, its workers and shards": lambda one: f"{one['client_cpu_ms_a_row']:.1f} ms",
        "CPU a row: the server and its databases": lambda one: f"{one['server_cpu_ms_a_row']:.1f} ms",
        "peak memory: the run": lambda one: f"{one['client_peak_mb']} MB",
        "peak memory: a shard": lambda one: f"{one['shard_peak_mb']} MB" if one["shard_peak_mb"] else "no shards",
        "task runs recorded": lambda one: f"{one['task_runs_recorded']:,}",
        "so long after the end": lambda one: f"{one['drained_after_s']} s",
        "the ledger, a row": lambda one: f"{one['ledger_kb_a_row']:g} KB",
        "calls": lambda one: f"{one['calls']:,}",
        "run again when all is done": lambda one: f"{one['rerun_s']:g} s, {one['rerun_calls']} calls",
    }
    rows = [(name, *(tell(one) for one in sizes)) for name, tell in told.items()]
    return [("", *(f"{one['rows']:,} rows" for one in sizes)), *rows]


def shared_limit(figures: Figures) -> list[tuple[str, str]]:
    """Two runs on one limit, and a provider that takes fewer calls than the limit says."""
    two, fewer = figures["two_runs"], figures["provider_takes_fewer"]
    each = " and ".join(f"{share:.3f}" for share in two["used_by_each"])
    return [
        (f"two runs on a limit of {two['limit']}: in flight at most", f"**{two['most_in_flight']}**"),
        ("of the limit, used in the steady middle", f"**{two['used']:.3f}** ({each})"),
        ("the second run's wait for its first slot", f"{two['second_waited_s']:g} s"),
        (
            f"a limit of {fewer['limit']}, a provider that takes {fewer['takes']}: refused after ten seconds",
            _percent(fewer),
        ),
        (f"throughput, of {fewer['takes']}", f"**{fewer['throughput_share']:.3f}**"),
    ]


def _percent(fewer: Figures) -> str:
    return f"{100 * fewer['refused_share_later']:.2f} % ({fewer['refused']} in all)"


def start(figures: Figures) -> list[tuple[str, str]]:
    """The parts of the start, Prefect's own and ours."""
    names = {
        "import_prefect_s": "`import prefect`",
        "import_prefect_server_s": "import of Prefect's server",
        "database_built_s": "building the server's database, once",
        "our_server_first_s": "our server's first answer, the first time",
        "our_server_later_s": "our server's first answer, later",
        "flow_on_a_server_s": "a first flow run on a server that is up",
        "prefects_own_first_s": "**Prefect's own embedded server**, a flow that says hello, the first time",
        "prefects_own_later_s": "**the same** later",
        "our_image_first_s": "**Rowshot**, from the command to the first image, the first time",
        "our_image_later_s": "**the same** later",
    }
    return [(name, f"{figures[key]:.1f} s") for key, name in names.items()]


TABLES: Mapping[str, Callable[[Figures], list[Any]]] = {
    one.__name__: one for one in (ways_to_map, ten_thousand_rows, hundred_thousand_rows, shared_limit, start)
}


def table(name: str) -> str:
    """One benchmark's chart and table, or that there is none yet."""
    kept = HERE / "results" / f"{name}.json"
    if not kept.exists():
        return NOT_YET
    found = json.loads(kept.read_text())
    rows = TABLES[name](found["figures"])
    head, body = (rows[0], rows[1:]) if rows[0][0] == "" else (("",) * len(rows[0]), rows)
    lines = [head, ("---",) * len(head), *body]
    where = f"{found['date']}, {found['machine']}, {found['cores']} cores, {found['memory_gib']} GiB"
    where += f", Python {found['python']}, commit {found['commit']}, load before it {found['load_before']:g}."
    chart = f"{CHARTS[name]}\n\n" if name in CHARTS else ""
    return chart + "\n".join("|" + "|".join(f" {cell} " for cell in line) + "|" for line in lines) + f"\n\n{where}\n"


def main() -> None:
    """Write all of them."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(MARKED.sub(lambda mark: mark[1] + table(mark["name"]) + mark[3], page), encoding="utf-8")


if __name__ == "__main__":
    main()
