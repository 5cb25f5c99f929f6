"""Reasoning before an answer, between two marks: `<think>First ...</think>The answer`.

Many templates write the opening mark into the prompt, some with the closing mark behind it when no reasoning is wished.
"""

from dataclasses import dataclass

from gateway.chat.marks_in_text import first_mark, undecided_length
from gateway.chat.output_parser import OutputParser, Piece, Thought


@dataclass(frozen=True, slots=True)
class ReasoningMarks:
    """`special_tokens` are those within the marks, where these are no tokens of their own; `known_by` is what templates
    say that build the marks from parts."""

    opening: str
    closing: str
    special_tokens: tuple[str, ...] = ()
    known_by: str = ""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Whose text the parser must see, if the model has them."""
        return self.special_tokens or (self.opening, self.closing)

    def before_words(self, prompt: str, reasoned: str) -> str:
        """What stands between a prompt with this end and the words of an answer that `reasoned` so, or not at all."""
        if self.opened_in(prompt):
            return f"{reasoned}\n{self.closing}\n\n"
        if not reasoned or prompt.rstrip().endswith(self.closing):
            return ""
        return f"{self.opening}\n{reasoned}\n{self.closing}\n\n"

    def opened_in(self, prompt: str) -> bool:
        """Whether the answer to a prompt with this end begins as reasoning."""
        return prompt.rstrip().endswith(self.opening)


KNOWN_MARKS = (
    ReasoningMarks("<think>", "</think>"),
    ReasoningMarks("<seed:think>", "</seed:think>"),
    ReasoningMarks("<thinking>", "</thinking>"),
    ReasoningMarks("<|START_THINKING|>", "<|END_THINKING|>"),
    ReasoningMarks("[THINK]", "[/THINK]"),
    ReasoningMarks("◁think▷", "◁/think▷"),
    ReasoningMarks("<|channel>thought", "<channel|>", ("<|channel>", "<channel|>")),
    ReasoningMarks(
        *("<|open|>think<|sep|>", "<|close|>think<|sep|>", ("<|open|>", "<|close|>", "<|sep|>"), "open_tag('think'")
    ),
)


def reasoning_marks(template: str) -> ReasoningMarks | None:
    """The marks that a chat template speaks of. A model that was not taught any is not searched for them."""
    return next((marks for marks in KNOWN_MARKS if (marks.known_by or marks.closing) in template), None)


class ReasoningParser:
    """The reasoning at the beginning of a text; what follows it is for the parser `then`.

    Marks that come later are words about marks. White space around the reasoning belongs to nobody. Some models write
    the opening mark again that the prompt has `opened`.
    """

    def __init__(self, marks: ReasoningMarks, then: OutputParser, *, opened: bool) -> None:
        self._marks = marks
        self._then = then
        self._held = ""
        self._space: list[str] = []  # white space before what is held, which may be nobody's
        self._opened = opened
        self._state = "before"
        self._began = False  # something other than white space came inside or behind the reasoning

    @property
    def thinking(self) -> bool:
        return self._state == "inside" or (self._state == "before" and self._opened)

    @property
    def saying(self) -> bool:
        return not self.thinking and self._then.saying

    def feed(self, text: str) -> list[Piece]:
        self._held += text
        pieces: list[Piece] = []
        if self._state == "before":
            self._look_for_opening()
        if self._state == "inside":
            pieces += self._inside()
        if self._state == "behind":
            self._held = self._held.lstrip()
            if self._held:
                self._state = "over"
        if self._state == "over":
            passed, self._held = self._held, ""
            pieces += self._then.feed(passed)
        return pieces

    def finish(self) -> list[Piece]:
        space, left = self._taken_space(), self._held
        self._held = ""
        if self.thinking:
            left = left.rstrip()
            thought = space + left if self._began and left else left
            return [*([Thought(thought)] if thought else []), *self._then.finish()]
        passed = self._then.feed(space + left) if self._state == "before" and space + left else []
        return [*passed, *self._then.finish()]

    def _look_for_opening(self) -> None:
        self._hold_space()
        if self._held.startswith(self._marks.opening):
            self._held = self._held[len(self._marks.opening) :]
            self._space.clear()
            self._state = "inside"
        elif not self._marks.opening.startswith(self._held):
            space = self._taken_space()
            if self._opened:
                self._state = "inside"
            else:
                self._held = space + self._held
                self._state = "over"

    def _inside(self) -> list[Piece]:
        """White space is given with the thoughts behind it, for none is before the closing mark."""
        self._hold_space()
        if found := first_mark(self._held, (self._marks.closing,)):
            thought, self._held = self._held[: found[0]].rstrip(), self._held[found[0] + len(self._marks.closing) :]
            self._state = "behind"
        else:
            certain = len(self._held) - undecided_length(self._held, (self._marks.closing,))
            certain = len(self._held[:certain].rstrip())
            thought, self._held = self._held[:certain], self._held[certain:]
        space = self._taken_space() if thought or self._state == "behind" else ""
        if not thought:
            return []
        thought = space + thought if self._began else thought
        self._began = True
        return [Thought(thought)]

    def _hold_space(self) -> None:
        bare = self._held.lstrip()
        if space := self._held[: len(self._held) - len(bare)]:
            self._space.append(space)
        self._held = bare

    def _taken_space(self) -> str:
        space = "".join(self._space)
        self._space.clear()
        return space
