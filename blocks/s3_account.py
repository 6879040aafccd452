"""Where a bucket is and who writes to it, and the boto3 client made of that."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

CONNECT_TIMEOUT_S: Final = 5
READ_TIMEOUT_S: Final = 60


@dataclass(frozen=True)
class S3Account:
    """Where a bucket is and who writes to it. What is empty is found where boto3 finds it (environment, role, ...)."""

    bucket: str
    folder: str = ""
    access_key_id: str = field(default="", repr=False)
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    profile: str = ""
    region: str = ""
    endpoint: str = ""
    role_arn: str = ""
    role_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    client_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)


def without_password(address: str) -> str:
    """An address without a user and a password, for people and the ledger to see."""
    if "@" not in address:
        return address
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def open_client(account: S3Account) -> Any:
    """A client for this account, to be shared by all threads. Raises what boto3 raises."""
    import boto3  # noqa: PLC0415 - a run without a store must not pay for loading it
    from botocore.config import Config  # noqa: PLC0415 - as above

    session = boto3.Session(
        aws_access_key_id=account.access_key_id or None,
        aws_secret_access_key=account.secret_access_key or None,
        aws_session_token=account.session_token or None,
        profile_name=account.profile or None,
        region_name=account.region or None,
    )
    if account.role_arn:
        session = _in_role(session, account)
    own_server = bool(account.endpoint)
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=16,
        retries={"mode": "standard", "total_max_attempts": 2},  # the rest is for the task to repeat
        signature_version="s3v4",
        request_checksum_calculation="when_required",  # Content-MD5 guards the bytes, and every S3 knows it
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if own_server else "auto"},
    ).merge(Config(**account.config) if account.config else Config())
    options = dict(account.client_options)
    if own_server:
        options["endpoint_url"] = account.endpoint
        if not session.region_name:
            options["region_name"] = "us-east-1"  # what a server of one's own signs with, unless told otherwise
    return session.client("s3", config=config, **options)


def renewed_before_end_s(lasts: timedelta) -> tuple[int, int]:
    """From how long before its end a role is renewed, and from when on it is used no more unless it was.

    These are botocore's own, but for a role lent for so little that by them it would be renewed at each request.
    """
    seconds = lasts.total_seconds()
    return min(900, int(seconds / 4)), min(600, int(seconds / 6))


def _in_role(session: Any, account: S3Account) -> Any:
    """A session with the keys that a role lends; they are renewed before they end, but for those of an MFA code."""
    import boto3  # noqa: PLC0415 - as above
    from botocore.credentials import RefreshableCredentials  # noqa: PLC0415 - as above
    from botocore.session import get_session  # noqa: PLC0415 - as above

    role = {"RoleSessionName": "rowshot", **account.role_options, "RoleArn": account.role_arn}
    sts = session.client("sts")

    def lend() -> dict[str, str]:
        lent = sts.assume_role(**role)["Credentials"]
        return {
            "access_key": lent["AccessKeyId"],
            "secret_key": lent["SecretAccessKey"],
            "token": lent["SessionToken"],
            "expiry_time": lent["Expiration"].isoformat(),
        }

    first = lend()
    if "TokenCode" in role:  # it is good for one loan
        return boto3.Session(
            aws_access_key_id=first["access_key"],
            aws_secret_access_key=first["secret_key"],
            aws_session_token=first["token"],
            region_name=account.region or None,
        )
    advisory_s, mandatory_s = renewed_before_end_s(datetime.fromisoformat(first["expiry_time"]) - datetime.now(UTC))
    borrowed: Any = get_session()
    # botocore gives a session such keys only by a profile in a file, and the role is in a block
    borrowed._credentials = RefreshableCredentials.create_from_metadata(  # noqa: SLF001
        first,
        lend,
        "assume-role",
        advisory_timeout=advisory_s,
        mandatory_timeout=mandatory_s,
    )
    return boto3.Session(botocore_session=borrowed, region_name=account.region or None)
