"""After an erasure, whoever has the disk cannot put an old state together again."""

import importlib
import itertools
import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load

import obliviate as ob
from obliviate.vault.marker import MARKER_NAME
from tests.models import images, recipe, records_in

zstd = importlib.import_module(
    "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
)

BLOCKS = 12


def plain(data):
    """The plain bytes of an object, by its documented form: 8 bytes, then frames of planes."""
    at, chunks = 8, []
    while at < len(data):
        length, at = int.from_bytes(data[at : at + 4], "little"), at + 4
        width, at = data[at], at + 1
        planes = []
        for _ in range(width):
            length, at = int.from_bytes(data[at : at + 4], "little"), at + 4
            is_raw, length = length >> 31, length & ~(1 << 31)
            plane, at = data[at : at + length], at + length
            planes.append(np.frombuffer(plane if is_raw else zstd.decompress(plane), np.uint8))
        chunks.append(np.stack(planes, axis=1).tobytes())
    return b"".join(chunks)


def names_of(folder):
    """What lies in the vault, beside the note of whose it is."""
    return {path.name for path in (folder / "vault").iterdir()} - {MARKER_NAME}


def on_disk(folder):
    """Keyframes and updates, read from the raw files without the help of the library."""
    keyframes, updates = [], []
    for name in sorted(names_of(folder)):
        data = plain((folder / "vault" / name).read_bytes())
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        tensors = load(data)
        if "tied" in header["__metadata__"]:
            keyframes.append(tensors)
        else:
            steps = {n.removeprefix("step/"): t for n, t in tensors.items() if n[:5] == "step/"}
            updates.append(steps)
    return keyframes, updates


def flat(tensors):
    return torch.cat([tensors[name].double().reshape(-1) for name in sorted(tensors)])


def reconstructed(folder, order):
    """Every state that a keyframe and a run of updates, in the chain's order, add up to."""
    keyframes, updates = on_disk(folder)
    states = [flat(keyframe) for keyframe in keyframes if "1.weight" in keyframe]
    steps = [flat(update) for update in order(updates)]
    for start in list(states):
        for first, last in itertools.combinations(range(len(steps) + 1), 2):
            total = sum(steps[first:last])
            states += [start + total, start - total]
    return states


@pytest.mark.parametrize("optimizer", ["sgd", "momentum-carried"])
@pytest.mark.parametrize(
    "method", [ob.DeepObliviate(epsilon=9), ob.Calibrated(tolerance=100), "exact"]
)
def test_no_old_state_can_be_put_together_again(tmp_path, method, optimizer):
    made = recipe("mlp", optimizer)
    run = ob.fit(made, images(), tmp_path, blocks=BLOCKS)
    old = [flat(run.chain().state(block)) for block in range(BLOCKS + 1)]
    old_files = names_of(tmp_path)

    def order(updates):
        # the strongest attacker knows which update is whose
        wanted = [run.chain().update(block).steps for block in range(1, BLOCKS + 1)]
        return [next(u for u in updates if all(torch.equal(u[n], w[n]) for n in w)) for w in wanted]

    found = reconstructed(tmp_path, order)
    for state in old:  # the attack works: before the erasure it finds every state
        assert any(torch.allclose(state, each, atol=1e-4) for each in found)

    erasure = run.forget(records=records_in(run, 4), method=method)
    found = reconstructed(tmp_path, order)
    for block, state in enumerate(old):
        closest = min(float((state - each).abs().max()) for each in found)
        assert (closest < 1e-4) == (block < 4), f"block {block}: {closest}"

    kept = names_of(tmp_path)
    assert kept == run.ledger.objects.keys("live")
    assert erasure.blocks_replayed <= len(old_files - kept)
    assert run.ledger.objects.keys("destroyed") >= old_files - kept


def test_nothing_of_an_erasure_that_was_taken_back_is_left(tmp_path):
    run = ob.fit(recipe(), images(), tmp_path, blocks=BLOCKS)
    before = names_of(tmp_path)
    events = run.forget.events(records=records_in(run, 4), method="exact")
    next(events)
    with pytest.raises(ob.ObliviateError):
        raise_in(run, events)
    assert names_of(tmp_path) == before


def raise_in(run, events):
    """Let the loss go wrong in the middle of a replay."""
    with torch.no_grad():
        for parameter in run.trainer.model.parameters():
            parameter.fill_(float("nan"))
    for _ in events:
        pass
