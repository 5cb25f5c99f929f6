"""How commands ask a server that is running."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from gateway.commands.configuration import add_config_options, configuration
from gateway.errors import GatewayError

LONGEST_LOAD_SECONDS = 3600.0


class ServerRefused(GatewayError):
    """The server said no, or is not there."""


def add_server_options(parser: argparse.ArgumentParser) -> None:
    add_config_options(parser)
    parser.add_argument("--url", help="of the running server (default: server.host and server.port)")


@contextmanager
def server(options: argparse.Namespace) -> Iterator["ServerClient"]:
    url = options.url
    if not url:
        config = configuration(options).server
        url = f"http://{f'[{config.host}]' if ':' in config.host else config.host}:{config.port}"
    with httpx.Client(base_url=url, timeout=LONGEST_LOAD_SECONDS, trust_env=False) as client:
        yield ServerClient(client)


class ServerClient:
    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The answer's JSON. Raises `ServerRefused` with what the server says."""
        try:
            response = self._client.request(method, path, json=body)
        except httpx.TransportError as error:
            raise ServerRefused(
                f"No server answers at {self._client.base_url} ({error}). Start one with `mlx-gateway serve`, or "
                "name it by --url."
            ) from error
        if response.is_success:
            return response.json()
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = response.text[:200]
        raise ServerRefused(message)
