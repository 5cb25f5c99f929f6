"""The last message of a long conversation is changed and sent again, to Gemma 3, which has sliding windows.

Such a model cannot go back to any place: what its windows held there must have been kept.
"""

from collections import defaultdict
from collections.abc import Mapping

from loadtests.cache_figures.bench import Bench, ask, continued
from loadtests.cache_figures.gemma import gemma_folder
from loadtests.figure import Figure, Measured, at_least, median_of, span
from loadtests.prompt_tokens import PromptTokenizer, common_length
from loadtests.prompts import long_story, question
from loadtests.servers import Server, gateway_server
from loadtests.streaming_client import Message
from loadtests.turns import UnusableRun

HISTORY_TOKENS = 2200
LAST_MESSAGE_TOKENS = 270
ANSWER_TOKENS = 8
CHANGED_WORD = "penguin"  # no word list has it
PLACES: Mapping[str, int] = {"its end": -1, "its middle": LAST_MESSAGE_TOKENS // 2, "its beginning": 0}


async def measure(bench: Bench) -> Measured:
    shares: dict[str, list[float]] = defaultdict(list)
    common_tokens: dict[str, list[int]] = defaultdict(list)
    folder = await gemma_folder(bench.store)
    tokenizer = PromptTokenizer(folder)
    async with gateway_server(str(folder), bench.store) as server:
        for _ in range(bench.rounds):
            for place, word in PLACES.items():
                reused, common = await _edited(server, tokenizer, word)
                shares[place].append(reused / common)
                common_tokens[place].append(common)
    return Measured(
        [_figure(place, of_place) for place, of_place in shares.items()],
        [f"edited at {place}: {span(tokens)} tokens are before the edit" for place, tokens in common_tokens.items()]
        + ["Gemma 3 270M, five of whose six layers have a window of 512 tokens"],
    )


async def _edited(server: Server, tokenizer: PromptTokenizer, word: int) -> tuple[int, int]:
    """Tokens that were reused after an edit at that word of the last message, and those that come before it."""
    first, last = long_story(HISTORY_TOKENS), question(LAST_MESSAGE_TOKENS)
    answer = await ask(server, first, ANSWER_TOKENS, least_pieces=0)
    conversations = [continued(first, answer, message) for message in (last, edited(last, word))]
    streams = [await ask(server, messages, ANSWER_TOKENS, least_pieces=0) for messages in conversations]
    pairs = zip(conversations, streams, strict=True)
    original, changed = [tokenizer.ids_of(messages, stream) for messages, stream in pairs]
    common = common_length(original, changed)
    if common < HISTORY_TOKENS:
        raise UnusableRun(f"Only {common} tokens are before an edit of the last message.")
    return streams[1].cached_tokens, common


def edited(message: Message, word: int) -> Message:
    words = message.content.split()
    words[word] = CHANGED_WORD
    return Message(message.role, " ".join(words))


def _figure(place: str, shares: list[float]) -> Figure:
    return median_of(f"edited at {place}: reused share of what is before", shares, at_least(0.9))
