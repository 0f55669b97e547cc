"""The vault: where checkpoints live, as bytes."""

from obliviate.vault.place import kept_form
from obliviate.vault.seal import KeyFile, KeyService, KeyVariable, Seal, check_seal
from obliviate.vault.store import Stored, Vault
from obliviate.vault.terms import Terms

__all__ = [
    "KeyFile",
    "KeyService",
    "KeyVariable",
    "Seal",
    "Stored",
    "Terms",
    "Vault",
    "check_seal",
    "kept_form",
]
