"""Reading a GGUF's metadata with its types and ranges checked.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. No mlx here: values are plain Python.
"""

from collections.abc import Mapping
from pathlib import Path

from gateway.errors import ModelFilesInvalid

MetadataValue = str | int | float | bool | list[str] | list[int] | list[float] | list[bool]


class GgufMetadata:
    """The key-value part of one GGUF; every getter raises ModelFilesInvalid naming file, key and value."""

    def __init__(self, path: Path, values: Mapping[str, MetadataValue]) -> None:
        self.path = path
        self.values = values

    def refusal(self, reason: str) -> ModelFilesInvalid:
        return ModelFilesInvalid(self.path, reason)

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.refusal(f"{key} must be a string, not {_shown(value)}")
        return value

    def integer(self, key: str, least: int, most: int, default: int | None = None) -> int:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.refusal(f"{key} must be an integer from {least} to {most}, not {_shown(value)}")
        return value

    def number(self, key: str, above: float, most: float, default: float | None = None) -> float:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not above < value <= most:
            raise self.refusal(f"{key} must be a number above {above} up to {most}, not {_shown(value)}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.refusal(f"{key} must be true or false, not {_shown(value)}")
        return value

    def texts(self, key: str) -> list[str]:
        value = self._value(key, None)
        if not isinstance(value, list):
            raise self.refusal(f"{key} must be a list of strings, not {_shown(value)}")
        texts = [item for item in value if isinstance(item, str)]
        if len(texts) != len(value):
            raise self.refusal(f"{key} must be a list of strings, not {_shown(value)}")
        return texts

    def integers(self, key: str) -> list[int]:
        value = self._value(key, None)
        if not isinstance(value, list):
            raise self.refusal(f"{key} must be a list of integers, not {_shown(value)}")
        integers = [item for item in value if isinstance(item, int)]
        if len(integers) != len(value):
            raise self.refusal(f"{key} must be a list of integers, not {_shown(value)}")
        return integers

    def numbers(self, key: str) -> list[float]:
        value = self._value(key, None)
        if not isinstance(value, list):
            raise self.refusal(f"{key} must be a list of numbers, not {_shown(value)}")
        numbers = [item for item in value if isinstance(item, float)]
        if len(numbers) != len(value):
            raise self.refusal(f"{key} must be a list of numbers, not {_shown(value)}")
        return numbers

    def _value(self, key: str, default: MetadataValue | None) -> MetadataValue:
        value = self.values.get(key, default)
        if value is None:
            raise self.refusal(f"the GGUF has no {key}")
        return value


def _shown(value: MetadataValue) -> str:
    shown = repr(value[:4] if isinstance(value, list) else value)
    return shown if len(shown) <= 80 else f"{shown[:80]}..."
