"""Exports: a run's model in a form that others read, written whole or not at all."""

from obliviate.export.card import CARD_NAME, Card
from obliviate.export.place import Place, place_of

__all__ = ["CARD_NAME", "Card", "Place", "place_of"]
