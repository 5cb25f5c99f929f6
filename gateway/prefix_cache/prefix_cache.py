"""One model's prefix cache: finds, takes and keeps prefixes, in memory and on disk. Belongs to the MLX thread.

The tree knows which extents there are and where; the memory tier holds their arrays, the disk their files. What is kept
goes to both at once: the copy on disk is what survives eviction, the model's end, a restart and a crash.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import mlx.core as mx

from gateway.prefix_cache.array_bytes import from_bytes, to_bytes
from gateway.prefix_cache.cached_extent import Tier
from gateway.prefix_cache.eviction import Candidate, candidates
from gateway.prefix_cache.extent import (
    BLOCK_TOKENS,
    START,
    TOKEN_BYTES,
    Blob,
    BlobKey,
    Cursor,
    Extent,
    Part,
    Standing,
    chain_digests,
    cut,
)
from gateway.prefix_cache.ram_tier import RamTier
from gateway.prefix_cache.restore import Needs, Read, Restore, restorable
from gateway.prefix_cache.reuse import Divergence, Reuse
from gateway.prefix_cache.row_state import NO_PREFIX, Piece, Prefix
from gateway.prefix_cache.sessions import SessionTracker
from gateway.prefix_cache.token_tree import Path, TokenTree, token_bytes, token_ids

log = logging.getLogger(__name__)

TOKENS_BEFORE_DIVERGENCE = 32


class Disk(Protocol):
    """What one model's cache asks of the disk; nothing here waits for it."""

    def store(self, blob: Blob) -> bool:
        """Writes a blob soon; False if too much waits to be written."""

    def read(self, keys: Sequence[BlobKey]) -> None:
        """Reads blobs; `PrefixCache.was_read` is called for each, whether that worked or not."""

    def touch(self, keys: Sequence[BlobKey]) -> None:
        """They were of use."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a prompt: what can be taken from memory now, and what could be with all that the disk has."""

    tokens: bytes
    digests: Sequence[bytes]
    path: Path
    in_ram: Restore
    anywhere: Restore

    @property
    def prompt_tokens(self) -> int:
        """Without the last token, which is computed in any case."""
        return len(self.tokens) // TOKEN_BYTES

    def standing(self, session: str, taken: int) -> Standing:
        """Of a sequence of which so many tokens were taken."""
        blocks = taken // BLOCK_TOKENS
        cursor = Cursor(blocks * BLOCK_TOKENS, self.digests[blocks - 1]) if blocks else START
        return Standing(session, self.path.keys, self.path.tokens, cursor)


@dataclass(slots=True)
class _Reading:
    """A request that waits for blobs from the disk."""

    missing: set[BlobKey]
    has_come: Callable[[], None]


class PrefixCache:
    def __init__(self, namespace: bytes, needs: Needs, ram: RamTier, disk: Disk | None) -> None:
        self.namespace = namespace
        self.tree = TokenTree(namespace)
        self._needs = needs
        self._ram = ram
        self._disk = disk
        self._sessions = SessionTracker()
        self._reading: list[_Reading] = []
        self._asked: set[BlobKey] = set()

    # --- taking -----------------------------------------------------------------------------------------

    def find(self, prompt: Sequence[int]) -> Found:
        """All that is known of a prompt but its last token, which must be computed in any case."""
        tokens = token_bytes(prompt)[:-TOKEN_BYTES]
        return self._found(tokens, chain_digests(self.namespace, tokens))

    def find_again(self, found: Found) -> Found:
        return self._found(found.tokens, found.digests)

    def take(self, found: Found, session: str) -> Prefix:
        """What memory has of a prompt."""
        restore = found.in_ram
        self.tree.touch(found.path.keys, session, time.monotonic())
        if self._disk:
            self._disk.touch([read.key for read in restore.reads])
        parts: dict[Part, list[Piece]] = {}
        for read in restore.reads:
            parts.setdefault(read.key.part, []).append(self._piece(read))
        return Prefix(restore.tokens, parts) if restore.tokens else NO_PREFIX

    def reuse(self, found: Found, session: str) -> Reuse:
        """Why no more of a prompt could be taken, for whoever wants to know."""
        path, tokens = found.path, found.prompt_tokens
        divergence = None
        if path.tokens < tokens and (kept := self.tree.continuation(path, session)):
            before = token_ids(found.tokens, path.tokens - TOKENS_BEFORE_DIVERGENCE, path.tokens)
            coming = token_ids(found.tokens, path.tokens, path.tokens + len(kept.tokens))
            divergence = Divergence(before, coming, kept.tokens, kept.own)
        return Reuse(
            prompt_tokens=tokens + 1,
            matched=path.tokens,
            divergence=divergence,
            evicted=path.evicted or found.in_ram.evicted,
            empty=not len(self.tree),
            previous=self._sessions.previous_tokens(session, path.keys, path.tokens),
        )

    def fetch(self, found: Found, has_come: Callable[[], None]) -> bool:
        """Reads what only the disk has of a prompt, and then calls `has_come`; False if nothing is to be read."""
        if self._disk is None:
            return False
        room = self._ram.room_bytes
        missing: list[BlobKey] = []
        for read in found.anywhere.reads:
            held = self.tree.held(read.key, read.tier)
            room -= held.nbytes if held else 0
            if room < 0:
                break  # what does not fit into memory is computed
            if read.tier is Tier.SSD:
                missing.append(read.key)
        if not missing:
            return False
        self._reading.append(_Reading(set(missing), has_come))
        self._disk.read([key for key in missing if key not in self._asked])
        self._asked.update(missing)
        return True

    def was_read(self, key: BlobKey, blob: Blob | None) -> None:
        """One blob has come from the disk, or cannot be read and is gone. Whoever waits for it goes on in any case."""
        self._asked.discard(key)
        arrays = None
        if blob is not None:
            try:
                arrays = from_bytes(blob.arrays)
            except ValueError as error:
                log.warning("a prefix on disk cannot be used: %s", error)
        if blob is None or arrays is None:
            self.tree.drop(key, Tier.SSD)
        elif self._ram.get(key) is None:
            self._keep_in_ram(blob.extent, key, blob.first, arrays)
        for reading in list(self._reading):
            reading.missing.discard(key)
            if not reading.missing:
                self._reading.remove(reading)
                reading.has_come()

    # --- keeping ----------------------------------------------------------------------------------------

    def keep(self, standing: Standing, ids: Sequence[int], pieces: Mapping[Part, Piece]) -> Standing:
        """Keeps what was computed for `ids`, which follow the standing's cursor; copies what `pieces` show.

        Returns how the sequence stands then: with the cursor behind its last whole block.
        """
        cursor, session = standing.cursor, standing.session
        end = cursor.tokens + len(ids)
        for extent, behind in cut(self.namespace, cursor, token_bytes(ids)):
            cursor = behind
            self._keep_part(extent, Part.FULL, pieces.get(Part.FULL))
            for part in (Part.WINDOW, Part.STATE):
                if part in pieces and (part is Part.WINDOW or extent.end == end):
                    self._keep_part(extent, part, pieces[part])
            self.tree.touch([extent.key], session, time.monotonic())
            for key in self.tree.superseded(extent, Tier.RAM):
                self._drop_from_ram(key)
        return replace(standing, cursor=cursor)

    def ended(self, standing: Standing, ids: Sequence[int]) -> None:
        """A request has ended, and all that shall be kept of its prompt and answer is."""
        left = self.tree.longest_prefix(token_bytes(ids)).keys
        self._sessions.note(standing.session, standing.found, standing.matched, left, len(ids), time.monotonic())

    def _keep_part(self, extent: Extent, part: Part, piece: Piece | None) -> None:
        key = BlobKey(extent.key, part)
        if self._ram.get(key) is not None:
            return
        start = extent.start
        arrays: list[mx.array] = []
        if piece and part is Part.STATE:
            arrays = [mx.contiguous(one) for one in piece.arrays]
        elif piece:
            start = max(extent.start, piece.start)
            if start >= extent.end:
                return  # a window that has passed on
            arrays = [mx.contiguous(one[:, start - piece.start : extent.end - piece.start]) for one in piece.arrays]
        mx.eval(arrays)
        first = start - extent.start
        if self._disk and self.tree.held(key, Tier.SSD) is None:
            self._disk.store(Blob(extent, part, first, to_bytes(arrays)))
        self._keep_in_ram(extent, key, first, arrays)

    def _keep_in_ram(self, extent: Extent, key: BlobKey, first: int, arrays: Sequence[mx.array]) -> None:
        cost = self._ram.put(key, Piece(extent.start + first, extent.end, arrays))
        if cost is not None:
            self.tree.hold(extent, key.part, Tier.RAM, cost, first)

    # --- told by others ---------------------------------------------------------------------------------

    def found_on_disk(self, extent: Extent, part: Part, first: int, nbytes: int) -> None:
        """The disk has a blob: it was written, or an earlier run left it."""
        self.tree.hold(extent, part, Tier.SSD, nbytes, first)

    def gone_from_disk(self, key: BlobKey) -> None:
        self.tree.drop(key, Tier.SSD)

    def candidates(self) -> list[Candidate]:
        """What may be evicted from memory."""
        now = time.monotonic()
        return candidates(self.tree, Tier.RAM, self._needs, self._sessions.live(now), now)

    def evicted_from_ram(self, key: BlobKey) -> None:
        self.tree.drop(key, Tier.RAM)

    def clear_ram(self) -> None:
        for one in list(self.tree):
            for part, tier in list(one.held):
                if tier is Tier.RAM:
                    self._drop_from_ram(BlobKey(one.key, part))

    def _drop_from_ram(self, key: BlobKey) -> None:
        self._ram.drop(key)
        self.tree.drop(key, Tier.RAM)

    # --- inside -----------------------------------------------------------------------------------------

    def _found(self, tokens: bytes, digests: Sequence[bytes]) -> Found:
        path = self.tree.longest_prefix(tokens)
        in_ram = restorable(path, self._needs, self.tree, {Tier.RAM})
        if in_ram.tokens < BLOCK_TOKENS:  # a template's first words: rows that begin apart cost more than these tokens
            in_ram = Restore(0, (), in_ram.evicted)
        anywhere = restorable(path, self._needs, self.tree) if self._disk else in_ram
        return Found(tokens, digests, path, in_ram, anywhere)

    def _piece(self, read: Read) -> Piece:
        held = self._ram.get(read.key)
        assert held is not None, "the tree knows what memory has"
        if read.key.part is Part.STATE:
            return held
        arrays = [one[:, read.skip : read.skip + read.end - read.start] for one in held.arrays]
        return Piece(read.start, read.end, arrays)
