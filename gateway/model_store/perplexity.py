"""How well a model foretells a fixed text. Imports mlx: for a process of its own.

The text, prose and code written for this purpose, is `perplexity_text.txt`. It must never change: figures in the
manifests of models made earlier would no longer compare.
"""

import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.utils
import psutil  # type: ignore[import-untyped]

from gateway.hardware.memory import cgroup_limit

TEXT = Path(__file__).with_name("perplexity_text.txt")
WINDOW_TOKENS = 128
"""Each window is read on its own, so that no more than its logits are in memory and any architecture will do."""


def perplexity(model: Any, tokenizer: Any, windows: int | None = None) -> float:
    """Of a loaded model; lower is better, and only figures of one tokenizer compare. `windows`: only the first ones."""
    tokens = tokenizer.encode(TEXT.read_text(encoding="utf-8"), add_special_tokens=False)
    start = _start_tokens(tokenizer)
    nats, count = 0.0, 0
    for begin in range(0, len(tokens), WINDOW_TOKENS)[:windows]:
        window = start + tokens[begin : begin + WINDOW_TOKENS]
        if len(window) < 2:
            continue
        logits = model(mx.array([window[:-1]])).astype(mx.float32)
        losses = nn.losses.cross_entropy(logits[0], mx.array(window[1:]))
        nats += float(mx.sum(losses))
        count += len(window) - 1
    return math.exp(min(nats / count, 700.0))  # beyond that, no float holds it


def measured_perplexity(folder: Path, dtype: mx.Dtype | None, needed_bytes: int) -> float | None:
    """Of the model in `folder`, with all weights expanded to `dtype` unless that is None.

    None when the `needed_bytes` for its weights are more than the machine has free. Raises what mlx-lm raises for a
    model that cannot be loaded.
    """
    if needed_bytes > free_bytes():
        return None
    try:
        return perplexity(*load_measurable(folder, dtype))
    finally:
        mx.clear_cache()


def load_measurable(folder: Path, dtype: mx.Dtype | None) -> tuple[Any, Any]:
    """The model, whose weights are read when they are needed, and its tokenizer."""
    model, config = mlx_lm.utils.load_model(folder, lazy=True)
    if dtype is not None:
        model.set_dtype(dtype)  # scales first, or what they stand for would be rounded to their own type
        model = mlx_lm.utils.dequantize_model(model)
        model.set_dtype(dtype)  # of mxfp4 and its like, values come out as bfloat16
        model.eval()
    tokenizer = mlx_lm.utils.load_tokenizer(
        folder, {"trust_remote_code": False, "local_files_only": True}, eos_token_ids=config.get("eos_token_id")
    )
    return model, tokenizer


def _start_tokens(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before every text, if anything."""
    begin = tokenizer.bos_token_id
    return [begin] if begin is not None and tokenizer.encode("a")[:1] == [begin] else []


def free_bytes() -> int:
    """What this machine, or this process's container, has left at most."""
    limit = cgroup_limit()
    free: int = psutil.virtual_memory().available
    return free if limit is None else min(free, limit - psutil.Process().memory_info().rss)
