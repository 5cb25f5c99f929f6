"""Reads a stream as bytes on the wire: comments, data and the order they came in."""

import json
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class Stream:
    status: int
    comments: int = 0
    data: list[Any] = field(default_factory=list)
    first: str = ""
    ended_with_done: bool = False

    @property
    def text(self) -> str:
        return "".join(c["delta"].get("content", "") for chunk in self.chunks for c in chunk["choices"])

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return [entry for entry in self.data if "choices" in entry]

    @property
    def errors(self) -> list[dict[str, Any]]:
        return [entry["error"] for entry in self.data if "error" in entry]


async def read_stream(client: httpx.AsyncClient, body: dict[str, Any]) -> Stream:
    async with client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as response:
        stream = Stream(response.status_code)
        async for line in response.aiter_lines():
            stream.first = stream.first or line
            if line.startswith(":"):
                stream.comments += 1
            elif line == "data: [DONE]":
                stream.ended_with_done = True
            elif line.startswith("data: "):
                assert not stream.ended_with_done, "data after the end marker"
                stream.data.append(json.loads(line.removeprefix("data: ")))
            else:
                assert line == "", line
        return stream
