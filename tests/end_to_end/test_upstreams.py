"""One gateway before two real servers."""

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from loadtests.servers import mlx_lm_server
from loadtests.streaming_client import ChatRequest, ChatStream, Message
from tests.api.test_disconnect import metric, until
from tests.conftest import Server, StartServer, running_server

STREAMS = 6


def write_configuration(folder: Path, *upstreams: tuple[str, str]) -> str:
    """Of a model `big` at these URLs, where it has these names."""
    groups = [
        f'[[models.upstreams]]\nurls = ["{url}/v1"]\nmodel = "{model}"\ncheck_seconds = 0.2\n'
        for url, model in upstreams
    ]
    file = folder / "config.toml"
    file.write_text('[[models]]\nid = "big"\n' + "".join(groups))
    return str(file)


def question(number: int) -> list[Message]:
    return [Message("user", f"{number} Hello")]


async def answers(client: httpx.AsyncClient, model: str, numbers: range, max_tokens: int) -> list[ChatStream]:
    """Streams that end in their own time."""
    streams = [ChatStream() for _ in numbers]
    async with asyncio.TaskGroup() as group:
        for number, stream in zip(numbers, streams, strict=True):
            group.create_task(stream.receive(client, ChatRequest(model, question(number), max_tokens)))
    return streams


async def test_a_server_that_is_killed_takes_only_its_own_streams_with_it(
    demo_store: Path, tiny_folder: Path, tiny_server: Server, start_server: StartServer, tmp_path: Path
) -> None:
    """What it had begun ends with an error; all else is answered as ever, and when it is back it gets its share."""
    mortal = Server(demo_store, "--model", str(tiny_folder))
    with ExitStack() as cleaning:
        cleaning.callback(mortal.kill)
        file = write_configuration(tmp_path, (mortal.url, "tiny"), (tiny_server.url, "tiny"))
        for server in (mortal, tiny_server):
            server.wait_for_log(" is ready after ")
        gateway = start_server("--config", file, ready=False)
        async with (
            httpx.AsyncClient(base_url=gateway.url, timeout=60, limits=httpx.Limits()) as client,
            httpx.AsyncClient(base_url=tiny_server.url, timeout=60, limits=httpx.Limits()) as direct,
        ):
            alone = await answers(direct, "tiny", range(STREAMS), 200)
            streams = [ChatStream() for _ in range(STREAMS)]
            async with asyncio.TaskGroup() as group:
                for number, stream in enumerate(streams):
                    group.create_task(stream.receive(client, ChatRequest("big", question(number), 200)))
                await asyncio.gather(*(stream.under_way.wait() for stream in streams))
                theirs = await outstanding(client, mortal)
                mortal.kill()
                after = await answers(client, "big", range(STREAMS, 2 * STREAMS), 3)
            assert 0 < theirs < STREAMS
            lost = [stream for stream in streams if stream.error_code]
            assert 0 < len(lost) <= theirs
            assert {stream.error_code for stream in lost} == {"upstream_failed"}
            assert all(stream.done for stream in streams)
            assert all(s.text == a.text for s, a in zip(streams, alone, strict=True) if not s.error_code)
            assert all(a.text.startswith(s.text) for s, a in zip(streams, alone, strict=True))
            assert [stream.error_code for stream in after] == [None] * STREAMS
            assert all(stream.tokens == 3 for stream in after)

            port = mortal.url.rsplit(":", 1)[1]
            cleaning.enter_context(running_server(demo_store, "--model", str(tiny_folder), "--port", port))

            async def both_are_up() -> bool:
                return await metric(client, "mlx_gateway_upstream_up{") == 2

            await until(both_are_up)
            before = await metric(client, requests_of(mortal))
            await answers(client, "big", range(STREAMS), 3)
            assert await metric(client, requests_of(mortal)) > before


def requests_of(server: Server) -> str:
    return f'mlx_gateway_upstream_requests_total{{model_name="big",upstream="{server.url.partition("://")[2]}/v1"}}'


async def outstanding(client: httpx.AsyncClient, server: Server) -> int:
    (model,) = (await client.get("/admin/upstreams")).json()["models"]
    counts: dict[str, int] = {one["url"]: one["outstanding"] for one in model["servers"]}
    return counts[f"{server.url}/v1"]


async def test_an_mlx_lm_server_that_is_killed_is_known_to_have_broken_off(
    demo_store: Path, tiny_folder: Path, start_server: StartServer, tmp_path: Path
) -> None:
    """It ends its streams with the connection, so that being killed looks like an end."""
    async with mlx_lm_server(tiny_folder, demo_store) as upstream:
        url = upstream.base_url
        gateway = start_server("--config", write_configuration(tmp_path, (url, upstream.model)), ready=False)
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
            (whole,) = await answers(client, "big", range(1), 5)
            assert (whole.done, whole.error_code) == (True, None)
            stream = ChatStream()
            async with asyncio.TaskGroup() as group:
                group.create_task(stream.receive(client, ChatRequest("big", question(0), 400)))
                await stream.under_way.wait()
                await upstream.kill()
            assert (stream.done, stream.error_code) == (True, "upstream_failed")
            answer = await client.post("/v1/chat/completions", json={"model": "big", "messages": []})
            assert answer.status_code in (502, 503)


@pytest.fixture
def gateway(start_server: StartServer, tiny_server: Server, tmp_path: Path) -> Server:
    return start_server("--config", write_configuration(tmp_path, (tiny_server.url, "tiny")), ready=False)


def test_the_official_clients_get_what_the_server_itself_gives(gateway: Server, tiny_server: Server) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client,
        openai.OpenAI(base_url=f"{tiny_server.url}/v1", api_key="none", max_retries=0) as direct,
    ):
        there = direct.chat.completions.create(model="tiny", temperature=0, **asked)
        here = client.chat.completions.create(model="big", temperature=0, **asked)
        assert here.choices == there.choices
        assert here.model == "big"
        answer = client.responses.create(model="big", input="Hello", max_output_tokens=8, temperature=0)
        assert (answer.model, answer.status) == ("big", "incomplete")
        assert [model.id for model in client.models.list()] == ["big"]
        with pytest.raises(openai.BadRequestError, match="max_tokens"):
            client.chat.completions.create(model="big", messages=asked["messages"], max_tokens=-1)
    with anthropic.Anthropic(base_url=gateway.url, api_key="none", max_retries=0) as messages:
        with messages.messages.stream(model="big", extra_body={"temperature": 0}, **asked) as stream:
            message = stream.get_final_message()
        assert message.content[0].to_dict()["text"] == here.choices[0].message.content
        assert message.model == "big"
