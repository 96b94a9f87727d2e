"""Receives the bodies of requests: bounded in number, in size and in time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from mbv2kit.errors import one_line
from mbv2kit.imaging.images import EncodedImage
from mbv2kit.serving.errors import NoRoomError, RefusedError
from mbv2kit.texts import shown

_FORM = "multipart/form-data"


class Uploads:
    """Receives bodies.

    Args:
        most: Bodies that are received at a time.
        size: Bytes of a body, once it is decompressed.
        seconds: Time in which a body must arrive.
    """

    def __init__(self, *, most: int, size: int, seconds: float) -> None:
        self._most = most
        self._size = size
        self._seconds = seconds
        self._receiving = 0

    async def read(self, request: web.Request) -> bytes:
        """Returns the body of a request.

        Raises:
            RefusedError: It is too large, too slow or damaged, or too many others are being received.
        """
        async with self._receive(request):
            return await request.read()

    async def read_image(self, request: web.Request) -> tuple[EncodedImage, str | None]:
        """Returns the image file that is the body of a request, or the only file of its form, and the name in the form.

        Raises:
            RefusedError: As for :meth:`read`; or the form has no file, or several.
        """
        if request.content_type != _FORM:
            return EncodedImage(await self.read(request)), None
        files = list[tuple[EncodedImage, str | None]]()
        async with self._receive(request):
            async for part in await request.multipart():
                if not isinstance(part, BodyPartReader) or part.filename is None:
                    continue
                if files:
                    raise RefusedError(400, "The form must have one file, the image, got several.")
                name = shown(part.filename)
                files.append((EncodedImage(bytes(await part.read()), name), name))
        if not files:
            raise RefusedError(400, "The form must have one file, the image, got none.")
        return files[0]

    @asynccontextmanager
    async def _receive(self, request: web.Request) -> AsyncIterator[None]:
        if (request.content_length or 0) > self._size:
            raise self._too_large()
        if self._receiving >= self._most:
            raise NoRoomError(f"{self._receiving} requests are arriving, and no more than uploads={self._most} may")
        self._receiving += 1
        try:
            async with asyncio.timeout(self._seconds):
                yield
        except TimeoutError:
            raise RefusedError(408, f"The request did not arrive within {self._seconds:g} seconds.") from None
        except web.HTTPRequestEntityTooLarge:
            raise self._too_large() from None
        except (ValueError, RuntimeError, HttpProcessingError, web.RequestPayloadError) as error:
            raise RefusedError(400, f"The body of the request is damaged ({one_line(error)}).") from None
        finally:
            self._receiving -= 1

    def _too_large(self) -> RefusedError:
        return RefusedError(413, f"The request has more than {self._size:,} bytes, the limit that max_upload sets.")
