"""Sessions and priorities as headers tell them."""

from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import Request

from gateway.api.request_origin import request_origin
from gateway.errors import InvalidRequest
from gateway.generation.request import Origin, Priority
from tests.conftest import Server


def origin(hint: str = "", **headers: str) -> Origin:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return request_origin(Request({"type": "http", "headers": raw, "client": ("127.0.0.1", 5000)}), hint)


@pytest.mark.parametrize("name", ["x_session_id", "x_session_affinity", "x_claude_code_session_id", "session_id"])
def test_every_session_header_names_the_session(name: str) -> None:
    assert origin(**{name: "abc"}).session == "abc"


def test_without_one_key_address_and_program_make_the_session() -> None:
    assert origin(user_agent="cline").session == origin(user_agent="cline").session
    assert origin(user_agent="cline").session != origin(user_agent="continue").session
    assert origin(authorization="Bearer a").session != origin(authorization="Bearer b").session
    assert "secret" not in origin(authorization="Bearer secret").session


def test_a_key_is_known_in_either_header() -> None:
    keys = [{"authorization": "Bearer a"}, {"x_api_key": "a"}, {"authorization": "Bearer ", "x_api_key": "a"}]
    assert len({origin(**headers).key for headers in keys}) == 1
    assert origin(x_api_key="a").key != origin(x_api_key="b").key
    assert origin(authorization="Bearer ").key == origin().key != origin(x_api_key="a").key


def test_a_hint_names_the_session_where_no_header_does() -> None:
    assert origin(hint="u1").session == origin(hint="u1").session != origin(hint="u2").session
    assert origin(hint="u1").session != origin(hint="u1", x_api_key="a").session
    assert origin(hint="u1", session_id="abc").session == "abc"


def test_priorities_are_read_and_checked() -> None:
    assert origin().priority is None
    assert origin(x_priority="Background").priority is Priority.BACKGROUND
    with pytest.raises(InvalidRequest, match="interactive, normal, background"):
        origin(x_priority="urgent")


@pytest.fixture
async def client(tiny_server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=tiny_server.url, timeout=120) as client:
        yield client


async def test_an_unknown_priority_is_a_clear_error(client: httpx.AsyncClient) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    good = await client.post("/v1/chat/completions", json=body, headers={"x-priority": "background"})
    bad = await client.post("/v1/chat/completions", json=body, headers={"x-priority": "urgent"})
    assert (good.status_code, bad.status_code) == (200, 400)
    assert bad.json()["error"]["param"] == "x-priority"
