"""The vault: where checkpoints live, as bytes."""

from obliviate.vault.seal import KeyFile, KeyService, KeyVariable, Seal
from obliviate.vault.store import Stored, Vault
from obliviate.vault.terms import Terms

__all__ = ["KeyFile", "KeyService", "KeyVariable", "Seal", "Stored", "Terms", "Vault"]
