"""Byte-level BPE written from its description, with the splitting patterns of llama.cpp's llama-vocab.cpp.

Shares nothing with the `tokenizers` library: what both agree on is what the model was trained with.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import regex  # type: ignore[import-untyped]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (  # Mistral's own, from its tekken.json: llama.cpp writes it in a dialect without these classes
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {  # each is applied to every piece the one before it left
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "llama-bpe": [LLAMA3],
    "dbrx": [LLAMA3],
    "refact": [r"\p{N}", GPT2],
    "tekken": [TEKKEN],
    "qwen2": [LLAMA3.replace("{1,3}", "")],
}


def _byte_to_character() -> dict[int, str]:
    """GPT-2's printable stand-ins: a printable Latin-1 byte is itself, the others count up from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


BYTE_TO_CHARACTER = _byte_to_character()


class ReferenceBpe:
    """`token_types` 3 and 4 are found whole in the text; bytes that are no token are dropped."""

    def __init__(self, tokens: Sequence[str], token_types: Sequence[int], merges: Sequence[str], pre: str) -> None:
        self.ids = {token: token_id for token_id, token in enumerate(tokens)}
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
        self.patterns = [regex.compile(pattern) for pattern in PATTERNS[pre]]
        self.takes_whole_tokens = pre in ("llama-bpe", "tekken")
        added = [token for token, kind in zip(tokens, token_types, strict=True) if kind in (3, 4)]
        self.added = set(added)
        longest_first = sorted(added, key=len, reverse=True)
        self.added_pattern = regex.compile("(" + "|".join(map(regex.escape, longest_first)) + ")")

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in self.added_pattern.split(text):
            if part in self.added:
                ids.append(self.ids[part])
            else:
                for piece in self._pieces(part):
                    ids += self._merge(piece)
        return ids

    def _pieces(self, text: str) -> list[str]:
        pieces = [text]
        for pattern in self.patterns:
            pieces = [smaller for piece in pieces for smaller in _cut(pattern, piece)]
        return pieces

    def _merge(self, piece: str) -> list[int]:
        characters = [BYTE_TO_CHARACTER[byte] for byte in piece.encode()]
        if self.takes_whole_tokens and "".join(characters) in self.ids:
            return [self.ids["".join(characters)]]
        symbols = [character for character in characters if character in self.ids]
        while len(symbols) > 1:
            ranked = [(self.ranks[pair], at) for at, pair in enumerate(pairwise(symbols)) if pair in self.ranks]
            if not ranked:
                break
            _, at = min(ranked)
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        return [self.ids[symbol] for symbol in symbols]


def _cut(pattern: "regex.Pattern[str]", text: str) -> Iterator[str]:
    """The matches and what lies between them, in order."""
    end = 0
    for match in pattern.finditer(text):
        if match.start() > end:
            yield text[end : match.start()]
        yield match.group()
        end = match.end()
    if end < len(text):
        yield text[end:]
