"""What goes wrong with a URL, as one sentence without whatever in the URL is secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ckptdiff.errors import CheckpointError
from ckptdiff.places.patience import PATIENCE, SLOWEST, SlowError
from ckptdiff.places.source import shown

DOWNLOAD = "Download the file and give its path."
RETRY = "Try again; if it stays so, download the file and give its path."
# fsspec's name of a protocol → what pip installs for it.
_PACKAGES = {
    "http": "'ckptdiff[remote]'", "https": "'ckptdiff[remote]'", "hf": "huggingface_hub", "s3": "s3fs", "s3a": "s3fs",
    "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs", "sftp": "paramiko",
    "ssh": "paramiko", "smb": "smbprotocol", "oci": "ocifs", "oss": "ossfs", "webdav": "webdav4", "dbfs": "requests",
    "github": "requests",
}  # fmt: skip


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Whatever goes wrong in fsspec, or in one of the dozens of libraries behind it, is one sentence for the user."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise _explain(url, error) from None


def _explain(url: str, error: Exception) -> CheckpointError:
    name = shown(url)
    scheme = re.split(r":", url, maxsplit=1)[0].lower()
    kind = type(error).__name__
    text = str(error)
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, SlowError):
        return CheckpointError(
            f"{name} cannot be read: after {PATIENCE:.0f} seconds of grace it comes more slowly "
            f"than {SLOWEST >> 10} KB a second",
            DOWNLOAD,
        )
    # aiohttp's own account of an answer, with a status that no server sent.
    if kind == "TooManyRedirects":
        return CheckpointError(f"{name} cannot be read: the server redirects again and again", "Check the address.")
    if kind == "NonHttpUrlRedirectClientError":
        return CheckpointError(
            f"{name} cannot be read: the server redirects to {_harmless(url, shown(text))!r}, and only http and https "
            "are followed",
            DOWNLOAD,
        )
    if kind == "InvalidUrlRedirectClientError":
        return CheckpointError(f"{name} cannot be read: the server redirects to what is no URL", DOWNLOAD)
    senseless = kind == "ClientResponseError" or (type(error) in (ValueError, TypeError))
    if scheme in ("http", "https") and senseless:
        return CheckpointError(f"{name} cannot be read: what the server answers is no HTTP", RETRY)
    if isinstance(error, ImportError):
        package = _PACKAGES.get(scheme)
        hint = f"Run: pip install {package}." if package else f"fsspec says: {_harmless(url, text)}"
        return CheckpointError(f"{name} needs a package that is not installed, to read {scheme}://", hint)
    if isinstance(error, FileNotFoundError):
        return status_error(name, 404)
    if isinstance(error, PermissionError):
        return status_error(name, 403)
    if isinstance(error, IsADirectoryError):
        return CheckpointError(f"{name} is a folder, not a file", "Give the URL of a checkpoint file.")
    if type(status) is int and status >= 400:
        return status_error(name, status)
    if isinstance(error, TimeoutError) or kind in ("FSTimeoutError", "TimeoutError", "ConnectTimeoutError"):
        return CheckpointError(
            f"{name} cannot be read: the server does not answer", "Check the connection, or try later."
        )
    if kind == "FileExpired":
        return replaced(name)
    if kind in ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError"):
        hint = "Set the credentials as for the provider's own tools"
        public = "; for a public bucket set FSSPEC_S3_ANON=true." if scheme in ("s3", "s3a") else "."
        return CheckpointError(f"{name} needs credentials, and none are found", hint + public)
    if kind == "ClientConnectorDNSError" or "gaierror" in type(getattr(error, "os_error", None)).__name__:
        return CheckpointError(f"{name} cannot be read: its host is not known", "Check the address and the connection.")
    if isinstance(error, EOFError) or kind == "ClientPayloadError":  # asyncio.IncompleteReadError is an EOFError
        return CheckpointError(f"{name} cannot be read: the connection was cut", RETRY)
    if isinstance(error, ValueError) and "rotocol not known" in text:
        return CheckpointError(
            f"{name} begins with {scheme}://, which fsspec does not know",
            "Give an https://, s3://, gs:// or hf:// URL.",
        )
    return CheckpointError(
        f"{name} cannot be read: {_harmless(url, text) or kind}",
        "Check the address, the credentials and the connection.",
    )


def status_error(name: str, status: int) -> CheckpointError:
    """What an HTTP status means for a reader."""
    if status in (404, 410):
        return CheckpointError(f"{name} does not exist", "Check the address, and that your credentials may see it.")
    if status in (401, 403):
        return CheckpointError(
            f"{name} may not be read: access is denied", "Check the credentials; a signed URL may have expired."
        )
    if status in (412, 416):
        return replaced(name)
    if status == 429:
        return CheckpointError(f"{name} cannot be read: the server asks to slow down", "Try later.")
    if status >= 500:
        return CheckpointError(f"{name} cannot be read: the server fails with status {status}", "Try later.")
    return CheckpointError(f"{name} cannot be read: the server answers with status {status}", "Check the address.")


def replaced(name: str) -> CheckpointError:
    """The error for two answers that are not of one file."""
    return CheckpointError(f"{name} was replaced by another file while it was read", "Run again.")


def _harmless(url: str, text: str) -> str:
    """The first line of a library's message, short and without whatever in a URL may be secret."""
    line = text.replace(url, shown(url)).strip().partition("\n")[0]
    line = re.sub(r"://[^/@\s]*@", "://…@", re.sub(r"(\w://[^\s?#]*[?#])[^\s'\")]*", r"\1…", line))
    return line[:200]
