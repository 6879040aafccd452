"""What can go wrong with one image, by what the caller may do next: while it is made, and while it is handed on.

    ImageGenerationError
    ├── RetryableError            refused before any work: a new call is free
    │   ├── RateLimited           ... once `retry_after_s` is over
    │   └── ServiceUnavailable
    ├── RejectedError             this row fails; the same call would fail again
    │   ├── ContentRejected
    │   └── InvalidRequest
    ├── StopError                 no row can succeed: the run stops, its rows stay pending
    │   ├── AuthenticationFailed
    │   ├── InsufficientCredit
    │   ├── QuotaExhausted
    │   └── GeneratorMissing
    ├── NoImage                   answered, and nothing usable: look at `credits_used` and `url` first
    │   └── SpoiltImage           ... a success whose bytes are of no use: paid for
    └── OutcomeUnknown            the request went out and no answer came: never repeated blindly
        └── LeftRunning           ... as its caller could wait no longer: it goes on by itself, and `recover` finds it

    DeliveryError                 the image is bought; none of these ever reaches a generator again
    ├── DeliveryUnavailable       the store, the CMS or Slack is down or asks for patience: try again, later
    ├── DeliveryRefused           this row can't be delivered as it is; the others can
    │   ├── MissingSku
    │   ├── UnknownField
    │   └── ValueNotTaken
    └── DeliveryStopped           no row can be delivered until a person has acted
        └── DeliveryForbidden     ... with these credentials

Every error text names the mend. `kind` is what reports group by.
"""

from decimal import Decimal


class ImageGenerationError(Exception):
    """A call to an image generator that brought no image; the subclass says what the caller may do.

    `code` is the provider's own word for it, `request_id` its handle for support; both may be empty.
    """

    def __init__(self, message: str, *, code: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id

    @property
    def kind(self) -> str:
        """The class's name: what a report groups failures by."""
        return type(self).__name__


class RetryableError(ImageGenerationError):
    """Refused before any work was done: nothing was charged, and a new call is free."""


class RateLimited(RetryableError):
    """Too many calls. `retry_after_s`: the provider's own word on how long to wait, in seconds, if it gave one."""

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, code: str = "", request_id: str = ""
    ) -> None:
        super().__init__(message, code=code, request_id=request_id)
        self.retry_after_s = retry_after_s


class ServiceUnavailable(RetryableError):
    """The provider is down or out of reach."""


class RejectedError(ImageGenerationError):
    """The provider will not draw this row, however often it is asked."""


class ContentRejected(RejectedError):
    """Refused for what the prompt or a reference image shows."""


class InvalidRequest(RejectedError):
    """A model, a parameter or a feature that the provider does not take."""


class StopError(ImageGenerationError):
    """No row can succeed until a person has acted: the run stops and its rows stay pending."""


class AuthenticationFailed(StopError):
    """The key is missing, wrong or expired."""


class InsufficientCredit(StopError):
    """The account has no credit left."""


class QuotaExhausted(StopError):
    """The account's quota for the day or the month is used up."""


class GeneratorMissing(StopError):
    """The program that draws is not installed, or can't be started."""


class NoImage(ImageGenerationError):
    """The provider answered and no usable image came of it.

    `credits_used` is None where the answer does not tell; `url` is where the image may still be fetched for free.
    """

    def __init__(
        self,
        message: str,
        *,
        credits_used: Decimal | None = None,
        url: str = "",
        code: str = "",
        request_id: str = "",
    ) -> None:
        super().__init__(message, code=code, request_id=request_id)
        self.credits_used = credits_used
        self.url = url

    @property
    def was_paid(self) -> bool:
        """Whether the answer says that money was taken."""
        return self.credits_used is not None and self.credits_used > 0


class SpoiltImage(NoImage):
    """The provider reported success, and its bytes are broken here and at its address."""

    @property
    def was_paid(self) -> bool:
        """A success is paid for, whether or not it tells its credits."""
        return True


class OutcomeUnknown(ImageGenerationError):
    """The request went out and no answer came: it may have been charged, so it is never repeated blindly."""


class LeftRunning(OutcomeUnknown):
    """The caller could wait no longer and left the call to itself; a later `recover` in its folder brings the image."""


class DeliveryError(Exception):
    """A bought image, or the news of it, that could not be handed on; the subclass says what the caller may do."""

    @property
    def kind(self) -> str:
        """The class's name: what a report groups failures by."""
        return type(self).__name__


class DeliveryUnavailable(DeliveryError):
    """Down, out of reach, or too busy. `retry_after_s`: its own word on how long to wait, in seconds, if it gave one.

    `asked` is True where it answered and only asked for patience, so that it is there and a later try will do.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None, asked: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.asked = asked


class DeliveryRefused(DeliveryError):
    """This row can't be delivered as it is, however often it is tried."""


class MissingSku(DeliveryRefused):
    """The CMS has no item of this sku, or doesn't show it to this token."""


class UnknownField(DeliveryRefused):
    """The CMS's item has no such field: what was sent was ignored."""


class ValueNotTaken(DeliveryRefused):
    """The CMS refused the value, or said yes and kept another."""


class DeliveryStopped(DeliveryError):
    """Nothing can be delivered until a person has acted."""


class DeliveryForbidden(DeliveryStopped):
    """The credentials are missing, wrong, or not allowed to do this."""
