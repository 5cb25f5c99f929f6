"""Logs on standard error (text on a terminal, JSON elsewhere), in memory and in files.

Prompts, outputs and secrets are never logged.
"""

import logging
import sys
from pathlib import Path

from gateway.config import LogConfig
from gateway.observability.log_book import LogBook
from gateway.observability.log_files import LogFiles
from gateway.observability.log_line import LEVELS, SUCCESS, JsonFormatter, TextFormatter

log = logging.getLogger(__name__)


def set_up_logging(config: LogConfig, directory: Path) -> LogBook:
    """Configures the root logger. Files that cannot be kept in `directory` are told and done without."""
    logging.addLevelName(SUCCESS, "SUCCESS")
    as_text = config.format == "text" or (config.format == "auto" and sys.stderr.isatty())
    shown = logging.StreamHandler(sys.stderr)
    shown.setFormatter(TextFormatter() if as_text else JsonFormatter())
    files, trouble = None, ""
    if config.files:
        try:
            files = LogFiles(directory, config.file_bytes, config.files)
        except OSError as error:
            trouble = str(error)
    book = LogBook(files)
    logging.basicConfig(level=LEVELS[config.level], handlers=[shown, book], force=True)
    # httpx logs every URL at INFO; asyncio and the SSE library log chunks (outputs) at DEBUG.
    for noisy in ("httpx", "httpcore", "asyncio", "sse_starlette", "uvicorn", "huggingface_hub", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if trouble:
        log.warning("logs are kept in memory only: %s", trouble)
    return book
