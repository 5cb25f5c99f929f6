"""The figures come from a real gateway under real streams."""

import re
from pathlib import Path

from loadtests.scrape_figures import measure


async def test_scrapes_are_timed_beside_streams(tiny_folder: Path, demo_store: Path) -> None:
    idle, beside, lost = await measure(str(tiny_folder), demo_store, tokens=4, rounds=1)
    for line in (idle, beside):
        assert 0 < float(re.findall(r"([\d.]+) ms", line)[0]) < 5000
    assert "throughput lost" in lost
