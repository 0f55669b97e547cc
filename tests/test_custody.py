"""Custody of a vault: copies, older ledgers and woken processes delete nothing of others."""

from __future__ import annotations

import json
import os
import shutil
import uuid

import pytest

import obliviate as ob
from obliviate.errors import ForeignVault, InvalidOption, LeaseLost, RunDamaged, RunOutdated
from obliviate.ledger import Ledger
from obliviate.vault.marker import MARKER_NAME
from tests.models import BLOCKS, images, recipe, records_in
from tests.test_cli import ask, call


def made(folder, **options):
    return ob.fit(recipe(), images(), folder, blocks=BLOCKS, **options)


def load(folder):
    return ob.load(folder, recipe(), images())


def files(folder):
    return {path.name for path in folder.iterdir()}


def is_whole(run):
    """Whether a run has all that it needs, and nothing of anybody's else."""
    assert set(run.vault) == run.ledger.objects.keys("live")
    assert run.stock(check=True).lost == ()
    return run.verify().passed


# The working directory


@pytest.mark.parametrize("vault", [None, "objects", "../objects"])
def test_the_working_directory_may_change_between_calls(tmp_path, monkeypatch, vault):
    alone = made(tmp_path / "alone")
    record = records_in(alone, 3)[0]
    alone.forget(records=[record], method="exact")
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    monkeypatch.chdir(here)
    key = ob.KeyFile.create("key")
    run = made("runs/x", vault=vault, seal=key, tombstones="gone.sqlite")
    monkeypatch.chdir(there)
    assert run.forget(records=[record], method="exact").digest == alone.digest
    assert is_whole(run)
    assert files(there) == set()
    assert is_whole(load(here / "runs" / "x"))
    with pytest.raises(InvalidOption, match="stays where"):
        made(here / "runs" / "x", vault="objects")
    monkeypatch.chdir(here)
    assert made("runs/x", vault=vault, seal=key).digest == alone.digest


def test_runs_of_one_relative_name_leave_each_other_alone(tmp_path, monkeypatch):
    runs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        runs.append(made("runs/x"))
    first, second = runs
    second.forget(records=[5], method="exact")
    before = files(tmp_path / "b" / "runs" / "x" / "vault")
    first.settle()
    first.forget(records=[5], method="exact")
    assert files(tmp_path / "b" / "runs" / "x" / "vault") == before
    assert is_whole(first)
    assert is_whole(second)


def test_a_vault_may_be_a_path_object_and_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run = made("~/run", vault=tmp_path / "objects")
    assert run.folder == tmp_path / "run"
    assert files(tmp_path) == {"run", "objects"}
    assert is_whole(made(tmp_path / "run", vault="~/objects"))


@pytest.mark.parametrize(
    "vault",
    [
        7,
        "",
        b"objects",
        "file://objects",
        "file:///x#y",
        "a\0b",
        "n" * 300,
        "run",
        "run/mine",
        "file",
        "file/below",
        ".",
    ],
)
def test_a_wrong_vault_leaves_nothing_behind(tmp_path, monkeypatch, vault):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("something else")
    with pytest.raises(InvalidOption):
        made("run", vault=vault)
    assert files(tmp_path) == {"file"}


def test_a_moved_folder_takes_its_vault_along(tmp_path):
    made(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    run = load(tmp_path / "two")
    run.forget(records=[5], method="exact")
    assert is_whole(run)
    assert files(tmp_path) == {"two"}


def test_a_folder_that_is_moved_under_an_open_run_is_not_begun_anew(tmp_path):
    run = made(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    for change in (
        lambda: run.forget(records=[5], method="exact"),
        lambda: run.verify(repair=True),
    ):
        with pytest.raises(RunDamaged, match="gone") as refusal:
            change()
        assert "where it is now" in refusal.value.hint
    assert files(tmp_path) == {"two"}
    moved = load(tmp_path / "two")
    moved.forget(records=[5], method="exact")
    assert is_whole(moved)


def test_a_vault_behind_a_link_stays_behind_it(tmp_path):
    run = made(tmp_path / "run")
    (tmp_path / "run" / "vault").rename(tmp_path / "larger")
    (tmp_path / "run" / "vault").symlink_to(tmp_path / "larger")
    run.forget(records=[5], method="exact")
    assert is_whole(load(tmp_path / "run"))
    assert (tmp_path / "run" / "vault").is_symlink()


# Copies


@pytest.fixture
def copied(tmp_path):
    """A run whose vault lies elsewhere, and a copy of its folder."""
    run = made(tmp_path / "a", vault=tmp_path / "objects")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    return run, tmp_path


@pytest.mark.parametrize("change", ["forget", "extend", "work"])
def test_an_older_copy_neither_reads_nor_deletes(copied, change):
    run, place = copied
    still_open = load(place / "b")
    changes = {
        "forget": lambda run: run.forget(records=[5], method="exact"),
        "settle": lambda run: run.settle(),
        "extend": lambda run: run.extend(images(12, seed=1), blocks=2),
        "work": lambda run: run.work(everything=True),
    }
    run.request(records=[5])
    changes[change](run)
    before = files(place / "objects")
    with pytest.raises(RunOutdated, match="older than the one that last wrote") as refusal:
        load(place / "b")
    assert "leaving out whoever was erased since" in refusal.value.hint
    for of_copy in (*changes.values(), lambda run: run.verify(repair=True)):
        with pytest.raises(RunOutdated):
            of_copy(still_open)
    if change == "forget":
        with pytest.raises(RunOutdated):
            still_open.model  # noqa: B018
    for command in ("vault", "vault --orphans", "vault --check", "report"):
        name, *options = command.split()
        assert "older" in ask(name, place / "b", *options, code=1)["error"]
    assert files(place / "objects") == before
    if change != "extend":
        assert is_whole(load(place / "a"))


def test_where_the_copy_wrote_last_the_original_gives_way(copied):
    run, place = copied
    load(place / "b").forget(records=[5], method="exact")
    before = files(place / "objects")
    with pytest.raises(RunOutdated):
        run.forget(records=[7], method="exact")
    with pytest.raises(RunOutdated):
        load(place / "a")
    assert files(place / "objects") == before
    assert is_whole(load(place / "b"))


def test_copies_that_went_on_by_as_many_steps_are_told_apart(copied):
    """Both journals have an entry of the marker's number; only one of them wrote the marker."""
    run, place = copied
    still_open = load(place / "b")
    shutil.copytree(place / "objects", place / "before")
    run.extend(images(12, seed=1), blocks=2)
    (place / "objects").rename(place / "after")
    (place / "before").rename(place / "objects")
    still_open.extend(images(12, seed=1), blocks=2)
    assert still_open.ledger.journal.end()[0] == run.ledger.journal.end()[0]
    shutil.rmtree(place / "objects")
    (place / "after").rename(place / "objects")
    with pytest.raises(RunOutdated):
        still_open.settle()
    assert is_whole(run)


def test_a_call_that_finds_nothing_to_do_changes_nothing(tmp_path):
    run = made(tmp_path / "run")
    before = run.status(), (run.folder / "vault" / MARKER_NAME).read_bytes()
    made(tmp_path / "run")
    run.settle()
    run.work(everything=True)
    assert (run.status(), (run.folder / "vault" / MARKER_NAME).read_bytes()) == before


@pytest.mark.parametrize("is_inside", [True, False])
@pytest.mark.parametrize("method", ["exact", ob.DeepObliviate(epsilon=9)])
def test_a_ledger_put_back_from_a_backup_deletes_nothing(tmp_path, is_inside, method):
    """As advised nowhere any more: the ledger alone comes back, the vault has moved on."""
    vault = None if is_inside else tmp_path / "objects"
    run = made(tmp_path / "run", vault=vault)
    run.ledger.close()
    ledger, backup = tmp_path / "run" / "ledger.sqlite", tmp_path / "backup"
    shutil.copy(ledger, backup)
    run.forget(records=records_in(run, 3), method=method)
    newest = ledger.read_bytes()
    run.ledger.close()
    for left in (tmp_path / "run").glob("ledger.sqlite*"):
        left.rename(tmp_path / f"newest-{left.name}")
    shutil.copy(backup, ledger)
    objects = tmp_path / "run" / "vault" if is_inside else vault
    before = files(objects)
    with pytest.raises(RunOutdated):
        load(tmp_path / "run")
    with pytest.raises(RunOutdated):
        made(tmp_path / "run", vault=vault)
    assert files(objects) == before
    assert newest
    for left in tmp_path.glob("newest-*"):
        left.rename(tmp_path / "run" / left.name.removeprefix("newest-"))
    assert is_whole(load(tmp_path / "run"))


def test_a_write_ahead_log_that_is_dropped_is_noticed(tmp_path):
    run = made(tmp_path / "run")
    run.ledger.close()
    run = load(tmp_path / "run")
    run.extend(images(12, seed=1), blocks=2)
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "run", copy)  # as after a crash, less the log
    (copy / "ledger.sqlite-wal").unlink()
    before = files(copy / "vault")
    with pytest.raises(RunOutdated):
        load(copy)
    assert files(copy / "vault") == before


def test_a_whole_folder_that_is_copied_goes_its_own_way(tmp_path):
    run = made(tmp_path / "a")
    run.ledger.close()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    run.forget(records=[5], method="exact")
    other = load(tmp_path / "b")
    other.forget(records=[7], method="exact")
    assert is_whole(run)
    assert is_whole(other)


def test_vaults_that_were_exchanged_are_not_swept(tmp_path):
    runs = [made(tmp_path / "a"), made(tmp_path / "b")]
    vaults = [run.folder / "vault" for run in runs]
    vaults[0].rename(tmp_path / "spare"), vaults[1].rename(vaults[0])
    (tmp_path / "spare").rename(vaults[1])
    before = [files(vault) for vault in vaults]
    for run in runs:
        for call_again in (run.settle, lambda run=run: load(run.folder)):
            with pytest.raises(ForeignVault):
                call_again()
    assert [files(vault) for vault in vaults] == before


# What is not ours


@pytest.fixture
def littered(tmp_path):
    """A run in whose vault somebody left this and that."""
    run = made(tmp_path / "run")
    vault = tmp_path / "run" / "vault"
    precious = tmp_path / "precious"
    precious.write_text("my only copy")
    (vault / "README.txt").write_text("do not touch")
    (vault / "backup.tar").write_text("a backup")
    (vault / f"{uuid.uuid4().hex}.bak").write_text("an object's backup")
    (vault / "thesis.part").write_text("the first half")
    (vault / uuid.uuid4().hex).symlink_to(precious)
    (vault / "subfolder").mkdir()
    (vault / "subfolder" / uuid.uuid4().hex).write_text("deeper")
    foreign = files(vault) - set(run.vault) - {MARKER_NAME}
    for orphan in (uuid.uuid4().hex, f"{uuid.uuid4().hex}.part"):
        (vault / orphan).write_text("what a killed process left")
    return run, foreign


@pytest.mark.parametrize("how", ["orphans", "settle", "forget", "fit"])
def test_only_objects_are_swept_and_the_rest_is_named(littered, how):
    run, foreign = littered
    vault = run.folder / "vault"
    assert len(foreign) == 6
    assert set(ask("vault", run.folder)["foreign"]) == foreign
    assert len(ask("vault", run.folder)["orphans"]) == 2
    if how == "orphans":
        assert len(ask("vault", run.folder, "--orphans")["removed"]) == 2
    elif how == "forget":
        run.forget(records=[5], method="exact")
    else:
        run.settle() if how == "settle" else made(run.folder)
    assert is_whole(run)
    assert files(vault) == foreign | run.ledger.objects.keys("live") | {MARKER_NAME}
    assert (run.folder.parent / "precious").read_text() == "my only copy"
    assert "README.txt" in call("vault", run.folder).stdout


def test_an_object_that_became_a_link_is_not_called_destroyed(tmp_path):
    run = made(tmp_path / "run")
    key = run.chain().entries[3].update.key
    moved = tmp_path / "moved"
    (run.folder / "vault" / key).rename(moved)
    (run.folder / "vault" / key).symlink_to(moved)
    run.forget(records=records_in(run, 3), method="exact")
    assert run.ledger.objects.keys("condemned") == {key}
    assert key in run.stock().foreign
    (run.folder / "vault" / key).unlink(), moved.unlink()
    run.settle()
    assert is_whole(run)
    assert not run.ledger.objects.keys("condemned")


def test_orphans_are_left_while_an_object_in_use_is_missing(tmp_path):
    run = made(tmp_path / "run")
    key = run.chain().entries[2].update.key
    (run.folder / "vault" / key).unlink()
    orphan = uuid.uuid4().hex
    (run.folder / "vault" / orphan).write_text("perhaps the one that is missing")
    run.settle()
    assert orphan in set(run.vault)
    stock = run.stock()
    assert (stock.missing, stock.orphans) == ((key,), (orphan,))
    refusal = ask("vault", run.folder, "--orphans", code=1)
    assert key in refusal["error"]
    assert "--repair" in refusal["hint"]
    assert run.verify(repair=True).passed
    assert is_whole(run)


@pytest.mark.parametrize("said", [None, "{}", "no json", '{"vault": 7, "number": "x"}'])
def test_a_vault_without_its_marker_is_not_written_to(tmp_path, said):
    run = made(tmp_path / "run")
    marker = run.folder / "vault" / MARKER_NAME
    marker.unlink() if said is None else marker.write_text(said)
    before = files(run.folder / "vault")
    assert load(run.folder).digest == run.digest
    for change in (run.settle, lambda: run.forget(records=[5], method="exact")):
        with pytest.raises(RunDamaged, match=MARKER_NAME) as refusal:
            change()
        assert "--repair" in refusal.value.hint
    assert files(run.folder / "vault") == before
    assert run.verify(repair=True).passed
    assert json.loads(marker.read_text())["number"] > 0
    run.forget(records=[5], method="exact")
    assert is_whole(run)


def test_objects_of_nobody_knows_whom_get_no_new_marker(tmp_path):
    run = made(tmp_path / "run")
    (run.folder / "vault" / MARKER_NAME).unlink()
    (run.folder / "vault" / uuid.uuid4().hex).write_text("of a newer ledger, perhaps")
    before = files(run.folder / "vault")
    with pytest.raises(RunDamaged, match="not in the ledger"):
        run.verify(repair=True)
    assert files(run.folder / "vault") == before


# Woken processes


def taken_over(run):
    """Another holder takes the lease, as when this process slept for too long."""
    other = Ledger(run.folder)
    other.lease.silence_seconds = 0.0
    run.ledger.lease._heart.stopped.set()
    for _ in other.lease.held(patience_seconds=10):
        pass
    return other


def test_a_woken_process_sweeps_nothing(tmp_path):
    """It has listed the new holder's object before it asks whether it is still the holder."""
    run = made(tmp_path / "run")
    for _ in run.ledger.lease.held(patience_seconds=0):
        pass
    other = taken_over(run)
    new = load(run.folder).vault.write([b"the new holder's"])
    with pytest.raises(LeaseLost):
        run.chain().sweep()
    assert new.key in set(run.vault)
    run.ledger.lease.release()
    other.lease.release()
    other.close()


@pytest.mark.parametrize("method", ["exact", ob.DeepObliviate(epsilon=9)])
def test_a_process_that_lost_the_lease_takes_its_own_objects_along(tmp_path, method):
    """Nobody else could know that they are nobody's, before the next one writes."""
    run = made(tmp_path / "run")
    events = run.forget.events(records=records_in(run, 2), method=method)
    while not (run.vault.fresh and run.ledger.erasures.running()):
        next(events)
    other = taken_over(run)
    with pytest.raises(LeaseLost):
        list(events)
    other.lease.release()
    other.close()
    staged = load(run.folder).ledger.objects.keys("live")
    assert set(run.vault) == staged
    run.forget(records=records_in(run, 2), method=method)
    assert is_whole(run)


def test_a_read_only_folder_can_be_opened(guarded_folder):
    folder, guarded = guarded_folder
    run = made(folder / "run")
    run.ledger.close()
    digest = run.digest
    run.ledger.close()
    with guarded(folder / "run", folder / "run" / "vault"):
        assert load(folder / "run").digest == digest
        assert load(folder / "run").status().erased == 0
    assert os.path.exists(folder / "run")  # noqa: PTH110
