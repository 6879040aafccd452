"""A clone whose generator answers at once, and runs of it: what the benchmarks of 10,000 and 100,000 rows share."""

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy
from parts import Ended, clean, run_to_end, write_sheet
from served import copy_of_repo

HERE = Path(__file__).parent
PRICES = """generator,model,resolution,usd,credits,date,retires,source
prepared,nano-banana-2,*,0.001,,2026-11-01,,a benchmark
"""


@dataclass(frozen=True)
class Large:
    """A folder with a clone of this repository in it. `variables` name the server and the ledger."""

    folder: Path
    ledger: str
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def clone(self) -> Path:
        """Where the code is that runs."""
        return self.folder / "clone"

    @property
    def environment(self) -> dict[str, str]:
        """What every process of it has in its environment: the clone's code, the server, the ledger."""
        return clean(
            PYTHONPATH=str(self.clone),
            PREFECT_HOME=str(self.folder / "client"),
            ROWSHOT_LEDGER=self.ledger,
            **self.variables,
        )

    def prepare(self) -> None:
        """Copy the repository, and add the generator to the copy as one adds a provider."""
        if self.clone.exists():
            return
        beside = self.folder / "clone.part"
        shutil.rmtree(beside, ignore_errors=True)
        copy_of_repo(beside)
        shutil.copy(HERE / "prepared_images.py", beside / "blocks")
        package = beside / "blocks" / "__init__.py"
        text = package.read_text(encoding="utf-8")
        named = text.replace("_HOMES = {", '_HOMES = {\n    "PreparedImages": "blocks.prepared_images",', 1)
        assert named != text, "blocks/__init__.py is not as it was"
        package.write_text(named, encoding="utf-8")
        (self.folder / "prices.csv").write_text(PRICES)
        beside.rename(self.clone)

    def sheet(self, rows: int) -> Path:
        """A CSV of so many rows; a sku says of how many."""
        path = self.folder / f"{rows}.csv"
        return path if path.exists() else write_sheet(path, [f"{prefix(rows)}{number:06}" for number in range(rows)])

    def calls(self, rows: int) -> int:
        """How often the generator was called for the file of so many rows, at the generator's side."""
        path = self._calls(rows)
        return path.stat().st_size if path.exists() else 0

    def run(self, rows: int, *, wide: int, delay_s: float, **settings: Any) -> Ended:
        """Run the file of so many rows to its end. Raises SystemExit where a row has no image then."""
        batch = {
            "csv": str(self.sheet(rows)),
            "output": str(self.folder / f"out-{rows}"),
            "prices": str(self.folder / "prices.csv"),
            "concurrency": wide,
            **settings,
        }
        generator = {"delay_s": delay_s, "calls": str(self._calls(rows))}
        asked = json.dumps({"batch": batch, "generator": generator, "limit": 256})
        done = run_to_end([sys.executable, "-P", HERE / "run_batch.py", asked], self.environment, self.folder)
        if done.code:
            raise SystemExit(done.told)
        return done

    def first_to_last(self, rows: int) -> float:
        """Seconds from the first call to the last image in the ledger, of the file of so many rows."""
        engine = sqlalchemy.create_engine(self.ledger)
        asked = {"sku": f"{prefix(rows)}%"}
        with engine.connect() as connection:
            first = connection.execute(
                sqlalchemy.text("select min(started_at) from attempts where sku like :sku"), asked
            ).scalar_one()
            last, bought = connection.execute(
                sqlalchemy.text("select max(bought_at), count(*) from images where state = 'bought' and sku like :sku"),
                asked,
            ).one()
        engine.dispose()
        assert bought == rows, f"{bought} of {rows} images are in the ledger"
        return float(last - first)

    def _calls(self, rows: int) -> Path:
        return self.folder / f"calls-{rows}"


def prefix(rows: int) -> str:
    """How the skus of the file of so many rows begin; no file's is in another's."""
    return f"of{rows}-"
