"""A server of several models that generate text."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import Server, StartServer


async def test_each_model_answers_as_it_does_alone(
    start_server: StartServer, tiny_server: Server, tiny_folder: Path, tmp_path: Path
) -> None:
    """At the same time: here two of one kind, so that their answers must be the same."""
    twin = shutil.copytree(tiny_folder, tmp_path / "twin")
    server = start_server("--model", str(tiny_folder), "--model", str(twin))
    async with httpx.AsyncClient(timeout=60) as client:

        async def answer(url: str, model: str) -> str:
            body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
            response = await client.post(f"{url}/v1/chat/completions", json=body | {"temperature": 0, "max_tokens": 30})
            text: str = response.json()["choices"][0]["message"]["content"]
            return text

        alone = await answer(tiny_server.url, "tiny")
        assert set(await asyncio.gather(answer(server.url, "tiny"), answer(server.url, "twin"))) == {alone}
        listed = (await client.get(f"{server.url}/v1/models")).json()["data"]
        assert [model["id"] for model in listed] == ["tiny", "twin"]
        assert (await client.get(f"{server.url}/health/ready")).json()["ready"]


def test_two_models_of_one_name_are_refused(demo_store: Path, tiny_folder: Path) -> None:
    server = Server(demo_store, "--model", str(tiny_folder), "--model", f"{tiny_folder}/.")
    try:
        assert server.process.wait(timeout=60) == 2
        server.wait_for_log("Two models are called 'tiny'")
    finally:
        server.kill()
