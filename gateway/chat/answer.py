"""One answer on its way from tokens to text."""

from collections import deque

from tokenizers import Tokenizer

from gateway.chat.detokenizer import Detokenizer, TokenTexts
from gateway.chat.stop_strings import StopStrings
from gateway.engine.token_stream import GeneratedToken, TokenScores
from gateway.generation.events import ChosenLogprob, FinishReason, TextDelta, TokenLogprob


class Answer:
    """`feed` tokens until there is a `finish_reason`; `take` what they said so far."""

    def __init__(self, choice: int, tokenizer: Tokenizer, stops: tuple[str, ...]) -> None:
        self.finish_reason: FinishReason | None = None
        self._choice = choice
        self._detokenizer = Detokenizer(tokenizer)
        self._texts = TokenTexts(tokenizer)
        self._stops = StopStrings(stops)
        self._text = ""
        self._decoded_characters = 0
        self._sent_characters = 0
        self._logprobs: deque[tuple[int, ChosenLogprob]] = deque()  # with the decoded length before the token

    def feed(self, token: GeneratedToken) -> None:
        """The next token; none may follow once there is a `finish_reason`."""
        is_end_token = token.finish == "stop"
        decoded = "" if is_end_token else self._detokenizer.feed(token.token)
        if token.finish:
            decoded += self._detokenizer.finish()
        if token.scores and not is_end_token:
            self._logprobs.append((self._decoded_characters, self._chosen_logprob(token.token, token.scores)))
        self._decoded_characters += len(decoded)
        self._text += self._stops.feed(decoded)
        if self._stops.stopped:
            self.finish_reason = "stop"
        elif token.finish:
            self.finish_reason = token.finish
            self._text += self._stops.finish()

    def take(self) -> TextDelta:
        """The text that is certain by now, and the log-probabilities of its tokens."""
        text, self._text = self._text, ""
        self._sent_characters += len(text)
        return TextDelta(self._choice, text, self._logprobs_of_sent_text())

    def _logprobs_of_sent_text(self) -> tuple[ChosenLogprob, ...]:
        """Those of tokens whose text was sent at least in part; a stop string's tokens never are."""
        everything = self.finish_reason is not None and not self._stops.stopped
        sent = []
        while self._logprobs and (everything or self._logprobs[0][0] < self._sent_characters):
            sent.append(self._logprobs.popleft()[1])
        return tuple(sent)

    def _chosen_logprob(self, token: int, scores: TokenScores) -> ChosenLogprob:
        return ChosenLogprob(
            self._token_logprob(token, scores.chosen),
            tuple(self._token_logprob(other, logprob) for other, logprob in scores.top),
        )

    def _token_logprob(self, token: int, logprob: float) -> TokenLogprob:
        return TokenLogprob(self._texts.text(token), self._texts.utf8(token), logprob)
