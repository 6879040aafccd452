"""An S3 bucket as a store of finished images: each object written once, under a key that its content decides.

boto3 is loaded only once a store is opened.
"""

import base64
import hashlib
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Any, Final
from urllib.parse import quote

from blocks.errors import DeliveryForbidden, DeliveryRefused, DeliveryStopped, DeliveryUnavailable
from blocks.s3_account import S3Account, open_client, without_password

FOR_EVER: Final = "public, max-age=31536000, immutable"
NEWEST: Final = "no-cache"
SIGNED_FOR: Final = timedelta(days=7)

_FORBIDDEN: Final = frozenset(
    {
        "AccessDenied", "AccountProblem", "AllAccessDisabled", "InvalidAccessKeyId", "InvalidToken",
        "InvalidSecurity", "NotSignedUp", "RequestExpired", "SignatureDoesNotMatch", "TokenRefreshRequired",
        "UnauthorizedAccess", "InvalidClientTokenId",
    }
)  # fmt: skip
_RUN_OUT: Final = frozenset({"ExpiredToken", "ExpiredTokenException"})
_MISSING_BUCKET: Final = frozenset(
    {"NoSuchBucket", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
_BUSY: Final = frozenset(
    {"SlowDown", "RequestTimeout", "ServiceUnavailable", "InternalError", "Throttling", "OperationAborted"}
)
_MISSING: Final = frozenset({"NoSuchKey", "404", "NotFound"})


class AlreadyThere(Exception):
    """A conditional write found an object under its key."""


class NoSuchObject(LookupError):
    """There is no object under this key."""


class S3Store:
    """One bucket and a folder in it. Used by many threads at once, through one client.

    Its methods raise: DeliveryUnavailable (down, out of reach or busy: the same call may succeed later),
    DeliveryRefused (this object, whenever it is tried) or DeliveryStopped (all of them, until a person has acted).
    """

    def __init__(self, account: S3Account) -> None:
        self.account = account
        self.bucket = account.bucket
        self.folder = account.folder.strip("/")
        self._made: Any = None
        self._making = Lock()

    @property
    def destination(self) -> str:
        """What the ledger calls this store: the bucket and the folder, whoever writes to it."""
        root = without_password(self.account.endpoint) or "s3:/"
        return f"{root.rstrip('/')}/{self.bucket}/{self.folder}".rstrip("/")

    @property
    def region(self) -> str:
        """The region that requests go to; empty where none is known."""
        with self._told(""):
            return str(self._client().meta.region_name or "")

    @property
    def endpoint(self) -> str:
        """The address that requests go to."""
        with self._told(""):
            return without_password(str(self._client().meta.endpoint_url))

    def key(self, path: str) -> str:
        """The key of what lies at this path in the output folder."""
        return f"{self.folder}/{path}" if self.folder else path

    def location(self, key: str) -> str:
        """An object's name, which is no web address: s3://bucket/key."""
        return f"s3://{self.bucket}/{key}"

    def put_new(self, key: str, data: bytes, content_type: str, metadata: Mapping[str, str]) -> None:
        """Write an object that never changes, unless there is one. Of several that race, one writes.

        The same bytes there already are as good. Raises: DeliveryRefused for other bytes, and what the class says.
        """
        digest = hashlib.md5(data, usedforsecurity=False).digest()
        try:
            self._put(
                key,
                data,
                CacheControl=FOR_EVER,
                ContentType=content_type,
                Metadata=ascii_metadata(metadata),
                ContentMD5=base64.b64encode(digest).decode(),  # every S3 checks the bytes by it
                IfNoneMatch="*",
            )
        except AlreadyThere:
            self._check_same(key, data, digest.hex())

    def put(self, key: str, data: bytes, content_type: str, cache_control: str = NEWEST) -> None:
        """Write an object that is replaced now and then, such as a report."""
        self._put(key, data, ContentType=content_type, CacheControl=cache_control)

    def get(self, key: str, destination: Path) -> Mapping[str, str]:
        """Bring an object to disk; gives its metadata. Raises: NoSuchObject, OSError, and what the class says."""
        with self._told(key):
            answer = self._client().get_object(Bucket=self.bucket, Key=key)
            with destination.open("wb") as file:
                for part in answer["Body"].iter_chunks(1 << 16):
                    file.write(part)
        return {name: str(value) for name, value in (answer.get("Metadata") or {}).items()}

    def read(self, key: str, most_bytes: int, within_s: float) -> bytes:
        """An object's first bytes: up to one more than `most_bytes`, by which a caller sees that there are more.

        Raises: NoSuchObject, TimeoutError once it has taken `within_s` seconds, and what the class says.
        """
        deadline = time.monotonic() + within_s
        found = bytearray()
        with self._told(key), closing(self._client().get_object(Bucket=self.bucket, Key=key)["Body"]) as body:
            while len(found) <= most_bytes and (part := body.read(min(1 << 16, most_bytes + 1 - len(found)))):
                found += part
                if time.monotonic() > deadline:
                    raise TimeoutError
        return bytes(found)

    def signed_url(self, key: str, lasts: timedelta = SIGNED_FOR) -> str:
        """An address that anybody may read the object at for so long. Costs no request."""
        with self._told(key):
            return str(
                self._client().generate_presigned_url(
                    "get_object",
                    Params={"Bucket": self.bucket, "Key": key},
                    ExpiresIn=int(lasts.total_seconds()),
                )
            )

    def signed_until(self, lasts: timedelta = SIGNED_FOR) -> datetime:
        """When an address that is signed now ends, at the latest: with temporary credentials it ends with these.

        When these end is known of a role that is renewed, and not of a session token in a block.
        """
        with self._told(""):
            client = self._client()
            credentials = client._request_signer._credentials  # noqa: SLF001 - nothing public tells when they expire
            ends = getattr(credentials, "_expiry_time", None)
        until = datetime.now(UTC) + lasts
        return min(until, ends) if isinstance(ends, datetime) else until

    def check(self) -> None:
        """Write a small object and delete it again, as proof that the store can be written as images are."""
        key = self.key(f".rowshot-probe-{secrets.token_hex(6)}")
        with suppress(AlreadyThere):  # boto3 tries twice: the first may have landed without an answer
            self._put_probe(key)
        try:
            self._put_probe(key)
        except AlreadyThere:
            pass
        else:
            raise self._no_conditions()
        finally:
            with self._told(key):
                self._client().delete_object(Bucket=self.bucket, Key=key)

    def _put_probe(self, key: str) -> None:
        self._put(key, b"", ContentType="text/plain", CacheControl="no-store", IfNoneMatch="*")

    def _put(self, key: str, data: bytes, **more: Any) -> None:
        with self._told(key, conditional="IfNoneMatch" in more):
            self._client().put_object(Bucket=self.bucket, Key=key, Body=data, **more)

    def _check_same(self, key: str, data: bytes, digest: str) -> None:
        """Whether the object under a key is these bytes: by its ETag where that is the MD5, else by its own words."""
        try:
            with self._told(key):
                head = self._client().head_object(Bucket=self.bucket, Key=key)
        except NoSuchObject as error:
            raise DeliveryUnavailable(
                f"{self.location(key)} was deleted while it was written. Run the same command again."
            ) from error
        etag = str(head.get("ETag", "")).strip('"')
        theirs = dict(head.get("Metadata") or {}).get("sha256", "")
        same = etag == digest or theirs == hashlib.sha256(data).hexdigest()
        if head.get("ContentLength") != len(data) or not same:
            raise DeliveryRefused(
                f"{self.location(key)} is there already and holds another image. Somebody else has written it: "
                "delete it there, or give this bucket's block another folder."
            )

    def _client(self) -> Any:
        with self._making:
            if self._made is None:
                self._made = open_client(self.account)
            return self._made

    @contextmanager
    def _told(self, key: str, *, conditional: bool = False) -> Iterator[None]:
        """Turn what boto3 raises into the errors of a delivery. None repeats an address, a key id or a header."""
        from boto3.exceptions import Boto3Error  # noqa: PLC0415 - loaded only where there is a store
        from botocore import exceptions as told  # noqa: PLC0415 - as above

        try:
            yield
        except told.ClientError as error:
            raise self._failure(error, key, conditional=conditional) from error
        except (told.NoCredentialsError, told.PartialCredentialsError, told.CredentialRetrievalError) as error:
            raise DeliveryForbidden(
                f"There are no credentials for the bucket {self.bucket!r}. Put them into its block, or into the "
                "environment of the run."
            ) from error
        except (told.ProfileNotFound, told.TokenRetrievalError, told.UnauthorizedSSOTokenError) as error:
            raise DeliveryForbidden(
                f"The credentials of the bucket {self.bucket!r} can't be had ({type(error).__name__}). Mend its block."
            ) from error
        except told.SSLError as error:
            raise DeliveryStopped(
                f"The store of the bucket {self.bucket!r} has no certificate that can be trusted. Mend it, or the "
                "endpoint in the bucket's block."
            ) from error
        except (told.HTTPClientError, told.ConnectionError, told.ResponseStreamingError) as error:
            raise DeliveryUnavailable(
                f"The store of the bucket {self.bucket!r} can't be reached ({type(error).__name__}). Check its "
                "endpoint, and run the same command again once it is up."
            ) from error
        except (told.BotoCoreError, Boto3Error, ValueError) as error:
            raise DeliveryStopped(
                f"No request to the bucket {self.bucket!r} can be made ({type(error).__name__}). Mend its block."
            ) from error

    def _failure(self, error: Any, key: str, *, conditional: bool) -> Exception:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
        code = str(error.response.get("Error", {}).get("Code") or status)
        known = code if code.isalnum() and len(code) <= 60 else str(status)  # noqa: PLR2004 - longer is no code
        if status == 412 or code == "PreconditionFailed":  # noqa: PLR2004 - a condition
            return AlreadyThere(key)
        if conditional and (code == "NotImplemented" or status == 501):  # noqa: PLR2004 - HTTP's own word for it
            return self._no_conditions()
        if stopped := self._stopped(code, status, known):
            return stopped
        if code in _MISSING:
            return NoSuchObject(key)
        if code in _BUSY or status in {408, 409, 429} or status >= 500:  # noqa: PLR2004 - HTTP's own bounds
            return DeliveryUnavailable(
                f"The store of the bucket {self.bucket!r} could not take it for now ({known}). Run the same command "
                "again later.",
                asked=status in {429, 503},
            )
        return DeliveryRefused(f"The store refused {self.location(key)} ({known}). See docs/delivery.md.")

    def _stopped(self, code: str, status: int, known: str) -> DeliveryStopped | None:
        """Why nothing can be stored until a person has acted, if this is such an answer."""
        if code in _MISSING_BUCKET:
            return DeliveryStopped(
                f"There is no bucket {self.bucket!r} at {self._where} ({known}). Make it, or mend its name, region or "
                "endpoint in its block."
            )
        if code in _RUN_OUT:
            return DeliveryForbidden(
                f"The temporary credentials of the bucket {self.bucket!r} have run out. Put new ones into its block or "
                "the environment of the run, and run the same command again."
            )
        if code in _FORBIDDEN or status in {401, 403}:
            return DeliveryForbidden(
                f"The store does not let these credentials write to the bucket {self.bucket!r} ({known}). Mend the key "
                "or the secret in its block, or the rights of their user: s3:PutObject, s3:GetObject, s3:DeleteObject."
            )
        return None

    def _no_conditions(self) -> DeliveryStopped:
        return DeliveryStopped(
            f"The store of the bucket {self.bucket!r} has no conditional writes (If-None-Match: *), by which no image "
            "is ever written over. Update its server, or name another store."
        )

    @property
    def _where(self) -> str:
        return without_password(self.account.endpoint) or "AWS"


def ascii_metadata(values: Mapping[str, str]) -> dict[str, str]:
    """The values as S3 takes them: US-ASCII without line ends, others percent-encoded; what is empty is left out."""
    return {
        name: quote(value, safe=" !#$&'()*+,-./:;=?@[]^_`{|}~")[:512].strip() for name, value in values.items() if value
    }
