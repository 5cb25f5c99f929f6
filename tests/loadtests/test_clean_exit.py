"""The gateway ends well while it generates; `make chaos` repeats this more often."""

from pathlib import Path

import pytest

from loadtests.clean_exit import clean_exits


@pytest.mark.slow
async def test_sigterm_during_generation_ends_process_and_streams_properly(demo_store: Path) -> None:
    assert await clean_exits(2, demo_store) == 2
