"""A bucket of the test's own, and its block document."""

from itertools import count

import pytest
from documents import s3_bucket
from seaweed import Seaweed

_numbers = count(1)


@pytest.fixture
def bucket(s3_server: Seaweed) -> str:
    """The name of an empty bucket."""
    return s3_server.bucket(f"shop-{next(_numbers)}")


@pytest.fixture
def block(request: pytest.FixtureRequest, s3_server: Seaweed, bucket: str) -> str:
    """What `--store` names the bucket by, on the session's Prefect server."""
    request.getfixturevalue("prefect_server")
    return s3_bucket(s3_server, bucket, bucket, folder="catalog")
