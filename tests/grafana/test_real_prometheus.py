"""A real Prometheus scrapes a real gateway under load: whatever a panel or a rule asks for is there."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from gateway.security.api_keys import ApiKeys, KeySettings
from grafana.dashboards import FOLDER
from tests.conftest import running_server
from tests.grafana.prometheus import RULES, Prometheus, program, running_prometheus

pytestmark = pytest.mark.operations

COMPARED = re.compile(r"\s(?:==|>|<)\s[\d.]+$")
"""The end of a rule's expression: without it there is data whether or not the alert fires."""


def _load(url: str, key: str) -> None:
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, timeout=60, headers=headers) as client:
        assert client.get("/v1/models", headers={"authorization": "Bearer wrong"}).status_code == 401
        messages = [{"role": "user", "content": "Tell me about the sea and the ships. " * 40}]
        for max_tokens in (4, 20, 200):
            body = {"model": "tiny", "messages": messages, "max_tokens": max_tokens, "temperature": 0}
            assert client.post("/v1/chat/completions", json=body).status_code == 200
        completion = {"model": "tiny", "prompt": "def f(", "max_tokens": 5}
        assert client.post("/v1/completions", json=completion).status_code == 200
        assert client.post("/v1/completions", json={**completion, "model": "elsewhere"}).status_code == 200
        embedding = {"model": "all-MiniLM-L6-v2", "input": ["a", "b"]}
        assert client.post("/v1/embeddings", json=embedding).status_code == 200
        assert client.post("/v1/completions", json={**completion, "model": "unknown"}).status_code == 404
        endless = {**completion, "stream": True, "max_tokens": 2000}
        with client.stream("POST", "/v1/completions", json=endless) as answer:
            next(answer.iter_lines())


@pytest.fixture(scope="module")
def prometheus(demo_store: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It has scraped before, between and after the load: rates have a start."""
    folder = tmp_path_factory.mktemp("prometheus")
    with ExitStack() as stack:
        other = stack.enter_context(running_server(demo_store, "--model", str(tiny_folder)))
        store = folder / "store"
        store.mkdir()
        _, key = ApiKeys(store).create(KeySettings("editor"))
        settings = folder / "gateway.toml"
        settings.write_text(
            f'[[models]]\nid = "tiny"\nsource = "{tiny_folder}"\n[[models]]\nid = "all-MiniLM-L6-v2"\n'
            f'source = "all-MiniLM-L6-v2"\n[[models]]\nid = "elsewhere"\n[[models.upstreams]]\n'
            f'urls = ["{other.url}/v1"]\nmodel = "tiny"\n'
        )
        server = stack.enter_context(running_server(store, "--config", str(settings), SECURITY_METRICS_OPEN="true"))
        server.wait_for_log("all-MiniLM-L6-v2 is ready after ")
        _load(server.url, key)  # makes the series of what is refused and missed
        watching = stack.enter_context(running_prometheus(server.url.removeprefix("http://"), folder))
        watching.wait_for("up{job='mlx-gateway'} == 1")
        _load(server.url, key)
        watching.wait_for("rate(vllm:generation_tokens_total{model_name='tiny'}[5m]) > 0")
        watching.wait_for("rate(mlx_gateway_unfinished_requests_total{reason='cancelled'}[5m]) > 0")
        yield watching


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.stem)
def test_every_panel_has_data(prometheus: Prometheus, path: Path) -> None:
    panels = json.loads(path.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    assert expressions
    assert [expression for expression in expressions if not prometheus.query(expression)] == []


def test_every_rule_has_data(prometheus: Prometheus) -> None:
    expressions = [line.split("expr: ")[1] for line in RULES.read_text().splitlines() if "expr: " in line]
    assert expressions
    missing = []
    for expression in expressions:
        asked, cut = COMPARED.subn("", expression)
        assert cut == 1, expression
        asked = re.sub(r'reason=~"[^"]*"', 'reason=~".+"', asked)  # these refusals need an overload
        if not prometheus.query(asked):
            missing.append(asked)
    assert missing == []


def test_rules_are_loaded_and_none_has_an_error(prometheus: Prometheus) -> None:
    assert prometheus.query("up")
    assert not prometheus.query("ALERTS{alertname='GatewayDown'}")
    checked = subprocess.run([program("promtool"), "check", "rules", str(RULES)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_prometheus_keeps_the_colons(prometheus: Prometheus) -> None:
    assert prometheus.query("vllm:num_requests_running")
    assert not prometheus.query("vllm_num_requests_running")
