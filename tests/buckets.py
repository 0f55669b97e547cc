"""Buckets of S3 that are asked again at once, and a view of them from outside."""

from obliviate.vault.bucket import Bucket
from obliviate.vault.retry import retrying
from obliviate.vault.storage_errors import is_passing

PART = 5 * 2**20
ATTEMPTS = 4
QUICK = retrying(is_passing, attempts=ATTEMPTS, first_pause_seconds=0.001, total_seconds=10)


def bucket_at(url: str) -> Bucket:
    return Bucket(url, retry=QUICK, part_bytes=PART)


class S3Side:
    """What is in a bucket, seen through a client of its own."""

    def __init__(self, server, name: str) -> None:
        self.client, self.name = server.client, name

    def listed(self, prefix: str = "") -> set[str]:
        """Objects, their older versions and unfinished uploads."""
        page = {"Bucket": self.name, "Prefix": prefix}
        versions = self.client.list_object_versions(**page, MaxKeys=1000)
        found = versions.get("Versions", []) + versions.get("DeleteMarkers", [])
        found += self.client.list_multipart_uploads(**page).get("Uploads", [])
        return {each["Key"].removeprefix(prefix) for each in found}

    def raw(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def begin_upload(self, key: str) -> None:
        where = {"Bucket": self.name, "Key": key}
        upload = self.client.create_multipart_upload(**where)["UploadId"]
        self.client.upload_part(**where, UploadId=upload, PartNumber=1, Body=b"half")
