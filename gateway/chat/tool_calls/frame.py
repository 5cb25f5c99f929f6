"""The markup around an answer's words, of models that write some also in an answer that calls nothing."""

from dataclasses import dataclass

from gateway.chat.reasoning import ReasoningMarks


@dataclass(frozen=True, slots=True)
class Frame:
    """`closing` may be missing, where the token that ends the answer ends its words. `thought` are the marks around
    reasoning of a dialect that frames it too."""

    opening: str
    closing: str = ""
    thought: ReasoningMarks | None = None

    def before_words(self, prompt_end: str) -> str:
        """What stands between a prompt whose text ends so and the words: some templates open the frame themselves."""
        return "" if prompt_end.endswith(self.opening) else self.opening
