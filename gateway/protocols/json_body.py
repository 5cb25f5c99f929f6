"""Request bodies: JSON to a msgspec type, with errors that name the field as the client wrote it."""

import re
from typing import TypeVar

import msgspec

from gateway.errors import InvalidRequest

Body = TypeVar("Body")

WHERE = re.compile(r"^(?P<reason>.*?)(?: - at `(?:key in )?\$(?P<path>.*)`)?$", re.DOTALL)
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
MISSING = re.compile(r"missing required field `(?P<field>[^`]+)`")


def decode_body(body: bytes, kind: type[Body], path: str = "") -> Body:
    """Raises `InvalidRequest` for anything but JSON of this shape. `path` is where it stands, if it is a field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _explain(str(error), path) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = str(error)
        if SURROGATE.search(body):
            reason += "; perhaps it escapes half of a surrogate pair (\\ud800 to \\udfff), which is not Unicode"
        raise InvalidRequest(f"The request body is not valid JSON: {reason}.") from error
    except RecursionError as error:
        raise InvalidRequest("The request body is nested too deeply.") from error


def ignored_fields(body: bytes, kind: type[msgspec.Struct]) -> list[str]:
    """The names in a body that was decoded as `kind` which mean nothing here, unless their value is null."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    known = kind.__struct_encode_fields__
    return sorted(name for name, value in fields.items() if name not in known and bytes(value) != b"null")


def _explain(message: str, within: str) -> InvalidRequest:
    """msgspec says ``Expected `str`, got `int` - at `$.messages[0].content` ``; clients look at `param`."""
    match = WHERE.match(message)
    reason, path = (match["reason"], (match["path"] or "").removeprefix(".")) if match else (message, "")
    if missing := MISSING.search(reason):
        path = f"{path}.{missing['field']}" if path else missing["field"]
    if within:
        path = f"{within}{path}" if path.startswith("[") or not path else f"{within}.{path}"
    where = f" (at {path})" if path else ""
    return InvalidRequest(f"{reason}{where}", param=path or None)
