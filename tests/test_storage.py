"""S3-compatible storage: tables and images by address, and artifacts through a DVC remote; a server of our own."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from pipeline.errors import NearsafeError, TableError
from pipeline.images import decode_image, encode_png
from pipeline.storage import open_output
from pipeline.tables import read_table, write_table

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("moto") is None, reason="moto is not installed: pip install 'nearsafe[dev]'"
)
SETTINGS = ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3")
ROWS = [{"caption_id": "c0", "text": "a red cup", "unsafe": False, "category": None, "source": "x", "split": "train",
         "family": "0"}]  # fmt: skip


@pytest.fixture(scope="module")
def server():
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    yield "http://{}:{}".format(*running.get_host_and_port())
    running.stop()


@pytest.fixture
def storage(server, monkeypatch, tmp_path):
    """The environment of a user with a bucket `nearsafe`; no configuration file is read."""
    import boto3

    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    given = {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": server, "NO_PROXY": "127.0.0.1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="nearsafe")
    return server


def test_a_table_in_storage_is_the_table_on_disk(storage, tmp_path):
    address = "s3://nearsafe/world/captions.parquet"
    write_table(address, "captions", ROWS)
    write_table(tmp_path / "captions.parquet", "captions", ROWS)
    found, local = read_table(address, "captions"), read_table(tmp_path / "captions.parquet", "captions")
    assert found.equals(local, check_metadata=True)
    with pytest.raises(TableError, match=r"s3://nearsafe/none.parquet: no such file"):
        read_table("s3://nearsafe/none.parquet", "captions")
    with pytest.raises(TableError, match=r"s3://nobodys/x.parquet: cannot be written"):
        write_table("s3://nobodys/x.parquet", "captions", ROWS)
    with pytest.raises(TableError, match=r"world/captions.parquet: holds table 'captions', expected 'pairs'"):
        read_table(address, "pairs")


def test_an_image_cell_may_point_into_storage(storage):
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    with open_output("s3://nearsafe/images/0.png") as file:
        file.write(encode_png(pixels))
    cell = {"bytes": None, "path": "s3://nearsafe/images/0.png"}
    assert np.array_equal(np.asarray(decode_image(cell, "x")), pixels)
    with pytest.raises(TableError, match="images.parquet, row 3: unreadable image"):
        decode_image({"bytes": None, "path": "s3://nearsafe/images/1.png"}, "images.parquet, row 3")


def test_what_was_not_written_to_its_end_is_not_there(storage):
    write_table("s3://nearsafe/kept.parquet", "captions", ROWS)
    for address in ("s3://nearsafe/half.parquet", "s3://nearsafe/kept.parquet"):
        with pytest.raises(RuntimeError, match="stopped"):
            with open_output(address) as file:
                file.write(b"x" * 6 * 2**20)  # more than a part of an upload
                raise RuntimeError("stopped")
    with pytest.raises(TableError, match="half.parquet: no such file"):
        read_table("s3://nearsafe/half.parquet", "captions")
    assert read_table("s3://nearsafe/kept.parquet", "captions").num_rows == 1


def test_without_credentials_in_the_environment_nothing_is_asked(storage, monkeypatch):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(NearsafeError, match="needs AWS_SECRET_ACCESS_KEY in the environment"):
        read_table("s3://nearsafe/world/captions.parquet", "captions")


@pytest.mark.skipif(
    importlib.util.find_spec("dvc_s3") is None, reason="dvc-s3 is not installed: pip install 'nearsafe[s3]'"
)
def test_artifacts_go_to_a_dvc_remote_and_come_back(storage, tmp_path):
    write_table(tmp_path / "data" / "captions.parquet", "captions", ROWS)
    before = (tmp_path / "data" / "captions.parquet").read_bytes()
    script = """
import os, shutil
from dvc.repo import Repo
repo = Repo.init(no_scm=True)
with repo.config.edit("repo") as config:
    config["core"] = {"remote": "store", "no_scm": True, "analytics": False, "check_update": False}
    config["remote"] = {"store": {"url": "s3://nearsafe/dvc", "endpointurl": os.environ["AWS_ENDPOINT_URL"]}}
repo = Repo()
repo.add("data")
print("pushed", repo.push())
shutil.rmtree("data"), shutil.rmtree(repo.cache.local.path)
repo.pull()
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pushed 2" in done.stdout  # the table and the listing of its directory
    assert (tmp_path / "data" / "captions.parquet").read_bytes() == before
