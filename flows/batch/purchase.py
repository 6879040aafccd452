"""How one row's image is bought: once, whatever happens on the way."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn

from blocks.errors import (
    ImageGenerationError,
    LeftRunning,
    NoImage,
    OutcomeUnknown,
    RateLimited,
    RejectedError,
    RetryableError,
    ServiceUnavailable,
    StopError,
)
from blocks.image import ChildProcess, GeneratedImage, ImageRequest
from flows.batch.budgets import CapReached
from flows.batch.caps import NO_CAPS, Caps
from flows.batch.costs import Costs
from flows.batch.jobs import Generator, Job
from flows.batch.ledger import Ledger
from flows.batch.ledger_calls import new_attempt_id
from flows.batch.ledger_images import Attempt, Orphan, Place, Standing
from flows.batch.ledger_tables import Charged, State
from flows.batch.owners import Owner
from flows.batch.problems import LedgerUnavailable
from flows.batch.slots import Call, RunStopped, Slots
from flows.batch.stores import NotFetched, OutputFolder, StoreUnusable, nothing_stored
from flows.batch.uploads import Shelf

POLL_S = 1.0
LONGEST_BACKOFF_S = 64.0
RATE_LIMITED_TIMES = 20


class Standstill(Exception):
    """A row that may not be bought as it stands: refused, unknown or lost, and no word from the user to go on."""

    def __init__(self, standing: Standing) -> None:
        super().__init__(standing.error or f"The row is {standing.state}.")
        self.standing = standing


@dataclass(frozen=True, slots=True)
class Bought:
    """A row's image, at hand in the output folder."""

    job: Job
    place: Place


@dataclass(slots=True)
class _Tries:
    """What one row has met so far: calls for patience, an image that is nowhere."""

    refusals: int = 0
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Purchase:
    """Buys the images of one run. Used by many threads at once.

    `again`: the states out of which the user allowed rows to be bought anew. `shelf`: the store, if there is one.
    """

    generator: Generator
    ledger: Ledger
    owner: Owner
    output: OutputFolder
    slots: Slots
    costs: Costs
    again: frozenset[State] = frozenset()
    caps: Caps = NO_CAPS
    shelf: Shelf | None = None

    def get(self, job: Job) -> Bought:
        """Have the job's image in the output folder, buying it only if it isn't bought yet.

        Raises: a leaf of ImageGenerationError for a call that brought none; Standstill; RunStopped; StoreUnusable and
        LedgerUnavailable, which end the run and lose nothing that was bought.
        """
        try:
            return self._finished(job, self._get(job))
        except (StoreUnusable, LedgerUnavailable) as error:
            self.slots.stop(error)
            raise

    def _get(self, job: Job) -> Place:
        tries = _Tries()
        while True:
            with self.slots.hold() as call:
                held = self._take(job, tries)
                asked = (held, self._ask(held, tries, call)) if isinstance(held, Attempt) else held
            if isinstance(asked, tuple):
                self.slots.let_others_begin()  # the slot is free again, and the next call goes first
                bought = self._settle(*asked, tries)
                if bought is not None:
                    return bought
            elif asked.state in {State.BOUGHT, State.LOST} and not tries.gone:
                place = self._restore(job, asked, tries)
                if place is not None:
                    return place
            elif not asked.state.in_flight:
                raise Standstill(asked)
            else:
                found = self._look_up(job, asked)
                if found is not None:
                    return found

    def _take(self, job: Job, tries: _Tries) -> Attempt | Standing:
        folder = self.output.open_call(new_attempt_id())
        again = self.again if tries.gone else self.again - {State.LOST}  # its file may be back, or elsewhere
        try:
            taken = self.ledger.calls.take(job, self.owner, folder, self.costs.expected(job), again, self.caps)
        except CapReached as error:
            self.output.close_call(folder)
            self.slots.stop(error)
            raise RunStopped(str(error)) from error
        except LedgerUnavailable:  # no call may be made, so none will be looked for
            self.output.close_call(folder)
            raise
        if not isinstance(taken, Attempt):
            self.output.close_call(folder)
        return taken

    def _ask(self, attempt: Attempt, tries: _Tries, call: Call) -> GeneratedImage | ImageGenerationError:
        """Make one call. Where the provider asks for patience, or won't serve anybody, no other call starts."""
        try:
            image = self._answer(attempt, self.generator.generate)
        except RateLimited as error:
            tries.refusals += 1
            backoff_s = min(2.0**tries.refusals, LONGEST_BACKOFF_S) + random.random()  # noqa: S311 - spreads calls
            self.slots.refused(call, backoff_s if error.retry_after_s is None else error.retry_after_s)
            return error
        except StopError as error:
            self.slots.stop(error)
            return error
        except ImageGenerationError as error:
            return error
        self.slots.answered()
        return image

    def _settle(self, attempt: Attempt, answer: GeneratedImage | ImageGenerationError, tries: _Tries) -> Place | None:
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
            if attempt.paid_before or not error.was_paid:
                self._give_up(attempt, error)
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
            source, verified = self.output.verified(attempt, image, self.slots.left)
            place = self.output.keep(attempt.job, source, verified)
            cost = self.costs.settle(attempt.job, image.credits_used)
            self.ledger.calls.bought(attempt, image, verified, cost, place)
        except OSError as error:
            raise StoreUnusable(
                f"The image of {attempt.job.sku!r} is paid for and can't be kept: {error}. It is in {attempt.folder}: "
                "make room there, then run the same command again; it is taken from there."
            ) from error
        self.output.close_call(attempt.folder)
        return place

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
            case LeftRunning():
                pass  # it goes on, and its row stays submitted: the next run adopts it
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
            may = State.UNKNOWN in self.again and found.run != self.owner.run  # a run's word is good for one call
            if found.host == self.owner.host or may:  # else its own machine may still tell
                self._fail(attempt, error)
            if may and not isinstance(error, RejectedError | LeftRunning):
                return None
            raise

    def _recover(self, orphan: Orphan, request: ImageRequest) -> GeneratedImage:
        if orphan.host == self.owner.host:
            return self.generator.recover(request, orphan.child)
        try:  # a container is another host each time, and may have left its image on a volume that is here
            return self.generator.recover(request, None)
        except NoImage:  # a whole answer: it was paid, and may name where the image is
            raise
        except ImageGenerationError as error:
            raise OutcomeUnknown(
                f"The call was under way on {orphan.host} when its run died. Run the same command there; if that "
                "machine is gone, buy it again with --retry-unknown."
            ) from error

    def _restore(self, job: Job, held: Standing, tries: _Tries) -> Place | None:
        """Bring a bought image back without buying it; None where it is gone and may be bought anew."""
        places = self.ledger.places_anywhere([job.key]).get(job.key, [])
        for place in places if held.state is State.BOUGHT else ():
            if self.output.holds(place, held.sha256):
                return place
        scratch = self.output.open_call(new_attempt_id())
        try:
            stored = self.shelf.copy_of(job.key) if self.shelf else nothing_stored
            verified, place = self.output.restore(job, held, places, scratch, self.slots.left, stored)
            self.ledger.restored(job.key, verified, place)
        except NotFetched as error:
            told = f"It was bought and its file is gone. {error} Bring it back, or buy it again with --rebuy-lost."
            self.ledger.lose(job.key, told)
            tries.gone = State.LOST in self.again
            if tries.gone:
                return None
            raise Standstill(replace(held, state=State.LOST, error=told)) from error
        finally:
            self.output.close_call(scratch)
        return place

    def _finished(self, job: Job, place: Place) -> Bought:
        if (finished := self.output.finish(job, place)) != place:
            self.ledger.put_place(job.key, finished)
        return Bought(job, finished)

    def _request(self, attempt: Attempt) -> ImageRequest:
        job = attempt.job
        asked = (job.sku, job.prompt, job.model, attempt.folder, job.mode, job.params)
        return ImageRequest(*asked, on_child=partial(self._note, attempt), left=self.slots.left)

    def _note(self, attempt: Attempt, child: ChildProcess) -> None:
        self.slots.has_begun()
        self.slots.let_others_begin()
        self.ledger.calls.note_child(attempt.id, child)

    def _close(self, attempt: Attempt, state: State, charged: Charged, error: ImageGenerationError) -> None:
        used = error.credits_used if isinstance(error, NoImage) else None
        self.ledger.calls.end(attempt, state, charged, self.costs.settle(attempt.job, used), error)
        if charged is Charged.NO:  # what may be paid for stays on disk, for a person to look at
            self.output.close_call(attempt.folder)
