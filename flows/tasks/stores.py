"""Finding the store that a batch names: the S3 Bucket block of prefect-aws, read as the server has it.

The server knows that block type and those of its credentials by itself, so the documents that a team has are read
without the package: with it every server would load an AWS toolbox at its start (docs/delivery.md has the figures).
"""

from collections.abc import Mapping
from typing import Any

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from blocks.errors import DeliveryError
from blocks.s3 import S3Store
from blocks.s3_account import S3Account
from flows.batch.problems import NotStarted, Problem

SLUG = "s3-bucket"
MEND = "Name one as s3-bucket/NAME; `rowshot setup` makes one, or the Prefect server's page of blocks."
# What boto3 takes for a client, of the block's "AWS Client Parameters"; the others have places of their own.
CLIENT_OPTIONS = ("api_version", "use_ssl", "verify")
ROLE_OPTIONS = (
    "RoleSessionName",
    "DurationSeconds",
    "ExternalId",
    "Policy",
    "SerialNumber",
    "TokenCode",
    "SourceIdentity",
)


def load_store(name: str) -> S3Store:
    """The store of this name. Raises: NotStarted where the server has no such block, or it is no S3 bucket."""
    slug, _, document = name.partition("/")
    if slug != SLUG:
        raise NotStarted([Problem(f"{name!r} is no S3 bucket.", MEND)])
    with get_client(sync_client=True) as client:
        try:
            found = client.read_block_document_by_name(document, SLUG, include_secrets=True)
        except ObjectNotFound as error:
            raise NotStarted([Problem(f"The Prefect server has no block {name!r}.", MEND)]) from error
    account = account_of(found.data)
    if not account.bucket:
        raise NotStarted([Problem(f"The block {name!r} names no bucket.", "Put its bucket_name into the block.")])
    return S3Store(account)


def check_store(store: S3Store) -> None:
    """Raise NotStarted where nothing could be stored: found before anything is bought."""
    try:
        store.check()
    except DeliveryError as error:
        raise NotStarted([Problem(str(error), "")]) from error


def account_of(block: Mapping[str, Any]) -> S3Account:
    """What an S3 Bucket block says, with AWS's or MinIO's credentials in it; what it leaves out boto3 finds."""
    told = dict(block.get("credentials") or {})
    client = dict(told.get("aws_client_parameters") or {})
    role = dict(told.get("assume_role_kwargs") or {})
    options = {name: client[name] for name in CLIENT_OPTIONS if client.get(name) is not None}
    if client.get("verify_cert_path") and client.get("verify") is not False:
        options["verify"] = client["verify_cert_path"]
    return S3Account(
        bucket=_text(block, "bucket_name"),
        folder=_text(block, "bucket_folder"),
        access_key_id=_text(told, "aws_access_key_id") or _text(told, "minio_root_user"),
        secret_access_key=_text(told, "aws_secret_access_key") or _text(told, "minio_root_password"),
        session_token=_text(told, "aws_session_token"),
        profile=_text(told, "profile_name"),
        region=_text(told, "region_name"),
        endpoint=_text(client, "endpoint_url"),
        role_arn=_text(told, "assume_role_arn"),
        role_options={name: role[name] for name in ROLE_OPTIONS if role.get(name) is not None},
        client_options=options,
        config=dict(client.get("config") or {}),
    )


def _text(values: Mapping[str, Any], name: str) -> str:
    return str(values.get(name) or "").strip()
