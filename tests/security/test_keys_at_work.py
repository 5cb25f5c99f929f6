"""Keys, scopes, limits and the audit log of a running server."""

import json
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.security.api_keys import KeySettings
from gateway.security.caller import Scope
from tests.security.conftest import Guarded, bearer

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}


@pytest.fixture
async def client(guarded: Guarded) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=guarded.url, timeout=60) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("POST", "/v1/chat/completions", Scope.INFERENCE),
        ("GET", "/v1/models", Scope.INFERENCE),
        ("GET", "/api/tags", Scope.INFERENCE),
        ("GET", "/metrics", Scope.METRICS),
        ("GET", "/admin/models", Scope.ADMIN),
        ("GET", "/admin/keys", Scope.ADMIN),
        ("GET", "/running", Scope.ADMIN),
        ("POST", "/admin/uploads", Scope.ADMIN),
        ("POST", "/admin/imports", Scope.ADMIN),
    ],
)
async def test_every_path_needs_a_key_with_its_scope(
    client: httpx.AsyncClient, guarded: Guarded, method: str, path: str, needed: Scope
) -> None:
    nobody = await client.request(method, path, json=CHAT)
    assert (nobody.status_code, nobody.headers["www-authenticate"]) == (401, "Bearer")
    wrong = await client.request(method, path, json=CHAT, headers=bearer("mlxgw-wrong"))
    assert wrong.status_code == 401
    for scope in Scope:
        headers = bearer(getattr(guarded, scope.value))
        status = (await client.request(method, path, json=CHAT, headers=headers)).status_code
        if scope in (needed, Scope.ADMIN):
            assert status in (200, 400)  # let in; the body is not always what the path wants
        else:
            assert status == 403


@pytest.mark.parametrize("path", ["/", "/health/live", "/health/ready"])
async def test_health_stays_open(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 200


async def test_errors_have_their_protocols_shape(client: httpx.AsyncClient, guarded: Guarded) -> None:
    openai = (await client.post("/v1/chat/completions", json=CHAT)).json()["error"]
    assert (openai["code"], openai["type"]) == ("invalid_api_key", "invalid_request_error")
    anthropic = (await client.post("/v1/messages", json=CHAT)).json()
    assert (anthropic["type"], anthropic["error"]["type"]) == ("error", "authentication_error")
    assert isinstance((await client.post("/api/chat", json=CHAT)).json()["error"], str)
    as_anthropic = await client.post("/v1/messages", json=CHAT, headers={"x-api-key": guarded.inference})
    assert as_anthropic.status_code == 200


async def test_a_model_off_the_list_does_not_exist(client: httpx.AsyncClient, guarded: Guarded) -> None:
    other = guarded.make(KeySettings("other-model", models=("other",)))
    assert (await client.get("/v1/models", headers=other)).json()["data"] == []
    assert (await client.get("/api/tags", headers=other)).json()["models"] == []
    assert (await client.get("/v1/models/tiny", headers=other)).status_code == 404
    paths = ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/api/chat", "/v1/tokenize", "/v1/completions"]
    for path in paths:
        refused = await client.post(path, json=CHAT | {"input": "a", "prompt": "a"}, headers=other)
        assert refused.status_code == 404
        assert "Known models: none" in refused.text
    repeated = json.dumps(CHAT)[:-1] + ', "model": "other"}'
    assert (await client.post(paths[0], content=repeated, headers=other)).status_code == 404
    own = guarded.make(KeySettings("own-model", models=("tiny",)))
    assert [model["id"] for model in (await client.get("/v1/models", headers=own)).json()["data"]] == ["tiny"]
    for path in ("/v1/chat/completions", "/api/chat"):
        assert (await client.post(path, json=CHAT | {"stream": False}, headers=own)).status_code == 200
    assert (await client.post("/api/show", json={"model": "tiny:latest"}, headers=own)).status_code == 200


async def test_requests_a_minute_are_counted_and_told(client: httpx.AsyncClient, guarded: Guarded) -> None:
    headers = guarded.make(KeySettings("two-a-minute", requests_per_minute=2))
    answers = [await client.post("/v1/chat/completions", json=CHAT, headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30
    assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"


async def test_tokens_are_charged_as_they_were_used(client: httpx.AsyncClient, guarded: Guarded) -> None:
    headers = guarded.make(KeySettings("tokens", tokens_per_day=100_000))
    answer = await client.post("/v1/chat/completions", json=CHAT, headers=headers)
    used = answer.json()["usage"]["total_tokens"]
    after = await client.get("/v1/models", headers=headers)
    assert int(after.headers["x-ratelimit-limit-tokens"]) == 100_000
    assert 0 <= int(after.headers["x-ratelimit-remaining-tokens"]) - (100_000 - used) <= 20  # what refilled meanwhile
    metrics = (await client.get("/metrics", headers=bearer(guarded.metrics))).text
    assert f'mlx_gateway_key_tokens_total{{key="tokens"}} {float(used)}' in metrics
    assert 'mlx_gateway_key_requests_total{key="tokens"} 2.0' in metrics


async def test_an_expired_key_is_refused(client: httpx.AsyncClient, guarded: Guarded) -> None:
    headers = guarded.make(KeySettings("short-lived", expires_at=time.time() + 0.3))
    while (answer := await client.get("/v1/models", headers=headers)).status_code == 200:
        pass
    assert "expired" in answer.json()["error"]["message"]


async def test_keys_are_made_listed_and_revoked(client: httpx.AsyncClient, guarded: Guarded) -> None:
    admin = bearer(guarded.admin)
    made = await client.post("/admin/keys", json={"name": "made", "tokens_per_day": 9}, headers=admin)
    assert made.status_code == 201
    key, key_id = made.json()["key"], made.json()["id"]
    assert made.json()["limits"]["tokens_per_day"] == 9
    again = await client.post("/admin/keys", json={"name": "made"}, headers=admin)
    assert again.status_code == 400
    listed = (await client.get("/admin/keys", headers=admin)).json()["data"]
    assert key_id in [each["id"] for each in listed]
    assert "key" not in listed[0]
    assert (await client.get("/v1/models", headers=bearer(key))).status_code == 200
    assert (await client.delete(f"/admin/keys/{key_id}", headers=admin)).status_code == 200
    assert (await client.get("/v1/models", headers=bearer(key))).status_code == 401
    assert (await client.delete(f"/admin/keys/{key_id}", headers=admin)).status_code == 404
    tried = await client.post("/admin/keys", json={"name": "own"}, headers=bearer(guarded.inference))
    assert tried.status_code == 403
    audit = (await client.get("/admin/audit?limit=5", headers=admin)).json()["data"]
    told = [(line["key_name"], line["action"], line["target"], line["outcome"]) for line in audit]
    assert told == [
        ("inference", "POST", "/admin/keys", 403),
        ("admin", "DELETE", f"/admin/keys/{key_id}", 404),
        ("admin", "DELETE", f"/admin/keys/{key_id}", 200),
        ("admin", "POST", "/admin/keys", 400),
        ("admin", "POST", "/admin/keys", 201),
    ]
    kept = (guarded.store / "audit.jsonl").read_text() + (guarded.store / "keys.json").read_text()
    assert key not in kept + guarded.server.log
    assert guarded.admin not in kept + guarded.server.log


async def test_foreign_names_and_pages_are_refused(client: httpx.AsyncClient, guarded: Guarded) -> None:
    rebound = await client.get("/health/live", headers={"host": "evil.example"})
    assert rebound.status_code == 421
    page = await client.get("/health/live", headers={"origin": "https://evil.example"})
    assert page.status_code == 403
    proved = await client.get("/v1/models", headers=bearer(guarded.inference) | {"host": "box.example"})
    assert proved.status_code == 200
    preflight = await client.options(
        "/v1/models", headers={"origin": "https://evil.example", "access-control-request-method": "GET"}
    )
    assert "access-control-allow-origin" not in preflight.headers


async def test_an_import_stays_within_the_uploads(client: httpx.AsyncClient, guarded: Guarded) -> None:
    for key, status in ((guarded.inference, 403), (guarded.admin, 400)):
        for name in ("../../escape.gguf", "/etc/escape.gguf"):
            answer = await client.post("/admin/uploads", json={"name": name, "size_bytes": 4}, headers=bearer(key))
            assert answer.status_code == status
    assert not list(guarded.store.parent.rglob("escape*"))
