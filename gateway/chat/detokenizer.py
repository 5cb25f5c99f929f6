"""From token ids back to text, one piece at a time."""

import asyncio
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class Detokenizer:
    """The text of one choice as its tokens arrive: `feed` each id, then `finish`.

    A piece is held back until its last character is whole; the pieces together are the text of all ids (where
    bytes make no character, perhaps with another number of U+FFFD). Special tokens are no text, but for `visible` ones.
    """

    def __init__(self, tokenizer: Tokenizer, visible: Iterable[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._visible = {token: text for text in visible if (token := tokenizer.token_to_id(text)) is not None}
        self._stream = DecodeStream(skip_special_tokens=True)
        self._held: list[int] = []

    def feed(self, token: int) -> str:
        if token in self._visible:
            text_before = self.finish()
            self._held.clear()
            self._stream = DecodeStream(skip_special_tokens=True)
            return text_before + self._visible[token]
        try:
            text: str | None = self._stream.step(self._tokenizer, token)
        except Exception:  # noqa: BLE001  (the library raises nothing narrower)
            # Byte tokens that a later token shows to be no character: what was held is replacement characters.
            text = self._tokenizer.decode([*self._held, token], skip_special_tokens=True)
            self._stream = DecodeStream([token], skip_special_tokens=True)
        if text is None:
            self._held.append(token)
            return ""
        self._held.clear()
        return text

    def finish(self) -> str:
        """What a generation that ended inside a character still owes: its bytes as replacement characters."""
        return self._tokenizer.decode(self._held, skip_special_tokens=True) if self._held else ""


async def decoded(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of all the ids, special tokens among them. On another thread: there may be very many."""
    text: str = await asyncio.to_thread(tokenizer.decode, list(ids), skip_special_tokens=False)
    return text


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


def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes each byte as one visible character (GPT-2, encoder.py: bytes_to_unicode)."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(byte): byte for byte in visible}
    others = (byte for byte in range(256) if byte not in set(visible))
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


BYTE_OF_CHARACTER = _byte_of_character()
