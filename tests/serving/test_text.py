"""The last stretch of a request's story: tokens that arrived together."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from gateway.chat.prompt import Prompt
from gateway.config import EngineConfig, ModelConfig
from gateway.engine.engine import Engine
from gateway.engine.token_stream import GeneratedToken, TokenStream
from gateway.generation.events import ChoiceFinished, TextDelta
from gateway.generation.request import Conversation, Message, Priority, TextRequest
from gateway.model_pool.served_model import TextModel
from gateway.observability.metrics import Metrics
from gateway.observability.request_clock import RequestClock
from gateway.serving.text import TextServing, _events, _new_answers


async def test_nothing_after_a_stop_string_is_sent_or_counted(demo_folder: Path) -> None:
    """However many tokens a slow reader finds at once."""
    from gateway.engine.model_loader import load_text_side

    side = load_text_side(demo_folder)
    metrics = Metrics().for_model("demo")
    model = TextModel(
        side.tokenizer, b"", "", 49152, 81, 8192, side.end_tokens, cast(Any, None), cast(Engine, None), metrics
    )
    cancelled: list[tuple[int, int | None]] = []
    stream = TokenStream(1, 1, lambda ticket, choice: cancelled.append((ticket, choice)))
    ids = side.tokenizer.encode("one two STOP three four five", add_special_tokens=False)
    for token in ids:
        stream.feed(GeneratedToken(0, token))
    clock = RequestClock(metrics, 0.0, Priority.NORMAL)
    request = TextRequest("demo", Conversation((Message("user", "?"),)), stop=("STOP",))
    answers = _new_answers(request, Prompt([1]), model)
    events: list[Any] = [event async for event in _events(answers, model, stream, clock)]
    assert events == [TextDelta(0, "one two "), ChoiceFinished(0, "stop", "STOP")]
    assert clock.tokens == len(side.tokenizer.encode("one two STOP", add_special_tokens=False)) < len(ids)
    assert cancelled == [(1, 0)]


async def test_memory_is_set_aside_for_what_is_expected_of_an_answer(demo_folder: Path) -> None:
    """Agents name a limit far beyond what they get: with all of it set aside, their neighbours would wait."""
    from gateway.engine.model_loader import load_text_side

    side = load_text_side(demo_folder)
    engine = cast(Engine, SimpleNamespace(max_choices=1))
    model = TextModel(
        side.tokenizer, b"", "", 49152, 81, 8192, side.end_tokens, cast(Any, None), engine, Metrics().for_model("demo")
    )
    nothing = cast(Any, None)
    serving = TextServing(nothing, Metrics(), EngineConfig(expected_answer_tokens=100), nothing, nothing, nothing)
    for asked, reserved in ((None, 100), (7000, 100), (30, 30)):
        request = TextRequest("demo", Conversation((Message("user", "?"),)), max_tokens=asked)
        tokens = serving._token_request(request, Prompt([1]), None, model, ModelConfig())
        assert (tokens.reserved_tokens, tokens.max_tokens) == (reserved, asked or 8191)
    serving.close()
