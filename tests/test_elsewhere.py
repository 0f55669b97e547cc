"""Runs whose vault lies elsewhere: in a bucket, in memory, in another folder."""

import json
from functools import partial

import pytest

import obliviate as ob
from obliviate.errors import ConnectionLost, ForeignVault, InvalidOption, OtherFormat, RunDamaged
from obliviate.vault.marker import MARKER_NAME
from obliviate.vault.retry import retrying
from obliviate.vault.storage import storage_of
from tests.models import BLOCKS, images, recipe, records_in
from tests.objects_server import Proxy


def made(folder, url, **options):
    return ob.fit(recipe(), images(), folder, blocks=BLOCKS, vault=url, **options)


@pytest.fixture(params=["folder", "memory", "s3"])
def url(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "elsewhere")
    return request.getfixturevalue("s3")() if request.param == "s3" else f"memory://{tmp_path.name}"


def test_a_run_lives_there_as_anywhere(tmp_path, url):
    run = made(tmp_path / "run", url, seal=ob.KeyFile.create(tmp_path / "key"))
    alone = ob.fit(recipe(), images(), tmp_path / "alone", blocks=BLOCKS)
    assert run.digest == alone.digest
    assert not (tmp_path / "run" / "vault").exists()
    run = ob.load(tmp_path / "run", recipe(), images())
    records = records_in(run, 3)
    run.forget(records=records, method=ob.DeepObliviate(blocks=2))
    run.settle()
    alone.forget(records=records, method="exact")
    assert run.digest == alone.digest
    assert run.verify().passed
    assert run.stock(check=True).lost == ()
    assert set(run.vault) == run.ledger.objects.keys("live") == set(storage_of(url)) - {MARKER_NAME}


def test_calling_fit_again_finds_it(tmp_path, url):
    assert made(tmp_path / "run", url).digest == made(tmp_path / "run", url).digest
    with pytest.raises(InvalidOption, match="stays where the run was made"):
        made(tmp_path / "run", url + "-other")


def test_two_runs_never_share_a_storage(tmp_path, url):
    first = made(tmp_path / "one", url)
    before = set(storage_of(url))
    with pytest.raises(ForeignVault, match="another run"):
        made(tmp_path / "other", url)
    assert set(storage_of(url)) == before
    assert first.verify().passed


def test_a_storage_with_other_things_is_left_alone(tmp_path, url):
    storage = storage_of(url)
    storage.make()
    storage.write("holiday.jpg", [b"a picture"])
    with pytest.raises(ForeignVault, match=r"holiday\.jpg"):
        made(tmp_path / "run", url)
    assert set(storage) == {"holiday.jpg"}


def rewritten(url, **said):
    """Let the marker say something else."""
    storage = storage_of(url)
    marker = json.loads(storage.read(MARKER_NAME)) | said
    storage.destroy(MARKER_NAME)
    storage.write(MARKER_NAME, [json.dumps(marker).encode()])


def test_a_bucket_that_was_exchanged_is_told_from_the_runs_own(tmp_path, url):
    made(tmp_path / "run", url)
    rewritten(url, vault="of somebody else")
    with pytest.raises(ForeignVault, match="another run"):
        ob.load(tmp_path / "run", recipe(), images())


def test_another_format_is_refused(tmp_path, url):
    made(tmp_path / "run", url)
    rewritten(url, format=99)
    with pytest.raises(OtherFormat, match="format 99"):
        ob.load(tmp_path / "run", recipe(), images())


def test_a_storage_that_was_emptied_is_told(tmp_path, url):
    made(tmp_path / "run", url)
    storage = storage_of(url)
    for key in list(storage):
        storage.destroy(key)
    with pytest.raises(RunDamaged, match="emptied"):
        ob.load(tmp_path / "run", recipe(), images())


def test_a_connection_that_is_lost_in_the_middle_is_made_up_for(tmp_path, s3, objects, monkeypatch):
    """After some requests nothing gets through any more; when it does again, the call goes on."""
    alone = ob.fit(recipe(), images(), tmp_path / "alone", blocks=BLOCKS)
    records = records_in(alone, 3)
    alone.forget(records=records, method="exact")
    url = s3()
    with Proxy(objects).serving() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        briefly = partial(retrying, attempts=2, first_pause_seconds=0.01, total_seconds=1.0)
        monkeypatch.setattr("obliviate.vault.bucket.retrying", briefly)
        through = 9

        def refuse(method, path):
            return 503 if len(proxy.seen) > through else None

        proxy.refuse = refuse
        with pytest.raises(ConnectionLost, match="s3://"):
            made(tmp_path / "run", url)
        proxy.refuse = lambda method, path: None
        run = made(tmp_path / "run", url)
        through = len(proxy.seen) + 6
        proxy.refuse = refuse
        with pytest.raises(ConnectionLost):
            run.forget(records=records, method="exact")
        proxy.refuse = lambda method, path: None
        run = ob.load(tmp_path / "run", recipe(), images())
        run.forget(records=records, method="exact")
        assert run.digest == alone.digest
        assert set(run.vault) == run.ledger.objects.keys("live")
