"""Rope scalings that a GGUF holds as a tensor of factors, one for each pair of a head's elements. No mlx here."""

from collections.abc import Sequence
from math import isclose, pi

from gateway.model_store.gguf_architecture import Numbers
from gateway.model_store.gguf_metadata import GgufMetadata
from gateway.model_store.gguf_shape import Shape

LLAMA3_TENSOR = "rope_freqs.weight"
LLAMA3_LOW, LLAMA3_HIGH, LLAMA3_TOKENS = 1.0, 4.0, 8192
LONG_TENSOR, SHORT_TENSOR = "rope_factors_long.weight", "rope_factors_short.weight"


def llama3_rope(metadata: GgufMetadata, shape: Shape, numbers: Numbers) -> dict[str, object]:
    """`rope_scaling` of config.json for what Llama 3.1 and later have, if the GGUF has it.

    The factors are what `LlamaModel.generate_extra_tensors` in llama.cpp's converter makes of four settings, of
    which only one ever differed: the largest factor. Raises ModelFilesInvalid when the others differ.
    """
    factors = numbers.get(LLAMA3_TENSOR)
    if factors is None or all(factor == 1 for factor in factors):
        return {}
    factor = max(factors)
    expected = _llama3_factors(factor, shape)
    if len(factors) != len(expected) or not all(map(_near, factors, expected)) or shape.rope_linear_factor != 1:
        raise metadata.refusal(f"its {LLAMA3_TENSOR} are not those of Llama 3's rope scaling, the only one known")
    return {
        "rope_scaling": {
            "rope_type": "llama3",
            "type": "llama3",
            "factor": round(factor, 4),
            "low_freq_factor": LLAMA3_LOW,
            "high_freq_factor": LLAMA3_HIGH,
            "original_max_position_embeddings": LLAMA3_TOKENS,
        }
    }


def long_rope(metadata: GgufMetadata, shape: Shape, numbers: Numbers, original_tokens: int) -> dict[str, object]:
    """`rope_scaling` for Phi 3's long contexts, if the GGUF has it."""
    if not numbers:
        return {}
    factors = [numbers.get(name, ()) for name in (LONG_TENSOR, SHORT_TENSOR)]
    if any(len(listed) != shape.rope_dims // 2 for listed in factors):
        raise metadata.refusal(f"its {LONG_TENSOR} and {SHORT_TENSOR} are not {shape.rope_dims // 2} numbers each")
    long, short = (list(listed) for listed in factors)
    return {
        "rope_scaling": {"type": "longrope", "long_factor": long, "short_factor": short},
        "original_max_position_embeddings": original_tokens,
    }


def _llama3_factors(factor: float, shape: Shape) -> Sequence[float]:
    factors = []
    for pair in range(shape.rope_dims // 2):
        wavelength = 2 * pi * shape.rope_theta ** (2 * pair / shape.rope_dims)
        if wavelength < LLAMA3_TOKENS / LLAMA3_HIGH:
            factors.append(1.0)
        elif wavelength > LLAMA3_TOKENS / LLAMA3_LOW:
            factors.append(factor)
        else:
            smooth = (LLAMA3_TOKENS / wavelength - LLAMA3_LOW) / (LLAMA3_HIGH - LLAMA3_LOW)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def _near(one: float, other: float) -> bool:
    return isclose(one, other, rel_tol=1e-3)
