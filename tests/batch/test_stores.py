from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
from scripted_generator import picture
from small_batch import FileServer, SmallBatch

from blocks.errors import DeliveryUnavailable
from flows.batch import stores
from flows.batch.finish import Finish
from flows.batch.jobs import Job
from flows.batch.ledger_images import Place, Standing
from flows.batch.ledger_tables import State
from flows.batch.stores import NotFetched, OutputFolder, StoreUnusable, fetch
from flows.batch.verify import verify_image


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job that leaves its image as it is."""
    batch = SmallBatch(tmp_path)
    batch.products("A/1")
    return batch.jobs()[0]


@pytest.fixture
def output(tmp_path: Path) -> OutputFolder:
    """A folder that is ready."""
    folder = OutputFolder.of(str(tmp_path / "output"))
    folder.prepare()
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[FileServer]:
    """A provider's file server."""
    with FileServer() as running:
        yield running


def kept(output: OutputFolder, job: Job, data: bytes) -> tuple[Place, Standing]:
    """Keep an image as a purchase does; gives its place and how it stands."""
    call = output.open_call("call-1")
    (call / "image.bin").write_bytes(data)
    verified = verify_image(call / "image.bin", output.thumbnail(job))
    place = output.keep(job, call / "image.bin", verified)
    output.close_call(call)
    nothing = dict.fromkeys([field.name for field in fields(Standing)], "")
    known = {"key": job.key, "state": State.BOUGHT, "sha256": verified.sha256, "paid_calls": 1}
    standing = Standing(**{**nothing, **known})  # type: ignore[arg-type]
    return place, standing


def test_an_output_is_known_by_its_whole_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """However it is written, one folder is one output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = {OutputFolder.of(path).name for path in ("out", "./x/../out", str(tmp_path / "out"), "~/out")}
    assert names == {str((tmp_path / "out").resolve())}


def test_an_image_is_kept_under_its_true_extension(output: OutputFolder, job: Job) -> None:
    """The bytes decide the extension; name and fingerprint are in the path, and no sku leads out of the folder."""
    place, _ = kept(output, job, picture(kind="JPEG"))
    assert place.path == place.original
    path = Path(place.path)
    assert path.parent == Path("images/product")
    assert path.suffix == ".jpg"
    assert path.stem.startswith("a-1-")
    assert path.stem.endswith(job.fingerprint[:12])
    assert (output.root / place.path).read_bytes() == picture(kind="JPEG")
    assert verify_image(output.root / place.thumbnail).format == "webp"
    assert output.has(job, place)


def test_nothing_of_a_call_is_left_once_it_is_closed(output: OutputFolder, job: Job) -> None:
    """The folder of a call goes; a folder elsewhere is never touched."""
    kept(output, job, picture())
    assert list((output.root / ".rowshot" / "calls").iterdir()) == []
    elsewhere = output.root.parent / "mine"
    elsewhere.mkdir()
    output.close_call(elsewhere)
    output.close_call(output.root)
    assert elsewhere.is_dir()
    assert output.root.is_dir()


def test_the_size_and_format_are_made_from_the_original(output: OutputFolder, job: Job) -> None:
    """The original stays as it came, and what was asked for lies where images lie."""
    sized = replace(job, finish=Finish.parse(size="40x20", format="webp"))
    place, _ = kept(output, sized, picture(size=(64, 64)))
    assert (place.path, place.original.split("/")[0]) == ("", "originals")
    assert not output.has(sized, place)
    finished = output.finish(sized, place)
    assert finished.path.startswith("images/product/a-1-")
    assert "40x20" in finished.path
    made = verify_image(output.root / finished.path)
    assert (made.format, made.width, made.height) == ("webp", 40, 20)
    assert (output.root / place.original).read_bytes() == picture(size=(64, 64))
    assert output.has(sized, finished)
    assert not output.has(job, finished), "another size is another file"


def test_a_finish_is_made_once(output: OutputFolder, job: Job) -> None:
    """What is there as it was asked for is not made again."""
    sized = replace(job, finish=Finish.parse(size="40x20"))
    place, _ = kept(output, sized, picture())
    finished = output.finish(sized, place)
    (output.root / finished.path).write_bytes(b"as it was")
    assert output.finish(sized, finished) == finished
    assert (output.root / finished.path).read_bytes() == b"as it was"


def test_an_image_that_is_right_already_needs_no_second_file(output: OutputFolder, job: Job) -> None:
    """Where the provider's image has the asked size and format it is the image."""
    sized = replace(job, finish=Finish.parse(size="64x64", format="png"))
    place, _ = kept(output, sized, picture())
    assert place.path == place.original
    assert output.finish(sized, place) == place


def test_a_finished_image_does_not_need_its_original(output: OutputFolder, job: Job) -> None:
    """Who clears the originals away has all images still."""
    sized = replace(job, finish=Finish.parse(size="40x20"))
    place, _ = kept(output, sized, picture())
    finished = output.finish(sized, place)
    (output.root / place.original).unlink()
    assert output.has(sized, finished)
    (output.root / finished.path).unlink()
    assert not output.has(sized, finished)


def test_an_image_is_brought_from_another_output(tmp_path: Path, output: OutputFolder, job: Job) -> None:
    """The same bytes in another folder will do, thumbnail and all; other bytes there will not."""
    place, standing = kept(output, job, picture("one"))
    second = OutputFolder.of(str(tmp_path / "second"))
    second.prepare()
    scratch = second.open_call("scratch")
    verified, found = second.restore(job, standing, [place], scratch)
    assert verified.sha256 == standing.sha256
    assert found == replace(place, output=second.name)
    assert (second.root / found.path).read_bytes() == picture("one")
    assert (second.root / found.thumbnail).is_file()
    (output.root / place.path).write_bytes(picture("another"))
    with pytest.raises(NotFetched):
        OutputFolder.of(str(tmp_path / "third")).restore(job, standing, [place], scratch)


def test_an_image_is_fetched_from_its_address(
    tmp_path: Path, output: OutputFolder, job: Job, server: FileServer
) -> None:
    """Where no folder has it the provider may; what is no image there is not taken."""
    place, standing = kept(output, job, picture("one"))
    (output.root / place.path).unlink()
    server.files["/one.png"] = picture("one")
    server.files["/page"] = b"<html>expired</html>"
    scratch = tmp_path
    with pytest.raises(NotFetched, match="gave no address"):
        output.restore(job, standing, [place], scratch)
    with pytest.raises(NotFetched, match="no image any more"):
        output.restore(job, replace(standing, url=f"{server.url}/page"), [place], scratch)
    with pytest.raises(NotFetched, match="Fetching it again failed"):
        output.restore(job, replace(standing, url=f"{server.url}/gone"), [place], scratch)
    _, found = output.restore(job, replace(standing, url=f"{server.url}/one.png"), [place], scratch)
    assert (output.root / found.path).read_bytes() == picture("one")


@pytest.mark.parametrize(
    "url", ["", "file:///etc/passwd", "ftp://127.0.0.1/x", "/etc/passwd", "http://127.0.0.1:1/x", "http://["]
)
def test_only_web_addresses_that_answer_are_fetched(tmp_path: Path, url: str) -> None:
    """A provider's answer can't make us read a file of this machine, and an address that is none is told."""
    with pytest.raises(NotFetched):
        fetch(url, tmp_path / "fetched")


def test_a_file_without_end_is_not_fetched(tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is larger than any image stops."""
    monkeypatch.setattr(stores, "LARGEST_IMAGE_BYTES", 100_000)
    server.files["/large"] = b"x" * 400_000
    with pytest.raises(NotFetched, match="larger than 100,000 bytes"):
        fetch(f"{server.url}/large", tmp_path / "fetched")


def test_a_full_disk_is_told_before_anything_is_bought(output: OutputFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """No call is opened where its image would have no room."""
    monkeypatch.setattr(stores, "ROOM_BYTES", 1 << 60)
    with pytest.raises(StoreUnusable, match=r"is full. Make room"):
        output.open_call("call-1")


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    """An output below a file is refused with what to do about it, before a call and when it is prepared."""
    (tmp_path / "file").write_text("x")
    output = OutputFolder.of(str(tmp_path / "file" / "output"))
    with pytest.raises(StoreUnusable, match="another --output"):
        output.prepare()
    with pytest.raises(StoreUnusable, match="can't be written"):
        output.open_call("call-1")


def test_a_finish_that_cannot_be_written_ends_the_run(output: OutputFolder, job: Job) -> None:
    """What stands in the way of a file is told with its name, and once it is away the finish is made."""
    sized = replace(job, finish=Finish.parse(size="40x20"))
    place, _ = kept(output, sized, picture())
    (output.root / "images").write_text("in the way")
    with pytest.raises(StoreUnusable, match="images"):
        output.finish(sized, place)
    (output.root / "images").unlink()
    assert output.has(sized, output.finish(sized, place))


def test_a_store_that_is_down_loses_no_image(output: OutputFolder, job: Job, server: FileServer) -> None:
    """The provider's address is tried all the same; where that is gone, nobody says that the image is lost."""
    place, standing = kept(output, job, picture())
    (output.root / place.path).unlink()
    server.files["/kept.png"] = picture()

    def down(_path: Path) -> str:
        raise DeliveryUnavailable("The store is down.")

    scratch = output.open_call("call-2")
    with pytest.raises(DeliveryUnavailable):
        output.restore(job, replace(standing, url=f"{server.url}/gone"), [place], scratch, stored=down)
    there = replace(standing, url=f"{server.url}/kept.png")
    _, found = output.restore(job, there, [place], scratch, stored=down)
    assert (output.root / found.path).read_bytes() == picture()
