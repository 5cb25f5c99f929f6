"""Hugging Face's names of an encoder's weights, and ours.

A weight of a name that is not understood must not be left out: the vectors would be wrong.
"""

import re

from gateway.engine.encoders.encoder_config import Family

EMBEDDINGS = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "types",
    "embeddings.LayerNorm": "norm",
}
BERT_LAYER = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attended",
    "attention.output.LayerNorm": "attended_norm",
    "intermediate.dense": "widen",
    "output.dense": "narrow",
    "output.LayerNorm": "narrow_norm",
}
DISTILBERT_LAYER = {
    "attention.q_lin": "query",
    "attention.k_lin": "key",
    "attention.v_lin": "value",
    "attention.out_lin": "attended",
    "sa_layer_norm": "attended_norm",
    "ffn.lin1": "widen",
    "ffn.lin2": "narrow",
    "output_layer_norm": "narrow_norm",
}
HEADS: dict[Family, dict[str, str]] = {
    "bert": {"pooler.dense": "dense", "classifier": "out"},
    "roberta": {"classifier.dense": "dense", "classifier.out_proj": "out"},
    "distilbert": {"pre_classifier": "dense", "classifier": "out"},
}
"""Of a cross-encoder."""

LAYER = re.compile(r"(?:encoder\.layer|transformer\.layer)\.(\d+)\.(.+)")
OLD_NORM = {"gamma": "weight", "beta": "bias"}
"""Of weights that were converted from TensorFlow in 2018."""

UNUSED = re.compile(r"embeddings\.position_ids|pooler\..*|cls\..*|lm_head\..*|vocab_\w+\..*")
"""A buffer, and what stands behind the encoder for the tasks it was trained with."""


def our_name(name: str, family: Family, *, cross_encoder: bool) -> str | None:
    """`encoder.` or `head.` and our module's name; None for a weight that is not used. Raises `KeyError` for one that
    is not known."""
    short = re.sub(r"^(bert|roberta|distilbert)\.", "", name)
    module, _, kind = short.rpartition(".")
    kind = OLD_NORM.get(kind, kind)
    if cross_encoder and module in HEADS[family]:
        return f"head.{HEADS[family][module]}.{kind}"
    if UNUSED.fullmatch(short):
        return None
    if layer := LAYER.fullmatch(module):
        table = DISTILBERT_LAYER if family == "distilbert" else BERT_LAYER
        return f"encoder.layers.{layer[1]}.{table[layer[2]]}.{kind}"
    return f"encoder.{EMBEDDINGS[module]}.{kind}"
