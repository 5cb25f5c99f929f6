"""`tokenizer.ggml.token_type`."""

from enum import IntEnum


class TokenType(IntEnum):
    """From the GGUF specification."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6
