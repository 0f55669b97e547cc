"""Sealed vaults: without the master key there is nothing to read, and destroyed is destroyed."""

import base64
import os
import shutil
import stat
from dataclasses import replace

import pytest

import obliviate as ob
from obliviate.errors import InvalidOption, KeyMissing, RunDamaged, WrongKey
from obliviate.vault.codec import encode
from obliviate.vault.folder import Folder
from obliviate.vault.frames import FRAME_BYTES, FrameCipher, Plain, framed
from obliviate.vault.seal import KeyFile, KeyService, KeyVariable
from obliviate.vault.vault import Vault
from tests.models import BLOCKS, RECORDS, images, recipe, records_in

KEY = bytes(range(32))


@pytest.fixture
def key(tmp_path):
    return KeyFile.create(tmp_path / "key")


def sealed_run(folder, seal):
    return ob.fit(recipe(), images(), folder, blocks=BLOCKS, seal=seal)


# The key


def test_a_key_file_is_its_owners_alone(key):
    assert stat.S_IMODE(key.path.stat().st_mode) == 0o600
    assert len(base64.b64decode(key.path.read_text())) == 32


def test_a_key_file_is_never_written_over(key):
    before = key.path.read_text()
    with pytest.raises(InvalidOption, match="File exists"):
        KeyFile.create(key.path)
    assert key.path.read_text() == before


@pytest.mark.parametrize("text", ["", "short", "ä" * 44, base64.b64encode(bytes(31)).decode()])
def test_what_is_no_key_is_refused(tmp_path, monkeypatch, text):
    (tmp_path / "key").write_text(text)
    monkeypatch.setenv("NO_KEY", text)
    for seal in (KeyFile(tmp_path / "key"), KeyVariable("NO_KEY")):
        with pytest.raises(KeyMissing):
            seal.wrap(KEY, b"")


def seals(tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", base64.b64encode(KEY).decode())
    inner = KeyFile.create(tmp_path / "inner")
    return [
        KeyFile.create(tmp_path / "key"),
        KeyVariable("A_KEY"),
        KeyService(inner.wrap, inner.unwrap, "a service of ours"),
    ]


def test_a_wrapped_key_comes_back_in_its_own_context_alone(tmp_path, monkeypatch):
    for seal in seals(tmp_path, monkeypatch):
        wrapped = seal.wrap(KEY, b"one")
        assert KEY not in wrapped
        assert seal.unwrap(wrapped, b"one") == KEY
        for changed in (wrapped[:-1], wrapped + b"x", b"", bytes([wrapped[0] ^ 1]) + wrapped[1:]):
            with pytest.raises(WrongKey):
                seal.unwrap(changed, b"one")
        with pytest.raises(WrongKey):
            seal.unwrap(wrapped, b"other")


def test_a_service_that_fails_is_named():
    def broken(*_):
        raise TimeoutError("no answer")

    with pytest.raises(KeyMissing, match=r"the KMS did not answer.*no answer"):
        KeyService(broken, broken, "the KMS").wrap(KEY, b"")


# Frames


def frames_of(data):
    at, frames = 8, []
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        frames.append(data[at:end])
        at = end
    return data[:8], frames


@pytest.mark.parametrize(
    "change",
    [
        lambda frames: frames[::-1],
        lambda frames: frames[:-1],
        lambda frames: frames[1:],
        lambda frames: [frames[0], frames[0], *frames[1:]],
    ],
    ids=["moved", "cut", "beheaded", "repeated"],
)
def test_frames_cannot_be_moved_even_by_someone_who_mends_the_hash(change):
    pieces = [os.urandom(FRAME_BYTES), os.urandom(FRAME_BYTES), b"end"]
    data = b"".join(framed(pieces, FrameCipher(KEY, "name")))
    assert bytes(Plain(data, FrameCipher(KEY, "name"))) == b"".join(pieces)
    head, frames = frames_of(data)
    with pytest.raises(RunDamaged):
        bytes(Plain(head + b"".join(change(frames)), FrameCipher(KEY, "name")))


def test_an_object_cannot_be_given_for_another():
    data = b"".join(framed([b"secret"], FrameCipher(KEY, "one")))
    with pytest.raises(RunDamaged):
        bytes(Plain(data, FrameCipher(KEY, "other")))


def test_a_sealed_object_shows_nothing_of_its_content(tmp_path, key):
    vault = Vault(Folder(tmp_path / "vault"), key, "x")
    vault.storage.make()
    stored = vault.write([b"a very plain text " * 100])
    raw = (tmp_path / "vault" / stored.key).read_bytes()
    assert b"plain" not in raw
    with pytest.raises(RunDamaged):
        bytes(Plain(raw[:5] + b"\0" + raw[6:]))  # called open, its frames are none
    assert bytes(vault.read(stored)) == b"a very plain text " * 100


# Runs


def test_a_sealed_run_trains_erases_and_reopens_as_any_other(tmp_path, monkeypatch):
    open_run = ob.fit(recipe(), images(), tmp_path / "open", blocks=BLOCKS)
    for number, seal in enumerate(seals(tmp_path, monkeypatch)):
        run = sealed_run(tmp_path / str(number), seal)
        assert run.digest == open_run.digest
        given = seal if isinstance(seal, KeyService) else None
        run = ob.load(tmp_path / str(number), recipe(), images(), seal=given)
        run.forget(records=records_in(run, 2), method="exact")
        assert run.verify().passed
        assert run.stock(check=True).lost == ()


def test_a_wrong_key_opens_nothing_and_changes_nothing(tmp_path, key):
    run = sealed_run(tmp_path / "run", key)
    before = run.digest
    other = KeyFile.create(tmp_path / "other")
    with pytest.raises(WrongKey, match="another master key"):
        ob.load(tmp_path / "run", recipe(), images(), seal=other)
    with pytest.raises(WrongKey):
        sealed_run(tmp_path / "run", other)
    key.path.rename(tmp_path / "moved")
    with pytest.raises(KeyMissing, match="cannot be read"):
        ob.load(tmp_path / "run", recipe(), images())
    run = ob.load(tmp_path / "run", recipe(), images(), seal=KeyFile(tmp_path / "moved"))
    assert run.digest == before
    assert run.verify().passed


def test_a_service_has_to_be_given_again(tmp_path, key):
    sealed_run(tmp_path / "run", KeyService(key.wrap, key.unwrap, "our KMS"))
    with pytest.raises(KeyMissing, match="our KMS"):
        ob.load(tmp_path / "run", recipe(), images())


def test_a_run_in_the_clear_cannot_be_sealed_afterwards(tmp_path, key):
    ob.fit(recipe(), images(), tmp_path / "run", blocks=BLOCKS)
    with pytest.raises(InvalidOption, match="without a master key"):
        sealed_run(tmp_path / "run", key)


@pytest.mark.parametrize("method", ["deepobliviate", "calibrated", "exact"])
def test_a_backup_of_the_vault_is_worthless_for_what_was_destroyed(tmp_path, key, method):
    """The attacker has the master key, an old backup of every object, and all of today's disk."""
    run = sealed_run(tmp_path / "run", key)
    backup = tmp_path / "backup"
    shutil.copytree(tmp_path / "run" / "vault", backup)
    before = {each.stored.key: each.stored for each in run.ledger.objects.all()}
    vault = Vault(Folder(backup), key, run.facts.vault["identity"])
    for stored in before.values():  # the attack works: with the old keys all of it is read
        assert bytes(vault.read(stored))

    run.forget(records=records_in(run, 2), method=method)
    gone = {each.stored.key for each in run.ledger.objects.all() if each.state == "destroyed"}
    assert len(gone) >= 2
    run.ledger.close()
    disk = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    keys_left = [
        each.stored.sealed_key for each in run.ledger.objects.all() if each.state == "live"
    ]
    for name in gone:
        assert (backup / name).exists()
        old = before[name].sealed_key
        assert old not in disk  # not in free pages or in the write-ahead log either
        for wrapped in keys_left:
            with pytest.raises(WrongKey):
                key.unwrap(wrapped, f"{run.facts.vault['identity']}/{name}".encode())


def test_keys_are_destroyed_before_objects(tmp_path, key, monkeypatch):
    """Killed between the two, what is left of an object cannot be read any more."""
    run = sealed_run(tmp_path / "run", key)
    before = {each.stored.key: each.stored.sealed_key for each in run.ledger.objects.all()}

    def dying(self, name):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "destroy", dying)
        with pytest.raises(KeyboardInterrupt):
            run.forget(records=records_in(run, 2), method="exact")
    condemned = [each for each in run.ledger.objects.all() if each.state == "condemned"]
    assert condemned
    for each in condemned:
        assert before[each.stored.key] is not None
        assert each.stored.sealed_key is None
        assert (tmp_path / "run" / "vault" / each.stored.key).exists()
    again = ob.load(tmp_path / "run", recipe(), images())
    assert set(again.vault) == again.ledger.objects.keys("live")
    assert again.verify().passed
    events = [entry.event for entry in again.ledger.journal.entries()]
    assert [event for event in events if event[-9:] == "destroyed"] == [
        "data keys destroyed",
        "objects destroyed",
    ]


@pytest.mark.parametrize("is_sealed", [True, False])
def test_a_sealed_vault_gives_no_object_in_the_clear_nor_the_other_way_round(
    tmp_path, key, is_sealed
):
    """Whoever can write to the ledger could hand over a state of his own making."""
    run = sealed_run(tmp_path / "run", key if is_sealed else None)
    other = Vault(run.vault.storage, None if is_sealed else key, run.facts.vault["identity"])
    chain = run.chain()
    forged = other.write(encode(chain.state(BLOCKS)))
    run.ledger.objects.replace(BLOCKS, replace(chain.entries[BLOCKS], keyframe=forged))
    with pytest.raises(RunDamaged, match="sealed"):
        ob.load(tmp_path / "run", recipe(), images()).model  # noqa: B018
    assert run.stock(check=True).lost[0].key == forged.key
    assert run.verify(repair=True).passed
    assert ob.load(tmp_path / "run", recipe(), images()).digest == run.digest


def test_a_stolen_folder_does_not_even_hold_the_keys_of_names(tmp_path):
    folder, seal = tmp_path / "run", ob.KeyFile.create(tmp_path / "key")
    subjects = [f"u{record % 9}" for record in range(RECORDS)]
    run = ob.fit(recipe(), images(), folder, blocks=BLOCKS, subjects=subjects, seal=seal)
    keys = (run.facts.subject_key, run.facts.content_key)
    run.ledger.flush()
    files = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert not any(key in files for key in keys)
    again = ob.load(folder, recipe(), images(), seal=seal)
    assert (again.facts.subject_key, again.facts.content_key) == keys
    assert again.forget(subjects=["u3"]).records == RECORDS // 9


def test_what_is_made_is_its_owners_alone(tmp_path):
    run = ob.fit(recipe(), images(), tmp_path / "run", blocks=BLOCKS)
    for path in (run.folder, *run.folder.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
