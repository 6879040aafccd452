"""The real AnyCap CLI against a server of our own, which counts the calls and the charges."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import anycap_faults as faults
import psutil
import pytest
from anycap_server import AnyCapServer
from cli import anycap_executable
from documented import documented
from PIL import Image

from blocks import anycap_child
from blocks.anycap import AnyCap
from blocks.errors import (
    AuthenticationFailed,
    ContentRejected,
    GeneratorMissing,
    ImageGenerationError,
    InsufficientCredit,
    InvalidRequest,
    LeftRunning,
    NoImage,
    OutcomeUnknown,
    QuotaExhausted,
    RateLimited,
    ServiceUnavailable,
)
from blocks.image import ChildProcess, ImageRequest, Mode

ROOT = Path(__file__).parents[2]
KEY = "sk-a-key-to-keep-quiet"


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the CLI away from the key, the login and the settings of whoever runs the tests."""
    for name in ("ANYCAP_API_KEY", "ANYCAP_API_ENDPOINT", "ROWSHOT_ANYCAP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANYCAP_NO_KEYRING", "1")
    monkeypatch.setenv("ANYCAP_CONFIG_DIR", str(tmp_path / "config"))


@pytest.fixture
def server() -> Iterator[AnyCapServer]:
    """A server with one marker a fault."""
    some = {
        "#busy": [faults.rate_limited(60)],
        "#quota": [faults.quota()],
        "#down": [faults.unavailable()],
        "#rejected": [faults.rejected()],
        "#no-credit": [faults.no_credit()],
        "#key": [faults.unauthorized()],
        "#internal": [faults.internal_error()],
        "#gateway": [faults.gateway_timeout()],
        "#html": [faults.not_json()],
        "#paid-nothing": [faults.no_outputs()],
        "#free-nothing": [faults.no_outputs_free()],
        "#failed": [faults.status_error()],
        "#late-rejection": [faults.status_error("CONTENT_REJECTED")],
        "#truncated": [faults.truncated()],
        "#jpeg": [faults.jpeg_under_png()],
        "#gone": [faults.image_gone()],
        "#broken-line": [faults.download_dropped()],
        "#dropped": [faults.drop_connection()],
        "#slow": [faults.hang(1.5)],
        "#hang": [faults.hang(60)],
        "#echo": [faults.refusal("echo", 422, "invalid_param", f"no such key: {KEY}")],
    }
    with AnyCapServer(faults=some, key=KEY) as running:
        yield running


@pytest.fixture
def anycap(server: AnyCapServer) -> AnyCap:
    """The block, on the real CLI and the test's own server."""
    return AnyCap(api_key=KEY, executable=str(anycap_executable()), endpoint=server.url, timeout_s=30)


def a_request(folder: Path, prompt: str, **fields: object) -> ImageRequest:
    """A request with a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, object] = {"sku": "S-1", "model": "nano-banana-2", **fields}
    return ImageRequest(prompt=prompt, folder=folder, **values)  # type: ignore[arg-type]


def error_of(anycap: AnyCap, request: ImageRequest) -> ImageGenerationError:
    """The error that a call ends in."""
    with pytest.raises(ImageGenerationError) as caught:
        anycap.generate(request)
    return caught.value


def test_one_call_makes_one_image(anycap: AnyCap, server: AnyCapServer, tmp_path: Path) -> None:
    """A success is one call, one charge and a file that decodes, with its url, cost and handle."""
    params = {"aspect_ratio": "16:9", "resolution": "2k"}
    image = anycap.generate(a_request(tmp_path / "a", "a crane", params=params))
    with Image.open(image.path) as picture:
        picture.load()
        assert picture.size == (64, 64)
    assert image.path.parent == tmp_path / "a"
    assert (image.model, image.credits_used) == ("nano-banana-2", Decimal(1))
    assert image.url.startswith(server.url)
    assert image.request_id.startswith("trc_")
    assert (server.calls["a crane"], server.charges["a crane"], server.downloads["a crane"]) == (1, 1, 1)
    assert server.bodies == [{"model": "nano-banana-2", "prompt": "a crane", **params}]


@pytest.mark.parametrize(
    "prompt",
    [
        "-hello",
        "--model=evil",
        "-",
        'it\'s "quoted" `x` $(touch pwned) $HOME \\ ; & |',
        "두 줄\n이커머스 제품 사진: 양말, 빨강\t끝",
        "=a=b",
        "@/etc/passwd",
        "🧦" * 4000,
    ],
)
def test_a_prompt_arrives_as_it_is(prompt: str, anycap: AnyCap, server: AnyCapServer, tmp_path: Path) -> None:
    """No prompt is read as a flag, a file or a shell's word."""
    anycap.generate(a_request(tmp_path / "a", prompt))
    assert server.bodies == [{"model": "nano-banana-2", "prompt": prompt}]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("#busy", (RateLimited, "RATE_LIMITED", 0)),
        ("#quota", (QuotaExhausted, "QUOTA_EXCEEDED", 0)),
        ("#down", (ServiceUnavailable, "UPSTREAM_UNAVAILABLE", 0)),
        ("#rejected", (ContentRejected, "CONTENT_REJECTED", 0)),
        ("#no-credit", (InsufficientCredit, "INSUFFICIENT_CREDIT", 0)),
        ("#key", (AuthenticationFailed, "auth_required", 0)),
        ("#internal", (OutcomeUnknown, "INTERNAL_ERROR", 0)),
        ("#gateway", (OutcomeUnknown, "http_504", 0)),
        ("#html", (NoImage, "not_json", 0)),
        ("#paid-nothing", (NoImage, "no_outputs", 1)),
        ("#free-nothing", (NoImage, "no_outputs", 0)),
        ("#failed", (NoImage, "status_error", 0)),
        ("#late-rejection", (ContentRejected, "CONTENT_REJECTED", 0)),
        ("#gone", (OutcomeUnknown, "download_failed", 1)),
        ("#broken-line", (OutcomeUnknown, "download_failed", 1)),
        ("#dropped", (OutcomeUnknown, "connection_error", 1)),
    ],
)
def test_each_fault_has_its_class_its_calls_and_its_charges(
    prompt: str,
    expected: tuple[type[ImageGenerationError], str, int],
    anycap: AnyCap,
    server: AnyCapServer,
    tmp_path: Path,
) -> None:
    """Each fault is told apart after exactly one call, and the next call for the row goes well."""
    kind, code, charges = expected
    error = error_of(anycap, a_request(tmp_path / "a", prompt))
    assert type(error) is kind
    assert error.code == code
    assert error.request_id.startswith("trc_")
    assert (server.calls[prompt], server.charges[prompt]) == (1, charges)
    anycap.generate(a_request(tmp_path / "b", prompt))
    assert (server.calls[prompt], server.charges[prompt]) == (2, charges + 1)


def test_what_an_empty_answer_cost_is_told(anycap: AnyCap, tmp_path: Path) -> None:
    """A success without an image tells whether it was charged, and a page that is no answer does not."""
    costs = {}
    for prompt in ("#paid-nothing", "#free-nothing", "#html"):
        error = error_of(anycap, a_request(tmp_path / prompt, prompt))
        assert isinstance(error, NoImage)
        costs[prompt] = error.credits_used
    assert costs == {"#paid-nothing": Decimal(1), "#free-nothing": Decimal(0), "#html": None}


def test_the_wait_after_a_429_is_the_providers(anycap: AnyCap, tmp_path: Path) -> None:
    """The wait in the provider's message comes with the error."""
    error = error_of(anycap, a_request(tmp_path / "a", "#busy"))
    assert isinstance(error, RateLimited)
    assert error.retry_after_s == 60.0


def test_an_account_that_runs_dry_goes_on_once_topped_up(anycap: AnyCap, server: AnyCapServer, tmp_path: Path) -> None:
    """A call without credit costs nothing, and the same call works after a top-up."""
    server.credit = 1
    anycap.generate(a_request(tmp_path / "a", "first"))
    assert isinstance(error_of(anycap, a_request(tmp_path / "b", "second")), InsufficientCredit)
    server.credit = 5
    anycap.generate(a_request(tmp_path / "c", "second"))
    assert (server.calls["second"], server.charges["second"], server.credit) == (2, 1, 4)


def test_broken_and_disguised_bytes_are_handed_over_with_their_url(
    anycap: AnyCap, server: AnyCapServer, tmp_path: Path
) -> None:
    """Bytes are not judged here: a truncated PNG and a JPEG under .png come with the url for a second fetch."""
    broken = anycap.generate(a_request(tmp_path / "a", "#truncated"))
    with Image.open(broken.path) as picture, pytest.raises(OSError, match="truncated"):
        picture.load()
    jpeg = anycap.generate(a_request(tmp_path / "b", "#jpeg"))
    with Image.open(jpeg.path) as picture:
        assert picture.format == "JPEG"
    assert broken.url.startswith(server.url)
    assert jpeg.url.startswith(server.url)


def test_references_go_out_as_one_list_and_are_uploaded(anycap: AnyCap, server: AnyCapServer, tmp_path: Path) -> None:
    """Two references, one with awkward letters in its name, arrive in order with their bytes."""
    paths = (tmp_path / 'a "1", 한글.png', tmp_path / "b.png")
    for path in paths:
        path.write_bytes(path.name.encode())
    anycap.generate(a_request(tmp_path / "c", "edit", mode=Mode.IMAGE_TO_IMAGE, references=paths))
    (body,) = server.bodies
    assert body["mode"] == "image-to-image"
    assert [place.rpartition("/")[2] for place in body["images"]] == [path.name for path in paths]
    assert server.uploads == [path.name.encode() for path in paths]


def test_a_reference_that_is_not_there_costs_nothing(anycap: AnyCap, server: AnyCapServer, tmp_path: Path) -> None:
    """A missing reference fails the row before any picture is asked for."""
    request = a_request(tmp_path / "a", "edit", mode=Mode.IMAGE_TO_IMAGE, references=(tmp_path / "no.png",))
    assert isinstance(error_of(anycap, request), InvalidRequest)
    assert server.counts()["calls"] == 0


@pytest.mark.parametrize(
    ("prompt", "params"),
    [
        ("", {}),
        (" \n", {}),
        ("a\0b", {}),
        ("half \ud800 letter", {}),
        ("x" * 200_000, {}),
        ("p", {"model": "expensive"}),
        ("p", {"prompt": "other"}),
        ("p", {"images": "https://example.com/a.png"}),
        ("p", {"a=b": "c"}),
        ("p", {"": "c"}),
        ("p", {"style": "/etc/passwd"}),
        ("p", {"style": '["ok", "~/.ssh/id_rsa"]'}),
        ("p", {"style": "x/../../secret"}),
        ("p", {"style": "file:///etc/passwd"}),
    ],
)
def test_what_the_cli_would_misread_is_refused_unsent(
    prompt: str, params: dict[str, str], anycap: AnyCap, server: AnyCapServer, tmp_path: Path
) -> None:
    """A row can't go out cut off, can't swap its model behind the price list, can't upload a file of this machine."""
    assert isinstance(error_of(anycap, a_request(tmp_path / "a", prompt, params=params)), InvalidRequest)
    assert server.counts()["calls"] == 0


def test_a_call_that_hangs_is_ended_and_its_outcome_is_unknown(
    anycap: AnyCap, server: AnyCapServer, tmp_path: Path
) -> None:
    """A time-out ends the child, and the row may have been charged."""
    noted: list[ChildProcess] = []
    anycap.timeout_s = 3.0
    begun = time.monotonic()
    error = error_of(anycap, a_request(tmp_path / "a", "#hang", on_child=noted.append))
    assert time.monotonic() - begun < 30
    assert isinstance(error, OutcomeUnknown)
    assert (error.code, error.request_id[:4]) == ("time_out", "trc_")
    assert not psutil.pid_exists(noted[0].pid)
    assert (server.calls["#hang"], server.charges["#hang"]) == (1, 1)


def test_the_child_has_a_session_of_its_own(anycap: AnyCap, tmp_path: Path) -> None:
    """Ctrl-C on the terminal goes to our session only, so it does not reach a call that is paid for."""
    sessions: list[int] = []
    anycap.generate(a_request(tmp_path / "a", "x", on_child=lambda child: sessions.append(os.getsid(child.pid))))
    assert sessions
    assert sessions[0] != os.getsid(0)


def test_calls_run_side_by_side(anycap: AnyCap, server: AnyCapServer, tmp_path: Path) -> None:
    """Sixteen threads on one block have sixteen calls under way at once, each with an image of its own."""
    server.delay_s = 3.0  # longer than it takes a busy machine to start them all
    requests = [a_request(tmp_path / str(number), f"prompt {number}") for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        images = list(pool.map(anycap.generate, requests))
    assert len({image.path.read_bytes() for image in images}) == 16
    counts = {"calls": 16, "charges": 16, "downloads": 16, "refusals": 0, "max_in_flight": 16}
    assert server.counts() == counts


def test_a_server_that_refuses_the_line_is_free_to_ask_again(tmp_path: Path, anycap: AnyCap) -> None:
    """Where no connection came about, nothing was sent."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        anycap.endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        error = error_of(anycap, a_request(tmp_path / "a", "x"))
    assert isinstance(error, ServiceUnavailable)
    assert error.code == "connect_failed"


def test_the_key_is_in_no_error_and_in_no_argument(anycap: AnyCap, server: AnyCapServer, tmp_path: Path) -> None:
    """The key is struck out of what the server echoes, and the block never prints it."""
    error = error_of(anycap, a_request(tmp_path / "a", "#echo"))
    assert "***" in str(error)
    assert KEY not in f"{error!r} {error} {anycap!r}"
    server.key = "another"
    assert KEY not in str(error_of(anycap, a_request(tmp_path / "b", "x")))
    assert server.telemetry
    assert all(KEY not in str(report["args"]) for report in server.telemetry)


def test_without_a_block_all_comes_from_the_environment(
    server: AnyCapServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`AnyCap()` takes program, key and endpoint from the environment, and needs no Prefect server."""
    monkeypatch.setenv("ANYCAP_API_KEY", f" {KEY}\n")
    monkeypatch.setenv("ANYCAP_API_ENDPOINT", server.url)
    monkeypatch.setenv("PATH", f"{anycap_executable().parent}{os.pathsep}{os.environ['PATH']}")
    block = AnyCap()
    block.check()
    assert block.generate(a_request(tmp_path / "a", "x")).path.exists()
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("ROWSHOT_ANYCAP", str(anycap_executable()))
    assert AnyCap().generate(a_request(tmp_path / "b", "x")).path.exists()


def test_a_missing_key_is_told_before_the_first_call(server: AnyCapServer) -> None:
    """The check asks the CLI itself, so that a stored login counts as a key, and sends nothing."""
    block = AnyCap(executable=str(anycap_executable()), endpoint=server.url)
    with pytest.raises(AuthenticationFailed, match="ANYCAP_API_KEY"):
        block.check()
    subprocess.run([block.executable, "login", "--with-token"], input=KEY, text=True, check=True, capture_output=True)
    block.check()
    assert server.counts()["calls"] == 0


def test_a_program_that_is_not_there_stops_the_run(tmp_path: Path) -> None:
    """A missing program, a file that may not be run and one that can't be run are told with the mend."""
    plain, broken = tmp_path / "plain", tmp_path / "broken"
    plain.write_text("text")
    broken.write_bytes(b"\x7fELF no program")
    broken.chmod(0o755)
    for program in ("no-such-program", str(plain), str(broken)):
        block = AnyCap(api_key=KEY, executable=program)
        with pytest.raises(GeneratorMissing, match="npm install") as missing:
            block.check()
        assert documented("export ROWSHOT_ANYCAP=") in str(missing.value)
        assert isinstance(error_of(block, a_request(tmp_path / "a", "x")), GeneratorMissing)


def test_a_cli_with_a_json_flag_is_called_with_it(tmp_path: Path) -> None:
    """The help is read once, and a CLI that has `--output-format` gets it; its image_url and request_id are read."""
    program = tmp_path / "anycap"
    program.write_text(
        "#!/bin/sh\n"
        f'echo "$*" >> {tmp_path}/asked\n'
        'case "$*" in *--help*) echo "  --output-format string"; exit 0;; esac\n'
        "printf png > image.png\n"
        'printf \'{"status":"success","local_path":"%s/image.png",\' "$PWD"\n'
        'echo \'"image_url":"https://cdn/x","request_id":"r1"}\'\n'
    )
    program.chmod(0o755)
    block = AnyCap(api_key=KEY, executable=str(program))
    for name in ("a", "b"):
        image = block.generate(a_request(tmp_path / name, "p"))
        assert (image.url, image.request_id) == ("https://cdn/x", "r1")
    asked = (tmp_path / "asked").read_text().splitlines()
    assert len(asked) == 3
    assert all("--output-format json" in line for line in asked[1:])


def test_a_child_outlives_its_caller_and_its_image_is_adopted(
    anycap: AnyCap, server: AnyCapServer, tmp_path: Path
) -> None:
    """A caller that is killed at work loses nothing: its call is waited for and its image taken, with no new call."""
    folder = tmp_path / "a"
    folder.mkdir()
    caller = (
        "from pathlib import Path; from blocks.anycap import AnyCap; from blocks.image import ImageRequest\n"
        "note = lambda child: print(child.pid, repr(child.started), flush=True)\n"
        f"block = AnyCap(api_key={KEY!r}, executable={anycap.executable!r}, endpoint={server.url!r})\n"
        f"block.generate(ImageRequest('S', '#slow', 'nano-banana-2', Path({str(folder)!r}), on_child=note))\n"
    )
    with subprocess.Popen([sys.executable, "-c", caller], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, started = parent.stdout.readline().split()
        while not server.calls["#slow"]:
            time.sleep(0.01)
        parent.send_signal(signal.SIGKILL)
    child = ChildProcess(int(pid), float(started))
    assert anycap_child.find_running(folder, child) is not None
    request = a_request(folder, "#slow")
    image = anycap.recover(request, child)
    with Image.open(image.path) as picture:
        picture.load()
    assert image.url.startswith(server.url)
    assert anycap.recover(request, child) == image
    assert (server.calls["#slow"], server.charges["#slow"]) == (1, 1)


def test_a_child_that_nobody_noted_is_found_by_its_folder(anycap: AnyCap, server: AnyCapServer, tmp_path: Path) -> None:
    """A caller that died between spawning and noting loses nothing either."""
    request = a_request(tmp_path / "a", "#slow")
    thread = threading.Thread(target=anycap.generate, args=(request,))
    thread.start()
    while not server.calls["#slow"]:
        time.sleep(0.01)
    image = anycap.recover(request, None)
    thread.join()
    assert image.path.exists()
    assert server.calls["#slow"] == 1


def test_a_call_that_was_never_sent_is_free(anycap: AnyCap, tmp_path: Path) -> None:
    """A folder without an answer file is a call whose child was never started."""
    with pytest.raises(ServiceUnavailable, match="never sent"):
        anycap.recover(a_request(tmp_path / "a", "x"), None)


def test_a_call_whose_folder_is_gone_may_have_been_bought(anycap: AnyCap, tmp_path: Path) -> None:
    """Where a child was noted it had a file for its answer: that there is none proves nothing."""
    ours = psutil.Process()
    with pytest.raises(OutcomeUnknown):
        anycap.recover(a_request(tmp_path / "a", "x"), ChildProcess(ours.pid, ours.create_time()))


@pytest.mark.parametrize("answer", ["", '{"status":"succ', "<html>"])
def test_half_an_answer_of_a_dead_child_is_unknown(answer: str, anycap: AnyCap, tmp_path: Path) -> None:
    """Where the child is gone and its answer is not whole, nobody can tell; its trace id helps to look it up."""
    request = a_request(tmp_path / "a", "x")
    (request.folder / "answer.json").write_text(answer)
    (request.folder / "stderr.txt").write_text('{"event":"invocation_started","trace_id":"trc_9"}\n')
    ours = psutil.Process()
    with pytest.raises(OutcomeUnknown) as caught:
        anycap.recover(request, ChildProcess(ours.pid, ours.create_time()))
    assert caught.value.request_id == "trc_9"


def test_a_refusal_left_behind_is_read_as_such(anycap: AnyCap, tmp_path: Path) -> None:
    """The answer of a dead call counts like any other."""
    with pytest.raises(ContentRejected):
        anycap.generate(a_request(tmp_path / "a", "#rejected"))
    with pytest.raises(ContentRejected):
        anycap.recover(a_request(tmp_path / "a", "#rejected"), None)


def test_a_whole_image_without_an_answer_was_bought(anycap: AnyCap, server: AnyCapServer, tmp_path: Path) -> None:
    """A picture that arrived whole is taken although its answer is lost; half a picture is not."""
    request = a_request(tmp_path / "a", "x")
    anycap.generate(request)
    (request.folder / "answer.json").write_text("")
    assert anycap.recover(request, None).path == request.folder / "image.png"
    whole = (request.folder / "image.png").read_bytes()
    (request.folder / "image.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OutcomeUnknown):
        anycap.recover(request, None)
    assert server.calls["x"] == 1


def test_a_folder_is_used_for_one_call_only(anycap: AnyCap, server: AnyCapServer, tmp_path: Path) -> None:
    """The answer of an earlier call is never overwritten by a later one."""
    anycap.generate(a_request(tmp_path / "a", "x"))
    kept = (tmp_path / "a" / "answer.json").read_bytes()
    assert isinstance(error_of(anycap, a_request(tmp_path / "a", "y")), ServiceUnavailable)
    assert (tmp_path / "a" / "answer.json").read_bytes() == kept
    assert server.calls["y"] == 0


def test_a_call_is_left_running_when_its_caller_must_go(anycap: AnyCap, server: AnyCapServer, tmp_path: Path) -> None:
    """Soon after it is told the caller is free; the child goes on, and its image is adopted later, bought once."""
    children: list[ChildProcess] = []
    request = a_request(tmp_path / "a", "#hang", on_child=children.append)
    told = threading.Timer(0.2, request.left.set)
    told.start()
    begun = time.monotonic()
    with pytest.raises(LeftRunning, match="costs nothing more"):
        anycap.generate(request)
    assert time.monotonic() - begun < 10
    with pytest.raises(LeftRunning):
        anycap.recover(request, children[0])
    server.hurry.set()
    assert anycap.recover(a_request(tmp_path / "a", "#hang"), children[0]).path.is_file()
    assert server.calls["#hang"] == 1
