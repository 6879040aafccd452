"""One run of a batch with the prepared generator, in a process of its own: started by large.py, in its clone.

    python run_batch.py '{"batch": {...}, "generator": {"delay_s": 0, "calls": "..."}, "limit": 64}'

Exits with 0 only where every row has its image.
"""

import json
import sys
from typing import Any

from prefect.client.orchestration import get_client

import blocks
from flows.batch.settings import BatchSettings
from flows.generate_images import generate_images


def main(asked: dict[str, Any]) -> int:
    """Make the block and the limit, and run the batch."""
    generator = blocks.PreparedImages(**asked["generator"])
    generator.save("benchmark", overwrite=True)
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(f"rowshot-{generator.capabilities.provider}", asked["limit"])
    name = f"{generator.get_block_type_slug()}/benchmark"
    state = generate_images(BatchSettings.of(generator=name, **asked["batch"]), return_state=True)
    print(f"{state.name}: {state.message}")
    return 0 if state.is_completed() else 1


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
