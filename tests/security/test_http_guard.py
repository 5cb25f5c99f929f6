"""Who is let in, by headers and path."""

import pytest

from gateway.security.caller import Scope
from gateway.security.http_guard import credential, estimated_tokens, host_is_ours, is_foreign_page, needed_scope


def raw(**headers: str) -> list[tuple[bytes, bytes]]:
    return [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"authorization": "Bearer abc"}, "abc"),
        ({"authorization": "bearer  abc "}, "abc"),
        ({"authorization": "Bearer", "x_api_key": "abc"}, "abc"),
        ({"authorization": "Bearer ", "x_api_key": "abc"}, "abc"),
        ({"authorization": "Basic abc"}, ""),
        ({"authorization": "Bearerabc"}, ""),
        ({}, ""),
    ],
)
def test_credentials(headers: dict[str, str], key: str) -> None:
    assert credential(raw(**headers)) == key


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/", None),
        ("/health/live", None),
        ("/health/ready", None),
        ("/metrics", Scope.METRICS),
        ("/metrics/", Scope.INFERENCE),
        ("/admin/keys", Scope.ADMIN),
        ("/admin/", None),
        ("/admin/ui/app.js", None),
        ("/admin/ui/../keys", Scope.ADMIN),
        ("/v1/models", Scope.INFERENCE),
        ("//health/live", Scope.INFERENCE),
        ("/unknown", Scope.INFERENCE),
    ],
)
def test_paths_need_scopes(path: str, scope: Scope | None) -> None:
    assert needed_scope("GET", path) is scope


def test_only_looking_at_the_page_is_open() -> None:
    assert needed_scope("POST", "/admin/") is Scope.ADMIN


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "[::1]:8080", "192.168.1.2", "box.lan"]
)
def test_own_hosts(host: str) -> None:
    assert host_is_ours([host], ["Box.lan"])


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[::1", "", "a b", "x@localhost.evil"]
)
def test_foreign_hosts(host: str) -> None:
    assert not host_is_ours([host], ["box.lan"])
    assert host_is_ours([host], ["*"])


def test_no_host_is_no_browser_and_two_are_a_trick() -> None:
    assert host_is_ours([], [])
    assert not host_is_ours(["localhost", "evil.example"], [])


def test_pages() -> None:
    own = {"host": "localhost:8080"}
    assert not is_foreign_page(raw(**own), [])
    assert not is_foreign_page(raw(**own, origin="http://localhost:8080", sec_fetch_site="same-origin"), [])
    for origin in ("http://evil.example", "null", "http://localhost:3000", "http://["):
        assert is_foreign_page(raw(**own, origin=origin), [])
    assert is_foreign_page(raw(**own, sec_fetch_site="cross-site"), [])
    assert not is_foreign_page(
        raw(**own, origin="https://a.example", sec_fetch_site="cross-site"), ["https://a.example"]
    )


@pytest.mark.parametrize(("length", "tokens"), [("400", 100), ("", 0), ("-4", 0), ("9" * 30, 0), ("٤", 0)])
def test_estimates(length: str, tokens: int) -> None:
    assert estimated_tokens([(b"content-length", length.encode())]) == tokens
