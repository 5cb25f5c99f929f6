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
