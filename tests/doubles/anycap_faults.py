"""What a real provider does on a bad day, as data that the test server acts out."""

from dataclasses import dataclass
from enum import StrEnum

ALWAYS = 1_000_000


class Picture(StrEnum):
    """What the server hands out at an image's address."""

    WHOLE = "whole"
    TRUNCATED = "truncated"
    JPEG = "jpeg"
    GONE = "gone"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Fault:
    """One answer to one generate request.

    `status` and `body` replace the usual answer where `body` is given; `credits` is what the call costs then.
    `picture` is served for the first `broken_downloads` downloads of that image, a whole one after that.
    """

    name: str
    status: int = 200
    body: str | None = None
    credits: int = 0
    delay_s: float = 0.0
    drop: bool = False
    picture: Picture = Picture.WHOLE
    broken_downloads: int = 0


def refusal(name: str, status: int, code: str, message: str) -> Fault:
    """A refusal with the provider's own code in its body; nothing is charged."""
    body = f'{{"error":"{code}","message":"{message}","request_id":"trc_server"}}'
    return Fault(name, status=status, body=body)


def rate_limited(retry_after_s: int = 60) -> Fault:
    """Too many calls; the wait is told in the message only."""
    return refusal("rate_limited", 429, "RATE_LIMITED", f"rate limit exceeded, retry after {retry_after_s}s")


def quota() -> Fault:
    """A 429 that no waiting mends."""
    return refusal("quota", 429, "QUOTA_EXCEEDED", "monthly quota exceeded")


def unavailable() -> Fault:
    """The provider is down."""
    return refusal("unavailable", 503, "UPSTREAM_UNAVAILABLE", "upstream unavailable")


def rejected() -> Fault:
    """Refused for its content."""
    return refusal("rejected", 422, "CONTENT_REJECTED", "prompt rejected by the model")


def no_credit() -> Fault:
    """The account is empty."""
    return refusal("no_credit", 402, "INSUFFICIENT_CREDIT", "insufficient credit")


def unauthorized() -> Fault:
    """The key is refused."""
    return refusal("unauthorized", 401, "auth_invalid", "invalid api key")


def internal_error() -> Fault:
    """Something broke behind the provider's door; nobody can tell whether it was charged."""
    return refusal("internal_error", 500, "INTERNAL_ERROR", "internal error")


def gateway_timeout() -> Fault:
    """A proxy gave up waiting while the provider may have gone on."""
    return Fault("gateway_timeout", status=504, body="<html>504 Gateway Time-out</html>")


def not_json() -> Fault:
    """A 200 whose body is a web page."""
    return Fault("not_json", body="<html><body>maintenance</body></html>")


def no_outputs() -> Fault:
    """A success that lists no image and costs a credit all the same."""
    return Fault("no_outputs", body='{"status":"success","data":{"outputs":[],"model":"m","credit_cost":1}}', credits=1)


def no_outputs_free() -> Fault:
    """A success that lists no image and costs nothing."""
    return Fault("no_outputs_free", body='{"status":"success","data":{"outputs":[],"model":"m","credit_cost":0}}')


def status_error(code: str = "", message: str = "generation failed") -> Fault:
    """A 200 that says in its body that it failed."""
    return Fault("status_error", body=f'{{"status":"error","error":"{code}","message":"{message}"}}')


def truncated(broken_downloads: int = ALWAYS) -> Fault:
    """Paid for, and its bytes end in the middle, for so many downloads."""
    return Fault("truncated", picture=Picture.TRUNCATED, broken_downloads=broken_downloads)


def jpeg_under_png() -> Fault:
    """Paid for, and a JPEG behind an address that ends in .png."""
    return Fault("jpeg_under_png", picture=Picture.JPEG, broken_downloads=ALWAYS)


def image_gone(broken_downloads: int = ALWAYS) -> Fault:
    """Paid for, and nothing at its address."""
    return Fault("image_gone", picture=Picture.GONE, broken_downloads=broken_downloads)


def download_dropped(broken_downloads: int = ALWAYS) -> Fault:
    """Paid for, and the line breaks in the middle of the download."""
    return Fault("download_dropped", picture=Picture.DROPPED, broken_downloads=broken_downloads)


def hang(seconds: float) -> Fault:
    """Paid for, and answered only after so many seconds."""
    return Fault("hang", delay_s=seconds)


def drop_connection() -> Fault:
    """Paid for, and the line breaks before the answer."""
    return Fault("drop_connection", credits=1, drop=True)
