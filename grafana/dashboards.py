"""Writes the dashboards as JSON: `python -m grafana.dashboards`, or `make dashboards`."""

from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana import cache, clients, hardware, latency, memory_and_pool, overview
from grafana.panels import Page, build

FOLDER = Path(__file__).parent / "json"
PAGES: tuple[Page, ...] = (
    overview.PAGE,
    latency.PAGE,
    cache.PAGE,
    memory_and_pool.PAGE,
    clients.PAGE,
    hardware.PAGE,
)


def as_json(page: Page) -> str:
    return JSONEncoder(sort_keys=True, indent=2).encode(build(page).build()) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for page in PAGES:
        (FOLDER / f"{page.uid}.json").write_text(as_json(page), encoding="utf-8")


if __name__ == "__main__":
    main()
