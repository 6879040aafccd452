"""One of Prefect's own ways to map a task over rows, in a process of its own: started by ways_to_map.py.

The last line that it prints is when its last image was there, in seconds since the epoch.
"""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

from parts import call_cli
from prefect import flow, task, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.futures import wait
from prefect.task_runners import ThreadPoolTaskRunner

TAG = "mapped"


@task(name="generate", cache_policy=NO_CACHE, persist_result=False)
def generate(number: int, program: Path, url: str, folder: Path) -> int:
    """One image by the real CLI."""
    call_cli(program, number, folder, url)
    return number


@task(name="upload", cache_policy=NO_CACHE, persist_result=False)
def upload(number: int, folder: Path) -> None:
    """A copy in the same folder: what a follow-up task costs, not what an upload does."""
    shutil.copyfile(folder / f"{number}.png", folder / f"{number}.copy.png")


def main() -> None:
    """Map and wait."""
    parser = argparse.ArgumentParser()
    for name in ("--program", "--folder"):
        parser.add_argument(name, type=Path, required=True)
    for name in ("--rows", "--wide"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--way", choices=["untagged", "tagged", "then"], required=True)
    options = parser.parse_args()
    pool: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=options.wide)

    @flow(name="mapped", task_runner=pool, persist_result=False)  # type: ignore[arg-type]
    def mapped() -> float:
        one = generate.with_options(tags=[TAG]) if options.way == "tagged" else generate
        with_all = unmapped(options.program), unmapped(options.url), unmapped(options.folder)
        futures: list[Any] = list(one.map(range(options.rows), *with_all))
        if options.way == "then":
            futures = list(upload.map(futures, unmapped(options.folder)))
        wait(futures)
        for future in futures:
            future.result()
        return time.time()

    print(mapped())


if __name__ == "__main__":
    main()
