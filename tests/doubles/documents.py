"""Block documents of the types that a Prefect server knows by itself, as a team makes them in its UI."""

from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import BlockDocumentCreate
from seaweed import Seaweed


def s3_bucket(
    server: Seaweed, bucket: str, name: str, *, folder: str = "", secret: str = "", minio: bool = False
) -> str:
    """An S3 Bucket block with its credentials; gives what `--store` names it by."""
    told = {"region_name": "us-east-1", "aws_client_parameters": {"endpoint_url": server.url}}
    password = secret or server.secret
    if minio:
        slug, who = "minio-credentials", {"minio_root_user": server.key, "minio_root_password": password}
    else:
        slug, who = "aws-credentials", {"aws_access_key_id": server.key, "aws_secret_access_key": password}
    with get_client(sync_client=True) as client:
        credentials = _document(client, slug, f"{name}-credentials", {**told, **who})
        reference = {"$ref": {"block_document_id": credentials}}
        values = {"bucket_name": bucket, "bucket_folder": folder, "credentials": reference}
        _document(client, "s3-bucket", name, values)
    return f"s3-bucket/{name}"


def _document(client: SyncPrefectClient, slug: str, name: str, values: dict[str, Any]) -> str:
    block_type = client.read_block_type_by_slug(slug)
    schema = client.get_most_recent_block_schema_for_block_type(block_type.id)
    assert schema
    made = client.create_block_document(
        BlockDocumentCreate(name=name, data=values, block_type_id=block_type.id, block_schema_id=schema.id)
    )
    return str(made.id)
