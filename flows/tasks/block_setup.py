"""Registers the block types and makes the block documents that a `.env` describes. Safe to run again."""

from collections.abc import Callable, Iterator, Mapping
from inspect import isabstract
from typing import Any

from prefect.blocks.core import Block
from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import BlockDocumentCreate, BlockDocumentUpdate
from prefect.client.schemas.objects import BlockDocument
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr, ValidationError

import blocks
from blocks import AnyCap, CmsSite
from blocks.errors import DeliveryStopped
from blocks.slack import check_webhook
from flows.batch.env_file import Doors
from flows.batch.problems import NotStarted, Problem

MADE, CHANGED, SAME = "made", "changed", "as it was"
# prefect-aws's own block types: every Prefect server knows them, and a team's other flows can use these documents.
BUCKET, CREDENTIALS = "s3-bucket", "aws-credentials"


def set_up(doors: Doors, name: str) -> Iterator[tuple[str, str]]:
    """Make each block document under this name; gives (type-slug/name, what was done).

    A field that the file doesn't tell stays as it is.

    Raises: NotStarted where a value can't be used; what was made before stays.
    """
    for ours in blocks.__all__:
        kind = getattr(blocks, ours)
        if not isabstract(kind):
            kind.register_type_and_schema()
    if doors.anycap:
        yield _save(AnyCap, name, doors.anycap)
    if doors.s3:
        with get_client(sync_client=True) as client:
            yield from _save_bucket(client, name, doors.s3)
    if doors.cms:
        yield _save(CmsSite, name, doors.cms)
    if doors.slack:
        try:
            check_webhook(doors.slack["url"])
        except DeliveryStopped as error:
            raise NotStarted([Problem(str(error), "")]) from error
        yield _save(SlackWebhook, name, doors.slack)


def _save(kind: type[Block], name: str, values: Mapping[str, str]) -> tuple[str, str]:
    """One document of a block class; fields of it that `values` leave out stay as a person has set them."""
    document = f"{kind.get_block_type_slug()}/{name}"
    with get_client(sync_client=True) as client:
        found = _find(client, kind.get_block_type_slug(), name)
    before = dict(found.data) if found else {}
    secrets = {field for field, info in kind.model_fields.items() if info.annotation is SecretStr}
    try:
        block = kind(**{**before, **values})
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False))
        raise NotStarted([Problem(f"The block {document} can't be made: {told}.", "Mend the .env.")]) from error
    wanted = {
        field: getattr(block, field).get_secret_value() if field in secrets else getattr(block, field)
        for field in values
    }
    if found and all(before.get(field) == value for field, value in wanted.items()):
        return document, SAME
    block.save(name, overwrite=True)
    return document, CHANGED if found else MADE


def _save_bucket(client: SyncPrefectClient, name: str, values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The credentials and the bucket, by the server's own schemas: so prefect-aws need not be installed."""
    credentials: dict[str, Any] = {
        "aws_access_key_id": values.get("access_key_id"),
        "aws_secret_access_key": values.get("secret_access_key"),
        "region_name": values.get("region"),
    }
    endpoint = values.get("endpoint")

    def with_endpoint(before: Mapping[str, Any]) -> dict[str, Any]:
        client_parameters = dict(before.get("aws_client_parameters") or {})
        if endpoint:
            client_parameters["endpoint_url"] = endpoint
        return {"aws_client_parameters": client_parameters} if client_parameters else {}

    given = {field: value for field, value in credentials.items() if value}
    document, done = _write(client, CREDENTIALS, name, lambda before: {**given, **with_endpoint(before)})
    yield f"{CREDENTIALS}/{name}", done
    reference = {"$ref": {"block_document_id": str(document)}}
    bucket = {"bucket_name": values["bucket"], **({"bucket_folder": values["folder"]} if "folder" in values else {})}
    _, done = _write(client, BUCKET, name, lambda _: bucket, {"credentials": reference})
    yield f"{BUCKET}/{name}", done


def _write(
    client: SyncPrefectClient,
    slug: str,
    name: str,
    values: Callable[[Mapping[str, Any]], dict[str, Any]],
    references: Mapping[str, Any] | None = None,
) -> tuple[Any, str]:
    """One document by the server's schema of its type; gives its id and what was done."""
    found = _find(client, slug, name)
    before = dict(found.data) if found else {}
    wanted = values(before)
    if found and all(before.get(field) == value for field, value in wanted.items()) and _refers(found, references):
        return found.id, SAME
    try:
        kind = client.read_block_type_by_slug(slug)
        schema = client.get_most_recent_block_schema_for_block_type(kind.id)
    except ObjectNotFound:
        schema = None
    if schema is None:
        mend = "Install it there: pip install prefect-aws, then prefect block register -m prefect_aws"
        raise NotStarted([Problem(f"The Prefect server knows no block type {slug!r}.", mend)])
    data = {**{field: value for field, value in before.items() if field not in (references or {})}, **wanted}
    data |= references or {}
    if found:
        update = BlockDocumentUpdate(block_schema_id=schema.id, data=data, merge_existing_data=False)
        client.update_block_document(found.id, update)
        return found.id, CHANGED
    new = BlockDocumentCreate(name=name, data=data, block_schema_id=schema.id, block_type_id=kind.id)
    return client.create_block_document(new).id, MADE


def _refers(found: BlockDocument, references: Mapping[str, Any] | None) -> bool:
    """Whether a document holds these other documents."""
    for field, reference in (references or {}).items():
        held = found.block_document_references.get(field, {}).get("block_document", {})
        if str(held.get("id")) != reference["$ref"]["block_document_id"]:
            return False
    return True


def _find(client: SyncPrefectClient, slug: str, name: str) -> BlockDocument | None:
    try:
        return client.read_block_document_by_name(name, slug, include_secrets=True)
    except ObjectNotFound:
        return None
