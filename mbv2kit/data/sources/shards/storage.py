"""Reads files of one folder, or ranges of their bytes: of a folder of this machine, or behind a URL with fsspec."""

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from mbv2kit.data.inside import Border
from mbv2kit.data.sources.shards.retries import Retries
from mbv2kit.errors import UserError, one_line

_log = logging.getLogger(__name__)

# Seconds that a server may stay silent, and the least bytes a second before a request counts as hung.
_SILENCE = 30
_LEAST_RATE = 64_000
# Answers of the 400s after which another try may succeed.
_PASSING = (408, 425, 429)


class Storage(Protocol):
    """A folder whose files can be read in parts.

    Attributes:
        place: The folder, for messages.
        is_local: Whether reading a few bytes takes next to no time.
    """

    place: str
    is_local: bool

    def read(self, name: str, start: int | None = None, stop: int | None = None, *, retries: bool = True) -> bytes:
        """Returns the bytes of a file, or those of a range.

        Args:
            name: Name of the file.
            start: First byte; None for the whole file.
            stop: End of the range.
            retries: Whether a connection that fails is tried again.

        Raises:
            MissingFileError: There is no such file.
            UserError: It cannot be read, or ends before ``stop``.
        """


class MissingFileError(UserError):
    """There is no such file."""


class LocalFolder:
    """A folder of this machine.

    Args:
        root: The folder.
        border: Where links may lead.
    """

    is_local = True

    def __init__(self, root: Path, border: Border) -> None:
        self.place = str(root)
        self._root = root
        self._border = border

    def read(self, name: str, start: int | None = None, stop: int | None = None, *, retries: bool = True) -> bytes:
        """Returns bytes of a file, see :class:`Storage`."""
        path = self._border.check(self._root / name)
        try:
            # Opening a pipe would wait for ever.
            if not stat.S_ISREG(path.stat().st_mode):
                raise UserError(f"{path}: this is no regular file.")
            with path.open("rb", buffering=0) as file:
                if start is None or stop is None:
                    return file.readall()
                content = os.pread(file.fileno(), stop - start, start)
        except FileNotFoundError:
            raise MissingFileError(f"{path}: there is no such file.") from None
        except OSError as error:
            raise UserError(f"{path}: the file could not be read ({one_line(error)}).") from None
        if len(content) < stop - start:
            raise UserError(
                f"{path}: the file ends at byte {path.stat().st_size:,}, but the index expects {stop:,}; it is "
                "truncated, or of another index."
            )
        return content


class RemoteFolder:
    """A folder behind a URL.

    Args:
        url: The folder, without credentials; fsspec and its packages take these from the environment.
        retries: How often a connection that fails is tried again.

    Raises:
        UserError: The URL holds credentials or a query, or nothing here reads its protocol.
    """

    is_local = False

    def __init__(self, url: str, retries: Retries) -> None:
        parts = urlsplit(url)
        if "@" in parts.netloc or parts.query or parts.fragment or "::" in url:
            raise UserError(
                f"dataset.root={parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path} must be the plain URL of "
                "a folder, without user, password, query or fragment; runs write it down. Credentials belong into the "
                "environment, such as AWS_PROFILE or ~/.netrc."
            )
        self.place = url.rstrip("/")
        self._retries = retries
        self._once = Retries(0)
        self._opened: tuple[int, Any] | None = None
        self._files()

    def __getstate__(self) -> dict[str, Any]:
        # Connections stay in their process.
        return self.__dict__ | {"_opened": None}

    def read(self, name: str, start: int | None = None, stop: int | None = None, *, retries: bool = True) -> bytes:
        """Returns bytes of a file, see :class:`Storage`."""
        path = f"{self.place}/{name}"
        failure = ""
        for number in self._retries if retries else self._once:
            if number == 1:
                _log.info("%s: reading is tried again (%s)", path, failure)
            try:
                content = self._request(path, start, stop)
            except FileNotFoundError:
                raise MissingFileError(f"{path}: there is no such file.") from None
            except Exception as error:  # of aiohttp, botocore, fsspec, or the system
                if _is_final(error):
                    raise UserError(f"{path}: the file could not be read ({_reason(error)}).") from None
                failure = _reason(error)
                continue
            if start is None or stop is None or len(content) == stop - start:
                return content
            if len(content) > stop - start:
                raise UserError(
                    f"{path}: the server sends the whole file where a range of its bytes is asked for; use a server "
                    "that supports HTTP ranges."
                )
            failure = f"{len(content):,} bytes came where bytes {start:,} to {stop:,} were asked for"
        tried = f" after {self._retries.count + 1} attempts" if retries else ""
        raise UserError(f"{path}: the file could not be read{tried} ({failure}).")

    def _request(self, path: str, start: int | None, stop: int | None) -> bytes:
        files = self._files()
        if not getattr(files, "async_impl", False):
            content: bytes = files.cat_file(path, start=start, end=stop)
            return content
        from fsspec.asyn import sync

        # A whole file may be of any size; a server that falls silent in the middle is noticed all the same.
        timeout = None if start is None or stop is None else _SILENCE + (stop - start) / _LEAST_RATE
        content = sync(files.loop, files._cat_file, path, start=start, end=stop, timeout=timeout)
        return content

    def _files(self) -> Any:
        """Returns fsspec's file system; each process has its own connections."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), _open(self.place))
        return self._opened[1]


def _open(url: str) -> Any:
    protocol = urlsplit(url).scheme
    try:
        from fsspec.core import url_to_fs

        files, _ = url_to_fs(url, skip_instance_cache=True, **_OPTIONS.get(protocol, dict)())
    except ImportError as error:
        raise UserError(
            f"dataset.root={url} needs the package {error.name or one_line(error)}: pip install 'mbv2kit[shards]'."
        ) from None
    except Exception as error:
        raise UserError(f"dataset.root={url} cannot be opened ({_reason(error)}).") from None
    if protocol == "s3":
        files.retries = 1
    return files


def _http_options() -> dict[str, Any]:
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
    # Bytes that are compressed on the way would be other ranges. trust_env: proxies and ~/.netrc.
    return {
        "headers": {"Accept-Encoding": "identity"},
        "client_kwargs": {"timeout": timeout, "trust_env": True},
    }


def _s3_options() -> dict[str, Any]:
    # Tries are counted in one place.
    retries = {"mode": "standard", "total_max_attempts": 1}
    return {"config_kwargs": {"connect_timeout": _SILENCE, "read_timeout": _SILENCE, "retries": retries}}


_OPTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "http": _http_options,
    "https": _http_options,
    "s3": _s3_options,
}


def _is_final(error: Exception) -> bool:
    """Tells whether trying again leads to the same error."""
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status not in _PASSING
    credentials = type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")
    return credentials or isinstance(error, PermissionError | ImportError | UserError)


def _reason(error: Exception) -> str:
    status = getattr(error, "status", None)
    return f"HTTP {status}" if isinstance(status, int) and status else one_line(error)
