"""Ends an answer before the first stop string, however the text is cut into pieces."""


class StopStrings:
    """`feed` pieces until `stopped`, then nothing more; or `finish`.

    Text that may turn out to be the beginning of a stop string is held back until it is decided.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        """`stops` are not empty; with none at all, text passes through."""
        self._stops = stops
        self._held = ""
        self.stopped = False

    def feed(self, piece: str) -> str:
        """The text that is certain to precede any stop string."""
        text = self._held + piece
        positions = [position for stop in self._stops if (position := text.find(stop)) >= 0]
        if positions:
            self.stopped = True
            self._held = ""
            return text[: min(positions)]
        keep = self._undecided_length(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The generation is over: what was held back is text."""
        held, self._held = self._held, ""
        return held

    def _undecided_length(self, text: str) -> int:
        """How many characters at the end of `text` begin a stop string; the longest such end."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
