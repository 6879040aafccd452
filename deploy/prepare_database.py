"""Bring Prefect's database up to this version's schema and register the block types that come with Prefect.

A web process would do both as it starts. Two that start side by side on a new database break over the block types
(`duplicate key value violates unique constraint "uq_block_type__slug"`), so it is done once, before any of them.
"""

import asyncio

from prefect.server.database import provide_database_interface
from prefect.server.models.block_registration import run_block_auto_registration


async def prepare() -> None:
    """Do both; doing it again changes nothing."""
    database = provide_database_interface()
    await database.create_db()
    async with await database.session() as session:
        await run_block_auto_registration(session=session)


if __name__ == "__main__":
    asyncio.run(prepare())
