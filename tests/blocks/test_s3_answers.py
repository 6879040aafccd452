"""What a store answers that is no S3 as Rowshot needs it, or that takes the credentials no longer."""

import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs

import pytest
from http_double import Answer, Asked, HttpDouble

from blocks.errors import DeliveryForbidden, DeliveryStopped, DeliveryUnavailable
from blocks.s3 import S3Store
from blocks.s3_account import S3Account, renewed_before_end_s

ROLE = "arn:aws:iam::123456789012:role/images"


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


class Keeper:
    """Keeps what is put under a key, and answers like S3 where there is something; `lost` answers are."""

    def __init__(self, lost: int = 0) -> None:
        self.lost = lost
        self.kept: set[str] = set()
        self.asked: list[tuple[str, str]] = []

    def __call__(self, asked: Asked) -> Answer:
        """Answer one request."""
        self.asked.append((asked.method, asked.path))
        if asked.method == "DELETE":
            self.kept.discard(asked.path)
            return Answer()
        if asked.path in self.kept and asked.headers["If-None-Match"]:
            return refusal("PreconditionFailed", 412)
        self.kept.add(asked.path)
        self.lost -= 1
        return refusal("InternalError", 500) if self.lost >= 0 else Answer()


def test_a_check_leaves_nothing_behind() -> None:
    """What it puts there, only where there is nothing, it deletes."""
    keeper = Keeper()
    with HttpDouble(keeper) as server:
        store_at(server.url).check()
    assert [method for method, _ in keeper.asked] == ["PUT", "PUT", "DELETE"]
    assert len({path for _, path in keeper.asked}) == 1
    assert not keeper.kept


def test_a_store_that_ignores_the_condition_is_found_by_its_check() -> None:
    """It would write an image over another one and say that all is well; the probe is gone from there too."""
    asked: list[str] = []

    def answer(one: Asked) -> Answer:
        asked.append(one.method)
        return Answer()

    with HttpDouble(answer) as server:
        with pytest.raises(DeliveryStopped, match="no conditional writes"):
            store_at(server.url).check()
        assert asked[-1] == "DELETE"


def test_a_check_whose_answer_is_lost_finds_its_own_probe() -> None:
    """The write is tried again, and what is there by then is no other's: the store is as it should be."""
    keeper = Keeper(lost=1)
    with HttpDouble(keeper) as server:
        store_at(server.url).check()
    assert not keeper.kept


def test_another_request_that_a_store_has_not_is_no_matter_of_conditions() -> None:
    """A report is put without any, so the answer says nothing of them."""
    with HttpDouble(lambda _: refusal("NotImplemented", 501)) as server:
        with pytest.raises(DeliveryUnavailable, match="NotImplemented") as error:
            store_at(server.url).put("reports/index.html", b"", "text/html")
        assert "If-None-Match" not in str(error.value)


class Lender:
    """Lends a role for `lasts` each time it is asked, and takes what is put with the keys that it has lent."""

    def __init__(self, lasts: timedelta) -> None:
        self.lasts = lasts
        self.asked: list[dict[str, list[str]]] = []
        self.keys: list[str] = []

    def __call__(self, asked: Asked) -> Answer:
        """Answer one request."""
        if asked.method != "POST":
            self.keys += re.findall(r"Credential=([^/]+)/", asked.headers["Authorization"])
            return Answer()
        self.asked.append(parse_qs(asked.body.decode()))
        lent = {
            "AccessKeyId": f"lent-{len(self.asked)}",
            "SecretAccessKey": "lent-secret",
            "SessionToken": "lent-token",
            "Expiration": (datetime.now(UTC) + self.lasts).isoformat(),
        }
        told = "".join(f"<{name}>{value}</{name}>" for name, value in lent.items())
        told = f"<AssumeRoleResult><Credentials>{told}</Credentials></AssumeRoleResult>"
        return Answer(f"<AssumeRoleResponse>{told}</AssumeRoleResponse>".encode())


def borrower(url: str, **more: str) -> S3Store:
    """A store that is written in a role."""
    options = {"ExternalId": "shop-7", "DurationSeconds": 900, **more}
    account = S3Account("shop", "", "key", "secret-0123456789", region="us-east-1", endpoint=url)
    return S3Store(replace(account, role_arn=ROLE, role_options=options))


def test_a_role_is_renewed_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that takes longer than a role is lent for goes on with a new loan, asked for in the same words."""
    lender = Lender(timedelta(seconds=2))
    with HttpDouble(lender) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        store = borrower(server.url)
        store.put("a.txt", b"", "text/plain")
        time.sleep(2)
        store.put("b.txt", b"", "text/plain")
    assert len(set(lender.keys)) == 2
    for asked in lender.asked:
        assert (asked["ExternalId"], asked["DurationSeconds"]) == (["shop-7"], ["900"])
        assert (asked["RoleSessionName"], asked["RoleArn"]) == (["rowshot"], [ROLE])


def test_a_role_is_asked_for_once_and_links_end_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many requests there are, also where it is lent for the shortest time; a link ends no later than it."""
    lender = Lender(timedelta(minutes=15))
    with HttpDouble(lender) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        store = borrower(server.url)
        for number in range(3):
            store.put(f"{number}.txt", b"", "text/plain")
        assert store.signed_until() < datetime.now(UTC) + timedelta(minutes=16)
    assert len(lender.asked) == 1


@pytest.mark.parametrize(
    ("lasts", "early"),
    [
        (timedelta(minutes=15), (225, 150)),
        (timedelta(hours=1), (900, 600)),
        (timedelta(hours=12), (900, 600)),
    ],
    ids=str,
)
def test_a_role_is_used_for_most_of_its_life(lasts: timedelta, early: tuple[int, int]) -> None:
    """Where it can't be renewed it serves until ten minutes before its end, however long it is lent for."""
    assert renewed_before_end_s(lasts) == early


def test_a_role_with_an_mfa_code_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A code is good for one loan, so its keys are used as long as the store takes them."""
    lender = Lender(timedelta(seconds=2))
    with HttpDouble(lender) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        store = borrower(server.url, SerialNumber="arn:aws:iam::123456789012:mfa/kim", TokenCode="123456")
        store.put("a.txt", b"", "text/plain")
        time.sleep(2)
        store.put("b.txt", b"", "text/plain")
    assert len(lender.asked) == 1
    assert lender.keys == ["lent-1", "lent-1"]


def test_temporary_credentials_that_have_run_out_are_called_that() -> None:
    """Neither the key nor the rights are at fault, so the mend is another."""
    with HttpDouble(lambda _: refusal("ExpiredToken", 400)) as server:
        with pytest.raises(DeliveryForbidden, match="have run out") as error:
            store_at(server.url).check()
        assert "Put new ones" in str(error.value)
