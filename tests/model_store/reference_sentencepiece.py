"""Sentencepiece's BPE written from its description (bpe_model.cc): join the best-scored neighbours until none join.

Shares nothing with the `tokenizers` library.
"""

from collections.abc import Sequence

import regex  # type: ignore[import-untyped]

SPACE = "▁"
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4


class ReferenceSentencePiece:
    """Control and user-defined tokens are found whole in the text, the longest first; unknown characters are bytes."""

    def __init__(
        self, tokens: Sequence[str], scores: Sequence[float], token_types: Sequence[int], space_prefix: bool
    ) -> None:
        self.ids = {token: token_id for token_id, token in enumerate(tokens)}
        self.scores = {t: s for t, s, kind in zip(tokens, scores, token_types, strict=True) if kind == NORMAL}
        self.space_prefix = space_prefix
        whole = [t for t, kind in zip(tokens, token_types, strict=True) if kind in (CONTROL, USER_DEFINED)]
        self.whole = set(whole)
        longest_first = sorted(whole, key=len, reverse=True)
        self.whole_pattern = regex.compile("(" + "|".join(map(regex.escape, longest_first)) + ")")

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in filter(None, self.whole_pattern.split(text)):
            ids += [self.ids[part]] if part in self.whole else self._encode_plain(part)
        return ids

    def _encode_plain(self, text: str) -> list[int]:
        symbols = list((" " + text if self.space_prefix else text).replace(" ", SPACE))
        while True:
            joined = [(self.scores.get(symbols[at] + symbols[at + 1]), at) for at in range(len(symbols) - 1)]
            ranked = [(-score, at) for score, at in joined if score is not None]
            if not ranked:
                break
            _, at = min(ranked)  # of equals the leftmost
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        return [token_id for symbol in symbols for token_id in self._ids_of(symbol)]

    def _ids_of(self, symbol: str) -> list[int]:
        if symbol in self.scores:
            return [self.ids[symbol]]
        return [self.ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
