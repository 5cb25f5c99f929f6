"""What another server's answer says of its tokens: OpenAI's chat, completions, embeddings and responses, Anthropic's
messages; whole, or as server-sent events."""

from collections.abc import Mapping

from msgspec import Raw

from gateway.protocols.passed_on import HOLDERS, body_fields, field_value

FINISH = (b'"finish_reason"', b'"stop_reason"')
SAYS_USAGE = b'"usage"'


class PassedOnUsage:
    """Feed it all of an answer. Tokens are 0 where the server does not say them."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generated_tokens = 0
        self.finish_reason = ""

    def feed(self, part: bytes) -> None:
        """A whole body, or whole events."""
        if SAYS_USAGE not in part and not any(name in part for name in FINISH):
            return
        if part.lstrip()[:1] == b"{":
            self._read(body_fields(part))
            return
        for line in part.split(b"\n"):
            if line.startswith(b"data:"):
                self._read(body_fields(line.removeprefix(b"data:").strip()))

    def _read(self, fields: Mapping[str, Raw]) -> None:
        choices = field_value(fields, "choices", list[dict[str, Raw]]) or []
        inner = [field_value(fields, name, dict[str, Raw]) or {} for name in (*HOLDERS, "delta")]
        for holder in (fields, *inner, *choices):
            reason = field_value(holder, "finish_reason", str) or field_value(holder, "stop_reason", str)
            self.finish_reason = reason or self.finish_reason
            self._count(field_value(holder, "usage", dict[str, Raw]) or {})

    def _count(self, usage: Mapping[str, Raw]) -> None:
        """A later word on the same replaces an earlier one."""

        def number(*names: str) -> int | None:
            return next((found for name in names if (found := field_value(usage, name, int)) is not None), None)

        prompt, generated = number("prompt_tokens", "input_tokens"), number("completion_tokens", "output_tokens")
        cached = number("cache_read_input_tokens")
        if cached is not None and prompt is not None:
            prompt += cached + (number("cache_creation_input_tokens") or 0)  # Anthropic counts them apart
        for name in ("prompt_tokens_details", "input_tokens_details"):
            details = field_value(usage, name, dict[str, Raw]) or {}
            said = field_value(details, "cached_tokens", int)
            cached = said if said is not None else cached
        self.prompt_tokens = prompt if prompt else self.prompt_tokens
        self.generated_tokens = generated if generated is not None else self.generated_tokens
        self.cached_tokens = cached if cached is not None else self.cached_tokens
