"""The vault: where checkpoints live, as bytes."""

from obliviate.vault.store import Stored, Vault

__all__ = ["Stored", "Vault"]
