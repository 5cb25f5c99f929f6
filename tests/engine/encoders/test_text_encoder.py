"""Encoders against numpy, and what a folder may ask for."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.engine.encoders.encoder_config import Pooling, read_encoder_config
from gateway.engine.encoders.text_encoder import TextEncoder, load_encoder
from gateway.engine.encoders.tokenizer import EncoderInput
from gateway.errors import ModelFilesInvalid
from tests.reference_encoder import ReferenceEncoder
from tests.tiny_encoder import WIDTH, Family, write_sentence_files, write_tiny_encoder

LENGTHS = (1, 17, 3, 40, 17)
FAMILIES: tuple[Family, ...] = ("bert", "roberta", "distilbert")


def loaded(folder: Path) -> TextEncoder:
    config = read_encoder_config(folder)
    assert config
    return load_encoder(folder, config, mx.float32, lambda fraction: None)


def inputs() -> list[EncoderInput]:
    random = np.random.default_rng(5)
    return [
        EncoderInput(
            random.integers(0, 30000, length).tolist(), random.integers(0, 2, length).tolist(), whole_tokens=length
        )
        for length in LENGTHS
    ]


POOLED: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "cls_token": lambda hidden: hidden[0],
    "mean_tokens": lambda hidden: hidden.mean(axis=0),
    "max_tokens": lambda hidden: hidden.max(axis=0),
    "mean_sqrt_len_tokens": lambda hidden: hidden.sum(axis=0) / np.sqrt(len(hidden)),
    "lasttoken": lambda hidden: hidden[-1],
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", POOLED)
def test_every_family_and_pooling_is_numpys(family: Family, mode: str, tmp_path: Path, minilm_folder: Path) -> None:
    """In one batch, most of which is padded."""
    folder = tmp_path / family
    write_tiny_encoder(folder, family, minilm_folder)
    write_sentence_files(folder, {f"pooling_mode_{mode}": True}, normalize=False)
    reference = ReferenceEncoder(folder)
    expected = [POOLED[mode](reference.hidden(list(text.ids), list(text.types))) for text in inputs()]
    np.testing.assert_allclose(loaded(folder).encode(inputs()), expected, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_scores_pairs_as_numpy_does(family: Family, tmp_path: Path, minilm_folder: Path) -> None:
    folder = tmp_path / family
    write_tiny_encoder(folder, family, minilm_folder, cross_encoder=True)
    reference = ReferenceEncoder(folder)
    logits = loaded(folder).encode(inputs())[:, 0]
    expected = [reference.score(list(text.ids), list(text.types)) for text in inputs()]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), expected, atol=1e-4)
    assert max(expected) - min(expected) > 0.01


def test_several_poolings_stand_one_behind_the_other_and_are_normalised(tmp_path: Path, minilm_folder: Path) -> None:
    folder = tmp_path / "bert"
    write_tiny_encoder(folder, "bert", minilm_folder)
    write_sentence_files(folder, {"pooling_mode": ["mean", "max"]}, normalize=True)
    config = read_encoder_config(folder)
    assert config
    assert (config.pooling, config.dimensions) == ((Pooling.MEAN, Pooling.MAX), 2 * WIDTH)
    reference = ReferenceEncoder(folder)
    for text, vector in zip(inputs(), loaded(folder).encode(inputs()), strict=True):
        hidden = reference.hidden(list(text.ids), list(text.types))
        expected = np.concatenate([hidden.mean(axis=0), hidden.max(axis=0)])
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)


def test_what_minilm_says_of_itself(minilm_folder: Path) -> None:
    config = read_encoder_config(minilm_folder)
    assert config
    assert (config.context_tokens, config.dimensions, config.pooling) == (256, 384, (Pooling.MEAN,))
    assert config.normalize
    assert not config.cross_encoder


def test_a_model_that_generates_is_no_encoder(tiny_folder: Path) -> None:
    assert read_encoder_config(tiny_folder) is None


def changed(file: str, **fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / file
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(known | fields))

    return change


def module(name: str, path: str = "1_Pooling") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        modules = [{"path": "", "type": "sentence_transformers.models.Transformer"}, {"path": path, "type": name}]
        (folder / "modules.json").write_text(json.dumps(modules))

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (changed("config.json", hidden_act="swish"), "swish"),
        (changed("config.json", hidden_size="wide"), "hidden_size"),
        (changed("config.json", num_attention_heads=5), "5 heads"),
        (changed("config.json", position_embedding_type="relative_key"), "relative_key"),
        (changed("config.json", quantization={"bits": 4}), "quantised"),
        (changed("config.json", architectures=["BertForSequenceClassification"], num_labels=2), "2 labels"),
        (changed("1_Pooling/config.json", pooling_mode_mean_tokens=False), "no pooling"),
        (changed("1_Pooling/config.json", pooling_mode_weightedmean_tokens=True), "weightedmean"),
        (module("sentence_transformers.models.Dense"), "Dense"),
        (module("sentence_transformers.models.Pooling", "../elsewhere"), "outside"),
        (module("sentence_transformers.models.Pooling", "/etc"), "outside"),
    ],
)
def test_what_is_not_computed_is_refused(
    change: Callable[[Path], None], named: str, tmp_path: Path, minilm_folder: Path
) -> None:
    folder = tmp_path / "model"
    write_tiny_encoder(folder, "bert", minilm_folder)
    write_sentence_files(folder, {"pooling_mode_mean_tokens": True}, normalize=True)
    change(folder)
    with pytest.raises(ModelFilesInvalid, match=named):
        read_encoder_config(folder)


@pytest.mark.parametrize("fields", [{"num_hidden_layers": 1}, {"num_hidden_layers": 3}, {"intermediate_size": 32}])
def test_weights_of_another_shape_are_refused(fields: dict[str, int], tmp_path: Path, minilm_folder: Path) -> None:
    folder = tmp_path / "model"
    write_tiny_encoder(folder, "bert", minilm_folder)
    changed("config.json", **fields)(folder)
    with pytest.raises(ModelFilesInvalid, match="not those of its config"):
        loaded(folder)


def test_a_weight_nobody_knows_is_refused(tmp_path: Path, minilm_folder: Path) -> None:
    folder = tmp_path / "model"
    write_tiny_encoder(folder, "bert", minilm_folder)
    mx.save_safetensors(str(folder / "model-2.safetensors"), {"encoder.layer.0.adapter.weight": mx.zeros((2, 2))})
    with pytest.raises(ModelFilesInvalid, match=r"not understood: encoder\.layer\.0\.adapter"):
        loaded(folder)


def test_a_broken_weight_file_is_refused(tmp_path: Path, minilm_folder: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(minilm_folder, folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(100_000)
    with pytest.raises(ModelFilesInvalid):
        loaded(folder)
