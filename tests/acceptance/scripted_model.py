"""The architecture `scripted`: a model that says what its config's rules tell it to, token by token.

It is a function of the tokens before, like every model, and keeps them where others keep keys: in its KV cache. So
batches, chunks, drafts and reused prefixes are what they are for any model. Only the `serve` beside this file makes it
known to mlx-lm; a folder has a config, a tokenizer and weights, and no code.
"""

import json
import re
import shutil
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module
from tokenizers import Tokenizer

ANSWERS_KEPT = 64
ANSWERED = "answered.jsonl"

Rule = tuple[str, str]


@dataclass(frozen=True)
class ModelArgs:
    """What the config says.

    `rules` are a regular expression and an answer each. The first that is found in a prompt's text gives the answer to
    it, in which `<<name>>` stands for what a group of that name matched. An answer follows any of `openings`. In
    `folder` is the tokenizer, and there what was answered is written for people to read.
    """

    vocab_size: int
    eos_token_id: int
    folder: str
    openings: Sequence[str]
    rules: Sequence[Rule]

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "ModelArgs":
        return cls(**{field.name: config[field.name] for field in fields(cls)})


class Script:
    """What follows a sequence of tokens."""

    def __init__(self, args: ModelArgs) -> None:
        self._tokenizer = Tokenizer.from_file(str(Path(args.folder) / "tokenizer.json"))
        self._answered = Path(args.folder) / ANSWERED
        self._end = args.eos_token_id
        self._openings = [self._encode(opening) for opening in args.openings]
        self._rules = [(re.compile(pattern, re.DOTALL), answer) for pattern, answer in args.rules]
        self._answers: OrderedDict[bytes, list[int]] = OrderedDict()

    def following(self, ids: np.ndarray[Any, np.dtype[np.int64]], first: int) -> list[int]:
        """The tokens that come after each of `ids` from place `first` on; 0 for those in a prompt."""
        begins = max(_last_end(ids, opening) for opening in self._openings)
        if not begins:
            return [0] * (len(ids) - first)
        answer = self._answer(ids[:begins])
        said = ids[begins:].tolist()
        return [self._next(answer, said[: place + 1 - begins]) if place + 1 >= begins else 0
                for place in range(first, len(ids))]  # fmt: skip

    def _answer(self, prompt: np.ndarray[Any, np.dtype[np.int64]]) -> list[int]:
        key = prompt.tobytes()
        if key not in self._answers:
            text = self._tokenizer.decode(prompt.tolist(), skip_special_tokens=False)
            answer = self._answer_text(text)
            with self._answered.open("a") as file:
                file.write(json.dumps(text + answer) + "\n")
            self._answers[key] = self._encode(answer)
            while len(self._answers) > ANSWERS_KEPT:
                self._answers.popitem(last=False)
        return self._answers[key]

    def _answer_text(self, prompt: str) -> str:
        for pattern, answer in self._rules:
            if found := pattern.search(prompt):
                for name, value in found.groupdict().items():
                    answer = answer.replace(f"<<{name}>>", value)
                return answer
        return "There is no rule for this prompt."

    def _next(self, answer: Sequence[int], said: Sequence[int]) -> int:
        """A grammar may have made the answer begin in other tokens: then its text goes on, or the answer ends."""
        if list(answer[: len(said)]) == said:
            return answer[len(said)] if len(said) < len(answer) else self._end
        text = self._tokenizer.decode(list(answer), skip_special_tokens=False)
        begun = self._tokenizer.decode(list(said), skip_special_tokens=False)
        rest = self._encode(text[len(begun) :]) if text.startswith(begun) else []
        return rest[0] if rest else self._end

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _last_end(ids: np.ndarray[Any, np.dtype[np.int64]], part: Sequence[int]) -> int:
    """How many of `ids` there are up to the end of the last place where `part` stands; 0 if it stands nowhere."""
    if len(ids) < len(part):
        return 0
    places = np.flatnonzero((np.lib.stride_tricks.sliding_window_view(ids, len(part)) == part).all(axis=1))
    return int(places[-1]) + len(part) if len(places) else 0


class Memory(Module):
    """The one layer: writes the tokens of a pass to the cache, and reads back all that came before them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.certainty = mx.array(0.0)

    def __call__(self, inputs: mx.array, cache: Any) -> mx.array:
        keys = inputs.astype(mx.float32)[:, None, :, None]  # exact up to 2**24
        seen, _ = cache.update_and_fetch(keys, mx.zeros_like(keys))
        tokens: mx.array = seen[:, 0, :, 0]
        return tokens


class Model(Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers = [Memory()]
        self._vocabulary = args.vocab_size
        self._script = Script(args)

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        """Logits (rows, tokens, vocabulary): `certainty` for the token that follows, 0 for all others."""
        rows, width = inputs.shape
        following = [[0] * width] * rows
        if cache is not None:
            before = np.broadcast_to(np.array(cache[0].offset), (rows,))
            seen = np.array(self.layers[0](inputs, cache[0])).astype(np.int64)
            following = [
                self._script.following(tokens[: count + width], int(count))
                for tokens, count in zip(seen, before, strict=True)
            ]
        chosen = mx.array(following)[..., None] == mx.arange(self._vocabulary)
        return chosen * self.layers[0].certainty


def write_scripted_model(folder: Path, tokenizer_from: Path, rules: Sequence[Rule]) -> None:
    """Writes a folder with the tokenizer and template of a Qwen3 model; `rules` as in `ModelArgs`."""
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_from / name, folder / name)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = {
        "model_type": "scripted",
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": 131072,
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "folder": str(folder),
        "openings": ["<|im_start|>assistant\n", "<|fim_middle|>"],
        "rules": rules,
    }
    (folder / "config.json").write_text(json.dumps(config))
    weights = {"layers.0.certainty": mx.array(100.0)}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})


def answered_prompts(folder: Path) -> list[str]:
    """Each prompt with its answer. Beginnings of prompts that end with an answer of before may be among them."""
    file = folder / ANSWERED
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
