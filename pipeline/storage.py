"""Files in S3-compatible storage, by `s3://bucket/key`, through pyarrow: docs/storage.md.

Credentials come from the environment alone (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN), the place
too: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL for storage other than Amazon's, AWS_REGION. No parameter names a secret.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.errors import NearsafeError

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem

SCHEME = "s3://"
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def location(path: Path | str) -> Path | str:
    """A local path as `Path`; an address of storage as it is (a `Path` would lose one of its slashes)."""
    return path if is_remote(path) else Path(path)


def is_remote(path: Path | str) -> bool:
    """Is this an address of storage?"""
    return isinstance(path, str) and path.startswith(SCHEME)


def open_input(path: Path | str) -> Any:
    """What pyarrow reads Parquet from: the local path, or a file of storage. Raises FileNotFoundError, OSError."""
    return _files().open_input_file(_key(path)) if is_remote(path) else path


@contextmanager
def open_output(path: str) -> Iterator[pa.NativeFile]:
    """A file of storage to write: it is sent when the block ends; after an exception nothing of it is.

    Held in memory until then: a stream into storage is completed when it is closed, for whatever reason, and there is
    no way to give one up. Raises OSError where it cannot be sent.
    """
    files, held = _files(), pa.BufferOutputStream()
    yield held
    content = held.getvalue()
    with files.open_output_stream(_key(path)) as stream:
        stream.write(content)  # in one call: an interrupt comes before it or after it


def read_bytes(path: str) -> bytes:
    """The content of a local file, or of one in storage. Raises OSError."""
    if not is_remote(path):
        return Path(path).read_bytes()
    with _files().open_input_file(_key(path)) as file:
        return file.read()


def _key(path: Path | str) -> str:
    return str(path).removeprefix(SCHEME)


def _files() -> "S3FileSystem":
    names = (*_SECRETS, "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION")
    if missing := [name for name in _SECRETS if not os.environ.get(name)]:
        raise NearsafeError(f"{SCHEME} storage needs {missing[0]} in the environment")
    return _connect(tuple(os.environ.get(name) for name in names))


@cache
def _connect(values: tuple[str | None, ...]) -> "S3FileSystem":
    from pyarrow.fs import S3FileSystem

    key, secret, token, own, general, region = values
    return S3FileSystem(
        access_key=key, secret_key=secret, session_token=token, endpoint_override=own or general, region=region
    )
