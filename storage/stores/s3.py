"""How S3 is talked to: the set-up of its client, the address of an object, the listing of a prefix."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import fsspec  # type: ignore[import-untyped]


def s3() -> Any:
    """Return the file system of all buckets."""
    return fsspec.filesystem("s3", **s3_options())


def s3_options() -> dict[str, Any]:
    """How the client is set up, for fsspec and zarr; the rest is the usual AWS chain of this process."""
    # Many S3 servers reject the checksum trailers botocore sends by default; receipts carry our own hashes.
    config: dict[str, Any] = {
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    if any(os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")):
        # bucket.host resolves at AWS; a server of one's own seldom has such names.
        config["s3"] = {"addressing_style": "path"}
    return {"config_kwargs": config, "use_listings_cache": False}


def bucket_and_key(url: str) -> dict[str, str]:
    """Address of an object as the S3 requests want it."""
    bucket, key = url.removeprefix("s3://").split("/", 1)
    return {"Bucket": bucket, "Key": key}


def s3_listing(url: str) -> dict[str, Mapping[str, Any]]:
    """What S3 says of all objects under a prefix, by path below it; hidden ones are left out."""
    prefix = url.removeprefix("s3://") + "/"
    objects = {key.removeprefix(prefix): info for key, info in s3().find(url, detail=True).items()}
    return {
        path: info
        for path, info in objects.items()
        if not any(part.startswith(".") or not part for part in path.split("/"))
    }
