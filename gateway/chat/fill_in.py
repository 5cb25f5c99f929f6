"""Filling a gap in a text with the marks that a model was taught for it (https://arxiv.org/abs/2207.14255).

    <|fim_prefix|>def one():<|fim_suffix|>    return x<|fim_middle|>

The answer is what belongs between the two texts. Which marks a model knows is found in its tokenizer's vocabulary.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from tokenizers import Tokenizer

ANCHOR = "\ue000"
"""Stands before a text whose tokens shall be those of its place inside another text."""


@dataclass(frozen=True, slots=True)
class FillInMarks:
    """The tokens before the text that precedes the gap, before the one that follows it, and before the answer.

    With `suffix_first` the text behind the gap comes first. A model that does not know where to end writes one of the
    marks or of `ends`, such as the one that begins another file.
    """

    prefix: str
    suffix: str
    middle: str = ""
    suffix_first: bool = False
    ends: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tokens without which a model does not know these marks."""
        return tuple(name for name in (self.prefix, self.suffix, self.middle) if name)


KNOWN_MARKS = (
    # Qwen2.5-Coder and Qwen3-Coder, CodeGemma, Yi-Coder, Granite 3.3 and 4
    FillInMarks(
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        ends=(
            *("<|fim_pad|>", "<|endoftext|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"),
            *("<|repo_name|>", "<|file_sep|>", "<|file_separator|>", "<|filename|>", "<|reponame|>"),
        ),
    ),
    # StarCoder and StarCoder2, Granite code, Stable Code, CodeQwen1.5
    FillInMarks(
        "<fim_prefix>",
        "<fim_suffix>",
        "<fim_middle>",
        ends=("<fim_pad>", "<|endoftext|>", "<file_sep>", "<filename>", "<reponame>", "<repo_name>"),
    ),
    # SantaCoder
    FillInMarks("<fim-prefix>", "<fim-suffix>", "<fim-middle>", ends=("<fim-pad>", "<|endoftext|>")),
    # DeepSeek-Coder and DeepSeek-Coder-V2: the hole stands where the gap is
    FillInMarks("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", ends=("<|EOT|>", "<｜end▁of▁sentence｜>")),
    # CodeLlama
    FillInMarks("▁<PRE>", "▁<SUF>", "▁<MID>", ends=("▁<EOT>",)),
    # Seed-Coder
    FillInMarks("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>", suffix_first=True, ends=("<[fim-pad]>",)),
    # GLM-4, CodeGeeX4
    FillInMarks("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>", ends=("<|endoftext|>", "<|user|>")),
    # Codestral and others of Mistral (mistral-common, `encode_fim`): the answer follows the prefix
    FillInMarks("[PREFIX]", "[SUFFIX]", suffix_first=True, ends=("[MIDDLE]",)),
)


def fill_in_marks(tokenizer: Tokenizer) -> FillInMarks | None:
    """Those that the model knows, if any."""
    return next(
        (marks for marks in KNOWN_MARKS if all(tokenizer.token_to_id(name) is not None for name in marks.names)), None
    )


class FillInEncoder:
    """Makes prompts of one model. Blocks for a moment where texts are long; any thread may use it."""

    def __init__(self, tokenizer: Tokenizer, marks: FillInMarks) -> None:
        self._tokenizer = tokenizer
        self._marks = marks

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer, besides the model's own."""
        ids = [self._tokenizer.token_to_id(name) for name in (*self._marks.names, *self._marks.ends)]
        return frozenset(token for token in ids if token is not None)

    def encode(self, prefix: str, suffix: str) -> list[int]:
        """The prompt whose answer belongs between the two texts, of which nothing becomes a mark or special token."""
        marks = self._marks
        before = [self._id(marks.prefix), *self._plain(prefix)]
        behind = [self._id(marks.suffix), *self._plain(suffix, inside=True)]
        both = behind + before if marks.suffix_first else before + behind
        return [*self._beginning(), *both, *([self._id(marks.middle)] if marks.middle else [])]

    def _id(self, name: str) -> int:
        token: int | None = self._tokenizer.token_to_id(name)
        assert token is not None
        return token

    def _beginning(self) -> list[int]:
        """What the model's texts begin with."""
        encoded = self._tokenizer.encode_batch(["a"], add_special_tokens=True)[0]
        added = takewhile(lambda pair: pair[1], zip(encoded.ids, encoded.special_tokens_mask, strict=True))
        return [token for token, _ in added]

    def _plain(self, text: str, *, inside: bool = False) -> list[int]:
        """The text's tokens; `inside` as they are inside another text."""
        ids: list[int] = []
        for number, piece in enumerate(self._pieces(text)):
            ids += self._encode_inside(piece) if inside or number else self._encode(piece)
        return ids

    def _pieces(self, text: str) -> Iterator[str]:
        """The text, cut behind the first character of whatever a tokenizer would take for a mark or a special token."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        names = {token.content for token in added if token.special} | {*self._marks.names, *self._marks.ends}
        names |= {name.replace("▁", " ") for name in names}  # a normaliser may write the one for the other
        longer = sorted(name for name in names if len(name) > 1)
        firsts = "".join(sorted({re.escape(name[0]) for name in longer}))  # most places are ruled out by one look
        begins = re.compile(f"(?=[{firsts}])(?={'|'.join(map(re.escape, longer))})")
        last = 0
        for found in begins.finditer(text):
            yield text[last : found.start() + 1]
            last = found.start() + 1
        if text[last:]:
            yield text[last:]

    def _encode_inside(self, text: str) -> list[int]:
        """Without the space that some tokenizers put before every text."""
        if not self._adds_space():
            return self._encode(text)
        anchor, anchored = self._encode(ANCHOR), self._encode(ANCHOR + text)
        return anchored[len(anchor) :] if anchored[: len(anchor)] == anchor else self._encode(text)

    def _adds_space(self) -> bool:
        return bool(self._tokenizer.encode_batch(["a"], add_special_tokens=False)[0].tokens[0].startswith("▁"))

    def _encode(self, text: str) -> list[int]:
        # In a batch of one: `encode` holds the GIL throughout.
        ids: list[int] = self._tokenizer.encode_batch([text], add_special_tokens=False)[0].ids
        return ids
