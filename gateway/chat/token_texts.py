"""The text of single tokens, and what is said of their probabilities."""

from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer

from gateway.engine.token_stream import TokenScores
from gateway.generation.events import ChosenLogprob, TokenLogprob


class TokenTexts:
    """The text and bytes of single tokens, for log-probabilities."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._byte_level = "ByteLevel(" in repr(tokenizer.decoder)  # alone or in a sequence

    def text(self, token: int) -> str:
        """The token's text; U+FFFD stands for part of a character."""
        return self.utf8(token).decode(errors="replace")

    def utf8(self, token: int) -> bytes:
        """The token's bytes, which may be part of a character; none for ids that only the model has."""
        piece: str = self._tokenizer.id_to_token(token) or ""
        if self._byte_level and all(character in BYTE_OF_CHARACTER for character in piece):
            return bytes(BYTE_OF_CHARACTER[character] for character in piece)
        if len(piece) == 6 and piece.startswith("<0x"):  # sentencepiece's byte tokens
            return bytes([int(piece[3:5], 16)])
        return piece.replace("▁", " ").encode()  # sentencepiece's space

    def chosen(self, token: int, scores: TokenScores) -> ChosenLogprob:
        """What is known of a token that was generated."""
        top = tuple(self._logprob(other, logprob) for other, logprob in scores.top)
        return ChosenLogprob(self._logprob(token, scores.chosen), top)

    def of_prompt(self, ids: Sequence[int], scores: Sequence[TokenScores], text: str) -> Iterator[ChosenLogprob]:
        """What is known of each token of a prompt; `scores` are of all but the first.

        A token that begins the model's texts, but not this `text`, is left out.
        """
        if not self._only_marks_beginning(ids[0], text):
            yield ChosenLogprob(self._logprob(ids[0], 0.0), (), known=False)
        for token, of_token in zip(ids[1:], scores, strict=True):
            yield self.chosen(token, of_token)

    def _only_marks_beginning(self, token: int, text: str) -> bool:
        added = self._tokenizer.get_added_tokens_decoder().get(token)
        return added is not None and added.special and not text.startswith(added.content)

    def _logprob(self, token: int, logprob: float) -> TokenLogprob:
        return TokenLogprob(self.text(token), self.utf8(token), logprob)


def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes each byte as one visible character (GPT-2, encoder.py: bytes_to_unicode)."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(byte): byte for byte in visible}
    others = (byte for byte in range(256) if byte not in set(visible))
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


BYTE_OF_CHARACTER = _byte_of_character()
