"""How one row's image is bought: once, whatever happens on the way."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol

from blocks.errors import (
    ImageGenerationError,
    NoImage,
    OutcomeUnknown,
    RateLimited,
    RejectedError,
    RetryableError,
    ServiceUnavailable,
    SpoiltImage,
    StopError,
)
from blocks.image import ChildProcess, GeneratedImage, ImageRequest
from flows.batch.jobs import Job
from flows.batch.ledger import Ledger
from flows.batch.ledger_calls import new_attempt_id
from flows.batch.ledger_database import LedgerUnavailable
from flows.batch.ledger_images import Attempt, Cost, Orphan, Place, Standing
from flows.batch.ledger_tables import Charged, State
from flows.batch.owners import Owner
from flows.batch.prices import PriceBook
from flows.batch.slots import Slots
from flows.batch.stores import NotFetched, OutputFolder, StoreUnusable, fetch
from flows.batch.verify import BrokenImage, VerifiedImage, verify_image

POLL_S = 1.0
LONGEST_BACKOFF_S = 64.0
RATE_LIMITED_TIMES = 20


class Generator(Protocol):
    """What a purchase needs of an image generator."""

    def generate(self, request: ImageRequest) -> GeneratedImage:
        """Make one image with one request."""

    def recover(self, request: ImageRequest, child: ChildProcess | None) -> GeneratedImage:
        """Find out what became of a request whose caller died."""


class Standstill(Exception):
    """A row that may not be bought as it stands: refused, unknown or lost, and no word from the user to go on."""

    def __init__(self, standing: Standing) -> None:
        super().__init__(standing.error or f"The row is {standing.state}.")
        self.standing = standing


@dataclass(frozen=True, slots=True)
class Bought:
    """A row's image, at hand in the output folder. `fresh`: whether a call was made for it now."""

    job: Job
    place: Place
    fresh: bool


@dataclass(slots=True)
class _Tries:
    """What one row has met so far: how often it was asked for patience, and whether a paid call brought nothing."""

    refusals: int = 0
    wasted: bool = False


@dataclass(frozen=True, slots=True)
class Purchase:
    """Buys the images of one run. Used by many threads at once.

    `again`: the states out of which the user allowed rows to be bought anew.
    """

    generator: Generator
    ledger: Ledger
    owner: Owner
    output: OutputFolder
    slots: Slots
    prices: PriceBook
    again: frozenset[State] = frozenset()
    usd_per_credit: Decimal = Decimal(0)

    def get(self, job: Job) -> Bought:
        """Have the job's image in the output folder, buying it only if it isn't bought yet.

        Raises: a leaf of ImageGenerationError for a call that brought none; Standstill; RunStopped; StoreUnusable and
        LedgerUnavailable, which end the run and lose nothing that was bought.
        """
        try:
            place, fresh = self._get(job)
            return self._finished(job, place, fresh=fresh)
        except (StoreUnusable, LedgerUnavailable) as error:
            self.slots.stop(error)
            raise

    def _get(self, job: Job) -> tuple[Place, bool]:
        tries = _Tries()
        while True:
            with self.slots.hold():
                held = self._take(job)
                asked = (held, self._ask(held, tries)) if isinstance(held, Attempt) else held
            if isinstance(asked, tuple):
                bought = self._settle(*asked, tries)  # with the slot free again: the next call need not wait
                if bought is not None:
                    return bought, True
            elif asked.state in {State.BOUGHT, State.LOST}:
                return self._restore(job, asked), False
            elif not asked.state.in_flight:
                raise Standstill(asked)
            else:
                found = self._look_up(job, asked)
                if found is not None:
                    return found, True

    def _take(self, job: Job) -> Attempt | Standing:
        folder = self.output.open_call(new_attempt_id())
        taken = self.ledger.calls.take(job, self.owner, folder, self._list_price(job), self.again)
        if not isinstance(taken, Attempt):
            self.output.close_call(folder)
        return taken

    def _ask(self, attempt: Attempt, tries: "_Tries") -> GeneratedImage | ImageGenerationError:
        """Make one call. Where the provider asks for patience, or won't serve anybody, no other call starts."""
        try:
            return self._answer(attempt, self.generator.generate)
        except RateLimited as error:
            tries.refusals += 1
            backoff_s = min(2.0**tries.refusals, LONGEST_BACKOFF_S) + random.random()  # noqa: S311 - spreads calls
            self.slots.pause(backoff_s if error.retry_after_s is None else error.retry_after_s)
            return error
        except StopError as error:
            self.slots.stop(error)
            return error
        except ImageGenerationError as error:
            return error

    def _settle(self, attempt: Attempt, answer: GeneratedImage | ImageGenerationError, tries: "_Tries") -> Place | None:
        """Write down what came of a call. None where another is due: after patience, or after one paid for nothing."""
        try:
            if isinstance(answer, ImageGenerationError):
                raise answer
            return self._keep(attempt, answer)
        except RateLimited as error:
            if tries.refusals >= RATE_LIMITED_TIMES:
                self._fail(attempt, error)
                raise
            self._close(attempt, State.RESERVED, Charged.NO, error)
        except NoImage as error:
            if tries.wasted or not error.was_paid:
                self._give_up(attempt, error)
            tries.wasted = True
            self._close(attempt, State.RESERVED, Charged.YES, error)
        except ImageGenerationError as error:
            self._fail(attempt, error)
            raise
        return None

    def _answer(self, attempt: Attempt, ask: Callable[[ImageRequest], GeneratedImage]) -> GeneratedImage:
        """The provider's image; where it only gave an address, that, to be fetched."""
        try:
            return ask(self._request(attempt))
        except NoImage as error:
            if not error.url:
                raise
            nowhere = attempt.folder / "not-downloaded"
            return GeneratedImage(nowhere, attempt.job.model, error.request_id, error.url, error.credits_used)

    def _keep(self, attempt: Attempt, image: GeneratedImage) -> Place:
        """Verify what the provider made, put it where it stays, write that down. Raises: SpoiltImage, StoreUnusable."""
        try:
            source, verified = self._verified(attempt, image)
            place = self.output.keep(attempt.job, source, verified)
        except OSError as error:
            raise StoreUnusable(
                f"The image of {attempt.job.sku!r} is paid for and can't be kept: {error}. It is in {attempt.folder}: "
                "make room there, then run the same command again; it is taken from there."
            ) from error
        self.ledger.calls.bought(attempt, image, verified, self._cost(attempt.job, image.credits_used), place)
        self.output.close_call(attempt.folder)
        return place

    def _verified(self, attempt: Attempt, image: GeneratedImage) -> tuple[Path, VerifiedImage]:
        thumbnail = self.output.thumbnail(attempt.job)
        try:
            return image.path, verify_image(image.path, thumbnail)
        except (BrokenImage, FileNotFoundError) as broken:
            fetched = attempt.folder / "fetched"
            try:
                fetch(image.url, fetched)
                return fetched, verify_image(fetched, thumbnail)
            except (NotFetched, BrokenImage) as still:
                raise SpoiltImage(
                    f"The provider's image is broken ({broken}), and so it is when fetched again ({still}). "
                    "Ask the provider for the money back.",
                    credits_used=image.credits_used,
                    url=image.url,
                    request_id=image.request_id,
                ) from broken

    def _give_up(self, attempt: Attempt, error: NoImage) -> NoReturn:
        """End a row whose answers were of no use, by what is known of the money."""
        if error.was_paid:
            self._close(attempt, State.LOST, Charged.YES, error)
            raise error
        if error.credits_used is None:
            self._close(attempt, State.UNKNOWN, Charged.MAYBE, error)
            raise OutcomeUnknown(str(error), code=error.code, request_id=error.request_id) from error
        free = ServiceUnavailable(str(error), code=error.code, request_id=error.request_id)
        self._close(attempt, State.FAILED, Charged.NO, free)
        raise free from error

    def _fail(self, attempt: Attempt, error: ImageGenerationError) -> None:
        match error:
            case RejectedError():
                self._close(attempt, State.REJECTED, Charged.NO, error)
            case StopError():
                self._close(attempt, State.PENDING, Charged.NO, error)
            case RetryableError():
                self._close(attempt, State.FAILED, Charged.NO, error)
            case _:
                self._close(attempt, State.UNKNOWN, Charged.MAYBE, error)

    def _look_up(self, job: Job, held: Standing) -> Place | None:
        """Wait for whoever holds the row, or find out what became of their call; None to go on from the start."""
        found = self.ledger.calls.adopt(held, self.owner)
        if found is None:
            return None
        if isinstance(found, Standing):
            if found.state.in_flight:
                time.sleep(POLL_S)
            return None
        attempt = Attempt(found.attempt, job, found.folder)
        try:
            return self._keep(attempt, self._answer(attempt, partial(self._recover, found)))
        except (RetryableError, StopError) as error:  # what stopped that run may be mended by now, and it cost nothing
            self._close(attempt, State.FAILED, Charged.NO, error)
            return None
        except NoImage as error:
            self._give_up(attempt, error)
        except ImageGenerationError as error:
            self._fail(attempt, error)
            raise

    def _recover(self, orphan: Orphan, request: ImageRequest) -> GeneratedImage:
        if orphan.host != self.owner.host:
            raise OutcomeUnknown(
                f"The call was under way on {orphan.host} when its run died. Run the same command there, "
                "or buy it again with --retry-unknown."
            )
        return self.generator.recover(request, orphan.child)

    def _restore(self, job: Job, held: Standing) -> Place:
        places = self.ledger.places_anywhere(job.key)
        for place in places:
            if place.output == self.output.name and (self.output.root / place.original).is_file():
                return place
        scratch = self.output.open_call(new_attempt_id())
        try:
            verified, place = self.output.restore(job, held, places, scratch)
            self.ledger.restored(job.key, verified, place)
        except NotFetched as error:
            told = (
                f"It was bought and its file is gone. {error} Bring the file back, or buy it again with --rebuy-lost."
            )
            self.ledger.lose(job.key, told)
            raise Standstill(replace(held, state=State.LOST, error=told)) from error
        finally:
            self.output.close_call(scratch)
        return place

    def _finished(self, job: Job, place: Place, *, fresh: bool) -> Bought:
        finished = self.output.finish(job, place)
        if finished != place:
            self.ledger.put_place(job.key, finished)
        return Bought(job, finished, fresh)

    def _request(self, attempt: Attempt) -> ImageRequest:
        job = attempt.job
        note: Callable[[ChildProcess], None] = partial(self.ledger.calls.note_child, attempt.id)
        return ImageRequest(job.sku, job.prompt, job.model, attempt.folder, job.mode, job.params, on_child=note)

    def _close(self, attempt: Attempt, state: State, charged: Charged, error: ImageGenerationError) -> None:
        used = error.credits_used if isinstance(error, NoImage) else None
        self.ledger.calls.end(attempt, state, charged, self._cost(attempt.job, used), error)
        if charged is Charged.NO:  # what may be paid for stays on disk, for a person to look at
            self.output.close_call(attempt.folder)

    def _list_price(self, job: Job) -> Cost:
        price = self.prices.find(job.generator, job.model, job.params.get("resolution", ""))
        return Cost(price.usd if price else None)

    def _cost(self, job: Job, credits_used: Decimal | None) -> Cost:
        """Settled by the provider's own credits where both they and their price are known, else the list price."""
        if credits_used is not None and self.usd_per_credit:
            return Cost(credits_used * self.usd_per_credit, is_estimated=False, credits_used=credits_used)
        listed = self._list_price(job)
        return Cost(listed.usd, is_estimated=bool(listed.usd), credits_used=credits_used)
