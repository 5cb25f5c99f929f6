"""Ends an answer before the first stop string, however the text is cut into pieces."""

from gateway.chat.marks_in_text import first_mark, undecided_length


class StopStrings:
    """`feed` pieces until `stopped`, then nothing more; or `finish`.

    Text that may turn out to be the beginning of a stop string is held back until it is decided.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        """`stops` are not empty; with none at all, text passes through."""
        self._stops = stops
        self._held = ""
        self.stopped_by: str | None = None

    @property
    def stopped(self) -> bool:
        return self.stopped_by is not None

    def feed(self, piece: str) -> str:
        """The text that is certain to precede any stop string."""
        text = self._held + piece
        if found := first_mark(text, self._stops):
            position, self.stopped_by = found
            self._held = ""
            return text[:position]
        keep = undecided_length(text, self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The generation is over: what was held back is text."""
        held, self._held = self._held, ""
        return held
