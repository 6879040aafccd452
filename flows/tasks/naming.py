"""What a flow run is called: by its flow and by the file that its rows come from."""

from typing import Any

from prefect.runtime import flow_run

from flows.batch.sources import source_name

NAMED = 3


def batch_run_name() -> str:
    """The name of a flow run that makes a batch, such as `generate-images / summer-sale.csv`."""
    parameters: dict[str, Any] = flow_run.get_parameters() or {}
    batch = parameters.get("batch")
    csv, pasted = (_given(batch, name) for name in ("csv", "pasted"))
    return f"{flow_run.get_flow_name()} / {source_name(csv, pasted)}"


def redo_run_name() -> str:
    """The name of a flow run that makes images again, such as `redo-images / A, B and 3 more`."""
    redo = (flow_run.get_parameters() or {}).get("redo")
    skus = list(redo.get("skus", []) if isinstance(redo, dict) else getattr(redo, "skus", []))
    more = f" and {len(skus) - NAMED} more" if len(skus) > NAMED else ""
    return f"{flow_run.get_flow_name()} / {', '.join(skus[:NAMED])}{more}"


def _given(batch: Any, name: str) -> str:
    """A setting of a batch, be its settings read yet or still as they came over the wire."""
    return str((batch.get(name) if isinstance(batch, dict) else getattr(batch, name, "")) or "")
