from collections.abc import AsyncIterator

import httpx
import pytest

from tests.conftest import Server


@pytest.fixture
async def client(tiny_server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=tiny_server.url, timeout=60) as client:
        yield client
