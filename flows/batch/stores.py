"""The output folder: where bought images are kept, finished and found again."""

import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import requests

from flows.batch.files import image_path, keep_file, original_path, thumbnail_path
from flows.batch.finish import finish_image
from flows.batch.jobs import Job
from flows.batch.ledger_images import Place, Standing
from flows.batch.verify import BrokenImage, VerifiedImage, verify_image

FETCH_TIMEOUT_S = 60
LARGEST_IMAGE_BYTES = 200 * 1024 * 1024
ROOM_BYTES = 64 * 1024 * 1024


class NotFetched(Exception):
    """The provider's address brought no file."""


class StoreUnusable(Exception):
    """The output folder can't take an image: nothing more may be bought."""


def fetch(url: str, destination: Path) -> None:
    """Bring a provider's file to disk; costs nothing, as the image is paid for.

    Raises: NotFetched where there is none any more.
    """
    if not url.startswith(("https://", "http://")):
        raise NotFetched("The provider gave no address for it.")
    try:
        with requests.get(url, stream=True, timeout=FETCH_TIMEOUT_S) as answer, destination.open("wb") as file:
            answer.raise_for_status()
            for part in answer.iter_content(1 << 16):
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
            probe.unlink()
        except OSError as error:
            raise StoreUnusable(
                f"The output folder {self.root} can't be written: {error.strerror}. "
                "Mend its rights or choose another --output."
            ) from error

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

    def thumbnail(self, job: Job) -> Path:
        """Where this job's thumbnail goes."""
        return self.root / thumbnail_path(job.template, job.sku, job.fingerprint)

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
        """Make the size and format that the template asks for from the kept original; free, and done once."""
        if place.finish == str(job.finish) and place.path and (self.root / place.path).is_file():
            return place
        original = self.root / place.original
        if place.path and not job.finish.changes(verify_image(original)):
            return Place(self.name, place.original, place.original, str(job.finish), place.thumbnail)
        extension = job.finish.extension or original.suffix
        path = image_path(job.template, job.sku, job.fingerprint, extension, job.finish.suffix)
        finish_image(original, self.root / path, job.finish)
        return Place(self.name, place.original, str(path), str(job.finish), place.thumbnail)

    def has(self, job: Job, place: Place) -> bool:
        """Whether this job's image is here, finished as the template asks now."""
        return (
            place.finish == str(job.finish)
            and bool(place.path)
            and (self.root / place.path).is_file()
            and (self.root / place.original).is_file()
        )

    def restore(self, job: Job, standing: Standing, places: list[Place], scratch: Path) -> tuple[VerifiedImage, Place]:
        """Bring back a bought image without buying it: from here, from another output, or from its address.

        Raises: NotFetched where none of them has it.
        """
        for candidate in sorted(places, key=lambda place: place.output != self.name):
            source = Path(candidate.output) / candidate.original
            try:
                verified = verify_image(source, self.thumbnail(job))
            except (OSError, BrokenImage):
                continue  # gone or spoilt there: the next place may have it
            if verified.sha256 == standing.sha256:
                return verified, self.keep(job, source, verified)
        fetched = scratch / "fetched"
        fetch(standing.url, fetched)
        try:
            verified = verify_image(fetched, self.thumbnail(job))
            return verified, self.keep(job, fetched, verified)
        except BrokenImage as error:
            raise NotFetched(f"The provider's address holds no image any more: {error}") from error

    @property
    def _calls(self) -> Path:
        return self.root / ".rowshot" / "calls"

    def _original(self, job: Job, extension: str, *, finished: bool) -> PurePosixPath:
        place = image_path if finished else original_path
        return place(job.template, job.sku, job.fingerprint, extension)
