"""Turns a llama GGUF into an ordinary mlx-lm folder, keeping its 4- and 8-bit weights bit for bit.

Run it as `python -m gateway.model_store.import_gguf SOURCE DESTINATION`: mlx's GGUF reader is C code that
follows lengths and offsets found in the file, so a broken file must be able to take down no more than a child
process. Each line on stdout is one `import_process.ImporterLine`; exit code 1 means refused.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec

from gateway.errors import ModelFilesInvalid, ModelStoreError
from gateway.model_store.gguf_metadata import GgufMetadata, LlamaShape, MetadataValue, read_llama_shape
from gateway.model_store.gguf_tensors import (
    GGUF_GROUP_SIZE,
    TensorMove,
    half_order_rows,
    llama_tensor_moves,
    quantization_config,
)
from gateway.model_store.gguf_tokenizer import GgufTokenizer, read_tokenizer
from gateway.model_store.import_process import ImporterLine
from gateway.model_store.store_folders import Report, disk_errors_explained, require_space

SPACE_FOR_THE_REST = 32 << 20  # bytes: the tokenizer and configuration files, at most a few MB each


def import_gguf(source: Path, destination: Path, report: Report) -> str:
    """Write the model of `source` into the folder `destination`; returns the licence the file names, or "".

    Weights of Q4_0, Q4_1, Q8_0 and F16 keep their values exactly, F32 too; other kinds are expanded to
    float16 by mlx, and so need up to four times the file's size. The whole model passes through memory.

    Raises ModelFilesInvalid for a file that is broken or of a kind not understood, ModelStoreError when the
    disk is too small. What was written by then stays for the caller to remove.
    """
    report(0.0, "reading the GGUF")
    tensors, metadata = _read_gguf(source)
    shape = read_llama_shape(metadata)
    tokenizer = read_tokenizer(metadata, shape)
    moves = llama_tensor_moves(shape, has_output="output.weight" in tensors)
    _refuse_other_tensors(metadata, tensors, moves)

    weights: dict[str, mx.array] = {}
    bits_of_layer: dict[str, int] = {}
    for done, move in enumerate(moves):
        report(0.1 + 0.5 * done / len(moves), "converting the weights")
        parts, bits = _convert(metadata, tensors, move, shape)
        weights.update(parts)
        if bits is not None:
            bits_of_layer[move.name] = bits

    destination.mkdir(exist_ok=True)
    weights_bytes = sum(weight.nbytes for weight in weights.values())
    require_space(destination, weights_bytes + SPACE_FOR_THE_REST)
    report(0.6, "writing the tokenizer")
    _write_texts(destination, shape, tokenizer, "output.weight" in tensors, bits_of_layer)
    report(0.7, "writing the weights")
    try:
        mx.save_safetensors(str(destination / "model.safetensors"), weights, metadata={"format": "mlx"})
    except RuntimeError as error:
        require_space(destination, weights_bytes)  # the likely cause, told with its numbers
        raise ModelStoreError(f"{destination}: the weights could not be written: {error}") from error
    report(1.0, "written")
    return metadata.text("general.license", default="")


def _read_gguf(source: Path) -> tuple[dict[str, mx.array], GgufMetadata]:
    tensors: dict[str, mx.array]
    values: dict[str, Any]
    try:
        # mypy: the return type depends on the arguments, which mlx's stubs do not express
        tensors, values = mx.load(  # type: ignore[assignment]
            str(source), format="gguf", return_metadata=True
        )
    except (RuntimeError, ValueError) as error:
        raise ModelFilesInvalid(source, f"cannot be read as GGUF: {error}") from error
    return tensors, GgufMetadata(source, {key: _plain(value) for key, value in values.items()})


def _plain(value: Any) -> MetadataValue:
    """What mlx reads: strings and lists of them as they are, numbers as arrays of 0 or 1 dimensions."""
    plain: Any = value.tolist() if isinstance(value, mx.array) else value
    return plain  # type: ignore[no-any-return]


def _refuse_other_tensors(metadata: GgufMetadata, tensors: Mapping[str, mx.array], moves: list[TensorMove]) -> None:
    """A tensor nobody asks for would be left out of the computation, and the answers would be wrong."""
    known = {f"{move.gguf_name}.{part}" for move in moves for part in ("weight", "scales", "biases")}
    if others := sorted(set(tensors) - known):
        raise metadata.refusal(f"it holds tensors this importer does not understand: {', '.join(others[:4])}")


def _convert(
    metadata: GgufMetadata, tensors: Mapping[str, mx.array], move: TensorMove, shape: LlamaShape
) -> tuple[dict[str, mx.array], int | None]:
    """The tensor's arrays by their new names, and its bits when it is quantised."""
    found = {part: tensors.get(f"{move.gguf_name}.{part}") for part in ("weight", "scales", "biases")}
    parts = {part: array for part, array in found.items() if array is not None}
    bits = _bits(parts, move)
    if bits is None and (set(parts) != {"weight"} or parts["weight"].shape != move.shape):
        shapes = {part: array.shape for part, array in parts.items()}
        raise metadata.refusal(f"{move.gguf_name} should have the shape {move.shape} and has {shapes or 'none'}")
    if move.rope_heads:
        # quantisation groups lie along a row, so whole rows move without touching a number
        rows = mx.array(half_order_rows(move.rope_heads, shape.head_dim))
        parts = {part: array[rows] for part, array in parts.items()}
    converted = {f"{move.name}.{part}": _without_needless_float32(array) for part, array in parts.items()}
    if not all(mx.isfinite(array).all() for array in converted.values()):
        raise metadata.refusal(f"{move.gguf_name} holds numbers that are not finite")
    return converted, bits


def _bits(parts: Mapping[str, mx.array], move: TensorMove) -> int | None:
    """4 or 8 when the arrays are one matrix quantised in groups of 32 inputs, else None."""
    if set(parts) != {"weight", "scales", "biases"} or len(move.shape) != 2:
        return None
    rows, inputs = move.shape
    groups = (rows, inputs // GGUF_GROUP_SIZE)
    if parts["scales"].shape != groups or parts["biases"].shape != groups:
        return None
    packed: dict[tuple[int, ...], int] = {(rows, inputs * bits // 32): bits for bits in (4, 8)}
    return packed.get(parts["weight"].shape)


def _without_needless_float32(array: mx.array) -> mx.array:
    """As float16 if that keeps every value: one float32 norm would promote all activations after it."""
    if array.dtype != mx.float32:
        return array
    narrow = array.astype(mx.float16)
    return narrow if mx.array_equal(narrow.astype(mx.float32), array) else array


def _write_texts(
    destination: Path,
    shape: LlamaShape,
    tokenizer: GgufTokenizer,
    has_output: bool,
    bits_of_layer: dict[str, int],
) -> None:
    """The folder's four JSON files."""
    config: dict[str, object] = {
        **shape.config(),
        **tokenizer.special_ids(),
        "tie_word_embeddings": not has_output,
    }
    if quantization := quantization_config(bits_of_layer):
        config["quantization"] = quantization
    files: dict[str, dict[str, object]] = {
        "config.json": config,
        "generation_config.json": {**tokenizer.special_ids(), "eos_token_id": tokenizer.stop_ids()},
        "tokenizer_config.json": tokenizer.config(shape),
    }
    for name, content in files.items():
        (destination / name).write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    (destination / "tokenizer.json").write_text(tokenizer.tokenizer_json(), encoding="utf-8")


def main(arguments: list[str]) -> int:
    """The child process: returns its exit code."""
    source, destination = (Path(argument) for argument in arguments)
    mx.set_default_device(mx.cpu)  # the accelerator belongs to the parent
    try:
        with disk_errors_explained(destination):
            licence = import_gguf(source, destination, _say_progress)
    except ModelFilesInvalid as error:
        _say(ImporterLine(error=str(error).removeprefix(f"{error.path}: "), file_is_invalid=True))
        return 1
    except ModelStoreError as error:
        _say(ImporterLine(error=str(error)))
        return 1
    _say(ImporterLine(fraction=1.0, doing="written", licence=licence))
    return 0


def _say_progress(fraction: float, doing: str) -> None:
    _say(ImporterLine(fraction, doing))


def _say(line: ImporterLine) -> None:
    sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
