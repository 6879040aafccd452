"""What an image costs: a price book that is data, with a date and a source beside every figure."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path

import pandas as pd

from flows.batch.problems import NotStarted, Problem

BUILT_IN = Path(__file__).with_name("prices.csv")
COLUMNS = ("generator", "model", "resolution", "usd", "credits", "date", "retires", "source")
NOTE = "note"  # a column that may be missing
VARIABLE = "ROWSHOT_PRICES"
STALE_AFTER = timedelta(days=90)
ANY = "*"
_MARK = 12  # hex digits


@dataclass(frozen=True, slots=True)
class Price:
    """The list price of one image in US dollars, and in credits where the provider sells those and tells the figure.

    `note` is what else a buyer should know of it.
    """

    generator: str
    model: str
    resolution: str
    usd: Decimal
    credits: Decimal | None
    as_of: date
    retires: date | None
    source: str
    note: str = ""

    @property
    def usd_per_credit(self) -> Decimal | None:
        """What one credit costs by this price, where it tells."""
        return self.usd / self.credits if self.credits else None

    def warnings(self, today: date) -> list[str]:
        """What a buyer should know of this price before relying on it."""
        told = []
        if self.usd and today - self.as_of > STALE_AFTER:
            note = f", and {self.note}" if self.note else ""
            told.append(
                f"The price of {self.model} is from {self.as_of:%B %Y} ({self.source}){note}; "
                "check it, and put today's in a price book of your own (--prices)."
            )
        if self.retires and self.retires <= today:
            told.append(f"{self.model} was retired on {self.retires}; choose another model.")
        return told


class PriceBook:
    """Prices by (generator, model, resolution), then (generator, model, *), then (generator, *, *)."""

    def __init__(self, prices: Iterable[Price]) -> None:
        self._prices: Mapping[tuple[str, str, str], Price] = {(p.generator, p.model, p.resolution): p for p in prices}

    @classmethod
    def open(cls, given: str = "") -> "PriceBook":
        """The user's own price book: the file given, else ROWSHOT_PRICES's, else the built-in one.

        The user's replaces the built-in one, but that what is drawn for nothing needs no price. Raises: NotStarted.
        """
        path = given or os.environ.get(VARIABLE, "")
        if not path:
            return cls.read()
        free = [price for price in cls.read() if not price.usd]
        return cls([*free, *cls.read(Path(path).expanduser())])

    @classmethod
    def read(cls, path: Path = BUILT_IN) -> "PriceBook":
        """Read a price book: a CSV with the columns of the built-in one.

        Raises: NotStarted, naming each line that can't be used.
        """
        try:
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise NotStarted(
                [Problem(f"The price book {path} can't be read: {error}.", "Give a CSV like the built-in one.")]
            ) from error
        missing = [name for name in COLUMNS if name not in frame.columns]
        if missing:
            raise NotStarted([Problem(f"The price book {path} lacks the columns {', '.join(missing)}.", "Add them.")])
        prices, problems = [], []
        for line, row in enumerate(frame.to_dict("records"), start=2):
            try:
                prices.append(_price({name: str(row.get(name, "")).strip() for name in (*COLUMNS, NOTE)}))
            except (ValueError, InvalidOperation) as error:
                problems.append(
                    Problem(
                        f"{path.name}: {error or 'not a figure'}.",
                        "Write USD as 0.005 and dates as 2026-05-01.",
                        line=line,
                    )
                )
        if problems:
            raise NotStarted(problems)
        return cls(prices)

    def __iter__(self) -> Iterator[Price]:
        return iter(self._prices.values())

    def find(self, generator: str, model: str, resolution: str = "") -> Price | None:
        """The price of one image, or None where the book has none."""
        for key in ((generator, model, resolution), (generator, model, ANY), (generator, ANY, ANY)):
            if key in self._prices:
                return self._prices[key]
        return None

    @property
    def mark(self) -> str:
        """What tells this book's prices from another's."""
        told = sorted(f"{'/'.join(key)} {price.usd}" for key, price in self._prices.items())
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:_MARK]

    def models(self, generator: str = "") -> set[str]:
        """The models with a price, of one generator or of all."""
        return {p.model for p in self._prices.values() if p.model != ANY and generator in {"", p.generator}}


def dollars(usd: Decimal) -> str:
    """An amount for people: two decimals, or up to four where it takes them ($12.40, $0.039)."""
    whole, _, cents = f"{usd:,.4f}".partition(".")
    return f"${whole}.{cents.rstrip('0').ljust(2, '0')}"


def dollars_or_free(usd: Decimal) -> str:
    """What something costs, for people."""
    return dollars(usd) if usd else "free"


def for_about(usd: Decimal) -> str:
    """An estimate as the end of a sentence: for about $12.40, or for free."""
    return f"for about {dollars(usd)}" if usd else "for free"


def _price(row: Mapping[str, str]) -> Price:
    usd = Decimal(row["usd"])
    if not usd.is_finite() or usd < 0:
        raise ValueError(f"{row['usd']!r} is no price")
    credits_ = Decimal(row["credits"]) if row["credits"] else None
    if credits_ is not None and not (credits_.is_finite() and credits_ > 0):
        raise ValueError(f"{row['credits']!r} is no number of credits")
    return Price(
        generator=row["generator"],
        model=row["model"],
        resolution=row["resolution"] or ANY,
        usd=usd,
        credits=credits_,
        as_of=date.fromisoformat(row["date"]),
        retires=date.fromisoformat(row["retires"]) if row["retires"] else None,
        source=row["source"],
        note=row[NOTE],
    )
