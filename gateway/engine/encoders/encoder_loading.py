"""From an encoder's folder to a loop that computes texts, in slices. Runs on the MLX thread."""

from collections.abc import Callable, Generator
from pathlib import Path

import mlx.core as mx

from gateway.engine.encoders.encoder_config import EncoderConfig
from gateway.engine.encoders.encoder_loop import EncoderLoop, EncoderReport
from gateway.engine.encoders.text_encoder import load_encoder_in_slices
from gateway.engine.memory_ledger import MemoryLedger
from gateway.engine.weight_reservation import WeightReservation
from gateway.errors import ModelUnavailable


def load_encoder_loop(
    model_id: str,
    folder: Path,
    config: EncoderConfig,
    context_tokens: int,
    dtype: mx.Dtype | None,
    ledger: MemoryLedger,
    report: Callable[[EncoderReport], None],
) -> Generator[float, float | None, EncoderLoop]:
    """`Slices`. Raises `MemoryShort` before anything is read, or what loading raises; then the ledger has nothing
    of it."""
    reservation = WeightReservation(ledger, model_id)
    loop = None
    try:
        model = yield from load_encoder_in_slices(folder, config, dtype, reservation.claim)
        loop = EncoderLoop(model, model_id, ledger, report)
        yield from loop.calibrate(context_tokens)
        if ledger.most_bytes(ledger.work_space_bytes) < 0:
            raise ModelUnavailable(
                f"The model's weights ({model.weight_bytes / 2**20:.0f} MiB) and its work space do not fit into what "
                f"is left of the memory budget of {ledger.budget_bytes / 2**20:.0f} MiB. Raise hardware.memory_bytes "
                "or hardware.memory_fraction, or set a lower context_tokens."
            )
        return loop
    except BaseException:
        reservation.release()
        if loop is not None:
            loop.release()
        raise
