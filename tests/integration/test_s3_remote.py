"""A DVC remote on S3: push, lose everything local, pull, verify; against a real S3-compatible
server on loopback."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from model.errors import DataError, ServiceError
from tasks.data.dvc import hash_folder
from tasks.data.status import data_status
from tasks.data.version import materialise
from tasks.ingest.ingest import push_version
from tests.projects import dvc, forget

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

BUCKET = "shop"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an S3 server with an empty bucket; the credentials are in the environment, as
    in production."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket=BUCKET)
    yield address
    server.stop()


@pytest.fixture
def on_s3(project: Path, bucket: str) -> Path:
    """A project whose default remote is the bucket, set by the two commands that the README
    names."""
    dvc(project, "remote", "add", "--default", "--force", "shop", f"s3://{BUCKET}/commerce-clip")
    dvc(project, "remote", "modify", "shop", "endpointurl", bucket)
    return project


def keys(address: str) -> list[str]:
    listed = boto3.client("s3", endpoint_url=address).list_objects_v2(Bucket=BUCKET)
    return [entry["Key"] for entry in listed.get("Contents", [])]


def test_a_version_comes_back_from_s3_byte_for_byte(on_s3: Path, bucket: str) -> None:
    before = hash_folder(on_s3 / "data")
    assert push_version.fn("0" * 32) is None
    assert len(keys(bucket)) == len(set(before.values())) + 1
    assert {fact.what: fact.is_good for fact in data_status()}["remote"]
    forget(on_s3)
    assert materialise(on_s3 / "data").file_md5 == before


@pytest.mark.full
def test_an_object_that_was_damaged_or_deleted_on_s3_stops_the_run(
    on_s3: Path, bucket: str
) -> None:
    push_version.fn("0" * 32)
    intact, client = hash_folder(on_s3 / "data"), boto3.client("s3", endpoint_url=bucket)
    md5 = intact["finetune/train.tsv"]
    key = f"commerce-clip/files/md5/{md5[:2]}/{md5[2:]}"
    client.put_object(Bucket=BUCKET, Key=key, Body=b"other bytes")
    forget(on_s3)
    with pytest.raises((DataError, ServiceError), match=r"damaged|failed"):
        materialise(on_s3 / "data")
    assert (
        hash_folder(on_s3 / "data") if (on_s3 / "data").is_dir() else {}
    ).items() <= intact.items()
    client.delete_object(Bucket=BUCKET, Key=key)
    with pytest.raises((DataError, ServiceError), match="`dvc pull` failed"):
        materialise(on_s3 / "data")
