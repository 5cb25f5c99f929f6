"""Tries a model before it is listed: what loads and computes here will load and compute in the server.

Run it as `python -m gateway.model_pool.trial FOLDER`, in a process of its own, which a bad model may take down. It
talks to its parent as `import_process.answer_parent` says.
"""

import logging
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from gateway.engine.encoders.encoder_config import read_encoder_config
from gateway.engine.soundness import try_encoder, try_text_model
from gateway.errors import GatewayError, ModelFilesInvalid
from gateway.model_store.import_process import ImporterLine, answer_parent
from gateway.model_store.safetensors_header import read_safetensors_header
from gateway.model_store.store_folders import Report

WORK_BYTES = 512 << 20
"""What a pass of one token needs besides the weights, generously."""


def try_model(folder: Path, report: Report) -> list[str]:
    """What was found to be sound, in words for the manifest. Raises ModelStoreError that says what is wrong."""
    report(0.0, "checking the headers")
    weight_bytes = sum(
        tensor.size_bytes
        for file in sorted(folder.glob("model*.safetensors"))
        for tensor in read_safetensors_header(file).values()
    )
    available_bytes = psutil.virtual_memory().available
    computes = weight_bytes + WORK_BYTES <= available_bytes
    report(0.1, "loading the model")
    try:
        encoder = read_encoder_config(folder)
        if encoder is None:
            checked = try_text_model(folder, compute=computes)
        else:
            checked = try_encoder(folder, encoder, compute=computes)
    except GatewayError:
        raise
    except Exception as error:  # mlx-lm and the tokenizers raise anything for files that do not fit together
        raise ModelFilesInvalid(folder, f"cannot be loaded: {type(error).__name__}: {str(error)[:500]}") from error
    if not computes:
        checked.append(
            f"no forward pass: it needs {weight_bytes + WORK_BYTES} bytes of memory and {available_bytes} were free"
        )
    report(1.0, "tried")
    return ["headers", *checked]


def main(arguments: list[str]) -> int:
    """The child process: returns its exit code."""
    logging.disable()  # its output is a protocol
    return answer_parent(
        lambda report: ImporterLine(fraction=1.0, doing="tried", checked=try_model(Path(arguments[0]), report))
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
