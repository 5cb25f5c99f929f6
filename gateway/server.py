"""The HTTP server around the app: sockets, signals and an orderly end."""

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from gateway.app import App
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.hardware.blas import Blas
from gateway.observability.config_changes import log_changes
from gateway.observability.log_book import LogBook
from gateway.security.impatient_protocol import ImpatientProtocol

log = logging.getLogger(__name__)

BACKLOG = 2048
"""Connections the kernel holds while the event loop is busy; a thousand clients may come at once."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; clients that connect from now on are answered once the server runs."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"{host}:{port} is in use; stop the other server or choose another --port.") from error
        raise ConfigError(f"Cannot listen on {host}:{port}: {error.strerror}") from error


class GatewayServer:
    """Runs until SIGINT or SIGTERM, then lets running requests finish for `shutdown_grace_seconds`.

    At SIGHUP the configuration is read again, by `read_config`; one that is not valid changes nothing.
    """

    def __init__(self, config: Config, blas: Blas, logs: LogBook, read_config: Callable[[], Config]) -> None:
        self._config = config
        self._logs = logs
        self._read_config = read_config
        self._blas = blas

    async def run(self, sockets: list[socket.socket]) -> None:
        app = App(self._config, self._blas, self._logs)
        protocol = type("Protocol", (ImpatientProtocol,), {"limits": self._config.security})
        tls = self._config.server
        server = _DrainingServer(
            uvicorn.Config(
                app.asgi,
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                ssl_certfile=tls.tls_certificate or None,
                ssl_keyfile=tls.tls_key or None,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=5,
            ),
            app,
            self._config.server.shutdown_grace_seconds,
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload, app)
        with server.capture_signals():
            host, port = sockets[0].getsockname()[:2]
            scheme = "https" if tls.tls_certificate else "http"
            log.info("listening on %s://%s:%d/v1", scheme, f"[{host}]" if ":" in host else host, port)
            async with app.running():
                await server.serve(sockets)

    def _reload(self, app: App) -> None:
        try:
            config = self._read_config()
        except ConfigError as error:
            log.error("the configuration stays as it was: %s", error)
            return
        log_changes(self._config, config)
        logging.getLogger().setLevel(config.log.level.upper())
        app.reconfigure(config)
        self._config = config


class _DrainingServer(uvicorn.Server):
    """uvicorn, but the process ends with status 0 on a signal, and running requests are told when their time is up."""

    def __init__(self, config: uvicorn.Config, app: App, grace_seconds: float) -> None:
        super().__init__(config)
        self._app = app
        self._grace_seconds = grace_seconds

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike upstream's, does not raise the signal again at the end, which would skip every exit handler."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second signal ends the grace period."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.refuse_requests()
        log.info("stopping; running requests have %.0f s", self._grace_seconds)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._grace_seconds
        while self._busy() and not self.force_exit and loop.time() < deadline:  # noqa: ASYNC110  (uvicorn has no event)
            await asyncio.sleep(0.05)
        self._app.stop_generating()
        await super().shutdown(sockets)
        log.info("stopped")

    def _busy(self) -> bool:
        return bool(self.server_state.tasks)
