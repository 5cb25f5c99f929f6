"""The admin page's files, and what runs and can be ended."""

import httpx
import pytest

from tests.conftest import Server, StartServer


async def test_the_page_comes_with_a_strict_policy(client: httpx.AsyncClient) -> None:
    page = await client.get("/admin/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<style" not in page.text
    assert "<script>" not in page.text


async def test_what_the_browser_has_is_not_sent_again(client: httpx.AsyncClient) -> None:
    first = await client.get("/admin/ui/page.js")
    assert first.headers["content-type"] == "text/javascript; charset=utf-8"
    again = await client.get("/admin/ui/page.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "name", ["../pyproject.toml", "%2e%2e/pyproject.toml", "..%2fapp.py", "vendor/README.md", "no.js"]
)
async def test_no_other_file_is_reached(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.get(f"/admin/ui/{name}")).status_code == 404


async def test_a_running_request_is_shown_and_can_be_ended(client: httpx.AsyncClient) -> None:
    body = {"model": "tiny", "stream": True, "max_tokens": 1900, "messages": [{"role": "user", "content": "Go on."}]}
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.aiter_lines()
        while '"content":"' not in (line := await anext(lines)) or '"content":""' in line:
            pass
        request_id = answer.headers["x-request-id"]
        [shown] = [one for one in (await client.get("/admin/requests")).json()["data"] if one["id"] == request_id]
        assert (shown["model"], shown["state"], shown["class"]) == ("tiny", "decode", "normal")
        assert shown["generated_tokens"] > 0
        assert (await client.post(f"/admin/requests/{request_id}/cancel")).status_code == 202
        rest = [line async for line in lines]
    assert any("request_cancelled" in line for line in rest)
    assert all(one["id"] != request_id for one in (await client.get("/admin/requests")).json()["data"])
    assert (await client.post(f"/admin/requests/{request_id}/cancel")).status_code == 404


async def test_web_pages_of_others_see_no_requests(client: httpx.AsyncClient) -> None:
    answer = await client.get("/admin/requests", headers={"origin": "http://elsewhere.example"})
    assert answer.status_code == 403


def test_the_page_knows_where_grafana_is(start_server: StartServer, tiny_folder: object) -> None:
    server: Server = start_server("--model", str(tiny_folder), SERVER_GRAFANA_URL="http://grafana.example/d/1")
    assert httpx.get(f"{server.url}/admin/settings").json() == {"grafana_url": "http://grafana.example/d/1"}
