"""Turns a GGUF of a known architecture into an mlx-lm folder, keeping its 4-, 5- and 8-bit weights bit for bit."""

import json
from collections.abc import Mapping, Sequence, Set
from math import isfinite
from pathlib import Path

from gguf.constants import GGMLQuantizationType

from gateway.model_store.gguf_architecture import Numbers
from gateway.model_store.gguf_architectures import architecture_of
from gateway.model_store.gguf_file import GgufTensor, read_gguf
from gateway.model_store.gguf_metadata import GgufMetadata
from gateway.model_store.gguf_tensors import TensorMove, layer_name, moved_tensor, quantization_config
from gateway.model_store.gguf_tokenizer import GgufTokenizer, read_tokenizer
from gateway.model_store.safetensors_file import Outgoing, write_safetensors
from gateway.model_store.store_folders import Report, require_space

MOST_NUMBERS = 1 << 12
SPACE_FOR_THE_REST = 64 << 20  # bytes: the tokenizer and configuration files, at most some tens of MB


def import_gguf(source: Path, destination: Path, report: Report) -> str:
    """Write the model of `source` into the folder `destination`; returns the licence the file names, or "".

    Weights of Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and F16 keep their values exactly, F32 too; other kinds, the K-quants
    among them, are expanded to float16, and so need up to eight times the file's size. Of the weights some megabytes at
    a time are in memory.

    Raises ModelFilesInvalid for a file that is broken or of a kind not understood, ModelStoreError when the
    disk is too small. What was written by then stays for the caller to remove.
    """
    report(0.0, "reading the GGUF")
    tensors, metadata = read_gguf(source)
    architecture = architecture_of(metadata)
    shape = architecture.read_shape(metadata)
    tokenizer = read_tokenizer(metadata, architecture, shape)
    has_output = "output.weight" in tensors
    numbers = _numbers(metadata, tensors, architecture.number_tensors)
    config = {**architecture.config(metadata, shape, numbers), "tie_word_embeddings": not has_output}
    moves = architecture.tensor_moves(shape, has_output)
    _refuse_other_tensors(metadata, {name for name in tensors if name not in numbers}, moves)

    weights: list[Outgoing] = []
    bits_of_layer: dict[str, int] = {}
    for move in moves:
        parts, bits = _prepare(metadata, tensors, move)
        weights += parts
        if bits is not None:
            bits_of_layer[layer_name(move)] = bits

    destination.mkdir(exist_ok=True)
    total_bytes = sum(weight.size_bytes for weight in weights)
    require_space(destination, total_bytes + SPACE_FOR_THE_REST)
    report(0.1, "writing the tokenizer")
    if quantization := quantization_config(bits_of_layer):
        config["quantization"] = quantization
    _write_texts(destination, config, tokenizer)
    write_safetensors(
        destination / "model.safetensors",
        weights,
        lambda done_bytes: report(0.2 + 0.8 * done_bytes / total_bytes, "converting the weights"),
    )
    report(1.0, "written")
    return metadata.text("general.license", default="")


def _numbers(metadata: GgufMetadata, tensors: Mapping[str, GgufTensor], names: Sequence[str]) -> Numbers:
    """What there is of the tensors that are settings."""
    numbers = {}
    for tensor in (tensors[name] for name in names if name in tensors):
        if tensor.kind != GGMLQuantizationType.F32 or len(tensor.shape) != 1 or tensor.shape[0] > MOST_NUMBERS:
            raise metadata.refusal(
                f"{tensor.name} is {tensor.kind.name} of the shape {tensor.shape}, not a few numbers"
            )
        values: list[float] = tensor.data.view("<f4")[0].astype(float).tolist()
        if not all(map(isfinite, values)):
            raise metadata.refusal(f"{tensor.name} holds numbers that are not finite")
        numbers[tensor.name] = values
    return numbers


def _refuse_other_tensors(metadata: GgufMetadata, tensors: Set[str], moves: list[TensorMove]) -> None:
    """A tensor nobody asks for would be left out of the computation, and the answers would be wrong."""
    if others := sorted(tensors - {move.gguf_name for move in moves}):
        raise metadata.refusal(f"it holds tensors this importer does not understand: {', '.join(others[:4])}")


def _prepare(
    metadata: GgufMetadata, tensors: Mapping[str, GgufTensor], move: TensorMove
) -> tuple[list[Outgoing], int | None]:
    """What `moved_tensor` says, with refusals that name the tensor."""
    tensor = tensors.get(move.gguf_name)
    if tensor is None or tensor.shape != move.shape:
        found = "none" if tensor is None else str(tensor.shape)
        raise metadata.refusal(f"{move.gguf_name} should have the shape {move.shape} and has {found}")
    return moved_tensor(tensor, move, metadata.refusal)


def _write_texts(destination: Path, config: Mapping[str, object], tokenizer: GgufTokenizer) -> None:
    """The folder's four JSON files."""
    files: dict[str, dict[str, object]] = {
        "config.json": {**config, **tokenizer.special_ids()},
        "generation_config.json": {**tokenizer.special_ids(), "eos_token_id": tokenizer.stop_ids},
        "tokenizer_config.json": tokenizer.config(),
    }
    for name, content in files.items():
        (destination / name).write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    (destination / "tokenizer.json").write_text(tokenizer.tokenizer_json(), encoding="utf-8")
