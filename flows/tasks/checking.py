"""Tries each door to the outside for real, one after the other. Buys nothing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prefect.artifacts import create_table_artifact

from blocks.errors import DeliveryError, ImageGenerationError
from blocks.slack import post_message
from flows.batch.problems import NotStarted
from flows.batch.settings import CheckSettings
from flows.tasks.generators import BUILT_IN, load_generator
from flows.tasks.notify import load_webhook
from flows.tasks.publish import load_site
from flows.tasks.stores import load_store

SAID = "This is a test of rowshot check. Nothing was run, and nothing was bought."


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of trying one door. `told` is what was seen or, where it failed, what to mend."""

    door: str
    name: str
    outcome: str
    told: str

    @property
    def failed(self) -> bool:
        """Whether a run would fail here."""
        return self.outcome == "FAILED"

    def lines(self) -> Iterator[str]:
        """One line of the table, and the mend below it."""
        yield f"{self.door:<10} {self.name:<28} {self.outcome:<9} {'' if self.failed else self.told}".rstrip()
        if self.failed:
            yield f"           {self.told}"


def try_generator(name: str) -> Trial:
    """Whether the program is there and has a key; whether the key is good only a paid call can tell."""

    def work() -> tuple[str, str]:
        generator = load_generator(name)
        generator.check()
        told = "it draws here, for nothing" if generator.capabilities.free else "its program and its key are there"
        return "ok", told

    return _tried("generator", name, work)


def try_store(name: str) -> Trial:
    """Put a probe object and delete it."""

    def work() -> tuple[str, str]:
        store = load_store(name)
        store.check()
        return "ok", f"a probe was written and deleted in {store.destination}"

    return _tried("store", name, work)


def try_cms(name: str, sku: str = "") -> Trial:
    """Have the items listed or, if a sku is given, that item read; changes nothing."""

    def work() -> tuple[str, str]:
        site = load_site(name)
        if sku:
            found = site.read(sku)
            return (
                ("ok", f"{sku!r} was read")
                if found.found
                else ("no field", f"{sku!r} was read; it shows no such field")
            )
        if site.check():
            return "ok", "it lists its items to this token; nothing was changed"
        return "answers", "it has no list of items, so only an item can tell: --sku SKU reads one"

    return _tried("cms", name, work)


def try_notify(name: str, *, send: bool) -> Trial:
    """Post a message if asked to; nothing else can prove a webhook."""

    def work() -> tuple[str, str]:
        webhook = load_webhook(name)
        if not send:
            return "not tried", "only a message can prove it: --send-test sends one"
        post_message(webhook.url.get_secret_value(), {"text": SAID})
        return "ok", "it took a message"

    return _tried("notify", name, work)


def try_doors(doors: CheckSettings) -> Iterator[Trial]:
    """Try each door that is named, one after the other."""
    yield try_generator(doors.generator)
    if doors.store:
        yield try_store(doors.store)
    if doors.cms:
        yield try_cms(doors.cms, doors.sku)
    if doors.notify:
        yield try_notify(doors.notify, send=doors.send_test)


def show_trials(trials: Sequence[Trial]) -> None:
    """What came of them, as a table in the server's UI."""
    table = [{"door": t.door, "name": t.name, "outcome": t.outcome, "seen, or to mend": t.told} for t in trials]
    create_table_artifact(table, key="rowshot-setup", description="Each door to the outside, tried for real")


def needs_server(*names: str) -> bool:
    """Whether any of these is a block document."""
    return any(name and name not in BUILT_IN for name in names)


def _tried(door: str, name: str, work: Callable[[], tuple[str, str]]) -> Trial:
    try:
        outcome, told = work()
    except (NotStarted, DeliveryError, ImageGenerationError) as error:
        return Trial(door, name, "FAILED", str(error))
    return Trial(door, name, outcome, told)
