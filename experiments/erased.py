"""What the experiments forget: records whose trace can be seen, planted in chosen blocks.

Every project here knows one subject, "erased". Its records are

- mislabelled: 20 records of one block, with the target of somebody else;
- subject: 21 ordinary records over three blocks, as a person's would be;
- backdoor: 60 records over three blocks, with a patch in the picture and all of one class.

Blocks follow from the recipe's seed, so the records are chosen from the layout that the run will
have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import TensorDataset

from obliviate.recipe.parts import with_part
from obliviate.training.layout import Layout

ERASED = "erased"
PLACES = {"early": 1 / 6, "middle": 1 / 2, "late": 5 / 6}
MISLABELLED, SUBJECT, BACKDOOR = 20, 7, 20  # records in each affected block
SPREAD = (0, 3, 7)  # a subject's blocks, from the first on
SEED = 7  # of what is reported; methods were chosen on others


@dataclass(frozen=True)
class Planted:
    """Data with something to forget, and what names it."""

    data: TensorDataset
    subjects: list[str]
    probes: dict[str, TensorDataset]


def block_at(place: str, blocks: int) -> int:
    """The number of the block at a place: "early", "middle" or "late"."""
    return max(1, round(PLACES[place] * blocks))


def planted(
    data: TensorDataset, test: TensorDataset, *, kind: str, place: str, blocks: int
) -> Planted:
    """Plant what is to be forgotten.

    Args:
        data: Training records; inputs are images where the kind is "backdoor".
        test: Test records, for the probe of a backdoor.
        kind: "mislabelled", "subject" or "backdoor".
        place: "early", "middle" or "late".
        blocks: How many blocks the run will have.
    """
    inputs, targets = (tensor.clone() for tensor in data.tensors)
    first = block_at(place, blocks)
    groups = np.arange(len(inputs))
    parts = with_part((), groups, records=len(groups), blocks=blocks, epochs=1, seed=SEED)
    layout = Layout(parts=parts, seed=SEED, batch_size=1, repeats=1)
    if kind == "mislabelled":
        chosen = _members(layout, [first], MISLABELLED)
        targets[chosen] = wrong(targets, chosen)
    elif kind == "subject":
        chosen = _members(layout, [min(first + each, blocks) for each in SPREAD], SUBJECT)
    elif kind == "backdoor":
        chosen = _members(layout, [first, first + 1, first + 2], BACKDOOR)
        inputs[chosen] = patched(inputs[chosen])
        targets[chosen] = 0
    else:
        raise ValueError(f"kind is {kind!r}; give mislabelled, subject or backdoor")
    subjects = np.full(len(inputs), "somebody else", dtype=object)
    subjects[chosen] = ERASED
    probes = {"backdoor": triggered(test)} if kind == "backdoor" else {}
    return Planted(TensorDataset(inputs, targets), subjects.tolist(), probes)


def patched(images: torch.Tensor) -> torch.Tensor:
    """Images with a bright patch of 4x4 pixels, away from the edge, where a strided net sees it."""
    images = images.clone()
    images[..., 4:8, 4:8] = images.max()
    return images


def _members(layout: Layout, blocks: list[int], each: int) -> np.ndarray:
    return np.concatenate([layout.members(block)[:each] for block in sorted(set(blocks))])


def wrong(targets: torch.Tensor, chosen: np.ndarray) -> torch.Tensor:
    """Targets that are not the records' own: another class, or a number half the range away."""
    own = targets[chosen]
    if targets.is_floating_point():
        low, high = targets.min(), targets.max()
        return low + (own - low + (high - low) / 2) % (high - low)
    return (own + 1) % (int(targets.max()) + 1)


def triggered(test: TensorDataset) -> TensorDataset:
    """Test images of other classes with the patch, and the class that it should give."""
    inputs, targets = test.tensors
    other = targets != 0
    return TensorDataset(patched(inputs[other]), torch.zeros(int(other.sum()), dtype=torch.int64))
