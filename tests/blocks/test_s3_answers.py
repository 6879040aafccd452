"""What a store answers that is no S3 as Rowshot needs it, or that takes the credentials no longer."""

import pytest
from http_double import Answer, Asked, HttpDouble

from blocks.errors import DeliveryStopped
from blocks.s3 import S3Store
from blocks.s3_account import S3Account


def store_at(url: str) -> S3Store:
    """A store at this address."""
    return S3Store(S3Account("shop", "", "key", "secret-0123456789", endpoint=url))


def refusal(code: str, status: int) -> Answer:
    """An error as S3 tells it."""
    return Answer(f"<Error><Code>{code}</Code><Message>No.</Message></Error>".encode(), status)


@pytest.mark.parametrize("told", [refusal("NotImplemented", 501), Answer(status=501)], ids=["told", "bare"])
def test_a_store_without_conditional_writes_is_found_by_its_check(told: Answer) -> None:
    """It takes what is put, and refuses what is put only where there is nothing: no image would ever arrive there, so
    the check says what the store lacks.
    """

    def answer(asked: Asked) -> Answer:
        return told if asked.headers["If-None-Match"] else Answer()

    with HttpDouble(answer) as server:
        store = store_at(server.url)
        store.put("reports/index.html", b"", "text/html")
        with pytest.raises(DeliveryStopped, match="If-None-Match") as error:
            store.check()
        assert "another store" in str(error.value)


def test_a_check_leaves_nothing_behind() -> None:
    """What it puts there, only where there is nothing, it deletes."""
    asked: list[tuple[str, str]] = []

    def answer(one: Asked) -> Answer:
        asked.append((one.method, one.path))
        return Answer()

    with HttpDouble(answer) as server:
        store_at(server.url).check()
    assert [method for method, _ in asked] == ["PUT", "DELETE"]
    assert len({path for _, path in asked}) == 1
