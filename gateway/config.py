"""One frozen `Config` from a TOML file, the environment and command-line flags.

Later sources win: code defaults, then `tuned.toml` (see `tuned_file`), then the TOML file, then
`MLX_GATEWAY_<SECTION>_<KEY>` variables, then flags.
This is the only module that reads the environment. `config.example.toml` documents every key.
"""

import os
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from gateway.errors import ConfigError

ENVIRONMENT_PREFIX = "MLX_GATEWAY_"
CLIENT_KEY = "MLX_GATEWAY_KEY"
"""What commands prove themselves with to a running server; no setting."""

KUBERNETES_SERVICE = re.compile(r"MLX_GATEWAY_(SERVICE_|PORT($|_))")
"""Set in every container beside a service named mlx-gateway; not ours."""

QUANTIZE = r"^(auto|([234568]|mixed_(2_6|3_4|3_6|4_6))(:(32|64|128))?)?$"
"""See `model_store.quantization_recipe`."""
HEADER_VALUE = re.compile(r"[\x20-\x7e]*")

Count = Annotated[int, Meta(ge=0)]
PositiveCount = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]
PositiveSeconds = Annotated[float, Meta(gt=0)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A TOML table: every field has a default, and an unknown key is an error."""


class ServerConfig(Section, frozen=True):
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    allow_open_network: bool = False
    max_body_bytes: PositiveCount = 32 * 1024 * 1024
    first_event_seconds: Seconds = 5.0
    keep_alive_seconds: PositiveSeconds = 5.0
    send_timeout_seconds: PositiveSeconds = 60.0
    shutdown_grace_seconds: Seconds = 10.0
    grafana_url: str = ""
    tls_certificate: str = ""
    tls_key: str = ""


class SecurityConfig(Section, frozen=True):
    require_keys: Literal["auto", "always"] = "auto"
    metrics_open: bool = False
    allowed_hosts: list[str] = []
    allowed_origins: list[str] = []
    max_header_bytes: Annotated[int, Meta(ge=1024)] = 32 * 1024
    header_seconds: PositiveSeconds = 10.0
    body_seconds: PositiveSeconds = 30.0


class SamplingDefaults(Section, frozen=True):
    """What a request means that does not say; None leaves it to the protocol."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Count | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=10)] | None = None


class UpstreamConfig(Section, frozen=True):
    """Servers that are reached in the same way. `key` and `headers` hold the secrets themselves once it is loaded."""

    urls: list[str] = []
    model: str = ""
    key: str = ""
    headers: dict[str, str] = {}
    max_concurrent: Count = 0
    connect_seconds: PositiveSeconds = 5.0
    first_byte_seconds: PositiveSeconds = 600.0
    silence_seconds: PositiveSeconds = 120.0
    check_seconds: PositiveSeconds = 10.0


class ModelConfig(Section, frozen=True):
    source: str = ""
    id: str = ""
    aliases: list[str] = []
    context_tokens: Count = 0
    adapters: list[str] = []
    load: Literal["start", "demand"] = "start"
    pinned: bool = False
    idle_seconds: Seconds = 0.0
    max_concurrent: Count = 0
    priority: Literal["", "interactive", "normal", "background"] = ""
    sampling: SamplingDefaults = SamplingDefaults()
    trusted: bool = False
    quantize: Annotated[str, Meta(pattern=QUANTIZE)] = ""
    upstreams: list[str | UpstreamConfig] = []

    @property
    def upstream_groups(self) -> list[UpstreamConfig]:
        """A URL alone stands for a group with nothing else said of it."""
        return [UpstreamConfig([one]) if isinstance(one, str) else one for one in self.upstreams]


CHANGEABLE = ("context_tokens", "pinned", "idle_seconds", "max_concurrent", "priority", "sampling")
"""Options that have an effect while the server runs. Others say what the model is, or how it comes into memory."""


class PoolConfig(Section, frozen=True):
    turn_seconds: Seconds = 10.0
    restore: bool = True
    serve_stored: bool = True
    preload: bool = True


class EngineConfig(Section, frozen=True):
    max_running: PositiveCount = 16
    max_waiting: Count = 1024
    prefill_chunk_tokens: Count = 0
    min_chunk_tokens: PositiveCount = 8
    stall_budget: Annotated[float, Meta(ge=1)] = 5.0
    ageing_seconds: PositiveSeconds = 10.0
    interactive_tokens: Count = 64
    expected_answer_tokens: PositiveCount = 1024
    speculation: bool = True
    kv_bits: Literal[0, 4, 8] = 0
    restart: bool = True


class CacheConfig(Section, frozen=True):
    enabled: bool = True
    ram_bytes: Count = 0
    directory: str = ""
    disk_bytes: Count = 20 * 2**30
    disk_free_bytes: Count = 10 * 2**30
    encrypt: bool = False
    key_file: str = ""


class HardwareConfig(Section, frozen=True):
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    blas: str = "auto"
    blas_threads: Count = 0
    memory_bytes: Count = 0
    memory_fraction: Annotated[float, Meta(gt=0, le=1)] = 0.7
    pressure: Literal["auto", "off"] = "auto"
    pressure_check_seconds: PositiveSeconds = 2.0
    pressure_warning_percent: Annotated[float, Meta(gt=0, le=100)] = 10.0
    pressure_critical_percent: Annotated[float, Meta(gt=0, le=100)] = 40.0
    pressure_step_seconds: Seconds = 10.0
    pressure_calm_seconds: Seconds = 30.0
    pressure_long_tokens: PositiveCount = 4096
    pressure_file: str = ""


class StoreConfig(Section, frozen=True):
    directory: str = ""


class DownloadsConfig(Section, frozen=True):
    endpoint: str = ""
    token_file: str = ""
    allow: list[str] = msgspec.field(default_factory=lambda: ["*"])
    offline: bool = False
    max_at_once: PositiveCount = 2
    bytes_per_second: Count = 0
    disk_free_bytes: Count = 2**30
    signer_key: str = ""
    signer_identity: str = ""
    signer_issuer: str = ""


class LogConfig(Section, frozen=True):
    level: Literal["debug", "info", "success", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"
    directory: str = ""
    file_bytes: Annotated[int, Meta(ge=4096)] = 10 * 2**20
    files: Count = 5


class UsageConfig(Section, frozen=True):
    enabled: bool = True
    retention_days: Count = 90


class OtelConfig(Section, frozen=True):
    """`headers` hold the secrets themselves once the configuration is loaded."""

    endpoint: str = ""
    headers: dict[str, str] = {}
    service_name: str = "mlx-gateway"
    sample: Annotated[float, Meta(ge=0, le=1)] = 1.0


class Config(Section, frozen=True):
    """Everything an operator can set; built once by the CLI and passed down by `app.App`."""

    server: ServerConfig = ServerConfig()
    security: SecurityConfig = SecurityConfig()
    model: ModelConfig = ModelConfig()
    models: list[ModelConfig] = []
    pool: PoolConfig = PoolConfig()
    engine: EngineConfig = EngineConfig()
    cache: CacheConfig = CacheConfig()
    hardware: HardwareConfig = HardwareConfig()
    store: StoreConfig = StoreConfig()
    downloads: DownloadsConfig = DownloadsConfig()
    log: LogConfig = LogConfig()
    usage: UsageConfig = UsageConfig()
    otel: OtelConfig = OtelConfig()

    @property
    def offered_models(self) -> list[ModelConfig]:
        """`[model]`, unless only `[[models]]` name any, and those."""
        given = self.model.source or self.model.upstreams or not self.models
        return ([self.model] if given else []) + self.models

    @property
    def store_directory(self) -> Path:
        """Where models are kept: `store.directory`, else the user's cache folder."""
        return Path(self.store.directory).expanduser() if self.store.directory else _user_cache_directory()

    @property
    def log_directory(self) -> Path:
        """Where logs are kept: `log.directory`, else a folder of the store."""
        return Path(self.log.directory).expanduser() if self.log.directory else self.store_directory / "logs"

    @property
    def cache_directory(self) -> Path:
        """Where prefixes are kept: `cache.directory`, else a folder of the store."""
        return Path(self.cache.directory).expanduser() if self.cache.directory else self.store_directory / "prefixes"

    @property
    def cache_key_file(self) -> Path:
        """The key that prefixes on disk are encrypted with: `cache.key_file`, else beside their folder."""
        return Path(self.cache.key_file).expanduser() if self.cache.key_file else self.store_directory / "prefixes.key"


def load_config(
    file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    flags: Mapping[tuple[str, str], Any] | None = None,
    model_sources: Sequence[str] = (),
    tuned: Path | None = None,
) -> Config:
    """Merges all sources into one `Config`.

    `tuned` is a file like `file`, which wins over it; it may be missing. `flags` maps (section, key) to a value already
    of the right type. `model_sources`, if there are any, stand for all models of the other sources. Raises
    `ConfigError` with the key's name and what it accepts.
    """
    tables = _read_toml(file) if file else {}
    if tuned and tuned.exists():
        for name, measured in _read_toml(tuned).items():
            given = tables.get(name, {})
            tables[name] = measured | given if isinstance(measured, dict) and isinstance(given, dict) else given
    try:
        config = msgspec.convert(tables, Config)
        config = _overlay(config, _environment_values(environment), strict=False)
        config = _overlay(config, flags or {}, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"Configuration is not valid: {error}") from error
    config = _with_models(config, model_sources)
    if bool(config.server.tls_certificate) != bool(config.server.tls_key):
        raise ConfigError("server.tls_certificate and server.tls_key are set together or not at all.")
    _check_store(config)
    secrets = {name: _secret(value, environment, f"otel.headers.{name}") for name, value in config.otel.headers.items()}
    config = msgspec.structs.replace(config, otel=msgspec.structs.replace(config.otel, headers=secrets))
    return _with_upstreams(config, environment)


def tuned_file(file: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """Where `mlx-gateway tune` writes: beside the configuration file, else in the user's folder for such files."""
    if file:
        return file.absolute().with_name("tuned.toml")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "mlx-gateway" / "tuned.toml"
    base = environment.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "mlx-gateway" / "tuned.toml"


def client_key(file: Path | None = None, environment: Mapping[str, str] = os.environ) -> str:
    """The API key that commands send: a file's text, else `MLX_GATEWAY_KEY`, else none. Raises `ConfigError`."""
    if file:
        return _secret(f"file:{file}", environment, "--key-file")
    return _secret(f"env:{CLIENT_KEY}", environment, CLIENT_KEY) if CLIENT_KEY in environment else ""


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration file {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error


def _environment_values(environment: Mapping[str, str]) -> dict[tuple[str, str], str]:
    values: dict[tuple[str, str], str] = {}
    for name, value in environment.items():
        if name.startswith(ENVIRONMENT_PREFIX) and name != CLIENT_KEY and not KUBERNETES_SERVICE.match(name):
            section, _, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
            values[section, key] = value
    return values


def _overlay(config: Config, values: Mapping[tuple[str, str], Any], *, strict: bool) -> Config:
    tables = msgspec.to_builtins(config)
    for (section, key), value in values.items():
        if key not in tables.get(section, {}):
            raise ConfigError(f"There is no setting {section}.{key}; config.example.toml lists them all.")
        tables[section][key] = value
    return msgspec.convert(tables, Config, strict=strict)


def _with_models(config: Config, sources: Sequence[str]) -> Config:
    """One source keeps what else is said of `[model]`."""
    match sources:
        case []:
            return config
        case [source]:
            return msgspec.structs.replace(
                config, model=msgspec.structs.replace(config.model, source=source), models=[]
            )
        case _:
            models = [ModelConfig(source=source) for source in sources]
            return msgspec.structs.replace(config, model=ModelConfig(), models=models)


def _with_upstreams(config: Config, environment: Mapping[str, str]) -> Config:
    """Checks all upstreams and puts secrets where the file says where they are."""

    def checked(model: ModelConfig, where: str) -> ModelConfig:
        if not model.upstreams:
            return model
        if model.source or not model.id:
            raise ConfigError(f"{where}: a model with `upstreams` needs an `id`, and has no `source`.")
        groups = [
            _checked_group(group, environment, f"{where}.upstreams[{index}]")
            for index, group in enumerate(model.upstream_groups)
        ]
        servers = [url.partition("://")[2] for group in groups for url in group.urls]
        if len(servers) > len(set(servers)):
            raise ConfigError(f"{where}.upstreams names a server twice; list each URL once.")
        return msgspec.structs.replace(model, upstreams=groups)

    models = [checked(model, f"models[{index}]") for index, model in enumerate(config.models)]
    return msgspec.structs.replace(config, model=checked(config.model, "model"), models=models)


def _checked_group(group: UpstreamConfig, environment: Mapping[str, str], where: str) -> UpstreamConfig:
    if not group.urls:
        raise ConfigError(f"{where}.urls names no server.")
    for url in group.urls:
        _check_upstream_url(url, where)
    return msgspec.structs.replace(
        group,
        urls=[url.rstrip("/") for url in group.urls],
        key=_secret(group.key, environment, f"{where}.key"),
        headers={name: _secret(value, environment, f"{where}.headers.{name}") for name, value in group.headers.items()},
    )


def _check_upstream_url(url: str, where: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:  # a port or an IPv6 address that is none
        usable = False
    if not usable:
        raise ConfigError(f"{where}: a URL must be like http://host:8000/v1, without a user or password in it.")
    if parts.query or parts.fragment:
        raise ConfigError(f"{where}: {url!r} must end with its path.")


def _secret(text: str, environment: Mapping[str, str], where: str) -> str:
    """`env:NAME` stands for a variable and `file:PATH` for a file's text; anything else for itself."""
    kind, _, place = text.partition(":")
    if kind == "env":
        if place not in environment:
            raise ConfigError(f"{where}: the environment variable {place} is not set.")
        secret = environment[place]
    elif kind == "file":
        try:
            secret = Path(place).expanduser().read_text(encoding="utf-8")
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where}: cannot read {place}: {error}") from error
    else:
        secret = text
    secret = secret.strip()
    if not HEADER_VALUE.fullmatch(secret):
        raise ConfigError(f"{where} holds characters that no header can carry.")
    return secret


def _check_store(config: Config) -> None:
    try:
        directory = config.store_directory
    except RuntimeError as error:
        raise ConfigError(f"store.directory {config.store.directory!r}: {error}") from error
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"store.directory {str(directory)!r} is not a folder.")


def _user_cache_directory() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mlx-gateway"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mlx-gateway"
