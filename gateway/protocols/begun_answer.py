"""Answers that a request begins (prefill): its last message is the assistant's, and the answer goes on with it."""

from collections.abc import Sequence

from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.request import Message


def begun_answer(messages: Sequence[Message], path: str) -> Message | None:
    """The last message, at this path of the request, if it is the assistant's.

    Raises `UnsupportedParameter` if it calls tools, `InvalidRequest` if it ends with white space, as Anthropic does:
    a model's next word brings its own.
    """
    last = messages[-1]
    if last.role != "assistant":
        return None
    if len(messages) == 1:
        raise InvalidRequest("There must be a message before the one that the answer goes on with.", path)
    if last.tool_calls:
        raise UnsupportedParameter(
            "The answer cannot go on with a message that calls tools: send their results, or leave the calls out.", path
        )
    if last.content != last.content.rstrip():
        raise InvalidRequest("The message that the answer goes on with must not end with white space.", path)
    return last
