"""A model of random weights whose layers mostly attend to a sliding window, as Gemma 3's do: five of six.

What it says makes no sense; what can be reused of its caches does not depend on that.

    python -m loadtests.cache_figures.window_model TOKENIZER_FROM OUT     makes it, in a child process
"""

import json
import shutil
import sys
from pathlib import Path

from loadtests.model_folder import appearing_whole, made_folder

WINDOW_TOKENS = 512
CONFIG = {
    "model_type": "gemma3_text",
    "hidden_size": 128,
    "num_hidden_layers": 6,
    "intermediate_size": 256,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "query_pre_attn_scalar": 64,
    "rms_norm_eps": 1e-6,
    "vocab_size": 49152,
    "sliding_window": WINDOW_TOKENS,
    "sliding_window_pattern": 6,
    "max_position_embeddings": 8192,
    "eos_token_id": 2,
}


async def window_folder(tokenizer_from: Path) -> Path:
    """The folder, made beside the one whose tokenizer it has. Raises RuntimeError when that fails."""
    name = f"gemma3-random-window-{WINDOW_TOKENS}"
    return await made_folder(tokenizer_from.parent, name, "loadtests.cache_figures.window_model", tokenizer_from)


def make_window_folder(tokenizer_from: Path, folder: Path) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.gemma3_text import Model, ModelArgs

    mx.random.seed(7)
    model = Model(ModelArgs.from_dict(CONFIG))
    weights = dict(tree_flatten(model.parameters()))
    with appearing_whole(folder) as unfinished:
        shutil.copytree(tokenizer_from, unfinished, ignore=shutil.ignore_patterns("model*", "config.json"))
        (unfinished / "config.json").write_text(json.dumps(CONFIG, indent=2))
        mx.save_safetensors(str(unfinished / "model.safetensors"), weights, metadata={"format": "mlx"})


if __name__ == "__main__":
    make_window_folder(Path(sys.argv[1]), Path(sys.argv[2]))
