"""OpenSSF model signatures (model-signing 1.1): did the configured signer sign exactly these files?

A signature holds the digest of every file of the repository. Of these the store keeps the model's data: all it keeps
must be signed, what it does not keep is not looked for.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.config import DownloadsConfig
from gateway.errors import ModelStoreError
from gateway.model_store.manifest import StoredFile

SIGNATURE_NAME = "model.sig"


@dataclass(frozen=True, slots=True)
class Signer:
    """Who must have signed: the owner of a public key, or an identity that `issuer` vouches for. Empty: anybody."""

    key: str
    identity: str
    issuer: str

    @classmethod
    def of(cls, config: DownloadsConfig) -> "Signer":
        return cls(config.signer_key, config.signer_identity, config.signer_issuer)

    def verified(self, folder: Path, files: dict[str, StoredFile]) -> str:
        """Who signed `files`, which are in `folder`; empty if they bring no signature or nobody is configured.

        Raises ModelStoreError if the signature is not that signer's, or is of other files.
        """
        if SIGNATURE_NAME not in files or not (self.key or self.identity):
            return ""
        signed = self._signed_digests(folder / SIGNATURE_NAME)
        others = [name for name, file in files.items() if name != SIGNATURE_NAME and signed.get(name) != file.sha256]
        if others:
            raise ModelStoreError(
                f"{folder}: {', '.join(sorted(others)[:4])} is not what {self._who} signed. Do not use this model, or "
                "clear downloads.signer_key and downloads.signer_identity to take it unsigned."
            )
        return self._who

    @property
    def _who(self) -> str:
        return self.identity or f"the owner of {self.key}"

    def _signed_digests(self, signature: Path) -> dict[str, str]:
        """The SHA-256 of each file that was signed, by its path."""
        try:
            from model_signing._signing import sign_ec_key, sign_sigstore, sign_sigstore_pb
        except ImportError as error:
            raise ModelStoreError(
                f"{signature} cannot be verified: run `pip install 'mlx-gateway[signatures]'`, or clear "
                "downloads.signer_key and downloads.signer_identity."
            ) from error
        try:
            if self.key:
                verifier: Any = sign_ec_key.Verifier(Path(self.key).expanduser())
                manifest = verifier.verify(sign_sigstore_pb.Signature.read(signature))
            else:
                verifier = sign_sigstore.Verifier(identity=self.identity, oidc_issuer=self.issuer)
                manifest = verifier.verify(sign_sigstore.Signature.read(signature))
        except Exception as error:  # by a file that anybody may have written; the package has no classes for it
            reason = str(error) or type(error).__name__
            raise ModelStoreError(
                f"{signature} is not a signature of {self._who}: {reason}. Do not use this model, or clear "
                "downloads.signer_key and downloads.signer_identity to take it unsigned."
            ) from error
        return {
            str(signed.identifier): signed.digest.digest_hex
            for signed in manifest.resource_descriptors()
            if signed.digest.algorithm == "sha256"
        }
