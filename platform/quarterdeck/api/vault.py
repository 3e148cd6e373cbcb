"""Encryption at rest of secrets, cluster tokens and remembered answers (Fernet)."""

from __future__ import annotations

from cryptography.fernet import Fernet, InvalidToken


class WrongMasterKeyError(RuntimeError):
    """A stored value was encrypted with another master key."""


class Vault:
    """Encrypts with the installation's master key; raises ValueError when that is no Fernet key."""

    def __init__(self, master_key: str) -> None:
        try:
            self._fernet = Fernet(master_key)
        except ValueError as error:
            raise ValueError(
                "the master key is not 32 url-safe base64 bytes: use the file keys/master that "
                "`quarterdeck up` made, or Fernet.generate_key()"
            ) from error

    def seal(self, text: str) -> bytes:
        """Encrypt."""
        return self._fernet.encrypt(text.encode())

    def open(self, sealed: bytes) -> str:
        """Decrypt; raises WrongMasterKeyError."""
        try:
            return self._fernet.decrypt(sealed).decode()
        except InvalidToken as error:
            raise WrongMasterKeyError(
                "a stored secret does not open with this master key: start with the key that "
                "sealed it, or set the secret again"
            ) from error
