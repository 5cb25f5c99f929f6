"""A message's content, which clients send as a string, as null or as a list of parts."""

from msgspec import Struct

from gateway.errors import UnsupportedParameter

MOST_MESSAGES = 10_000
"""Of one request, each of which takes the event loop some microseconds."""

TEXT_PART_TYPES = ("text", "input_text", "output_text")
REFUSAL_PART_TYPES = ("refusal",)


class ContentPart(Struct, frozen=True):
    """A text part, or one of another type, of which only the type counts: no model here takes it."""

    type: str
    text: str | None = None
    refusal: str | None = None


Content = str | list[ContentPart] | None


def text_of(content: Content, path: str) -> str:
    """The text, parts one a line. `path` names the field; raises `UnsupportedParameter` for images and the like."""
    if isinstance(content, str):
        return content
    texts = []
    for index, part in enumerate(content or ()):
        text = part.refusal if part.type in REFUSAL_PART_TYPES else part.text
        if part.type not in TEXT_PART_TYPES + REFUSAL_PART_TYPES or text is None:
            raise UnsupportedParameter(
                f"This model takes text only, but the part has type {part.type!r}.", param=f"{path}[{index}]"
            )
        texts.append(text)
    return "\n".join(texts)
