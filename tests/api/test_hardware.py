"""What the server does when memory is short, with a pressure file that the test writes."""

from pathlib import Path

import httpx

from tests.conftest import StartServer
from tests.hardware.test_pressure import psi

SHORT = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
LONG = SHORT | {"messages": [{"role": "user", "content": "word " * 300}]}


async def test_pressure_is_reacted_to_and_all_is_well_afterwards(
    start_server: StartServer, tiny_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "memory.pressure"
    file.write_text(psi(0))
    server = start_server(
        "--model",
        str(tiny_folder),
        HARDWARE_PRESSURE_FILE=str(file),
        HARDWARE_PRESSURE_CHECK_SECONDS="0.05",
        HARDWARE_PRESSURE_STEP_SECONDS="0.1",
        HARDWARE_PRESSURE_CALM_SECONDS="0.1",
        HARDWARE_PRESSURE_LONG_TOKENS="200",
    )
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        assert (await client.post("/v1/chat/completions", json=LONG)).status_code == 200
        hardware = (await client.get("/admin/hardware")).json()
        assert hardware["memory_pressure"] == "normal"
        assert hardware["reactions"] == []
        assert hardware["memory_bytes"] > 0
        assert hardware["chip"]

        file.write_text(psi(90))
        server.wait_for_log("tiny was evicted: memory")
        hardware = (await client.get("/admin/hardware")).json()
        assert hardware["memory_pressure"] == "critical"
        assert hardware["reactions"] == ["trim_prefixes", "refuse_long", "evict_idle"]
        refused = await client.post("/v1/chat/completions", json=LONG)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "memory_pressure"
        assert int(refused.headers["retry-after"]) > 0
        assert (await client.post("/v1/chat/completions", json=SHORT)).status_code == 200
        figures = (await client.get("/metrics")).text
        assert "mlx_gateway_memory_pressure 2.0" in figures
        assert 'mlx_gateway_pressure_reactions_total{reaction="evict_idle"} 1.0' in figures

        file.write_text(psi(0))
        server.wait_for_log("no more trim_prefixes")
        assert (await client.get("/admin/hardware")).json()["reactions"] == []
        assert (await client.post("/v1/chat/completions", json=LONG)).status_code == 200
