"""Where an image's files lie, and how a file gets there whole or not at all."""

import filecmp
import hashlib
import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

NAME_LENGTH = 80
HASH_LENGTH = 6
FINGERPRINT_LENGTH = 12

_WINDOWS_DEVICES = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)")

# The Revised Romanization of Korean, letter by letter: readable in an address, and without a dictionary.
_FIRST = "g,kk,n,d,tt,r,m,b,pp,s,ss,,j,jj,ch,k,t,p,h".split(",")  # noqa: SIM905 - three lines, not fifty
_VOWEL = "a,ae,ya,yae,eo,e,yeo,ye,o,wa,wae,oe,yo,u,wo,we,wi,yu,eu,ui,i".split(",")  # noqa: SIM905 - as above
_LAST = ",k,k,k,n,n,n,t,l,k,m,l,l,l,p,l,m,p,p,t,t,ng,t,t,k,t,p,t".split(",")  # noqa: SIM905 - as above
_HANGUL = range(0xAC00, 0xD7A4)


def slug(sku: str) -> str:
    """A readable form of `sku`, of a-z, 0-9, underscores and single dashes: safe in an address, an S3 key, on any disk.

    Hangul is romanised, accents are dropped, and so is all that has no such form: the result may be empty.
    """
    text = "".join(_romanised(letter) for letter in unicodedata.normalize("NFKC", sku).casefold())
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[^a-z0-9_]+", "-", plain).strip("-")


def image_name(sku: str) -> str:
    """The file name's part that stands for `sku`: its slug, with six hex of the sku's hash where slug and sku differ.

    At most 80 characters, in lower case only, so that `A1` and `a1` stay apart on a disk that takes them for one name.
    """
    short = slug(sku)
    if short and short == sku and len(short) <= NAME_LENGTH and not _WINDOWS_DEVICES.fullmatch(short):
        return short
    mark = hashlib.sha256(sku.encode()).hexdigest()[:HASH_LENGTH]
    return f"{short[: NAME_LENGTH - HASH_LENGTH - 1].rstrip('-') or 'sku'}-{mark}"


def image_path(template: str, sku: str, fingerprint: str, extension: str, suffix: str = "") -> PurePosixPath:
    """Where a row's image lies in the output folder: images/<template>/<name>[-<suffix>]-<fingerprint12><extension>."""
    middle = f"-{suffix}" if suffix else ""
    return _path("images", template, f"{image_name(sku)}{middle}", fingerprint, extension)


def original_path(template: str, sku: str, fingerprint: str, extension: str) -> PurePosixPath:
    """Where the provider's own bytes are kept, as they came."""
    return _path("originals", template, image_name(sku), fingerprint, extension)


def thumbnail_path(template: str, sku: str, fingerprint: str) -> PurePosixPath:
    """Where the contact sheet's small picture lies."""
    return _path("thumbs", template, image_name(sku), fingerprint, ".webp")


def keep_file(source: Path, destination: Path) -> None:
    """Put the bytes of `source` at `destination`; `source` stays. `sync` makes them outlast a power cut.

    A hard link where the file system can, else a copy. The same bytes there already are left alone, others replaced.
    Raises OSError, and then `destination` is as it was.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    if destination.is_file() and filecmp.cmp(source, destination, shallow=False):
        return
    with replacing(destination) as beside:
        try:
            os.link(source, beside)
        except OSError:
            # Another disk, or one without links. What else may be wrong, the copy tells.
            shutil.copyfile(source, beside)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a free path beside `path` to write to; at the end it is renamed to `path`, or removed if anything fails.

    The parent folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def sync(paths: Iterable[Path]) -> None:
    """Wait until these files and their names are on the disk. Many at once cost little more than one."""
    files = list(paths)
    for path in files:
        _sync(path)
    for folder in {path.parent for path in files}:
        _sync_folder(folder)


def _path(folder: str, template: str, name: str, fingerprint: str, extension: str) -> PurePosixPath:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", template):
        raise ValueError(f"{template!r} can't name a folder: use letters, digits, '_' and '-' for a template's name.")
    return PurePosixPath(folder, template, f"{name}-{fingerprint[:FINGERPRINT_LENGTH]}{extension}")


def _romanised(letter: str) -> str:
    if ord(letter) not in _HANGUL:
        return letter
    syllable, last = divmod(ord(letter) - _HANGUL.start, len(_LAST))
    first, vowel = divmod(syllable, len(_VOWEL))
    return f"{_FIRST[first]}{_VOWEL[vowel]}{_LAST[last]}"


def _sync(path: Path) -> None:
    # Opened for writing, which is what Windows wants for a flush; nothing is written.
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
