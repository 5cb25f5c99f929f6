"""The dashboards and alert rules as they are committed, beside their generator and the gateway's registry."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.model_pool.downloads import DownloadState
from gateway.observability.hardware_metrics import HardwareMetrics
from gateway.observability.metrics import Metrics
from gateway.observability.pool_metrics import DownloadMetrics
from gateway.observability.security_metrics import SecurityMetrics
from grafana.dashboards import FOLDER, PAGES, as_json
from grafana.panels import Page

RULES = (FOLDER.parent / "rules.yml").read_text(encoding="utf-8")
METRIC = re.compile(r"\b(?:vllm:|mlx_gateway_|process_)\w+")


def _panels(path: Path) -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["panels"]
    return [panel for panel in panels if panel["type"] != "row"]


def _known_names() -> set[str]:
    """All sample names that the gateway can expose."""
    metrics = Metrics()
    DownloadMetrics(metrics.registry, DownloadState, lambda state: 0)
    SecurityMetrics(metrics.registry)
    HardwareMetrics(metrics.registry)
    names = set()
    for family in metrics.registry.collect():
        names.add(family.name)
        if family.type == "counter":
            names.add(f"{family.name}_total")
        if family.type == "histogram":
            names |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.uid)
def test_the_committed_json_is_what_the_generator_makes(page: Page) -> None:
    assert (FOLDER / f"{page.uid}.json").read_text(encoding="utf-8") == as_json(page), "run `make dashboards`"


def test_there_is_no_dashboard_without_a_generator() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {page.uid for page in PAGES}


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.stem)
def test_every_panel_has_a_unit_a_description_and_known_metrics(path: Path) -> None:
    known = _known_names()
    panels = _panels(path)
    assert panels
    for panel in panels:
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for target in panel["targets"]:
            used = set(METRIC.findall(target["expr"]))
            assert used, target["expr"]
            assert used <= known, f"{panel['title']}: {used - known}"


def test_every_alert_has_a_runbook_and_known_metrics() -> None:
    alerts = RULES.split("- alert:")[1:]
    assert len(alerts) >= 10
    known = _known_names()
    for alert in alerts:
        assert "runbook: " in alert
        assert "summary: " in alert
        assert set(METRIC.findall(alert)) <= known
