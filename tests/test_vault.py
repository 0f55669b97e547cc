"""The vault: what is kept comes back, or it is said that it does not."""

from __future__ import annotations

import errno
import io
import os
import pickle  # noqa: TID251 - to see that it is refused
import random
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

import obliviate as ob
from obliviate.errors import ObliviateError, RunDamaged, StorageFailed, StorageFull
from obliviate.states.update import ADDITIVE, Update, captured, digest, update_between
from obliviate.vault import KeyFile, Vault, codec
from obliviate.vault.codec import DTYPES
from obliviate.vault.folder import Folder
from obliviate.vault.frames import FRAME_BYTES, Plain, framed
from tests.contracts.vault_contract import VaultContract

NO_ROOM = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG]


def new_folder(path):
    folder = Folder(path)
    folder.make()
    return folder


class TestVault(VaultContract):
    """A vault in a folder."""

    @pytest.fixture
    def vault(self, tmp_path):
        return Vault(new_folder(tmp_path / "deep" / "vault"))

    def raw(self, vault, key):
        return (vault.storage.path / key).read_bytes()

    def tamper(self, vault, key, data):
        (vault.storage.path / key).write_bytes(data)

    def remove(self, vault, key):
        (vault.storage.path / key).unlink()

    def listed(self, vault):
        return {path.name for path in vault.storage.path.iterdir()}


class TestSealedVault(TestVault):
    """The same, encrypted."""

    @pytest.fixture
    def vault(self, tmp_path):
        seal = KeyFile.create(tmp_path / "key")
        return Vault(new_folder(tmp_path / "deep" / "vault"), seal, "an identity")


@pytest.fixture
def vault(tmp_path):
    return Vault(new_folder(tmp_path / "vault"))


def joined(state) -> bytes:
    return b"".join(framed(codec.encode(state)))


def joined_update(update) -> bytes:
    return b"".join(framed(codec.encode_update(update)))


def decode(data: bytes):
    return codec.decode(Plain(data))


def decode_update(data: bytes):
    return codec.decode_update(Plain(data))


def failing(number: int, at: int = 1, then=None):
    """A function that fails with an error number when it is called for the at-th time."""
    calls = []

    def fail(*args, **kwargs):
        calls.append(args)
        if len(calls) >= at:
            raise OSError(number, os.strerror(number))
        return then(*args, **kwargs)

    return fail


def left_behind(vault) -> list[str]:
    folder = vault.storage.path
    return [path.name for path in folder.iterdir()] if folder.exists() else []


# Failures of the disk


@pytest.mark.parametrize("number", NO_ROOM, ids=errno.errorcode.get)
@pytest.mark.parametrize("place", ["fsync of the object", "fsync of the folder", "rename"])
def test_a_full_or_forbidden_disk_leaves_nothing_behind(vault, monkeypatch, number, place):
    with monkeypatch.context() as patch:
        if place == "rename":
            patch.setattr(os, "rename", failing(number))
        else:
            at = 1 if place == "fsync of the object" else 2
            patch.setattr(os, "fsync", failing(number, at, os.fsync))
        with pytest.raises(StorageFull) as refusal:
            vault.write([b"ten bytes!"])
    assert os.strerror(number) in refusal.value.message
    assert str(vault.storage.path) in refusal.value.message
    assert left_behind(vault) == []


@pytest.mark.parametrize("place", ["fsync of the object", "fsync of the folder", "rename"])
def test_a_broken_disk_leaves_nothing_behind(vault, monkeypatch, place):
    with monkeypatch.context() as patch:
        if place == "rename":
            patch.setattr(os, "rename", failing(errno.EIO))
        else:
            at = 1 if place == "fsync of the object" else 2
            patch.setattr(os, "fsync", failing(errno.EIO, at, os.fsync))
        with pytest.raises(StorageFailed, match="Input/output error"):
            vault.write([b"x"])
    assert left_behind(vault) == []


def test_a_write_that_was_refused_can_be_tried_again(vault, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.ENOSPC))
        with pytest.raises(StorageFull):
            vault.write([b"x"])
    assert bytes(vault.read(vault.write([b"x"]))) == b"x"


def test_a_file_system_that_became_read_only_is_named(vault, monkeypatch):
    """Linux answers EROFS to every change, to taking away what is not there too."""
    vault.write([b"x"])
    with monkeypatch.context() as patch:
        patch.setattr(io, "open", failing(errno.EROFS))
        patch.setattr(os, "unlink", failing(errno.EROFS))
        with pytest.raises(StorageFull, match="Read-only file system"):
            vault.write([b"y"])


def test_a_folder_that_may_not_be_written_to_is_named(guarded_folder):
    folder, guarded = guarded_folder
    vault = Vault(Folder(folder))
    kept = vault.write([b"x"])
    with guarded(), pytest.raises(StorageFull, match="Permission denied"):
        vault.write([b"y"])
    assert set(vault) == {kept.key}


def test_an_object_is_complete_before_it_has_its_name(vault, monkeypatch):
    """Killed between the flush and the rename, nothing but an unfinished file is there."""
    seen = []

    def killed(source, target):
        seen.append(Path(source).read_bytes())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            vault.write([b"whole"])
    assert [bytes(Plain(data)) for data in seen] == [b"whole"]
    assert all(name.endswith(".part") for name in left_behind(vault))


def test_an_unfinished_file_is_listed_and_can_be_destroyed(vault):
    vault.write([b"x"])
    unfinished = f"{uuid.uuid4().hex}.part"
    (vault.storage.path / unfinished).write_bytes(b"half")
    assert unfinished in set(vault)
    vault.destroy(unfinished)
    assert unfinished not in left_behind(vault)


def test_the_folder_is_flushed_after_the_rename(vault, monkeypatch):
    """Without it a power cut could take back an object that the ledger names."""
    order = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(os, "rename", lambda *args: (order.append("rename"), rename(*args))[1])
    vault.write([b"x"])
    assert order == ["fsync", "rename", "fsync"]


# States as bytes


class Mixed(nn.Module):
    """One of everything that a state dict may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(5)
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("none", torch.zeros(0, 2))
        self.register_buffer("small", torch.tensor([1.5, -0.0], dtype=torch.bfloat16))
        self.register_buffer("wave", torch.tensor([1j, 2.0]))


def test_a_state_comes_back_with_its_ties():
    state = captured(Mixed().state_dict())
    back = decode(joined(state))
    assert digest(back) == digest(state)
    assert back["embed.weight"] is back["head.weight"]
    assert len(joined(state)) < len(joined({name: each.clone() for name, each in state.items()}))


@pytest.mark.parametrize("dtype", sorted(DTYPES, key=str), ids=str)
def test_every_dtype_that_can_be_kept_comes_back(dtype):
    state = {
        "flag": torch.tensor(True),  # so that the others lie at odd places
        "a": torch.tensor([1.5, -0.0, 3.0]).to(dtype),
        "b": torch.tensor(2.0).to(dtype),
        "c": torch.zeros(0, 3).to(dtype),
    }
    back = decode(joined(state))
    assert digest(back) == digest(state)
    assert {name: each.shape for name, each in back.items()} == {
        name: each.shape for name, each in state.items()
    }


def test_what_can_be_subtracted_can_be_kept():
    assert set(DTYPES) >= ADDITIVE


def test_an_object_is_checked_against_its_hash(vault):
    stored = vault.write([b"some bytes"])
    for said in ("0" * 64, f"blake3:{stored.hash}", ""):
        with pytest.raises(RunDamaged, match="its hash differs"):
            vault.checked(replace(stored, hash=said))


def test_plain_bytes_are_no_object():
    with pytest.raises(RunDamaged, match="does not begin as an object does"):
        Plain(save({"a": torch.ones(3)}))


@pytest.mark.parametrize("seed", range(200))
def test_bytes_that_are_no_frames_are_named_whatever_they_are(seed):
    noise = random.Random(seed).randbytes(60)
    head, length = framed_head(), len(noise).to_bytes(4, "little")
    with pytest.raises(RunDamaged, match="cannot be read"):
        bytes(Plain(head + length + noise))


def framed_head():
    return b"".join(framed([]))


@pytest.mark.parametrize("places", [[0], [0, 1], [254, 255, 510], [5, 40_000], [7, 3_000_000_000]])
def test_positions_of_corrections_come_back_whatever_their_distance(places):
    index = torch.tensor(places)
    update = Update({"a": torch.ones(1)}, {"a": (index, torch.ones(len(places)))})
    assert decode_update(joined_update(update)).corrections["a"][0].tolist() == places


def test_the_plain_bytes_are_a_safetensors_file():
    state = {"flag": torch.tensor(True), "a": torch.randn(3, 4), "n": torch.tensor(5)}
    found = load(bytes(Plain(joined(state))))
    assert digest(found) == digest(state)


def test_a_tensor_of_several_frames_comes_back():
    state = {"a": torch.randn(3 * FRAME_BYTES // 4 + 5), "b": torch.randn(7)}
    assert digest(decode(joined(state))) == digest(state)


def test_updates_of_training_take_less_room_than_states():
    state = {"a": torch.randn(200_000) * 0.05}
    update = update_between(state, {"a": state["a"] + 1e-4 * torch.randn(200_000)})
    assert len(joined_update(update)) < 0.7 * 4 * 200_000


def test_a_transposed_tensor_comes_back():
    state = {"a": torch.arange(6.0).reshape(2, 3).t(), "b": torch.arange(10)[::3]}
    assert digest(decode(joined(state))) == digest(state)


def test_a_state_that_comes_back_can_be_written_to():
    back = decode(joined({"a": torch.zeros(3)}))
    back["a"].add_(1)
    assert back["a"].tolist() == [1, 1, 1]


def test_an_update_comes_back():
    state = captured(Mixed().state_dict())
    model = Mixed()
    with torch.no_grad():
        model.embed.weight.mul_(1e-6)
        model.norm.num_batches_tracked.add_(3)
    update = update_between(state, captured(model.state_dict()))
    back = decode_update(joined_update(update))
    for kind in ("steps", "taken"):
        assert digest(getattr(back, kind)) == digest(getattr(update, kind))
    assert back.corrections.keys() == update.corrections.keys()
    for name, (index, value) in update.corrections.items():
        assert torch.equal(back.corrections[name][0], index)
        assert torch.equal(back.corrections[name][1], value)
    assert back.is_exact == update.is_exact


@pytest.mark.parametrize("is_exact", [True, False])
def test_an_empty_update_comes_back(is_exact):
    assert decode_update(joined_update(Update(is_exact=is_exact))) == Update(is_exact=is_exact)


def test_a_layer_may_have_any_name():
    names = ["step/a", "index/b", "value", "a/b/c", "tied", "ä.weight"]
    old = {name: torch.zeros(2) for name in names}
    update = update_between(old, {name: torch.ones(2) for name in names})
    assert set(decode_update(joined_update(update)).steps) == set(names)
    assert set(decode(joined(old))) == set(names)


# Foreign bytes


class Boom:
    """A pickle that says so when it is opened."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was opened')",))


FOREIGN = {
    "nothing": b"",
    "text": b"not a state",
    "pickle": pickle.dumps(Boom()),
    "zeros": bytes(100),
    "a cut state": joined({"a": torch.zeros(100)})[:-1],
    "a state of others": save({"a": torch.zeros(2)}),
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("decoder", [decode, decode_update])
def test_bytes_of_others_are_refused(decoder, data):
    with pytest.raises(RunDamaged, match="an object"):
        decoder(data)


def test_an_update_is_no_state_and_a_state_no_update():
    with pytest.raises(RunDamaged):
        decode(joined_update(Update(steps={"a": torch.zeros(2)})))
    with pytest.raises(RunDamaged):
        decode_update(joined({"a": torch.zeros(2)}))


def test_a_checkpoint_written_by_torch_is_not_opened():
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, buffer)  # noqa: TID251
    with pytest.raises(RunDamaged, match="an object"):
        decode(buffer.getvalue())


def test_a_pickle_put_into_a_run_is_refused_and_not_opened(tmp_path, recipe_of, data):
    run = ob.fit(recipe_of(), data, tmp_path / "run", blocks=4)
    for path in (tmp_path / "run" / "vault").iterdir():
        path.write_bytes(FOREIGN["pickle"])
    with pytest.raises(ObliviateError, match="not what was written"):
        run.model  # noqa: B018
