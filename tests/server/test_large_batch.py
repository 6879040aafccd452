from pathlib import Path

from hundred_thousand_rows import State, measured, place
from team_server import TeamServer

ROWS = 1_000


def test_a_thousand_rows_in_shards_on_two_workers(team: TeamServer, tmp_path: Path) -> None:
    """What the benchmark of 100,000 rows measures is so with 1,000 in two shards: all is bought once and recorded, and
    a rerun calls nobody.
    """
    with place(tmp_path, team) as at:
        figures = measured(at, State(tmp_path / "state.json"), ROWS, shard_rows=ROWS // 2)
    assert (figures["calls"], figures["rerun_calls"]) == (ROWS, 0)
    assert figures["task_runs_recorded"] == ROWS
    assert figures["shard_peak_mb"] > 0, "no worker has had a shard"
