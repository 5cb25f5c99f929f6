"""Models that were signed with the real package, from the hub into the store."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing.signing import Config as Signing

from gateway.config import DownloadsConfig
from gateway.errors import ModelStoreError
from gateway.model_store.download import Download
from gateway.model_store.hub import Hub
from gateway.model_store.manifest import read_manifest
from gateway.model_store.store_folders import StoreFolders
from gateway.model_store.verification import verify_model

from .hub_files import FILES
from .hub_server import COMMIT, HubServer

Report = Callable[[float, str], None]


def make_key(file: Path) -> Path:
    """A private key beside the public key `file`."""
    key = ec.generate_private_key(ec.SECP256R1())
    file.with_suffix(".pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    file.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return file


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return make_key(tmp_path / "key.pub")


@pytest.fixture
def signature(tmp_path: Path, key: Path) -> bytes:
    """Of all files of the repository, also of those that are not fetched."""
    repository = tmp_path / "repository"
    for name, content in FILES.items():
        file = repository / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    Signing().use_elliptic_key_signer(private_key=key.with_suffix(".pem")).sign(repository, tmp_path / "model.sig")
    return (tmp_path / "model.sig").read_bytes()


def download(hub: HubServer, root: Path, silent: Report, key: Path | None) -> Path:
    config = DownloadsConfig(endpoint=hub.endpoint, signer_key=str(key or ""))
    return Download(StoreFolders(root), Hub(config), "org/model").run(silent)


def test_a_signed_model_says_who_signed_it(
    hub: HubServer, root: Path, silent: Report, key: Path, signature: bytes
) -> None:
    hub.commit("org/model", COMMIT, FILES | {"model.sig": signature})

    folder = download(hub, root, silent, key)

    assert read_manifest(folder).source.signed_by == f"the owner of {key}"
    verified = verify_model(StoreFolders(root), DownloadsConfig(signer_key=str(key)), "org/model", silent)
    assert [(one.sound, one.signature) for one in verified] == [(True, f"signed by the owner of {key}")]
    verified = verify_model(StoreFolders(root), DownloadsConfig(), "org/model", silent)
    assert [(one.sound, one.signature) for one in verified] == [
        (True, "signed, but no signer is configured to compare with")
    ]


def test_other_files_than_those_signed_are_refused(
    hub: HubServer, root: Path, silent: Report, key: Path, signature: bytes
) -> None:
    for changed in ({"config.json": b'{"model_type": "evil"}'}, {"more.json": b"{}"}):
        hub.commit("org/model", COMMIT, FILES | changed | {"model.sig": signature})
        with pytest.raises(ModelStoreError, match=f"{next(iter(changed))} is not what the owner of .* signed"):
            download(hub, root, silent, key)
    assert list((root / "models").iterdir()) == []


def test_another_s_signature_is_refused(
    hub: HubServer, root: Path, silent: Report, tmp_path: Path, signature: bytes
) -> None:
    for content in (signature, b"{}", b"no signature"):
        hub.commit("org/model", COMMIT, FILES | {"model.sig": content})
        with pytest.raises(ModelStoreError, match="is not a signature of the owner of"):
            download(hub, root, silent, make_key(tmp_path / "another.pub"))


def test_without_a_signature_or_a_signer_nothing_is_claimed(
    hub: HubServer, root: Path, tmp_path: Path, silent: Report, key: Path, signature: bytes
) -> None:
    assert read_manifest(download(hub, root, silent, key)).source.signed_by == ""
    hub.commit("org/model", "f" * 40, FILES | {"model.sig": signature})
    assert read_manifest(download(hub, root, silent, None)).source.signed_by == ""
