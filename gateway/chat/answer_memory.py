"""The token ids of answers that were given, for the day when a client sends them back in other words."""

from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from gateway.chat.replayed_turn import calls_digest, replayed_digests, replays, text_digest
from gateway.chat.splice import Place
from gateway.generation.request import Message, ToolCall

MOST_TOKENS = 2_000_000
TOKENS_PER_ANSWER = 512
"""What an answer costs besides its ids, in tokens of four bytes: keys, digests and the text before it."""


@dataclass(frozen=True, slots=True)
class RememberedAnswer:
    """`ids` are all that was generated, reasoning included, without the end token.

    Never changed, so threads may share it.
    """

    place: Place
    ids: "array[int]"
    text: bytes
    calls: bytes
    reasoned: bool

    def is_replayed_by(self, message: Message) -> bool:
        return replays(message, self.text, self.calls, reasoned=self.reasoned)


Recalled = Mapping[int, RememberedAnswer]
"""By number of a message, the answer that it may be."""


class AnswerMemory:
    """Remembers the answers of all models, within a number of tokens; the least recently used go first.

    Belongs to the event loop. An answer is found only behind all that was said to the assistant before it: ids that
    are put back take the place of the text since then, in which nothing may stand that was not there. One that calls
    tools is found by the ids of all its calls, in whatever session: they are random, so only who got the answer knows
    them, and clients lose their session's name. Any other answer is found by its text, only in its own session: its
    reasoning was hidden from the others.

    `model` names the tokenizer: ids of one mean nothing to another. `session` must be a name that others cannot take.
    """

    def __init__(self, most_tokens: int = MOST_TOKENS) -> None:
        self._most_tokens = most_tokens
        self._answers: OrderedDict[object, RememberedAnswer] = OrderedDict()
        self._tokens = 0

    @property
    def tokens(self) -> int:
        """What is kept, by which the memory is bounded."""
        return self._tokens

    def remember(
        self,
        model: str,
        session: str,
        messages: Sequence[Message],
        place: Place | None,
        ids: Sequence[int],
        text: str,
        calls: Sequence[ToolCall] = (),
        *,
        reasoned: bool = False,
    ) -> None:
        """An answer to the `messages` has ended with an end token.

        `place` is that of its prompt; without one the answer could not be put back, and is not remembered. `ids` are
        all that was generated but the end token, `text` and `calls` are what the client got, without arguments that are
        defaults, and it `reasoned` if reasoning came before. An answer that was cut by a stop string or a limit must
        not come here: its ids are not what the client got, or have no end.
        """
        if place is None or not ids:
            return
        called = tuple(calls)
        said = _said(messages)
        key = _call_key(model, said, called) if called else (model, session, said, text_digest(text))
        self._forget(key)
        self._answers[key] = answer = RememberedAnswer(
            place, array("I", ids), text_digest(text), calls_digest(called), reasoned
        )
        self._tokens += _size(answer)
        while self._tokens > self._most_tokens:
            self._forget(next(iter(self._answers)))

    def recall(self, model: str, session: str, messages: Sequence[Message]) -> Recalled:
        """What the assistant's turns may be; whether they are is for the prompt's builder to find out.

        Not those directly behind another turn of the assistant's, whose words nobody has compared.
        """
        recalled = {}
        said = blake2b(digest_size=16)
        before = ""
        for number, message in enumerate(messages):
            if message.role == "assistant" and before != "assistant":
                for key in _keys(model, session, said.digest(), message):
                    if key in self._answers:
                        self._answers.move_to_end(key)
                        recalled[number] = self._answers[key]
                        break
            _hear(said, message)
            before = message.role
        return recalled

    def _forget(self, key: object) -> None:
        if answer := self._answers.pop(key, None):
            self._tokens -= _size(answer)


def _call_key(model: str, said: bytes, calls: Sequence[ToolCall]) -> object:
    return (model, said, frozenset(call.id for call in calls))


def _keys(model: str, session: str, said: bytes, message: Message) -> Sequence[object]:
    """Of the answers that the message may be: whether one reasoned is known once it is found."""
    if message.tool_calls:
        return (_call_key(model, said, message.tool_calls),)
    return [(model, session, said, digest) for digest in replayed_digests(message.content, reasoned=True)]


def _said(messages: Sequence[Message]) -> bytes:
    said = blake2b(digest_size=16)
    for message in messages:
        _hear(said, message)
    return said.digest()


def _hear(said: blake2b, message: Message) -> None:
    """The assistant's own words do not count, for clients write them anew; where it spoke does."""
    content = "" if message.role == "assistant" else message.content
    encoded = content.encode(errors="surrogatepass")
    said.update(f"{message.role} {len(encoded)} ".encode() + encoded)


def _size(answer: RememberedAnswer) -> int:
    return TOKENS_PER_ANSWER + len(answer.ids)
