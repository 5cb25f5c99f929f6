import pytest

from gateway.protocols.passed_on_usage import PassedOnUsage

CHAT = b'{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":4,\
"prompt_tokens_details":{"cached_tokens":5}}}'
CHAT_STREAM = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n\
data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":5}}}\n\n'
MESSAGES = b'event: message_start\ndata: {"message":{"usage":{"input_tokens":4,"cache_read_input_tokens":5,\
"output_tokens":1}}}\n\nevent: message_delta\ndata: {"delta":{"stop_reason":"stop"},"usage":{"output_tokens":4}}\n\n'
RESPONSES = b'event: response.completed\ndata: {"response":{"usage":{"input_tokens":9,"output_tokens":4,\
"input_tokens_details":{"cached_tokens":5}}}}\n\n'


@pytest.mark.parametrize(
    ("part", "reason"), [(CHAT, "stop"), (CHAT_STREAM, "stop"), (MESSAGES, "stop"), (RESPONSES, "")]
)
def test_tokens_are_read_from_every_protocol(part: bytes, reason: str) -> None:
    usage = PassedOnUsage()
    usage.feed(part)
    assert (usage.prompt_tokens, usage.cached_tokens, usage.generated_tokens) == (9, 5, 4)
    assert usage.finish_reason == reason


@pytest.mark.parametrize("part", [b'{"usage":7}', b'data: {"usage":{"prompt_tokens":"x"}}\n\n', b'"usage"', b'{"usage'])
def test_what_is_no_usage_counts_nothing(part: bytes) -> None:
    usage = PassedOnUsage()
    usage.feed(part)
    assert usage.prompt_tokens == usage.generated_tokens == 0
