"""The task that publishes a block of stored images in a CMS, and finding the CMS that a batch names."""

import threading
from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from blocks import CmsSite
from blocks.errors import DeliveryStopped, DeliveryUnavailable
from flows.batch.deliveries import Deliveries
from flows.batch.problems import NotStarted, Problem
from flows.batch.publishing import PublishRow, publish_rows
from flows.batch.stores import NEVER
from flows.tasks.block_documents import load_block

MEND = "Name one as cms-site/NAME; `rowshot setup` makes one, or the Prefect server's page of blocks."


@task(name="publish_to_cms", cache_policy=NO_CACHE, persist_result=False)  # the ledger knows what is published
def publish_to_cms(
    rows: Sequence[PublishRow], site: CmsSite, deliveries: Deliveries, run: str, left: threading.Event = NEVER
) -> None:
    """Publish a block of stored images; each row's outcome is in the ledger, and no generator is ever asked.

    Raises: DeliveryUnavailable where rows are left for a later run; DeliveryStopped where nothing more can be published
    until a person has acted, so that no further block need be tried; LedgerUnavailable.
    """
    publish_rows(rows, site, deliveries, run, left)


def load_site(name: str) -> CmsSite:
    """The CMS of this name, `cms-site/NAME`. Raises: NotStarted where the server has no such block."""
    return load_block(name, CmsSite, "CMS", MEND)


def check_site(site: CmsSite) -> None:
    """Raise NotStarted where nothing could be published; found before anything is bought."""
    try:
        site.check()
    except (DeliveryStopped, DeliveryUnavailable) as error:
        raise NotStarted([Problem(str(error), "")]) from error
