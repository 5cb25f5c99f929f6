"""A random-weight llama that runs in a blink."""

import json
import shutil
from pathlib import Path

VOCABULARY = 49152
CONTEXT_TOKENS = 512


def write_tiny_model(folder: Path, tokenizer_from: Path) -> None:
    """Writes an mlx-lm folder: two layers of width 64 in float32, with the tokenizer of another folder."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.llama import Model, ModelArgs

    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(tokenizer_from / name, folder / name)
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT_TOKENS,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    mx.random.seed(7)
    model = Model(ModelArgs.from_dict(config))
    weights = dict(tree_flatten(model.parameters()))
    # Wider than untrained weights: logits that differ clearly, and attention that matters.
    weights = {name: 3 * weight if weight.ndim == 2 else weight for name, weight in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
