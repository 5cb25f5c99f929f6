"""From a model's folder to a generation loop that can serve it, in slices. Runs on the MLX thread."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx

from gateway.config import EngineConfig
from gateway.engine.batch import Batch
from gateway.engine.cache_factory import CacheFactory
from gateway.engine.engine import EngineReady
from gateway.engine.generation_loop import GenerationLoop, LoopLimits
from gateway.engine.kv_layout import KvLayout
from gateway.engine.lora import needed_bytes
from gateway.engine.memory_ledger import MemoryLedger, ModelMemory
from gateway.engine.model_loader import load_in_slices
from gateway.engine.pace import Pace
from gateway.engine.token_stream import StepReport
from gateway.engine.weight_reservation import WeightReservation
from gateway.errors import ModelUnavailable
from gateway.generation.adapter import BASE, Adapter
from gateway.hardware.backend import Backend
from gateway.prefix_cache.extent import DIGEST_BYTES
from gateway.prefix_cache.prefix_cache import PrefixCache
from gateway.prefix_cache.prefix_caches import PrefixCaches


@dataclass(frozen=True, slots=True)
class Learned:
    """What is found out about a model by running it; the next load of the same one goes without."""

    fingerprint: bytes
    vocabulary: int
    layout: KvLayout
    pace: Pace


@dataclass(frozen=True, slots=True)
class GenerationLoading:
    """`fingerprint` names what is in the folder: equal ones compute the same. `learned` is of an earlier load. The code
    of a `trusted` model is executed."""

    model_id: str
    folder: Path
    fingerprint: bytes
    config: EngineConfig
    backend: Backend
    ledger: MemoryLedger
    prefixes: PrefixCaches
    report: Callable[[StepReport], None]
    learned: Learned | None
    adapters: Sequence[Adapter] = ()
    trusted: bool = False

    def slices(self) -> Generator[float, float | None, tuple[GenerationLoop, EngineReady, Learned]]:
        """`Slices`. Raises `MemoryShort` before anything is read, or what loading raises; then nothing is left of
        it in the ledger or the prefix cache."""
        reservation = WeightReservation(self.ledger, self.model_id)
        adapter_bytes = needed_bytes(self.adapters)

        def claim(weight_bytes: int) -> Generator[float, float | None, None]:
            return reservation.claim(weight_bytes + adapter_bytes)

        try:
            model, weight_bytes = yield from load_in_slices(
                self.folder, self.backend.dtype, claim, trusted=self.trusted
            )
            return (yield from self._loop(model, weight_bytes))
        except BaseException:
            reservation.release()
            self.prefixes.close(self.model_id)
            raise

    def _loop(
        self, model: Any, weight_bytes: int
    ) -> Generator[float, float | None, tuple[GenerationLoop, EngineReady, Learned]]:
        limits = self._limits()
        factory = CacheFactory(model, self.config.kv_bits)
        known = self.learned
        if known is None or known.fingerprint != self.fingerprint:
            known = yield from self._learn(model, factory, limits)
        caches: dict[str, PrefixCache] = {}
        batch = Batch(model, factory, caches, known.pace)
        yield from batch.adapted.add_in_slices(self.adapters)
        weight_bytes += batch.adapted.nbytes
        memory = ModelMemory(self.ledger, self.model_id, known.layout, weight_bytes, limits.pass_tokens)
        if not memory.admission.fits(prompt_tokens=1, max_tokens=1, choices=1):
            raise ModelUnavailable(
                f"The model's weights ({weight_bytes / 2**20:.0f} MiB) leave no room for a request within the memory "
                f"budget of {self.ledger.budget_bytes / 2**20:.0f} MiB. Raise hardware.memory_bytes or "
                "hardware.memory_fraction, or serve a smaller model."
            )
        if needs := factory.needs:
            described = f"{self.backend.name} {self.backend.dtype} {known.layout.describe()} {needs} "
            of_base = self.fingerprint + f"{described}mlx-lm {version('mlx-lm')}".encode()
            for adapter, own in {BASE: b"", **batch.adapted.fingerprints}.items():
                namespace = sha256(of_base + own).digest()[:DIGEST_BYTES]
                if cache := self.prefixes.open(self.model_id, namespace, needs, self.ledger, adapter):
                    caches[adapter] = cache
            yield from self.prefixes.find_on_disk(self.model_id)
        loop = GenerationLoop(batch, known.vocabulary, limits, memory, self.report, caches, self.prefixes.use)
        ready = EngineReady(
            str(self.backend),
            known.layout.describe(),
            weight_bytes,
            memory.admission.with_fixed_work_space(limits.pass_tokens),
            needs is not None and needs.state,
            dict(batch.adapted.refused),
        )
        return loop, ready, known

    def _learn(self, model: Any, factory: CacheFactory, limits: LoopLimits) -> Generator[float, float | None, Learned]:
        """A first pass, which also compiles kernels, the caches it leaves, and how long others take."""
        yield 1.0
        logits = model(mx.zeros((1, 1), dtype=mx.int32))
        mx.eval(logits)
        yield 1.0
        layout = KvLayout.measure(model, limits.chunk_tokens, lambda _: factory.model_caches())
        batch = Batch(model, factory)
        yield from batch.calibrate(limits.chunk_tokens)
        return Learned(self.fingerprint, logits.shape[-1], layout, batch.pace)

    def _limits(self) -> LoopLimits:
        config = self.config
        return LoopLimits(
            max_rows=config.max_running,
            chunk_tokens=config.prefill_chunk_tokens or self.backend.prefill_chunk_tokens,
            min_chunk_tokens=config.min_chunk_tokens,
            pass_tokens=max(config.prefill_chunk_tokens, self.backend.prefill_pass_tokens),
            stall_budget=config.stall_budget,
            ageing_seconds=config.ageing_seconds,
            speculation=config.speculation,
        )
