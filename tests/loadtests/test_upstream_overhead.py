"""The figures come from real streams, direct and through a real gateway."""

import re

from loadtests.upstream_overhead import measure


async def test_both_ways_are_measured() -> None:
    first, each, rate = await measure(requests=2, tokens=3)
    for line in (first, each):
        direct, passed = (float(value) for value in re.findall(r"([\d.]+) ms \(p95", line))
        assert 0 < direct < passed
    assert all(float(value) > 0 for value in re.findall(r"(\d+) (?:tokens/s|through|us)", rate))
