"""Progress of long work as lines of text, which any terminal and any log can hold."""

import threading
from typing import TextIO


class ProgressLines:
    """A line for each new step, and one for each tenth of a long one. May be called from any thread."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._said = ("", -1)
        self._lock = threading.Lock()

    def __call__(self, fraction: float, doing: str) -> None:
        step = (doing, int(10 * fraction))
        with self._lock:
            if step != self._said:
                self._said = step
                print(f"{100 * fraction:3.0f} % {doing}", file=self._output, flush=True)
