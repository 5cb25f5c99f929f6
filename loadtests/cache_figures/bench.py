"""What every section is given, and the words for what most of them do."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from loadtests.cache_folder import empty_cache_folder
from loadtests.servers import Server, gateway_server
from loadtests.streaming_client import ChatRequest, ChatStream, Message
from loadtests.turns import all_at_once

SHORT_ANSWER_TOKENS = 32


@dataclass(frozen=True)
class Bench:
    """Paths are absolute. `folder` is the model, `store` the gateway's model store; `kills` is for `kill_writes`."""

    store: Path
    folder: Path
    rounds: int
    kills: int

    def gateway(self, settings: Mapping[str, str] | None = None) -> AbstractAsyncContextManager[Server]:
        """With an empty cache of its own, unless `settings` name a folder."""
        return gateway_server(str(self.folder), self.store, settings)

    def empty_cache_folder(self) -> AbstractContextManager[Path]:
        """For gateways that follow one another."""
        return empty_cache_folder(self.store)


async def ask(
    server: Server, messages: list[Message], max_tokens: int = SHORT_ANSWER_TOKENS, *, least_pieces: int = 1
) -> ChatStream:
    """One request alone, to its end. Raises `UnusableRun`."""
    (stream,) = await all_at_once(server, [ChatRequest(server.model, messages, max_tokens)], least_pieces=least_pieces)
    return stream


def continued(messages: list[Message], answer: ChatStream, following: Message) -> list[Message]:
    """The conversation's next turn, with the answer as it was received."""
    return [*messages, Message("assistant", answer.text), following]
