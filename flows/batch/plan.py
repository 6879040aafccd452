"""What a run would buy, and for how much: the batch held against the ledger, before anything is spent."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal

from flows.batch.comparison import Comparison, bought_elsewhere, compare
from flows.batch.costs import price_of
from flows.batch.jobs import Batch, Job, Source
from flows.batch.ledger import Ledger
from flows.batch.ledger_images import Key, Standing
from flows.batch.ledger_tables import State
from flows.batch.prices import PriceBook, dollars_or_free
from flows.batch.problems import NotStarted, Problem
from flows.batch.publishing import PublishRow
from flows.batch.row_reader import read_jobs
from flows.batch.run import BatchRun
from flows.batch.settings import BatchSettings
from flows.batch.stores import OutputFolder
from flows.batch.uploads import StoreRow
from flows.batch.words import counted

MANY_CHANGED = 100
SAMPLES = 3


@dataclass(frozen=True, slots=True)
class ModelCost:
    """How many images of one model would be bought. `usd` is None where no price is known."""

    model: str
    images: int
    usd: Decimal | None


@dataclass(frozen=True, slots=True)
class Plan:
    """A batch held against the ledger.

    `todo` are the jobs to take up, in the file's order: those to buy, those bought whose file isn't here yet, and those
    whose call was cut off. `to_buy` is the part of them that will cost money. `to_store` are the images that are here
    and not in the store; `to_publish` those in the store, be they here or not, that the CMS has yet to show.
    """

    batch: Batch
    todo: tuple[Job, ...]
    to_buy: tuple[Job, ...]
    left_for_later: int
    states: Mapping[State, int]
    new: int
    changed: int
    costs: tuple[ModelCost, ...]
    warnings: tuple[str, ...]
    comparison: Comparison | None = None
    elsewhere_usd: Mapping[str, Decimal] = field(default_factory=dict)
    to_store: tuple[StoreRow, ...] = ()
    to_publish: tuple[PublishRow, ...] = ()

    @property
    def bought(self) -> int:
        """Images that are bought already."""
        return self.states.get(State.BOUGHT, 0)

    @property
    def cost_usd(self) -> Decimal:
        """The estimate for all that has a known price."""
        return sum((cost.usd for cost in self.costs if cost.usd is not None), Decimal(0))

    @property
    def unpriced(self) -> int:
        """How many images would be bought at a price nobody knows."""
        return sum(cost.images for cost in self.costs if cost.usd is None)

    @property
    def headline(self) -> str:
        """The plan in one sentence."""
        what = "nothing to buy"
        if self.to_buy:
            what = f"{counted(len(self.to_buy), 'image')} to buy, {dollars_or_free(self.cost_usd)}"
        later = [
            f", {len(rows):,} to {verb}"
            for rows, verb in ((self.to_store, "store"), (self.to_publish, "publish"))
            if rows
        ]
        return f"{self.batch.csv}: {what}, {self.bought:,} bought already{''.join(later)}"

    @property
    def samples(self) -> tuple[Job, ...]:
        """A few jobs whose prompts are worth a look, of different templates where there are some."""
        first = {job.template: job for job in reversed(self.to_buy)}
        rest = [job for job in self.to_buy if first.get(job.template) is not job]
        return tuple([*sorted(first.values(), key=lambda job: job.line), *rest][:SAMPLES])


@dataclass(frozen=True, slots=True)
class Left:
    """What is left to do of some jobs: `todo`, `to_store` and `to_publish` as in a plan."""

    todo: tuple[Job, ...] = ()
    to_store: tuple[StoreRow, ...] = ()
    to_publish: tuple[PublishRow, ...] = ()


def plan_batch(settings: BatchSettings, source: Source, run: BatchRun) -> Plan:
    """Read the CSV and hold it against the ledger. Buys nothing and writes nothing.

    Raises: NotStarted with all that is wrong with the file.
    """
    batch = with_redos(read_jobs(settings, source, run.prices, run.csv), run.ledger)
    return make_plan(settings, batch, run)


def with_redos(batch: Batch, ledger: Ledger) -> Batch:
    """The batch with each row whose image was made again on purpose standing for that newer image."""
    redos = ledger.redos()
    if not redos:
        return batch

    def newest(job: Job) -> Job:
        if job.key not in redos:
            return job
        fingerprint, prompt, variant = redos[job.key]
        return replace(job, fingerprint=fingerprint, prompt=prompt, variant=variant, redo_of=job.fingerprint)

    jobs = {job.key: newest(job) for job in batch.jobs}
    rows = tuple(replace(row, job=jobs[row.job.key]) if row.job else row for row in batch.rows)
    return replace(batch, rows=rows, jobs=tuple(jobs.values()))


def make_plan(settings: BatchSettings, batch: Batch, run: BatchRun) -> Plan:
    """Hold a batch against the ledger. Buys nothing and writes nothing."""
    ledger, prices, again = run.ledger, run.prices, run.request.again
    standings = ledger.standings(job.key for job in batch.jobs)
    is_here = _is_here(batch.jobs, standings, ledger, run.output)
    called = ledger.calls.made_by(run.id, standings)
    open_jobs = _allowed(batch.jobs, standings, again, called)
    to_buy, todo = _choose(open_jobs, standings, again, is_here, settings.limit, called)
    costing = [job for job in open_jobs if _costs(job, standings.get(job.key), again, is_here)]
    previous = ledger.rows.previous(run.output.name)
    changed = {job.key for job in costing if previous.get((job.sku, job.template), ("", ""))[0] == job.generator}
    to_store, to_publish = _to_hand_on(batch.jobs, standings, is_here, run)
    states = {job.key: standings[job.key].state if job.key in standings else State.PENDING for job in batch.jobs}
    return Plan(
        batch=batch,
        todo=tuple(todo),
        to_buy=tuple(to_buy),
        left_for_later=len(costing) - len(to_buy),
        states=Counter(states.values()),
        new=sum(1 for key, state in states.items() if state is State.PENDING and key not in changed),
        changed=len(changed),
        costs=costs_by_model(to_buy, prices),
        warnings=_warnings(to_buy, prices),
        comparison=compare(to_buy, prices),
        elsewhere_usd=bought_elsewhere(to_buy, prices),
        to_store=tuple(to_store),
        to_publish=tuple(to_publish),
    )


def left_of(jobs: Sequence[Job], run: BatchRun) -> Left:
    """Hold jobs that were planned before against the ledger as it is now."""
    again = run.request.again
    standings = run.ledger.standings(job.key for job in jobs)
    is_here = _is_here(jobs, standings, run.ledger, run.output)
    called = run.ledger.calls.made_by(run.id, standings)
    _, todo = _choose(_allowed(jobs, standings, again, called), standings, again, is_here, 0, called)
    to_store, to_publish = _to_hand_on(jobs, standings, is_here, run)
    return Left(tuple(todo), tuple(to_store), tuple(to_publish))


def check_changed(settings: BatchSettings, plan: Plan) -> None:
    """Raise NotStarted where many rows have changed that had an image, and nobody has confirmed it."""
    if plan.changed > MANY_CHANGED and not settings.rows.confirm_changed:
        raise NotStarted(
            [
                Problem(
                    f"{plan.changed} rows that had an image have changed and would be bought anew.",
                    "If that is meant, give --yes.",
                )
            ]
        )


def _costs(job: Job, standing: Standing | None, again: frozenset[State], is_here: Callable[[Job], bool]) -> bool:
    if standing is None or (standing.state is State.LOST and is_here(job)):
        return standing is None  # what was lost and has come back is not bought again
    return standing.state in {State.PENDING, State.FAILED, *again}


def _allowed(
    jobs: Sequence[Job], standings: Mapping[Key, Standing], again: frozenset[State], called: AbstractSet[Key]
) -> Sequence[Job]:
    """Leave out the rows for which the word to buy them again is used up: this very run, begun before, has called."""
    return [job for job in jobs if job.key not in called or standings[job.key].state not in again]


def _choose(
    jobs: Sequence[Job],
    standings: Mapping[Key, Standing],
    again: frozenset[State],
    is_here: Callable[[Job], bool],
    limit: int,
    called: AbstractSet[Key],
) -> tuple[list[Job], list[Job]]:
    """The jobs to buy and those to do. What this run has called for before it was begun anew counts to its limit."""
    left = limit - len(called)
    to_buy: list[Job] = []
    todo: list[Job] = []
    for job in jobs:
        standing = standings.get(job.key)
        if _costs(job, standing, again, is_here):
            if limit and job.key not in called:
                if left <= 0:
                    continue
                left -= 1
            to_buy.append(job)
            todo.append(job)
        elif standing is not None and (
            standing.state.in_flight
            or standing.state is State.LOST
            or (standing.state is State.BOUGHT and not is_here(job))
        ):
            todo.append(job)
    return to_buy, todo


def _to_hand_on(
    jobs: Sequence[Job], standings: Mapping[Key, Standing], is_here: Callable[[Job], bool], run: BatchRun
) -> tuple[list[StoreRow], list[PublishRow]]:
    """The images that are bought and here, and not stored as they are now; and those stored that are not published.

    The latter need not be here: a worker whose output folder is empty has the same ones as the one that made them.
    """
    shelf, site = run.shelf, run.site
    if shelf is None:
        return [], []
    bought = [job for job in jobs if job.key in standings and standings[job.key].state is State.BOUGHT]
    keys = [job.key for job in bought]
    places = run.ledger.places_anywhere(keys)
    stored = shelf.deliveries.standing(keys, shelf.destination)
    published = run.ledger.deliveries.standing(keys, site.name) if site else {}
    to_store: list[StoreRow] = []
    to_publish: list[PublishRow] = []
    for job in bought:
        here, shown = is_here(job), published.get(job.key)
        finished = [place for place in places.get(job.key, ()) if place.finish == str(job.finish)]
        rows = [StoreRow(job, place) for place in finished if not here or place.output == run.output.name]
        url = next((shelf.url(row.place.path) for row in rows if shelf.has(row, stored.get(job.key))), "")
        if not url:
            to_store += rows if here else []
        elif site and (shown is None or shown.is_due(url)):
            to_publish.append(PublishRow(job.key, job.sku, job.template, url))
    return to_store, to_publish


def _is_here(
    jobs: Sequence[Job], standings: Mapping[Key, Standing], ledger: Ledger, output: OutputFolder
) -> Callable[[Job], bool]:
    bought = [
        job.key for job in jobs if job.key in standings and standings[job.key].state in {State.BOUGHT, State.LOST}
    ]
    places = ledger.places(bought, output.name)
    return lambda job: job.key in places and output.has(job, places[job.key])


def costs_by_model(jobs: Sequence[Job], prices: PriceBook) -> tuple[ModelCost, ...]:
    """What these images would cost, a line a model; those of no known price stand apart."""
    counted: Counter[tuple[str, Decimal | None]] = Counter()
    for job in jobs:
        price = price_of(job, prices)
        counted[job.model, price.usd if price else None] += 1
    by_model: dict[tuple[str, bool], ModelCost] = {}
    for (model, usd), count in sorted(counted.items(), key=lambda item: (item[0][0], item[0][1] is None)):
        known = by_model.get((model, usd is None), ModelCost(model, 0, None if usd is None else Decimal(0)))
        total = None if usd is None or known.usd is None else known.usd + usd * count
        by_model[model, usd is None] = ModelCost(model, known.images + count, total)
    return tuple(by_model.values())


def _warnings(jobs: Sequence[Job], prices: PriceBook) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for price in {price.model: price for job in jobs if (price := price_of(job, prices))}.values():
        found.update(dict.fromkeys(price.warnings(date.today())))  # noqa: DTZ011 - a price's age is told in days of the user's own
    unpriced = sorted({job.model for job in jobs if price_of(job, prices) is None})
    if unpriced:
        found[
            f"No price is known for {', '.join(unpriced)}: the estimate leaves them out. "
            "Put them into a price book (--prices)."
        ] = None
    return tuple(found)
