"""How commands ask a server that is running."""

import argparse
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from gateway.commands.configuration import add_config_options, configuration
from gateway.config import client_key
from gateway.errors import GatewayError

LONGEST_LOAD_SECONDS = 3600.0


class ServerRefused(GatewayError):
    """The server said no, or is not there."""


def add_server_options(parser: argparse.ArgumentParser) -> None:
    add_config_options(parser)
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="with the API key (default: MLX_GATEWAY_KEY)")
    parser.add_argument("--certificate", metavar="FILE", help="to trust (PEM), for a server whose own made it")
    parser.add_argument("--url", help="of the running server (default: server.host and server.port)")


@contextmanager
def server(options: argparse.Namespace) -> Iterator["ServerClient"]:
    url = options.url
    if not url:
        config = configuration(options).server
        scheme = "https" if config.tls_certificate else "http"
        url = f"{scheme}://{f'[{config.host}]' if ':' in config.host else config.host}:{config.port}"
    key = client_key(options.key_file)
    verify = ssl.create_default_context(cafile=options.certificate) if options.certificate else True
    with httpx.Client(
        base_url=url,
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=LONGEST_LOAD_SECONDS,
        trust_env=False,
        verify=verify,
    ) as client:
        yield ServerClient(client)


class ServerClient:
    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def ask(self, method: str, path: str, body: object = None, params: dict[str, str] | None = None) -> Any:
        """The answer's JSON. Raises `ServerRefused` with what the server says."""
        try:
            response = self._client.request(method, path, json=body, params=params)
        except httpx.TransportError as error:
            raise ServerRefused(
                f"No server answers at {self._client.base_url} ({error}). Start one with `mlx-gateway serve`, or "
                "name it by --url."
            ) from error
        if response.is_success:
            return response.json()
        raise _refused(response)

    def events(self, path: str, params: dict[str, str]) -> Iterator[str]:
        """The data of server-sent events, until the server ends them. Raises `ServerRefused`."""
        try:
            with self._client.stream("GET", path, params=params) as response:
                if not response.is_success:
                    response.read()
                    raise _refused(response)
                for line in response.iter_lines():
                    if line.startswith("data: "):
                        yield line.removeprefix("data: ")
        except httpx.TransportError as error:
            raise ServerRefused(
                f"The server at {self._client.base_url} is gone or was never there: {error}."
            ) from error


def _refused(response: httpx.Response) -> ServerRefused:
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text[:200]
    return ServerRefused(message)
