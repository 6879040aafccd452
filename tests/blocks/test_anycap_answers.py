"""Reading the CLI's answers: every code has one meaning, for the row and for the money."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from blocks.anycap_answers import LONGEST_QUOTE, read_answer
from blocks.anycap_codes import MEANINGS, Charged, NewCall, markdown_table
from blocks.errors import (
    AuthenticationFailed,
    ContentRejected,
    ImageGenerationError,
    InsufficientCredit,
    InvalidRequest,
    NoImage,
    OutcomeUnknown,
    QuotaExhausted,
    RateLimited,
    RejectedError,
    RetryableError,
    ServiceUnavailable,
    StopError,
)

DOCS = Path(__file__).parents[2] / "docs" / "generators.md"
SEEN_OR_PUBLISHED = (
    "invalid_args",
    "error",
    "auth_required",
    "http_402",
    "http_422",
    "http_429",
    "http_503",
    "connection_error",
    "INSUFFICIENT_CREDIT",
    "RATE_LIMITED",
    "CONTENT_REJECTED",
    "FEATURE_DISABLED",
    "FEATURE_NOT_ALLOWED",
    "missing_input",
    "invalid_param",
    "auth_invalid",
    "UPSTREAM_UNAVAILABLE",
    "UPSTREAM_EMPTY",
    "INTERNAL_ERROR",
    "TIMEOUT",
)
POST = 'Post "https://api.anycap.ai/v1/image/generate": '


def refused(outer: str, body: object = None, message: str = "") -> str:
    """What the CLI prints for a refusal, with the server's body as text inside its message."""
    told = message if body is None else json.dumps(body)
    return json.dumps({"error": outer, "message": told, "trace_id": "trc_1"})


def error_of(text: str, folder: Path, exit_code: int | None = 1, secrets: tuple[str, ...] = ()) -> ImageGenerationError:
    """The error that an answer is read as."""
    with pytest.raises(ImageGenerationError) as caught:
        read_answer(exit_code, text, folder, model="m", trace_id="trc_event", secrets=secrets)
    return caught.value


def success(folder: Path, **fields: object) -> str:
    """What the CLI prints for an image, which is there."""
    path = folder / "image.png"
    path.write_bytes(b"bytes")
    usual = {"status": "success", "local_path": str(path), "model": "nano-banana-2", "credits_used": 1}
    return json.dumps({**usual, **fields})


@pytest.mark.parametrize("code", SEEN_OR_PUBLISHED)
def test_every_code_that_was_seen_or_published_has_a_meaning(code: str) -> None:
    """A code that AnyCap is known to use is never left to the fallbacks."""
    assert code in MEANINGS


@pytest.mark.parametrize(("code", "meaning"), MEANINGS.items())
def test_what_a_code_costs_agrees_with_its_class(code: str, meaning: object) -> None:
    """What may be asked again for nothing was not charged, and what may have been charged is looked at first."""
    found = MEANINGS[code]
    assert found is meaning
    if issubclass(found.error, RetryableError | StopError):
        assert (found.charged, found.new_call) == (Charged.NO, NewCall.FREE)
    elif issubclass(found.error, RejectedError):
        assert (found.charged, found.new_call) == (Charged.NO, NewCall.NEVER)
    else:
        assert issubclass(found.error, NoImage | OutcomeUnknown)
        assert found.charged is not Charged.NO
        assert found.new_call is NewCall.LOOK_FIRST


def test_the_documented_table_is_the_one_the_code_uses() -> None:
    """The table in docs/generators.md is the data itself, so it can't go stale."""
    page = DOCS.read_text(encoding="utf-8")
    told = page.partition("<!-- codes -->\n")[2].partition("\n<!-- /codes -->")[0]
    assert told == markdown_table()


@pytest.mark.parametrize(
    ("text", "kind", "code"),
    [
        (refused("http_429", {"error": "RATE_LIMITED", "message": "slow"}), RateLimited, "RATE_LIMITED"),
        (refused("http_429", {"error": "QUOTA_EXCEEDED", "message": "gone"}), QuotaExhausted, "QUOTA_EXCEEDED"),
        (refused("http_429", {"error": "MONTHLY_QUOTA", "message": "gone"}), QuotaExhausted, "MONTHLY_QUOTA"),
        (refused("http_429", message="Daily quota reached"), QuotaExhausted, "http_429"),
        (refused("http_429", message="slow down"), RateLimited, "http_429"),
        (
            refused("http_402", {"error": "INSUFFICIENT_CREDIT", "message": "no"}),
            InsufficientCredit,
            "INSUFFICIENT_CREDIT",
        ),
        (refused("http_402", message="pay"), InsufficientCredit, "http_402"),
        (refused("http_403", {"error": "FEATURE_NOT_ALLOWED"}), InvalidRequest, "FEATURE_NOT_ALLOWED"),
        (refused("http_403", message="no"), AuthenticationFailed, "http_403"),
        (refused("http_401", message="no"), AuthenticationFailed, "http_401"),
        (refused("auth_required", message="log in"), AuthenticationFailed, "auth_required"),
        (refused("http_422", {"error": "CONTENT_REJECTED"}), ContentRejected, "CONTENT_REJECTED"),
        (refused("http_422", {"error": {"code": "CONTENT_REJECTED"}}), ContentRejected, "CONTENT_REJECTED"),
        (refused("http_422", {"code": "content_rejected"}), ContentRejected, "CONTENT_REJECTED"),
        (refused("http_422", {"error": "SOMETHING_NEW"}), InvalidRequest, "SOMETHING_NEW"),
        (refused("http_418", message="teapot"), InvalidRequest, "http_418"),
        (refused("http_503", {"error": "UPSTREAM_UNAVAILABLE"}), ServiceUnavailable, "UPSTREAM_UNAVAILABLE"),
        (refused("http_503", message="down"), ServiceUnavailable, "http_503"),
        (refused("http_503", {"error": "INTERNAL_ERROR"}), OutcomeUnknown, "INTERNAL_ERROR"),
        (refused("http_500", {"error": "UPSTREAM_EMPTY"}), NoImage, "UPSTREAM_EMPTY"),
        (refused("http_500", message="oops"), OutcomeUnknown, "http_500"),
        (refused("http_504", {"error": "TIMEOUT"}), OutcomeUnknown, "TIMEOUT"),
        (refused("http_504", message="<html>"), OutcomeUnknown, "http_504"),
        (refused("http_599", message="odd"), OutcomeUnknown, "http_599"),
        (refused("brand_new", message="who knows"), OutcomeUnknown, "brand_new"),
        (refused("error", message="who knows"), OutcomeUnknown, "error"),
        (refused("error", message="unknown flag: --x"), InvalidRequest, "bad_argument"),
        (refused("error", message='invalid --param format "x"'), InvalidRequest, "bad_argument"),
        (
            refused("error", message='failed to resolve parameter "images": local file is unavailable'),
            InvalidRequest,
            "bad_argument",
        ),
        (refused("error", message='failed to resolve parameter "images": EOF'), ServiceUnavailable, "reference_failed"),
        (refused("error", message="model schema is unavailable; cannot"), ServiceUnavailable, "reference_failed"),
        (refused("error", message="operation succeeded but download failed: EOF"), OutcomeUnknown, "download_failed"),
        (refused("connection_error", message=POST + "EOF"), OutcomeUnknown, "connection_error"),
        (refused("connection_error", message=POST + "read tcp: connection reset"), OutcomeUnknown, "connection_error"),
        (
            refused("connection_error", message=POST + "dial tcp 1.2.3.4:443: connect: connection refused"),
            ServiceUnavailable,
            "connect_failed",
        ),
        (
            refused("connection_error", message=POST + "dial tcp: lookup api.anycap.ai: no such host"),
            ServiceUnavailable,
            "connect_failed",
        ),
        (
            refused("connection_error", message=POST + "dial tcp 1.2.3.4:443: connect: network is unreachable"),
            ServiceUnavailable,
            "connect_failed",
        ),
        (
            refused("connection_error", message='Get "https://cdn/x.png": dial tcp: connect: connection refused'),
            OutcomeUnknown,
            "connection_error",
        ),
        ("panic: runtime error", OutcomeUnknown, "no_answer"),
        ("", OutcomeUnknown, "no_answer"),
    ],
)
def test_a_refusal_is_classed_by_the_bodys_code_first(
    text: str, kind: type[ImageGenerationError], code: str, tmp_path: Path
) -> None:
    """The body's own code decides, then the CLI's words, then the status; what is unheard of may have been charged."""
    error = error_of(text, tmp_path)
    assert type(error) is kind
    assert error.code == code


@pytest.mark.parametrize(
    ("text", "code", "credits_used"),
    [
        ("<html>maintenance</html>", "not_json", None),
        ("[1]", "not_json", None),
        ("", "not_json", None),
        ('{"status":"success","local_path":"","credits_used":1}', "no_outputs", Decimal(1)),
        ('{"status":"success","credits_used":0}', "no_outputs", Decimal(0)),
        ('{"status":"error","error":"","message":"failed"}', "status_error", None),
        ('{"status":"error","error":"ODD","credits_used":0.5}', "ODD", Decimal("0.5")),
        ("{}", "status_error", None),
    ],
)
def test_an_exit_of_0_without_an_image_tells_what_it_cost(
    text: str, code: str, credits_used: Decimal | None, tmp_path: Path
) -> None:
    """Exit code 0 alone is no image, and the cost is kept where the answer tells it."""
    error = error_of(text, tmp_path, exit_code=0)
    assert isinstance(error, NoImage)
    assert (error.code, error.credits_used) == (code, credits_used)


def test_a_status_error_with_a_known_code_goes_by_that_code(tmp_path: Path) -> None:
    """A 200 that says CONTENT_REJECTED is a rejection, although the CLI exits with 0."""
    text = '{"error":"CONTENT_REJECTED","message":"no","status":"error","trace_id":"trc_1"}'
    assert isinstance(error_of(text, tmp_path, exit_code=0), ContentRejected)


def test_a_picture_whose_file_is_gone_keeps_its_url_and_cost(tmp_path: Path) -> None:
    """What was bought can still be fetched from its url."""
    text = success(tmp_path, url="https://cdn/x.png", credits_used=2)
    (tmp_path / "image.png").unlink()
    error = error_of(text, tmp_path, exit_code=0)
    assert isinstance(error, NoImage)
    assert (error.url, error.credits_used) == ("https://cdn/x.png", Decimal(2))


@pytest.mark.parametrize("path", ["/etc/hostname", "{folder}/../other.png", "{folder}", "x\0y"])
def test_a_file_outside_of_the_calls_folder_is_no_image(path: str, tmp_path: Path) -> None:
    """An answer can't make us take up a file that the call did not write."""
    (tmp_path / "other.png").write_bytes(b"bytes")
    folder = tmp_path / "call"
    folder.mkdir()
    text = json.dumps({"status": "success", "local_path": path.format(folder=folder)})
    assert error_of(text, folder, exit_code=0).code == "no_file"


@pytest.mark.parametrize(
    ("fields", "request_id", "url"),
    [
        ({"trace_id": "trc_1", "url": "https://cdn/x"}, "trc_1", "https://cdn/x"),
        ({"request_id": "req_1", "image_url": "http://cdn/x"}, "req_1", "http://cdn/x"),
        ({"url": "file:///etc/passwd"}, "trc_event", ""),
    ],
)
def test_both_spellings_of_the_handle_and_the_address_are_read(
    fields: dict[str, str], request_id: str, url: str, tmp_path: Path
) -> None:
    """The published names and the seen ones both count, and an address that is not of the web is dropped."""
    image = read_answer(0, success(tmp_path, **fields), tmp_path, model="m", trace_id="trc_event")
    assert (image.request_id, image.url) == (request_id, url)


@pytest.mark.parametrize(
    ("told", "credits_used"),
    [("1", Decimal(1)), ("0.15", Decimal("0.15")), ('"2"', Decimal(2)), ("null", None), ("true", None), ("NaN", None)],
)
def test_credits_are_exact_or_not_known(told: str, credits_used: Decimal | None, tmp_path: Path) -> None:
    """0.15 credits are 0.15 exactly, and what is no amount is not taken for one."""
    text = success(tmp_path, credits_used="@").replace('"@"', told)
    assert read_answer(0, text, tmp_path, model="m").credits_used == credits_used


def test_a_whole_success_counts_even_if_the_child_was_killed_after_it(tmp_path: Path) -> None:
    """An image that is reported and there was bought, whatever the exit code says."""
    assert read_answer(None, success(tmp_path), tmp_path, model="m").path == tmp_path / "image.png"


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("rate limit exceeded, retry after 60s", 60.0),
        ("Retry-After: 1.5", 1.5),
        ("retry after 250ms", 0.25),
        ("retry after 2m", 120.0),
        ("later", None),
    ],
)
def test_the_wait_is_read_from_the_message(message: str, seconds: float | None, tmp_path: Path) -> None:
    """The CLI passes no Retry-After on, so the words are all there is."""
    error = error_of(refused("http_429", {"error": "RATE_LIMITED", "message": message}), tmp_path)
    assert isinstance(error, RateLimited)
    assert error.retry_after_s == seconds


def test_an_error_quotes_the_provider_and_names_the_mend_in_one_short_line(tmp_path: Path) -> None:
    """The provider's words are there, shortened and on one line, with the trace id and what to do."""
    error = error_of(refused("http_422", {"error": "CONTENT_REJECTED", "message": "blood\n" + "x" * 5000}), tmp_path)
    text = str(error)
    assert "blood xxx" in text
    assert "Change the row's words" in text
    assert "trc_1" in text
    assert "\n" not in text
    assert len(text) < LONGEST_QUOTE + 300


def test_a_secret_never_shows_in_an_error(tmp_path: Path) -> None:
    """A key that the server echoes is struck out, wherever it stands."""
    text = refused("http_422", {"error": "BAD_sk-1", "message": "key sk-1 bad", "request_id": "sk-1"})
    error = error_of(text, tmp_path, secrets=("sk-1",))
    assert "sk-1" not in f"{error} {error.code} {error.request_id}"
