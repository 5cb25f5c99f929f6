"""Which of mlx's backends runs the models, and what suits it. Called on the MLX thread."""

from dataclasses import dataclass

import mlx.core as mx

from gateway.config import HardwareConfig
from gateway.hardware.blas import Blas

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}


@dataclass(frozen=True, slots=True)
class Backend:
    """`dtype` None keeps a model's own weights, quantised ones included.

    `prefill_chunk_tokens` is the fastest chunk of one prompt: measured for the CPU (SmolLM2-135M float32, 2048 tokens:
    2048-token chunks 95 tok/s, 512 131, 128 154), mlx-lm's default elsewhere. `prefill_pass_tokens` is that of several
    prompts together (8 of 197 tokens: 8 x 64 tokens 345 tok/s, 8 x 197 325, one prompt after the other 290).
    """

    name: str
    blas: Blas | None
    dtype: mx.Dtype | None
    prefill_chunk_tokens: int
    prefill_pass_tokens: int

    def __str__(self) -> str:
        dtype = f"{str(self.dtype).rsplit('.', 1)[-1]} weights" if self.dtype else "the model's own weights"
        return f"{self.name} ({self.blas}), {dtype}" if self.blas else f"{self.name}, {dtype}"


def detect_backend(config: HardwareConfig, blas: Blas) -> Backend:
    """The backend mlx chose for this machine.

    On the CPU `auto` means float32: OpenBLAS has no kernels for half precision, and a quantised matrix product
    there takes over ten times as long as a float32 one.
    """
    asked = DTYPES.get(config.dtype)
    if mx.default_device().type == mx.DeviceType.cpu:
        return Backend("CPU", blas, asked or mx.float32, prefill_chunk_tokens=128, prefill_pass_tokens=512)
    name = "Metal" if mx.metal.is_available() else "CUDA"
    return Backend(name, None, asked, prefill_chunk_tokens=2048, prefill_pass_tokens=2048)
