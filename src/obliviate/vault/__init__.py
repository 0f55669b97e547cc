"""The vault: where checkpoints live, as bytes."""

from obliviate.vault.seal import KeyFile, KeyService, KeyVariable, Seal, check_seal
from obliviate.vault.settings import VaultSettings
from obliviate.vault.storage import kept_form
from obliviate.vault.vault import Stored, Vault

__all__ = [
    "KeyFile",
    "KeyService",
    "KeyVariable",
    "Seal",
    "Stored",
    "Vault",
    "VaultSettings",
    "check_seal",
    "kept_form",
]
