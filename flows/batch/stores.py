"""The output folder: where bought images are kept, finished and found again."""

import hashlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import requests

if sys.platform != "win32":
    import fcntl

from blocks.errors import DeliveryError, LeftRunning, SpoiltImage
from blocks.image import GeneratedImage
from flows.batch.files import image_path, keep_file, original_path, thumbnail_path
from flows.batch.finish import finish_image
from flows.batch.jobs import Job
from flows.batch.ledger_images import Attempt, Place, Standing
from flows.batch.verify import BrokenImage, VerifiedImage, verify_image

FETCH_TIMEOUT_S = 20
UNUSED_S = 3600.0
NEVER = threading.Event()
LARGEST_IMAGE_BYTES = 200 * 1024 * 1024
ROOM_BYTES = 64 * 1024 * 1024


class NotFetched(Exception):
    """The provider's address brought no file."""


def nothing_stored(_path: Path) -> str:
    """The copy of a store where there is no store. Raises: NotFetched."""
    raise NotFetched("There is no store.")


class StoreUnusable(Exception):
    """The output folder can't take an image: nothing more may be bought."""


def fetch(url: str, destination: Path, left: threading.Event = NEVER) -> None:
    """Bring a provider's file to disk; costs nothing, as the image is paid for.

    Raises: NotFetched where there is none any more; LeftRunning once `left` is set.
    """
    if not url.startswith(("https://", "http://")):
        raise NotFetched("The provider gave no address for it.")
    try:
        with requests.get(url, stream=True, timeout=FETCH_TIMEOUT_S) as answer, destination.open("wb") as file:
            answer.raise_for_status()
            for part in answer.iter_content(1 << 16):
                if left.is_set():
                    raise LeftRunning("The run ended before a paid image was fetched. The next run fetches it.")
                if file.tell() > LARGEST_IMAGE_BYTES:
                    raise NotFetched(f"The file is larger than {LARGEST_IMAGE_BYTES:,} bytes.")
                file.write(part)
    except requests.RequestException as error:
        raise NotFetched(f"Fetching it again failed: {type(error).__name__}.") from error


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """One output: images/, originals/ (of images that were finished), thumbs/ and the folders of calls under way."""

    root: Path

    @classmethod
    def of(cls, path: str) -> "OutputFolder":
        """The folder at a path that a user gave."""
        return cls(Path(path).expanduser().resolve())

    @property
    def name(self) -> str:
        """What the ledger calls this output."""
        return str(self.root)

    def prepare(self) -> None:
        """Make sure that images can be kept here. Raises: StoreUnusable."""
        try:
            self._calls.mkdir(parents=True, exist_ok=True)
            probe = self._calls / ".probe"
            probe.write_bytes(b"\0" * 4096)
            probe.unlink(missing_ok=True)  # another run that begins at this moment may have been first
        except OSError as error:
            raise StoreUnusable(
                f"The output folder {self.root} can't be written: {error.strerror}. "
                "Mend its rights or choose another --output."
            ) from error

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Take turns with other runs into this output, so that what is written last is what is true last."""
        with ExitStack() as turn:
            with suppress(OSError):  # the reports themselves will say what is wrong with the folder
                lock = turn.enter_context((self.root / ".rowshot" / "reports.lock").open("ab"))
                if sys.platform != "win32":
                    fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def open_call(self, attempt: str) -> Path:
        """An empty folder for one call, made before it goes out. Raises: StoreUnusable where there is no room."""
        folder = self._calls / attempt
        try:
            if shutil.disk_usage(self.root).free < ROOM_BYTES:
                raise StoreUnusable(
                    f"The disk of {self.root} is full. Make room, then run the same command again; it goes on."
                )
            folder.mkdir(parents=True)
        except OSError as error:
            raise StoreUnusable(
                f"The output folder {self.root} can't be written: {error.strerror}. Mend it and run again."
            ) from error
        return folder

    def close_call(self, folder: Path) -> None:
        """Clear away a call's folder, once the ledger has what came of it."""
        if folder.parent == self._calls:
            shutil.rmtree(folder, ignore_errors=True)

    def clear_calls(self, settled: Callable[[Iterable[str]], dict[str, bool]], unused_s: float) -> None:
        """Clear away what runs that were cut off have left: of settled calls, and of calls that were never taken up.

        The latter are empty folders that are unknown, and older than `unused_s` seconds: live runs make such, too.
        """
        folders = {folder.name: folder for folder in self._calls.iterdir()}
        known = settled(folders)
        for name, folder in folders.items():
            if known.get(name):
                self.close_call(folder)
            elif name not in known:
                with suppress(OSError):  # not empty, or gone
                    if folder.stat().st_mtime < time.time() - unused_s:
                        folder.rmdir()

    def thumbnail(self, job: Job) -> Path:
        """Where this job's thumbnail goes."""
        return self.root / thumbnail_path(job.template, job.sku, job.fingerprint)

    def verified(
        self, attempt: Attempt, image: GeneratedImage, left: threading.Event = NEVER
    ) -> tuple[Path, VerifiedImage]:
        """Verify what a call brought, and fetch it once more where it is broken. Raises: SpoiltImage, OSError."""
        thumbnail = self.thumbnail(attempt.job)
        try:
            return image.path, verify_image(image.path, thumbnail)
        except (BrokenImage, FileNotFoundError) as broken:
            fetched = attempt.folder / "fetched"
            try:
                fetch(image.url, fetched, left)
                return fetched, verify_image(fetched, thumbnail)
            except (NotFetched, BrokenImage) as still:
                raise SpoiltImage(
                    f"The provider's image is broken ({broken}), and so it is when fetched again ({still}). "
                    "Ask the provider for the money back.",
                    credits_used=image.credits_used,
                    url=image.url,
                    request_id=image.request_id,
                ) from broken

    def keep(self, job: Job, source: Path, verified: VerifiedImage) -> Place:
        """Put a verified image where it stays, leaving the source alone."""
        finished = not job.finish.changes(verified)
        original = self._original(job, verified.extension, finished=finished)
        keep_file(source, self.root / original)
        return Place(
            output=self.name,
            original=str(original),
            path=str(original) if finished else "",
            finish=str(job.finish) if finished else "",
            thumbnail=str(thumbnail_path(job.template, job.sku, job.fingerprint)),
        )

    def finish(self, job: Job, place: Place) -> Place:
        """Make the size and format that the template asks for from the kept original; free, and done once.

        Raises: StoreUnusable.
        """
        if place.finish == str(job.finish) and place.path and (self.root / place.path).is_file():
            return place
        original = self.root / place.original
        if place.path and not job.finish.changes(verify_image(original)):
            return Place(self.name, place.original, place.original, str(job.finish), place.thumbnail)
        extension = job.finish.extension or original.suffix
        path = image_path(job.template, job.sku, job.fingerprint, extension, job.finish.suffix)
        with self._writing():
            finish_image(original, self.root / path, job.finish)
        return Place(self.name, place.original, str(path), str(job.finish), place.thumbnail)

    def has(self, job: Job, place: Place) -> bool:
        """Whether this job's image is here, finished as the template asks now."""
        return place.finish == str(job.finish) and bool(place.path) and (self.root / place.path).is_file()

    def holds(self, place: Place, sha256: str) -> bool:
        """Whether the original is here, and is the image that was bought to the last byte."""
        try:
            with (self.root / place.original).open("rb") as file:
                return place.output == self.name and hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except OSError:
            return False

    def restore(
        self,
        job: Job,
        standing: Standing,
        places: list[Place],
        scratch: Path,
        left: threading.Event = NEVER,
        stored: Callable[[Path], str] = nothing_stored,
    ) -> tuple[VerifiedImage, Place]:
        """Bring back a bought image without buying it: from here, another output, the store, or the provider's address.

        `stored` brings the store's copy to a path. Raises: NotFetched where none of them has it; a DeliveryError where
        only the store may have it, and can't be asked; StoreUnusable.
        """
        for candidate in sorted(places, key=lambda place: place.output != self.name):
            source = Path(candidate.output) / candidate.original
            try:
                verified = verify_image(source, self.thumbnail(job))
            except (OSError, BrokenImage):
                continue  # gone or spoilt there: the next place may have it
            if verified.sha256 == standing.sha256:
                with self._writing():
                    return verified, self.keep(job, source, verified)
        fetched = scratch / "fetched"
        copy, away = self._stored_copy(job, scratch / "stored", stored)
        if copy is not None and copy.sha256 == standing.sha256:
            with self._writing():
                return copy, self.keep(job, scratch / "stored", copy)
        try:
            with self._writing():
                fetch(standing.url, fetched, left)
                verified = verify_image(fetched, self.thumbnail(job))
                return verified, self.keep(job, fetched, verified)
        except (NotFetched, BrokenImage) as error:
            if away is not None:
                raise away from error
            if copy is None or job.finish.changes(copy):
                gone = "The provider's address holds no image any more: " if isinstance(error, BrokenImage) else ""
                raise NotFetched(f"{gone}{error}") from error
        with self._writing():
            return copy, self._keep_finished(job, scratch / "stored", copy)

    def _stored_copy(
        self, job: Job, path: Path, stored: Callable[[Path], str]
    ) -> tuple[VerifiedImage | None, DeliveryError | None]:
        """The store's copy, if it has one; and why that can't be told now."""
        try:
            with self._writing():
                digest = stored(path)
                verified = verify_image(path, self.thumbnail(job))
        except (NotFetched, BrokenImage):
            return None, None
        except DeliveryError as error:
            return None, error
        return (verified, None) if verified.sha256 == digest else (None, None)

    def _keep_finished(self, job: Job, source: Path, verified: VerifiedImage) -> Place:
        """Put back an image that was finished, whose original is gone: from now on it stands for that one too."""
        path = image_path(job.template, job.sku, job.fingerprint, verified.extension, job.finish.suffix)
        keep_file(source, self.root / path)
        thumbnail = thumbnail_path(job.template, job.sku, job.fingerprint)
        return Place(self.name, str(path), str(path), str(job.finish), str(thumbnail))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            text = f"The output folder {self.root} can't be written: {error}. Mend it and run again."
            raise StoreUnusable(text) from error

    @property
    def _calls(self) -> Path:
        return self.root / ".rowshot" / "calls"

    def _original(self, job: Job, extension: str, *, finished: bool) -> PurePosixPath:
        place = image_path if finished else original_path
        return place(job.template, job.sku, job.fingerprint, extension)
