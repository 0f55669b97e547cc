"""A collation of one's own: padding, masking, leaving out; and what of it cannot be replayed."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset, TensorDataset

import obliviate as ob
from obliviate import errors
from obliviate.lab.accuracy import accuracy
from obliviate.lab.scores import scores
from obliviate.recipe.description import describe
from obliviate.training.batches import feed_of
from tests.models import records_in
from tests.test_by_hand import Words, masked, of_words, padded

RECORDS, BLOCKS = 60, 5


class Texts(Dataset):
    """Mappings with lists of numbers; every ninth is empty."""

    def __init__(self, records=RECORDS, seed=0, has_empty=False):
        draw = random.Random(seed)
        self.rows = []
        for number in range(records):
            label = draw.randrange(3)
            length = 0 if has_empty and number % 9 == 0 else draw.randint(2, 8)
            words = [3 * draw.randrange(8) + label for _ in range(length)]
            self.rows.append({"words": words, "label": label, "place": ("text", number + seed)})

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def leaving_out(records):
    """As many collations do with what they cannot use."""
    kept = [each for each in records if each["words"]]
    return padded(kept) if kept else None


def of_those_left(model, batch):
    return None if batch is None else of_words(model, batch)


def remembered(model, batch):
    logits = model(batch["words"], batch["mask"]).log_softmax(-1)
    return logits.gather(1, batch["labels"][:, None]).squeeze(1)


MADE = ob.Recipe(
    model=Words,
    optimizer=partial(torch.optim.Adam, lr=0.02),
    step=of_words,
    collate=padded,
    batch_size=4,
    epochs=2,
    seed=2,
)


@pytest.mark.parametrize(
    ("options", "data"),
    [
        ({}, Texts()),
        ({"collate": masked}, Texts()),
        ({"collate": masked, "workers": 2}, Texts()),
        ({"collate": leaving_out, "step": of_those_left}, Texts(has_empty=True)),
    ],
    ids=["padding", "masking", "workers", "leaving out"],
)
def test_forgetting_is_training_without(options, data, tmp_path):
    made = replace(MADE, **options)
    run = ob.fit(made, data, tmp_path / "run", blocks=BLOCKS)
    gone = records_in(run, 2, 4, each=2)
    erasure = run.forget(records=gone, method="exact")
    assert erasure.guarantee == "exact"
    never = ob.fit(replace(made, workers=0), data, tmp_path / "never", blocks=BLOCKS, exclude=gone)
    assert erasure.digest == never.digest


def test_methods_score_what_a_collation_makes(tmp_path):
    data, reference = Texts(24), Texts(20, seed=9)
    for score in (remembered, None):
        made = replace(MADE, score=score, collate=masked, epochs=1)
        run = ob.fit(made, data, tmp_path / f"{score}", blocks=3, reference=reference)
        erasure = run.forget(records=records_in(run, 2), method="calibrated")
        assert erasure.method.startswith("calibrated")
        assert erasure.digest == run.digest
    assert run.settle().guarantee == "exact"


def test_a_record_that_was_changed_is_noticed_and_no_other(tmp_path):
    """Whatever the collation draws: it is what the dataset gives that is compared."""
    made, data = replace(MADE, collate=masked), Texts()
    run = ob.fit(made, data, tmp_path / "run", blocks=BLOCKS)
    assert run.verify(data=True).passed
    data.rows[17] = data.rows[17] | {"words": [1, 2, 3]}
    (said, *_) = run.verify(data=True).changed.values()
    assert "17" in said


def test_tensors_are_collated_too(tmp_path):
    data = TensorDataset(torch.randn(40, 6), torch.arange(40) % 3)

    def stacked(records):
        inputs, targets = zip(*records, strict=True)
        return torch.stack(inputs) * 2, torch.stack(targets)

    made = ob.Recipe(
        model=partial(torch.nn.Linear, 6, 3),
        optimizer=partial(torch.optim.SGD, lr=0.1),
        loss=F.cross_entropy,
        batch_size=4,
        collate=stacked,
    )
    run = ob.fit(made, data, tmp_path / "run", blocks=4)
    double = TensorDataset(2 * data.tensors[0], data.tensors[1])
    plain = ob.fit(replace(made, collate=None), double, tmp_path / "plain", blocks=4)
    assert run.digest == plain.digest


def in_pairs(records):
    batch = padded(records)
    return batch["words"], batch["labels"]


class Sums(torch.nn.Module):
    def forward(self, words):
        return F.one_hot(words % 3, 3).sum(1).float()  # most words are of the label's class


def test_the_laboratory_measures_what_a_collation_makes():
    texts, recipe = Texts(), replace(MADE, score=remembered)
    assert accuracy(Sums(), texts, collate=in_pairs) > 0.5
    assert accuracy(Sums(), texts, collate=padded) is None
    feed, model = feed_of(texts, 0, collate=padded), Words()
    together = scores(model, recipe, feed, np.arange(4))
    alone = [float(scores(model, recipe, feed, np.array([at]))[0]) for at in range(4)]
    assert np.allclose(together, alone)


# What cannot be


GENERATOR = torch.Generator()


def drawing(records):
    batch = padded(records)
    hidden = torch.rand(batch["mask"].shape, generator=GENERATOR) < 0.3
    return batch | {"words": batch["words"].masked_fill(hidden, 0)}


def of_two(records):
    assert len(records) > 1, "needs two"
    return padded(records)


class Growing:
    """Pads more and more."""

    calls = 0

    def __call__(self, records):
        self.calls += 1
        return padded([*records, {"words": [0] * self.calls * 9, "label": 0}])


class Opaque:
    __slots__ = ("words",)


class Hidden(Texts):
    def __getitem__(self, index):
        return self.rows[index] | {"more": Opaque()}


REFUSED = {
    "own randomness": ({"collate": drawing}, "collate made two batches of the same records"),
    "a count": ({"collate": Growing()}, "collate made two batches of the same records"),
    "two or more": ({"collate": of_two}, r"1 of 4 records cannot be trained on \(collating 1 rec"),
    "a class": ({"collate": Growing}, "collate is the class Growing; give an object"),
    "a word": ({"collate": "pad"}, "collate is 'pad'; it must be callable"),
    "no pair": ({"step": None, "loss": F.cross_entropy}, "a batch is not"),
    "nothing": ({"collate": lambda records: None}, "raised TypeError"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_replayed_is_refused_by_name(what, tmp_path):
    options, fault = REFUSED[what]
    with pytest.raises(errors.ObliviateError, match=fault):
        ob.fit(replace(MADE, **options), Texts(), tmp_path / "run", blocks=BLOCKS)
    assert not (tmp_path / "run").exists()


def test_a_record_that_cannot_be_looked_into_is_refused(tmp_path):
    with pytest.raises(errors.TrainingFailed, match="a record holds a Opaque, whose content"):
        ob.fit(MADE, Hidden(), tmp_path / "run", blocks=BLOCKS)
    assert not (tmp_path / "run").exists()


def test_without_a_collation_one_is_asked_for(tmp_path):
    with pytest.raises(errors.TrainingFailed) as error:
        ob.fit(replace(MADE, collate=None), Texts(), tmp_path / "run", blocks=BLOCKS)
    assert "Recipe(collate=...)" in error.value.hint


# What a record is


class Picture:
    def __init__(self, value):
        self._pixels = np.full((2, 2), value, dtype=np.uint8)

    @property
    def __array_interface__(self):
        return self._pixels.__array_interface__


class Node:
    def __init__(self, value):
        self.x, self.label = torch.full((2,), float(value)), str(value)


@pytest.mark.parametrize(
    "make",
    [
        Picture,
        Node,
        lambda value: {"a": [value, None], "b": (Picture(0), np.float32(value))},
        lambda value: [1, 2, value],
        lambda value: ["1", value],
    ],
)
def test_a_record_is_known_by_all_that_the_dataset_gives(make):
    rows = [make(1), make(2), make(1)]
    feed = feed_of(rows, 0, collate=list)
    first, second, third = (feed.content(record) for record in range(3))
    assert first == third != second


@dataclass
class Masking:
    share: float
    tokenizer: object = None

    def __call__(self, records):
        return records


def test_collations_are_told_apart_by_what_they_were_declared_with():
    assert describe(Masking(0.1, object())) == describe(Masking(0.1, object()))
    assert describe(Masking(0.1)) != describe(Masking(0.2))


class Strict(Texts):
    """Takes an int and nothing that is like one."""

    def __getitem__(self, index):
        if type(index) is not int:
            raise TypeError(f"an int is required, not {type(index).__name__}")
        return self.rows[index]


def test_a_dataset_is_asked_for_ints(tmp_path):
    run = ob.fit(MADE, Strict(), tmp_path / "run", blocks=BLOCKS)
    run.forget(records=[3], method="exact")
    assert run.verify(data=True).passed
