"""The vault command and what it answers; what else lies in a vault, such as tensors that stay."""

import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

import obliviate as ob
from obliviate.ledger import Ledger
from obliviate.states.update import digest, size_bytes
from tests.models import BLOCKS, CLASSES, images, recipe, records_in
from tests.test_cli import ask, call
from tests.test_repair import flip, path_of


@pytest.fixture
def run(tmp_path):
    return ob.fit(recipe(), images(), tmp_path / "run", blocks=BLOCKS)


def test_it_counts_what_lies_there(run):
    run.forget(records=records_in(run, 3), method="exact")
    answer = ask("vault", run.folder)
    files = [run.folder / "vault" / key for key in run.vault]
    assert answer["counts"]["live"] == len(files)
    assert answer["counts"]["condemned"] == 0
    assert answer["counts"]["destroyed"] > 0
    assert answer["size_bytes"] == sum(path.stat().st_size for path in files)
    assert answer["roles"]["update"]["objects"] == BLOCKS
    assert answer["orphans"] == answer["lost"] == []
    assert answer["is_checked"] is answer["is_sealed"] is False


def test_objects_are_listed_with_their_end(run):
    run.forget(records=records_in(run, 3), method="exact")
    rows = ask("vault", run.folder, "--objects")["objects"]
    gone = [row for row in rows if row["state"] == "destroyed"]
    assert gone
    assert all(row["destroyed"] and row["block"] is None for row in gone)
    assert {row["block"] for row in rows} - {None} == set(range(BLOCKS + 1))


def test_damage_is_told_and_the_exit_code_with_it(run):
    path = path_of(run, 2, "update")
    flip(path)
    (lost,) = ask("vault", run.folder, "--check", code=1)["lost"]
    assert (lost["block"], lost["role"], lost["key"]) == (2, "update", path.name)
    shown = call("vault", run.folder, "--check", code=1).stdout
    assert "replaying the block" in shown
    assert "verify RUN --repair" in shown


def test_orphans_are_found_and_removed_and_nothing_else(run):
    live = set(run.vault)
    names = [f"{1:032x}.part", f"{2:032x}"]
    for name in names:
        (run.folder / "vault" / name).write_bytes(b"what a killed process left")
    assert ask("vault", run.folder)["orphans"] == names
    answer = ask("vault", run.folder, "--orphans")
    assert answer["removed"] == names
    assert answer["orphans"] == []
    (run.folder / "vault" / names[1]).write_bytes(b"what another left")
    assert run.remove_orphans() == (names[1],)
    assert run.remove_orphans() == ()
    assert set(run.vault) == live
    assert run.verify().passed


def test_orphans_of_a_live_writer_are_left_alone(run):
    new = run.folder / "vault" / f"{1:032x}"
    new.write_bytes(b"of the writer")
    found = []

    def other():
        writer = Ledger(run.folder)
        assert list(writer.lease.held(patience_seconds=0)) == []
        found.append(writer)

    thread = threading.Thread(target=other)  # a thread of its own, as a process would be
    thread.start()
    thread.join()
    try:
        assert "is writing to the run" in ask("vault", run.folder, "--orphans", code=1)["error"]
    finally:
        found[0].lease.release()
        found[0].close()
    assert new.exists()


def test_a_keyframe_that_decodes_to_another_state_is_found(run):
    """Its hash is right, for whoever forged it wrote that down as well."""
    chain = run.chain()
    forged = dict(chain.state(BLOCKS))
    forged["1.weight"] = forged["1.weight"] + 1
    entry = chain.entries[BLOCKS]
    run.ledger.objects.replace(BLOCKS, replace(entry, keyframe=chain.keep(forged)))
    (lost,) = run.stock(check=True).lost
    assert (lost.block, lost.role) == (BLOCKS, "keyframe")
    assert "another state" in lost.reason


class Adapted(nn.Module):
    """A backbone of 100,000 parameters, which no optimizer is given, and a small head."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(64, 1600)
        self.head = nn.Linear(1600, CLASSES)

    def forward(self, x):
        return self.head(self.backbone(x.flatten(1)).relu())


def test_what_stays_as_it_was_is_stored_once(tmp_path):
    made = ob.Recipe(
        model=Adapted,
        optimizer=lambda parameters: torch.optim.SGD([*parameters][2:], lr=0.1),
        loss=nn.functional.cross_entropy,
        batch_size=6,
    )
    run = ob.fit(made, images(), tmp_path / "run", blocks=BLOCKS)
    first = run.chain().entries[0].keyframe.size_bytes
    assert run.stock().size_bytes() < 1.6 * first
    state = run.chain().state(BLOCKS)
    assert size_bytes(state) > 400_000
    assert digest(state) == run.digest
    run.forget(records=records_in(run, 3), method=ob.DeepObliviate(blocks=2))
    run.settle()
    alone = ob.fit(
        made, images(), tmp_path / "alone", blocks=BLOCKS, exclude=run.ledger.records.erased()
    )
    assert run.digest == alone.digest
    assert run.stock().size_bytes() < 1.6 * first
