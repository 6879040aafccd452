"""Where a run hands its images on to: found and tried before anything is bought."""

from blocks import CmsSite
from blocks.s3 import S3Store
from flows.batch.addresses import Addresses
from flows.batch.problems import NotStarted, Problem
from flows.batch.run import BatchRun
from flows.batch.settings import BatchSettings
from flows.batch.uploads import Shelf
from flows.tasks.publish import check_site, load_site
from flows.tasks.stores import check_store, load_store


def open_doors(batch: BatchSettings, run: BatchRun) -> None:
    """Give the run the store and the CMS that its settings name. Asks nothing of them yet. Raises: NotStarted."""
    if batch.delivery.public_url and not batch.delivery.store:
        raise NotStarted([Problem("A public address needs a store.", "Name one: --store s3-bucket/NAME.")])
    if batch.delivery.cms and not (batch.delivery.store and batch.delivery.public_url):
        mend = "Give --store s3-bucket/NAME and --public-url TEMPLATE, which says how an image's address is made."
        raise NotStarted([Problem("A CMS shows images that have a public address, and these would have none.", mend)])
    if batch.delivery.store:
        run.shelf = open_shelf(batch.delivery.store, batch.delivery.public_url, run)
    if batch.delivery.cms:
        run.site = load_site(batch.delivery.cms)


def open_shelf(name: str, public_url: str, run: BatchRun) -> Shelf:
    """The store of this name, with the addresses that its objects have. Raises: NotStarted."""
    store = load_store(name)
    account = store.account
    named = public_url and ("{region}" in public_url or "{endpoint}" in public_url)  # else boto3 need not be loaded
    addresses = Addresses(
        template=public_url,
        bucket=account.bucket,
        region=(account.region or store.region) if named else account.region,
        endpoint=store.endpoint if named else account.endpoint,
    )
    addresses.check()
    return Shelf(store, addresses, run.ledger.deliveries, run.output.root)


def check_doors(run: BatchRun) -> None:
    """Raise NotStarted where nothing could be handed on: a wrong secret, a missing bucket, no right to write."""
    if run.shelf and isinstance(run.shelf.store, S3Store):
        check_store(run.shelf.store)
    if isinstance(run.site, CmsSite):
        check_site(run.site)
