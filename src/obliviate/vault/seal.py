"""Sealing: every object has a data key of its own, wrapped by a master key that is kept elsewhere.

Destroying a data key destroys every copy of its object: in a backup of the bucket, in an old
version, on a disk that was thrown away. What holds copies of the *wrapped* key together with the
master key, such as a backup of the ledger, can still open it.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from obliviate.disk.paths import absolute
from obliviate.errors import InvalidOption, KeyMissing, ObliviateError, WrongKey
from obliviate.options import regular, text
from obliviate.text import shown
from obliviate.vault.frames import KEY_BYTES, NONCE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_PRIVATE = 0o600
_PROBE = bytes(KEY_BYTES)


class Seal(Protocol):
    """A master key, or a service that holds one."""

    def wrap(self, data_key: bytes, context: bytes) -> bytes:
        """Encrypt a data key, bound to a context."""
        ...

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Decrypt a data key.

        Raises:
            WrongKey: It was wrapped by another master key, or for another context.
            KeyMissing: The master key cannot be had.
        """
        ...

    def reference(self) -> dict[str, str]:
        """Where the master key is found again; kept with the run, never the key itself."""
        ...


def wrong_key() -> WrongKey:
    """The error of a key that opens nothing."""
    return WrongKey(
        "the vault was sealed with another master key",
        hint="give the key that the run was made with; nothing was changed",
    )


def _parsed(text: str, where: str) -> bytes:
    """The 32 bytes of a key in base64.

    Raises:
        KeyMissing: It is in another form.
    """
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise KeyMissing(
            f"{where} holds no master key",
            hint=f"a master key is {KEY_BYTES} random bytes in base64; make one with "
            "`obliviate make-key FILE`",
        )
    return key


class _MasterKey(ABC):
    """A master key that is looked up anew whenever it is needed."""

    @abstractmethod
    def _key(self) -> bytes: ...

    def wrap(self, data_key: bytes, context: bytes) -> bytes:
        """See `Seal`."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + AESGCM(self._key()).encrypt(nonce, data_key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See `Seal`."""
        cipher = AESGCM(self._key())
        try:
            return cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            raise wrong_key() from None


@dataclass(frozen=True)
class KeyFile(_MasterKey):
    """A master key in a file: 32 random bytes, in base64."""

    path: str | Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", absolute(self.path, "the path of the master key"))

    @classmethod
    def create(cls, path: str | Path) -> KeyFile:
        """Make a file with a new key that its owner alone can read.

        Raises:
            InvalidOption: There is such a file, or it cannot be made.
        """
        path = absolute(path, "the path of the master key")
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
        except OSError as error:
            raise InvalidOption(
                f"{path} cannot be made ({error.strerror})", hint="give a new file in a folder"
            ) from error
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return cls(path)

    def _key(self) -> bytes:
        try:
            key = regular(Path(self.path)).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise KeyMissing(
                f"the master key in {self.path} cannot be read ({error})",
                hint="bring the file back, or say where it is: seal=ob.KeyFile(...)",
            ) from error
        return _parsed(key, str(self.path))

    def reference(self) -> dict[str, str]:
        """See `Seal`."""
        return {"kind": "file", "path": str(Path(self.path).resolve())}


@dataclass(frozen=True)
class KeyVariable(_MasterKey):
    """A master key in an environment variable: 32 random bytes, in base64."""

    name: str = "OBLIVIATE_KEY"

    def __post_init__(self) -> None:
        name = text(self.name, "the name of the environment variable")
        if not name or "=" in name or "\0" in name:
            raise InvalidOption(
                f"no environment variable can be called {shown(name)}", hint="give another name"
            )

    def _key(self) -> bytes:
        text = os.environ.get(self.name)
        if text is None:
            raise KeyMissing(
                f"the environment variable {self.name} is not set",
                hint="set it to the run's master key, in base64",
            )
        return _parsed(text, f"the environment variable {self.name}")

    def reference(self) -> dict[str, str]:
        """See `Seal`."""
        return {"kind": "variable", "name": self.name}


@dataclass(frozen=True)
class KeyService:
    """A service that holds the master key and never gives it away, such as a cloud's KMS.

    Attributes:
        wrapping: (data key, context) -> wrapped key.
        unwrapping: (wrapped key, context) -> data key; it must raise where the key or the context
            is another.
        name: Which it is, for messages.
    """

    wrapping: Callable[[bytes, bytes], bytes] = field(repr=False)
    unwrapping: Callable[[bytes, bytes], bytes] = field(repr=False)
    name: str = "a service"

    def __post_init__(self) -> None:
        for which in ("wrapping", "unwrapping"):
            if not callable(getattr(self, which)):
                raise InvalidOption(
                    f"{which} is {shown(getattr(self, which))}",
                    hint="give a function: (key, context) -> key",
                )
        text(self.name, "the name of the key service")

    def wrap(self, data_key: bytes, context: bytes) -> bytes:
        """See `Seal`."""
        return self._asked(self.wrapping, data_key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See `Seal`."""
        return self._asked(self.unwrapping, wrapped, context)

    def _asked(self, what: Callable[[bytes, bytes], bytes], key: bytes, context: bytes) -> bytes:
        try:
            return bytes(what(key, context))
        except ObliviateError:
            raise
        except Exception as error:
            raise KeyMissing(
                f"{self.name} did not answer for a key: {type(error).__name__}: {error}",
                hint="see that it can be reached and allows this; then call again",
            ) from error

    def reference(self) -> dict[str, str]:
        """See `Seal`."""
        return {"kind": "service", "name": self.name}


def check_seal(seal: Any) -> None:
    """See that something can be a master key.

    Raises:
        InvalidOption: It cannot.
    """
    if seal is None:
        return
    methods = ("wrap", "unwrap", "reference")
    if isinstance(seal, type) or not all(callable(getattr(seal, name, None)) for name in methods):
        raise InvalidOption(
            f"seal is {shown(seal)}, no master key",
            hint="give ob.KeyFile(...), ob.KeyVariable(...), ob.KeyService(...) or None",
        )


def probe_of(seal: Seal, context: bytes) -> str:
    """What tells later whether a master key is the same: something known, wrapped."""
    return base64.b64encode(seal.wrap(_PROBE, context)).decode()


def check_probe(seal: Seal, probe: str, context: bytes) -> None:
    """See that a master key is the one that made a probe.

    Raises:
        WrongKey: It is another.
        KeyMissing: It cannot be had.
    """
    if seal.unwrap(base64.b64decode(probe), context) != _PROBE:
        raise wrong_key()


def seal_of(reference: Mapping[str, str], seal: Seal | None) -> Seal:
    """The master key of a run: the one that is given, or the one that it remembers.

    Raises:
        KeyMissing: It remembers a service, which has to be given again.
    """
    if seal is not None:
        return seal
    if reference.get("kind") == "file":
        return KeyFile(reference["path"])
    if reference.get("kind") == "variable":
        return KeyVariable(reference["name"])
    raise KeyMissing(
        f"the vault is sealed by {reference.get('name', 'a service')}, which cannot be remembered",
        hint="give it again: load(..., seal=ob.KeyService(...)), or `seal` in the project",
    )
