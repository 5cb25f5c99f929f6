import sys
from pathlib import Path

import pytest

from gateway.config import Config, ModelConfig, UpstreamConfig, client_key, load_config
from gateway.errors import ConfigError
from gateway.security.http_guard import check_network


def write(folder: Path, text: str) -> Path:
    file = folder / "config.toml"
    file.write_text(text)
    return file


def test_later_sources_win(tmp_path: Path) -> None:
    file = write(tmp_path, "[server]\nport = 1\nmax_body_bytes = 2\n[engine]\nmax_running = 3\n")
    environment = {"MLX_GATEWAY_SERVER_PORT": "4", "MLX_GATEWAY_ENGINE_MAX_RUNNING": "5", "HOME": "/"}
    config = load_config(file, environment, {("server", "port"): 6})
    assert (config.server.port, config.server.max_body_bytes, config.engine.max_running) == (6, 2, 5)
    assert config.log == Config().log


def test_environment_values_are_converted() -> None:
    environment = {"MLX_GATEWAY_SERVER_HOST": "0.0.0.0", "MLX_GATEWAY_SERVER_ALLOW_OPEN_NETWORK": "true"}
    config = load_config(environment=environment | {"MLX_GATEWAY_SERVER_KEEP_ALIVE_SECONDS": "2.5"})
    assert config.server.allow_open_network
    assert config.server.keep_alive_seconds == 2.5


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[server]\nprot = 1", "prot"),
        ("[sever]\nport = 1", "sever"),
        ('[server]\nport = "http"', "server.port"),
        ("[server]\nport = 70000", "server.port"),
        ("[engine]\nmax_running = 0", "engine.max_running"),
        ('[log]\nlevel = "loud"', "log.level"),
        ("server = [", "not valid TOML"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
        load_config(write(tmp_path, text), {})


@pytest.mark.parametrize(
    ("name", "value", "named"), [("SERVER_PORT", "x", r"server\.port"), ("SERVER_PROT", "1", r"server\.prot")]
)
def test_a_wrong_variable_is_an_error(name: str, value: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_config(environment={f"MLX_GATEWAY_{name}": value})


def test_kubernetes_service_variables_are_not_settings() -> None:
    environment = {"MLX_GATEWAY_PORT": "tcp://10.0.0.1:80", "MLX_GATEWAY_SERVICE_HOST": "10.0.0.1"}
    assert load_config(environment=environment) == Config()


def test_the_store_is_a_folder_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    in_home = load_config(environment={}, flags={("store", "directory"): "~/models"})
    assert in_home.store_directory == tmp_path / "home" / "models"
    if sys.platform == "linux":
        assert load_config(environment={}).store_directory == tmp_path / "mlx-gateway"


@pytest.mark.parametrize("directory", ["/dev/null", "~no-such-user-here/store"])
def test_a_store_that_can_be_no_folder_is_an_error(directory: str) -> None:
    with pytest.raises(ConfigError, match=r"store\.directory"):
        load_config(environment={}, flags={("store", "directory"): directory})


def test_several_models_can_be_offered(tmp_path: Path) -> None:
    file = write(tmp_path, '[[models]]\nsource = "a"\n[[models]]\nsource = "b"\nid = "c"\ncontext_tokens = 9\n')
    more = [ModelConfig(source="a"), ModelConfig(source="b", id="c", context_tokens=9)]
    assert Config().offered_models == [ModelConfig()]  # the demo model
    assert load_config(file, {}).offered_models == more
    first = ModelConfig(source="x")
    assert load_config(file, {"MLX_GATEWAY_MODEL_SOURCE": "x"}).offered_models == [first, *more]
    assert load_config(file, {}, model_sources=["x"]).offered_models == [first]
    assert load_config(file, {}, model_sources=["", "y"]).offered_models == [ModelConfig(), ModelConfig(source="y")]


def test_what_else_is_said_of_a_model_stays_when_a_flag_names_its_source() -> None:
    config = load_config(environment={"MLX_GATEWAY_MODEL_ID": "mine"}, model_sources=["x"])
    assert config.offered_models == [ModelConfig(source="x", id="mine")]


def test_a_certificate_needs_its_key() -> None:
    with pytest.raises(ConfigError, match="together"):
        load_config(environment={}, flags={("server", "tls_certificate"): "a.pem"})


def test_the_commands_key_is_no_setting(tmp_path: Path) -> None:
    assert load_config(environment={"MLX_GATEWAY_KEY": "mlxgw-a"}) == load_config(environment={})
    assert client_key(environment={"MLX_GATEWAY_KEY": "mlxgw-a\n"}) == "mlxgw-a"
    (tmp_path / "key").write_text("mlxgw-b\n")
    assert client_key(tmp_path / "key", {"MLX_GATEWAY_KEY": "mlxgw-a"}) == "mlxgw-b"
    assert client_key(environment={}) == ""


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Cannot read"):
        load_config(tmp_path / "none.toml", {})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_is_open(host: str) -> None:
    check_network(load_config(environment={}, flags={("server", "host"): host}).server, has_keys=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org"])
def test_other_machines_are_let_in_only_by_name(host: str) -> None:
    closed = load_config(environment={}, flags={("server", "host"): host}).server
    with pytest.raises(ConfigError, match="allow_open_network"):
        check_network(closed, has_keys=False)
    check_network(closed, has_keys=True)
    allowed = {("server", "host"): host, ("server", "allow_open_network"): True}
    check_network(load_config(environment={}, flags=allowed).server, has_keys=False)


UPSTREAM = '[[models]]\nid = "big"\n[[models.upstreams]]\nurls = ["http://a:1/v1/"]\n'


def upstream(tmp_path: Path, more: str, environment: dict[str, str] | None = None) -> UpstreamConfig:
    (model,) = load_config(write(tmp_path, UPSTREAM + more), environment or {}).offered_models
    (group,) = model.upstream_groups
    return group


def test_urls_alone_are_upstreams_with_the_defaults(tmp_path: Path) -> None:
    file = write(tmp_path, '[model]\nid = "big"\nupstreams = ["http://a:1/v1", "https://b"]\n')
    (model,) = load_config(file, {}).offered_models
    assert model.upstream_groups == [UpstreamConfig(["http://a:1/v1"]), UpstreamConfig(["https://b"])]


def test_an_upstreams_secrets_are_read_from_where_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file\n")
    keys = f'key = "env:VLLM_KEY"\nheaders = {{ x-team = "file:{tmp_path}/key", x-plain = "a: b" }}'
    group = upstream(tmp_path, keys, {"VLLM_KEY": "from-environment"})
    assert group.urls == ["http://a:1/v1"]
    assert group.key == "from-environment"
    assert group.headers == {"x-team": "from-file", "x-plain": "a: b"}


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ('key = "env:NONE"', r"models\[0\]\.upstreams\[0\]\.key: the environment variable NONE is not set"),
        ('key = "file:/none"', r"upstreams\[0\]\.key: cannot read /none"),
        ('key = "a\\nb"', r"key holds characters that no header can carry"),
        ('headers = { x = "ä" }', r"headers\.x holds characters"),
        ("max_concurrent = -1", "max_concurrent"),
        ("first_byte_seconds = 0", "first_byte_seconds"),
        ('url = "http://b"', "url"),
    ],
)
def test_a_wrong_upstream_setting_is_named(tmp_path: Path, more: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        upstream(tmp_path, more)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ('upstreams = ["http://a"]', "needs an `id`"),
        ('id = "x"\nsource = "y"\nupstreams = ["http://a"]', "has no `source`"),
        ('id = "x"\nupstreams = ["a:8000"]', "must be like http://host:8000/v1"),
        ('id = "x"\nupstreams = ["http://a:99999/v1"]', "must be like http://host:8000/v1"),
        ('id = "x"\nupstreams = ["http://[a/v1"]', "must be like http://host:8000/v1"),
        ('id = "x"\nupstreams = ["http://user:password@a"]', "without a user or password"),
        ('id = "x"\nupstreams = ["http://a/v1?key=1"]', "must end with its path"),
        ('id = "x"\nupstreams = ["http://a", "http://a"]', "names a server twice"),
        ('id = "x"\nupstreams = [{}]', "names no server"),
    ],
)
def test_a_model_elsewhere_that_cannot_be_reached_is_refused(tmp_path: Path, model: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        load_config(write(tmp_path, f"[[models]]\n{model}\n"), {})
    assert "password@" not in str(caught.value)
