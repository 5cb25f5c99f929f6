"""From a GGUF's blocks to the arrays mlx computes with, a few rows at a time. No mlx here.

Block layouts: ggml-common.h of https://github.com/ggml-org/ggml. mlx keeps a matrix quantised in groups of 32 as three
arrays: levels packed into uint32, and one scale and one bias per group; a number is scale * level + bias.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize
from numpy.typing import NDArray

from gateway.errors import ModelFilesInvalid
from gateway.model_store.gguf_file import GgufTensor
from gateway.model_store.safetensors_file import Outgoing

GGUF_GROUP_SIZE = 32  # elements of a block of `BITS_OF_KIND`, which share one scale
PIECE_ELEMENTS = 1 << 22
FLOAT16, FLOAT32, UINT32 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.uint32)

Rows = NDArray[Any]
Bytes = NDArray[np.uint8]  # one block a row

BITS_OF_KIND = {Kind.Q4_0: 4, Kind.Q4_1: 4, Kind.Q5_0: 5, Kind.Q5_1: 5, Kind.Q8_0: 8}
"""The kinds that mlx can compute with as they are: every number stays the same."""

Refusal = Callable[[str], ModelFilesInvalid]


@dataclass(frozen=True)
class TensorMove:
    """One tensor on its way from the name it has in the GGUF to the name it has in mlx-lm."""

    gguf_name: str
    name: str
    shape: tuple[int, ...]
    """In elements: (rows, inputs), (size,) for a norm or a bias, or (experts, rows, inputs)."""
    rows: tuple[int, ...] | None = None
    """For each row the one of the GGUF that it is, if they are in another order."""
    minus_one: bool = False
    """The GGUF holds 1 + the weight."""


def moved_tensor(tensor: GgufTensor, move: TensorMove, refusal: Refusal) -> tuple[list[Outgoing], int | None]:
    """What to write for a tensor of the right shape, and its bits if it stays quantised.

    Quantised matrices of `BITS_OF_KIND` keep their numbers, as do float16 and float32; whatever else there is goes
    through the `gguf` package's dequantisers and becomes float16. Raises `refusal` for kinds those do not know; looking
    at the pieces raises it for numbers that are not finite, at least in the type they become.
    """
    bits = BITS_OF_KIND.get(tensor.kind) if len(move.shape) >= 2 else None
    if bits is None:
        dtype = _float_type(tensor, move, refusal)
        pieces = _pieces(tensor, move, refusal, lambda rows: _numbers(rows, tensor.kind, move), dtype)
        return [Outgoing(move.name, dtype, move.shape, pieces)], None

    *outer, inputs = move.shape
    layer = layer_name(move)

    def levels(rows: Rows) -> Rows:
        return packed(_levels(_blocks(rows, tensor.kind), tensor.kind).reshape(len(rows), inputs), bits)

    def scales(rows: Rows) -> Rows:
        return _scale_and_bias(_blocks(rows, tensor.kind), tensor.kind)[0].reshape(len(rows), -1)

    def biases(rows: Rows) -> Rows:
        return _scale_and_bias(_blocks(rows, tensor.kind), tensor.kind)[1].reshape(len(rows), -1)

    widths: list[tuple[str, np.dtype[Any], int, Callable[[Rows], Rows]]] = [
        ("weight", UINT32, inputs * bits // 32, levels),
        ("scales", FLOAT16, inputs // GGUF_GROUP_SIZE, scales),
        ("biases", FLOAT16, inputs // GGUF_GROUP_SIZE, biases),
    ]
    return [
        Outgoing(f"{layer}.{part}", dtype, (*outer, width), _pieces(tensor, move, refusal, convert, dtype))
        for part, dtype, width, convert in widths
    ], bits


def layer_name(move: TensorMove) -> str:
    """What mlx-lm's quantisation settings call the layer."""
    return move.name.removesuffix(".weight")


def packed(levels: Bytes, bits: int) -> NDArray[np.uint32]:
    """Levels (rows, inputs) as mlx packs them: each row a stream of bits, least significant first."""
    eights = levels.reshape(len(levels), -1, 8).astype(np.uint64)  # eight levels fill whole bytes, `bits` of them
    shifts = np.arange(0, 8 * bits, bits, dtype=np.uint64)
    whole = np.bitwise_or.reduce(eights << shifts, axis=-1).astype("<u8").view(np.uint8)
    stream = whole.reshape(len(levels), -1, 8)[..., :bits].reshape(len(levels), -1)
    return np.ascontiguousarray(stream).view("<u4")


def quantization_config(bits_of_layer: dict[str, int]) -> dict[str, object] | None:
    """The `quantization` entry of config.json, as `mlx_lm.utils.load_model` reads it; None if no layer is.

    Args: bits of each quantised layer by name. The commonest width is the rule, the others are exceptions.
    """
    if not bits_of_layer:
        return None
    widths = list(bits_of_layer.values())
    rule = max(set(widths), key=widths.count)
    exceptions = {
        name: {"group_size": GGUF_GROUP_SIZE, "bits": bits} for name, bits in bits_of_layer.items() if bits != rule
    }
    return {"group_size": GGUF_GROUP_SIZE, "bits": rule, "mode": "affine", **exceptions}


def _pieces(
    tensor: GgufTensor,
    move: TensorMove,
    refusal: Refusal,
    convert: Callable[[Rows], Rows],
    dtype: "np.dtype[Any]",
) -> Callable[[], Iterator[Rows]]:
    """Some rows at a time, converted, checked, and as `dtype`."""
    count = len(tensor.data)
    step = max(1, PIECE_ELEMENTS // tensor.shape[-1])

    def pieces() -> Iterator[Rows]:
        for start in range(0, count, step):
            end = min(start + step, count)
            rows = tensor.data[start:end] if move.rows is None else tensor.data[list(move.rows[start:end])]
            with np.errstate(all="ignore"):  # what went wrong is not finite
                piece = convert(rows).astype(dtype, copy=False)
            if not np.isfinite(piece).all():
                raise refusal(f"{move.gguf_name} holds numbers that are not finite")
            yield piece

    return pieces


def _numbers(rows: Rows, kind: Kind, move: TensorMove) -> Rows:
    numbers: Rows = dequantize(rows, kind)
    return numbers - np.float32(1) if move.minus_one else numbers


def _float_type(tensor: GgufTensor, move: TensorMove, refusal: Refusal) -> "np.dtype[Any]":
    """float16, unless that would change a float32: one float32 norm would promote all activations after it."""
    try:
        with np.errstate(all="ignore"):
            dequantize(tensor.data[:1], tensor.kind)
    except NotImplementedError as error:
        raise refusal(f"{move.gguf_name} is stored as {tensor.kind.name}, which this importer cannot read") from error
    if tensor.kind != Kind.F32:
        return FLOAT16
    wide = _pieces(tensor, move, refusal, lambda rows: _numbers(rows, tensor.kind, move), FLOAT32)
    with np.errstate(over="ignore"):
        exact = all(np.array_equal(piece, piece.astype(FLOAT16)) for piece in wide())
    return FLOAT16 if exact else FLOAT32


def _blocks(rows: Rows, kind: Kind) -> Bytes:
    blocks: Bytes = rows.reshape(-1, GGML_QUANT_SIZES[kind][1])
    return blocks


def _scale_and_bias(blocks: Bytes, kind: Kind) -> tuple[Rows, Rows]:
    """(blocks,) each, in float16."""
    scale = np.ascontiguousarray(blocks[:, :2]).view("<f2")[:, 0]
    if kind in (Kind.Q4_1, Kind.Q5_1):
        return scale, np.ascontiguousarray(blocks[:, 2:4]).view("<f2")[:, 0]
    middle = 1 << (BITS_OF_KIND[kind] - 1)  # levels are stored, or become, unsigned
    return scale, scale * np.float16(-middle)


def _levels(blocks: Bytes, kind: Kind) -> Bytes:
    """(blocks, 32)."""
    if kind == Kind.Q8_0:
        return np.bitwise_xor(blocks[:, 2:], np.uint8(0x80))
    halves = blocks[:, -16:]  # the low bits: elements 0 to 15 in the low nibbles, 16 to 31 in the high ones
    low = np.concatenate([halves & np.uint8(0x0F), halves >> np.uint8(4)], axis=1)
    if BITS_OF_KIND[kind] == 4:
        return low
    fifths = np.unpackbits(blocks[:, -20:-16], axis=1, bitorder="little")  # one bit for each element
    levels: Bytes = low | fifths << np.uint8(4)
    return levels
