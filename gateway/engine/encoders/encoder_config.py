"""What a folder says of an encoder: its shape, and how its output becomes one vector or one score a text.

The layout is Hugging Face's `config.json` with the files of sentence-transformers beside it (`modules.json`,
`1_Pooling/config.json`, `sentence_bert_config.json`). Reads JSON only; does not import mlx.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from gateway.errors import ModelFilesInvalid

Contents = TypeVar("Contents")
PositiveCount = Annotated[int, Meta(ge=1)]

Family = Literal["bert", "roberta", "distilbert"]
FAMILIES: dict[str, Family] = {
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    "distilbert": "distilbert",
}
"""By the `model_type` of config.json."""

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")
UNSTATED_LENGTH = 10**9
"""Tokenizers without a limit of their own name one beyond any model's, up to 1e30."""


class Pooling(StrEnum):
    """How the vectors of a text's tokens become one, in the words of sentence-transformers."""

    CLS = "cls"
    MEAN = "mean"
    MEAN_SQRT_LENGTH = "mean_sqrt_len_tokens"
    MAX = "max"
    LAST = "lasttoken"


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """`first_position` is the row of the position table that a text's first token gets; `types` may be 0: none."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    inner_width: int
    positions: int
    first_position: int
    types: int
    norm_eps: float
    activation: str


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """An encoder that embeds texts, or scores pairs of texts (`cross_encoder`).

    Texts have at most `context_tokens`, special ones included. The vectors of several `pooling` modes stand one behind
    the other. With `lowercase` texts are to be tokenised in lower case, whatever the tokenizer does by itself.
    """

    family: Family
    shape: EncoderShape
    cross_encoder: bool
    context_tokens: int
    pooling: tuple[Pooling, ...]
    normalize: bool
    lowercase: bool

    @property
    def dimensions(self) -> int:
        """Of an embedding."""
        return self.shape.width * len(self.pooling)


class _Kind(Struct, frozen=True):
    model_type: str = ""
    architectures: list[str] | None = None
    num_labels: int | None = None
    id2label: dict[str, Any] | None = None
    quantization: Any = None
    position_embedding_type: str = "absolute"


class _BertConfig(Struct, frozen=True):
    vocab_size: PositiveCount
    hidden_size: PositiveCount
    num_hidden_layers: PositiveCount
    num_attention_heads: PositiveCount
    intermediate_size: PositiveCount
    max_position_embeddings: PositiveCount
    type_vocab_size: Annotated[int, Meta(ge=0)]
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    pad_token_id: int | None = None

    def shape(self, family: Family) -> EncoderShape:
        # fairseq, where RoBERTa comes from, counts positions from behind the padding token
        first = (1 if self.pad_token_id is None else self.pad_token_id) + 1 if family == "roberta" else 0
        return EncoderShape(
            self.vocab_size,
            self.hidden_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.intermediate_size,
            self.max_position_embeddings,
            first,
            self.type_vocab_size,
            self.layer_norm_eps,
            self.hidden_act,
        )


class _DistilBertConfig(Struct, frozen=True):
    vocab_size: PositiveCount
    dim: PositiveCount
    n_layers: PositiveCount
    n_heads: PositiveCount
    hidden_dim: PositiveCount
    max_position_embeddings: PositiveCount
    activation: str = "gelu"

    def shape(self) -> EncoderShape:
        return EncoderShape(
            self.vocab_size,
            self.dim,
            self.n_layers,
            self.n_heads,
            self.hidden_dim,
            self.max_position_embeddings,
            0,
            0,
            1e-12,
            self.activation,
        )


class _Module(Struct, frozen=True):
    path: str
    type: str


class _PoolingFile(Struct, frozen=True):
    pooling_mode: str | list[str] | None = None
    pooling_mode_cls_token: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False


class _SentenceFile(Struct, frozen=True):
    max_seq_length: PositiveCount | None = None
    do_lower_case: bool = False


class _TokenizerFile(Struct, frozen=True):
    model_max_length: float | None = None


@dataclass(frozen=True, slots=True)
class _Sentences:
    """How sentence-transformers goes on behind the encoder; without its files it takes the mean, as it is."""

    pooling: tuple[Pooling, ...] = (Pooling.MEAN,)
    normalize: bool = False


def read_encoder_config(folder: Path) -> EncoderConfig | None:
    """None for a model of another kind, one that generates text. Raises `ModelFilesInvalid` for an encoder that asks
    for something this server does not compute: vectors that differ from its maker's would be worse than none."""
    kind = _read(folder / "config.json", _Kind)
    family = FAMILIES.get(kind.model_type)
    if family is None:
        return None
    if kind.quantization is not None:
        raise ModelFilesInvalid(folder, "quantised encoders are not served; use the original float weights")
    if kind.position_embedding_type != "absolute":
        raise ModelFilesInvalid(folder, f"position embeddings of type {kind.position_embedding_type!r} are not served")
    shape = _shape(folder, family)
    cross_encoder = any(name.endswith("ForSequenceClassification") for name in kind.architectures or ())
    labels = len(kind.id2label) if kind.id2label is not None else kind.num_labels
    if cross_encoder and labels != 1:
        raise ModelFilesInvalid(
            folder, f"it is a classifier of {labels or 'several'} labels; only one with one label ranks documents"
        )
    sentences = _Sentences() if cross_encoder else _read_modules(folder)
    sentence_file = _read_if_there(folder / "sentence_bert_config.json", _SentenceFile) or _SentenceFile()
    return EncoderConfig(
        family,
        shape,
        cross_encoder,
        _context_tokens(folder, shape, sentence_file),
        sentences.pooling,
        sentences.normalize,
        sentence_file.do_lower_case,
    )


def _shape(folder: Path, family: Family) -> EncoderShape:
    config = folder / "config.json"
    shape = (
        _read(config, _DistilBertConfig).shape() if family == "distilbert" else _read(config, _BertConfig).shape(family)
    )
    if shape.width % shape.heads:
        raise ModelFilesInvalid(folder, f"its width {shape.width} cannot be divided among {shape.heads} heads")
    if shape.first_position >= shape.positions:
        raise ModelFilesInvalid(folder, f"its {shape.positions} positions are all before the first one of a text")
    if shape.activation not in ACTIVATIONS:
        raise ModelFilesInvalid(folder, f"its activation {shape.activation!r} is none of {', '.join(ACTIVATIONS)}")
    return shape


def _context_tokens(folder: Path, shape: EncoderShape, sentence_file: _SentenceFile) -> int:
    limits = [shape.positions - shape.first_position]
    if sentence_file.max_seq_length:
        limits.append(sentence_file.max_seq_length)
    else:
        stated = (_read_if_there(folder / "tokenizer_config.json", _TokenizerFile) or _TokenizerFile()).model_max_length
        limits += [int(stated)] if stated and 1 <= stated < UNSTATED_LENGTH else []
    return min(limits)


def _read_modules(folder: Path) -> _Sentences:
    modules = _read_if_there(folder / "modules.json", list[_Module])
    if modules is None:
        return _Sentences()
    pooling, normalize = _Sentences().pooling, False
    for place, module in enumerate(modules):
        match module.type.rsplit(".", 1)[-1]:
            case "Transformer" if place == 0 and module.path in ("", "."):
                pass
            case "Pooling":
                pooling = _read_pooling(_inside(folder, module.path) / "config.json")
            case "Normalize":
                normalize = True
            case other:
                raise ModelFilesInvalid(folder, f"modules.json asks for a step that is not served: {other[:40]!r}")
    return _Sentences(pooling, normalize)


def _read_pooling(path: Path) -> tuple[Pooling, ...]:
    file = _read(path, _PoolingFile)
    if file.pooling_mode is not None:
        names = [file.pooling_mode] if isinstance(file.pooling_mode, str) else file.pooling_mode
    else:
        flags = {  # in the order in which sentence-transformers puts the vectors together
            "cls": file.pooling_mode_cls_token,
            "max": file.pooling_mode_max_tokens,
            "mean": file.pooling_mode_mean_tokens,
            "mean_sqrt_len_tokens": file.pooling_mode_mean_sqrt_len_tokens,
            "weightedmean": file.pooling_mode_weightedmean_tokens,
            "lasttoken": file.pooling_mode_lasttoken,
        }
        names = [name for name, wanted in flags.items() if wanted]
    try:
        pooling = tuple(Pooling(name) for name in names)
    except ValueError:
        raise ModelFilesInvalid(path, f"asks for a pooling that is not served: {', '.join(names)}") from None
    if not pooling:
        raise ModelFilesInvalid(path, "asks for no pooling at all")
    return pooling


def _inside(folder: Path, name: str) -> Path:
    """A folder of the model; a model cannot have files read that are not its own."""
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise ModelFilesInvalid(folder, f"modules.json names {name!r}, which is outside the model's folder")
    return folder / relative


def _read_if_there(path: Path, kind: type[Contents]) -> Contents | None:
    return _read(path, kind) if path.exists() else None


def _read(path: Path, kind: type[Contents]) -> Contents:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise ModelFilesInvalid(path, f"cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelFilesInvalid(path, f"is not as expected: {error}") from error
