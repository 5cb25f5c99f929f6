"""Uploads of model files in chunks, which go on where they broke off. For the operator only.

After tus 1.0 (https://tus.io/protocols/resumable-upload): PATCH with Upload-Offset appends, HEAD tells the offset. A
chunk is at most `server.max_body_bytes` long; what has arrived of one whose connection broke is kept.
"""

import asyncio
from typing import Annotated

from msgspec import Meta, Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.api.json_response import json_response
from gateway.api.operator_only import operator_only
from gateway.errors import BodyTooLarge, InvalidRequest, UploadConflict
from gateway.model_pool.imports import Imports
from gateway.model_store.upload_folder import Upload, UploadFolder, UploadNote, UploadWriter
from gateway.protocols.json_body import decode_body

PIECE_BYTES = 1 << 20
"""Written to disk at once."""


class UploadRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A file alone is imported as soon as it is there; those of a `batch` when POST /admin/imports asks for it.

    `id` is what the model of a file alone is to be called.
    """

    name: str
    size_bytes: Annotated[int, Meta(ge=1, le=1 << 50)]
    sha256: Annotated[str, Meta(pattern="^([0-9a-fA-F]{64})?$")] = ""
    batch: Annotated[str, Meta(max_length=200)] = ""
    id: Annotated[str, Meta(max_length=200)] = ""


class UploadObject(Struct, frozen=True):
    """`import_id` is the import that the last chunk began, or null; `failed` why an earlier one failed."""

    id: str
    name: str
    size_bytes: int
    offset: int
    batch: str
    failed: str
    import_id: str | None = None


class UploadList(Struct, frozen=True):
    uploads: list[UploadObject]


class UploadEndpoints:
    def __init__(self, uploads: UploadFolder, imports: Imports) -> None:
        self._uploads = uploads
        self._imports = imports

    async def create(self, request: Request) -> Response:
        """POST /admin/uploads: room for a file; 201 with its id and, in Location, where its chunks go."""
        operator_only(request)
        asked = decode_body(await request.body(), UploadRequest)
        note = UploadNote(asked.name, asked.size_bytes, asked.sha256.lower(), asked.batch, asked.id)
        return _answer(await asyncio.to_thread(self._uploads.create, note), 201)

    async def list_all(self, request: Request) -> Response:
        """GET /admin/uploads, the oldest first"""
        operator_only(request)
        return json_response(UploadList([_describe(upload) for upload in await asyncio.to_thread(self._uploads.all)]))

    async def get(self, request: Request) -> Response:
        """GET or HEAD /admin/uploads/{id}: Upload-Offset says where it goes on."""
        operator_only(request)
        return _answer(await asyncio.to_thread(self._uploads.find, request.path_params["upload_id"]))

    async def append(self, request: Request) -> Response:
        """PATCH /admin/uploads/{id}, the body being the bytes from Upload-Offset on. The last chunk of a file alone
        begins its import."""
        operator_only(request)
        upload_id, offset = request.path_params["upload_id"], _offset(request)
        await self._write(upload_id, offset, request)
        upload = await asyncio.to_thread(self._uploads.find, upload_id)
        if not upload.is_whole:
            return _answer(upload)
        await asyncio.to_thread(self._uploads.require_sound, upload)
        return _answer(upload, import_id=None if upload.note.batch else self._imports.start_upload(upload).id)

    async def remove(self, request: Request) -> Response:
        """DELETE /admin/uploads/{id}"""
        operator_only(request)
        upload = await asyncio.to_thread(self._uploads.find, request.path_params["upload_id"])
        if self._imports.is_importing(upload.upload_id):
            raise UploadConflict(upload.offset, "an import reads it; cancel that first")
        await asyncio.to_thread(self._uploads.remove, upload.upload_id)
        return Response(status_code=204)

    async def _write(self, upload_id: str, offset: int, request: Request) -> None:
        """Whatever ends the body: what came before is on disk."""
        writing = self._uploads.writing(upload_id, offset)
        writer = await asyncio.to_thread(writing.__enter__)
        error: BaseException | None = None
        try:
            await _copy(request, writer)
        except BaseException as raised:
            error = raised
            raise
        finally:
            await asyncio.to_thread(writing.__exit__, type(error) if error else None, error, None)


async def _copy(request: Request, writer: UploadWriter) -> None:
    piece = bytearray()
    try:
        async for part in request.stream():
            piece += part
            if len(piece) >= PIECE_BYTES:
                full, piece = bytes(piece), bytearray()
                await asyncio.to_thread(writer.write, full)
    except (ClientDisconnect, BodyTooLarge):
        await asyncio.to_thread(writer.write, bytes(piece))
        raise
    await asyncio.to_thread(writer.write, bytes(piece))


def _offset(request: Request) -> int:
    text = request.headers.get("upload-offset", "")
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise InvalidRequest("The header Upload-Offset must say at which byte the body goes on.", "upload-offset")
    return int(text)


def _answer(upload: Upload, status: int = 200, import_id: str | None = None) -> Response:
    headers = {
        "location": f"/admin/uploads/{upload.upload_id}",
        "upload-offset": str(upload.offset),
        "upload-length": str(upload.note.size_bytes),
        "cache-control": "no-store",
    }
    return json_response(_describe(upload, import_id), status, headers)


def _describe(upload: Upload, import_id: str | None = None) -> UploadObject:
    note = upload.note
    return UploadObject(upload.upload_id, note.name, note.size_bytes, upload.offset, note.batch, note.failed, import_id)
