"""A log record as one line: JSON for programs and files, readable text for a terminal.

A line that is logged while a request is served has its request, model and session.
"""

import logging
import time

import msgspec

from gateway.observability.request_record import CURRENT

SUCCESS = logging.INFO + 5
"""For what operators wait for: a model is ready, a download is done."""

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "success": SUCCESS,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
RESERVED = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127) if code != 10}
"""What a client could send to a terminal by a name that is logged."""


def level_name(number: int) -> str:
    return next((name for name, level in reversed(LEVELS.items()) if number >= level), "debug")


def context_fields() -> dict[str, object]:
    """Of the request that is being served here, if one is."""
    record = CURRENT.get()
    if record is None or record.ended:
        return {}
    fields = {"request": record.id, "model": record.model, "session": record.session}
    return {name: value for name, value in fields.items() if value}


def extra_fields(record: logging.LogRecord) -> dict[str, object]:
    """What was passed as `extra=`."""
    return {name: value for name, value in vars(record).items() if name not in RESERVED}


def json_line(record: logging.LogRecord) -> bytes:
    """Begins with time and level, which `LogFilter` relies on. `time` is in Unix seconds."""
    entry: dict[str, object] = {
        "time": round(record.created, 6),
        "level": level_name(record.levelno),
        "logger": record.name,
        "message": record.getMessage(),
        **context_fields(),
        **extra_fields(record),
    }
    if record.exc_info:
        entry["traceback"] = logging.Formatter().formatException(record.exc_info)
    try:
        return msgspec.json.encode(entry, enc_hook=str)
    except UnicodeEncodeError:  # a file's name that is not UTF-8, say
        plain = {name: str(value).encode(errors="replace").decode() for name, value in entry.items()}
        return msgspec.json.encode(plain | {"time": entry["time"]})


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json_line(record).decode()


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = "".join(f" {name}={value}" for name, value in (context_fields() | extra_fields(record)).items())
        line = f"{clock} {level_name(record.levelno):<7} {record.getMessage()}{fields}".translate(CONTROL)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
