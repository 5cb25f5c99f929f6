"""Random-weight encoders as Hugging Face writes them, with MiniLM's tokenizer."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tests.reference_encoder import BERT, DISTILBERT

Family = Literal["bert", "roberta", "distilbert"]

WIDTH, INNER, LAYERS, POSITIONS, VOCABULARY = 32, 64, 2, 80, 30522
ARCHITECTURES = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}
HEADS = {
    "bert": ("pooler.dense", "classifier"),
    "roberta": ("classifier.dense", "classifier.out_proj"),
    "distilbert": ("pre_classifier", "classifier"),
}


def write_tiny_encoder(folder: Path, family: Family, tokenizer_from: Path, *, cross_encoder: bool = False) -> None:
    """Weights are named as transformers saves them: a bare model's without a prefix, a classifier's with one."""
    import mlx.core as mx

    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_from / name, folder / name)
    kind = "ForSequenceClassification" if cross_encoder else "Model"
    labels = {"id2label": {"0": "LABEL_0"}} if cross_encoder else {}
    config = {"model_type": family, "architectures": [ARCHITECTURES[family] + kind], **labels, **shape(family)}
    (folder / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng(3)

    def array(*size: int) -> Any:
        return mx.array(random.normal(0, 0.3, size).astype(np.float32))

    prefix = f"{family}." if cross_encoder else ""
    weights = {f"{prefix}embeddings.word_embeddings.weight": array(VOCABULARY, WIDTH)}
    weights[f"{prefix}embeddings.position_embeddings.weight"] = array(POSITIONS, WIDTH)
    if family != "distilbert":
        weights[f"{prefix}embeddings.token_type_embeddings.weight"] = array(2, WIDTH)
    linear: dict[str, tuple[int, int]] = {}
    norms = [f"{prefix}embeddings.LayerNorm"]
    names = DISTILBERT if family == "distilbert" else BERT
    for number in range(LAYERS):
        layer = prefix + names["layer"].format(number)
        linear |= {f"{layer}.{names[name]}": (WIDTH, WIDTH) for name in ("query", "key", "value", "mixed")}
        linear[f"{layer}.{names['wide']}"] = (INNER, WIDTH)
        linear[f"{layer}.{names['narrow']}"] = (WIDTH, INNER)
        norms += [f"{layer}.{names[name]}" for name in ("norm1", "norm2")]
    if cross_encoder:
        dense, out = HEADS[family]
        linear[prefix + dense if family == "bert" else dense] = (WIDTH, WIDTH)
        linear[out] = (1, WIDTH)
    for name, size in linear.items():
        weights |= {f"{name}.weight": array(*size), f"{name}.bias": array(size[0])}
    for name in norms:
        weights |= {f"{name}.weight": 1 + array(WIDTH), f"{name}.bias": array(WIDTH)}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "pt"})


def shape(family: Family) -> dict[str, Any]:
    if family == "distilbert":
        return {
            "vocab_size": VOCABULARY,
            "dim": WIDTH,
            "n_layers": LAYERS,
            "n_heads": 4,
            "hidden_dim": INNER,
            "max_position_embeddings": POSITIONS,
        }
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": INNER,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
        "pad_token_id": 1,
    }


def write_sentence_files(folder: Path, pooling: dict[str, Any], *, normalize: bool) -> None:
    """As sentence-transformers writes them."""
    steps = [("Transformer", ""), ("Pooling", "1_Pooling"), *([("Normalize", "2_Normalize")] if normalize else [])]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
        for index, (name, path) in enumerate(steps)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
