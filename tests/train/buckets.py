"""A bucket for tests: environment and settings that send Google's clients to `gcs_server`."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.train.gcs_server import Bucket, serve


@contextmanager
def a_bucket() -> Iterator[Bucket]:
    """gs://bucket, empty, for this process and those that it starts."""
    if importlib.util.find_spec("gcsfs") is None:
        pytest.skip("gcsfs is not installed: pip install -e '.[gcs]'")
    from fsspec.config import conf

    with serve("bucket") as bucket, pytest.MonkeyPatch.context() as patch:
        for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
            patch.setenv(name, bucket.url)
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
        patch.setenv("FSSPEC_GCS_TOKEN", "anon")  # read when fsspec is imported
        patch.setitem(conf, "gcs", {"token": "anon"})
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # it wants a gRPC server
        yield bucket
