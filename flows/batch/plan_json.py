"""A plan as data: the keys that `rowshot plan --json` keeps, which docs/money.md tells."""

from decimal import Decimal
from typing import Any

from flows.batch.comparison import SIZES, Choice, Comparison
from flows.batch.plan import Plan
from flows.batch.run import BatchRun


def plan_json(plan: Plan, run: BatchRun) -> dict[str, Any]:
    """The plan. Amounts are US dollars as text, so that no reader rounds them; null where nobody knows."""
    caps = run.request.caps
    return {
        "csv": plan.batch.csv,
        "rows": len(plan.batch.rows),
        "images": len(plan.batch.jobs),
        "new": plan.new,
        "changed": plan.changed,
        "duplicates": plan.batch.duplicates,
        "invalid": sum(1 for row in plan.batch.rows if row.job is None),
        "states": {state.value: count for state, count in sorted(plan.states.items())},
        "to_buy": len(plan.to_buy),
        "left_for_later": plan.left_for_later,
        "to_store": len(plan.to_store),
        "to_publish": len(plan.to_publish),
        "cost_usd": amount(plan.cost_usd),
        "unpriced": plan.unpriced,
        "costs": [{"model": cost.model, "images": cost.images, "usd": amount(cost.usd)} for cost in plan.costs],
        "max_cost_usd": amount(caps.run_usd),
        "max_cost_per_day_usd": amount(caps.day_usd),
        "comparison": _comparison(plan.comparison) if plan.comparison else None,
        "elsewhere_usd": {generator: amount(usd) for generator, usd in plan.elsewhere_usd.items()},
        "samples": [
            {"line": job.line, "sku": job.sku, "template": job.template, "model": job.model, "prompt": job.prompt}
            for job in plan.samples
        ],
        "warnings": list(plan.warnings),
    }


def amount(usd: Decimal | None) -> str | None:
    """An amount as text, without an exponent."""
    return None if usd is None else f"{usd:f}"


def _comparison(comparison: Comparison) -> dict[str, Any]:
    low, high = comparison.by_hand
    return {
        "images": comparison.images,
        "planned": _way(comparison.planned) if comparison.planned else None,
        "models": [{"model": choice.model, **_way(choice)} for choice in comparison.choices],
        "by_hand": {"from": _way(low), "to": _way(high)},
    }


def _way(choice: Choice) -> dict[str, Any]:
    more = {str(size): amount(choice.usd_for(size)) for size in SIZES}
    return {"usd": amount(choice.usd), "usd_per_image": amount(choice.usd_for(1)), "usd_for": more}
