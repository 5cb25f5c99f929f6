"""From a client's grammar to the tokens that may come next, with llguidance. Does not import mlx.

JSON is written as Python's `json.dumps` writes it, on one line with one space after each comma and colon: it is the
form that models know from their prompts, a small model cannot lose itself in whitespace, and most of the text
between two values is forced.
"""

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from gateway.engine.grammar_tokenizer import grammar_tokenizer
from gateway.engine.grammar_trial import GrammarTrial, new_matcher
from gateway.engine.json_schema_form import enforceable
from gateway.errors import GenerationFailed, InvalidRequest, UnsupportedParameter
from gateway.generation.request import Grammar

Words = np.ndarray[Any, np.dtype[np.uint32]]
"""A mask: one bit for a token, the lowest of the first word for token 0."""

MOST_SOURCE_CHARACTERS = 200_000
COMPILED_GRAMMARS_KEPT = 8
JSON_FORM = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    # An answer matches one alternative at least; that it matches no second one is beyond a grammar.
    "coerce_one_of": True,
}
KIND_NAMES = {
    "json_object": "JSON object",
    "json_schema": "JSON schema",
    "regex": "regular expression",
    "lark": "Lark grammar",
    "choice": "list of choices",
}


class GrammarCompiler:
    """Compiles grammars for one model's tokenizer. May be used from any thread, where it may block for a second.

    Nothing is built before the first grammar comes; that one waits for the tokenizer (0.4 s) and the trial process.

    The memory of compiled grammars is not in the ledger: llguidance does not tell it. It is bounded by the latest
    `COMPILED_GRAMMARS_KEPT` and those of the rows that run, each of which may compile within `TRIAL_MEMORY_BYTES` (as
    a rule it takes less than 1 MB, a thousand properties 4) and then grow to `MOST_LEXER_STATES`: 40 MB.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, end_tokens: frozenset[int]) -> None:
        """`tokenizer` is an mlx-lm TokenizerWrapper; token ids are below `vocabulary`."""
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._end_tokens = sorted(token for token in end_tokens if token < vocabulary)
        self._trial = GrammarTrial()
        self._lock = threading.Lock()
        self._of_llguidance: LLTokenizer | None = None
        self._compiled: OrderedDict[Grammar, CompiledGrammar] = OrderedDict()

    def compile(self, grammar: Grammar, param: str = "response_format") -> "CompiledGrammar":
        """Raises InvalidRequest for `param` when the grammar is wrong, unsupported, too large or matches nothing."""
        with self._lock:
            if grammar in self._compiled:
                self._compiled.move_to_end(grammar)
                return self._compiled[grammar]
            tokenizer = self._prepared_tokenizer(param)
        try:
            form = _llguidance_form(grammar)
        except (ValueError, RecursionError) as error:
            raise _refusal(grammar, str(error), param) from error
        if reason := self._trial.why_refused(form):
            raise _refusal(grammar, reason, param)
        matcher = new_matcher(tokenizer, form)
        try:
            compiled = CompiledGrammar(matcher, self._vocabulary, self._end_tokens)
        except GenerationFailed as error:
            raise _refusal(grammar, matcher.get_error() or str(error), param) from error
        with self._lock:
            self._compiled[grammar] = compiled
            while len(self._compiled) > COMPILED_GRAMMARS_KEPT:
                self._compiled.popitem(last=False)
        return compiled

    def close(self) -> None:
        """Ends the trial process, which otherwise ends with this one."""
        self._trial.close()

    def _prepared_tokenizer(self, param: str) -> LLTokenizer:
        if not self._end_tokens:
            raise UnsupportedParameter("This model has no end token, so it cannot be held to a grammar.", param)
        if self._of_llguidance is None:
            try:
                self._of_llguidance = grammar_tokenizer(self._tokenizer, self._vocabulary, self._end_tokens)
            except ValueError as error:
                message = f"This model's tokenizer is of a kind that cannot be held to a grammar: {error}."
                raise UnsupportedParameter(message, param) from error
        return self._of_llguidance


class CompiledGrammar:
    """A grammar and a model's tokenizer. Immutable; any thread."""

    def __init__(self, matcher: LLMatcher, vocabulary: int, end_tokens: Sequence[int]) -> None:
        """Raises GenerationFailed if no token of the model can be the first."""
        bits = np.zeros(-(-vocabulary // 32) * 32, dtype=np.uint8)
        bits[list(end_tokens)] = 1
        end_words: Words = np.packbits(bits, bitorder="little").view("<u4")
        self._beginning = Constraint(matcher, frozenset(end_tokens), end_words)
        self._beginning.mask()  # so that no row has to find it

    def start(self) -> "Constraint":
        """A new row's place, before the first token of the answer; takes microseconds."""
        return self._beginning.copy()


class Constraint:
    """One row's place in its grammar. Owned by the MLX thread.

    Methods raise GenerationFailed when the grammar turns out too complex for the answer so far; the row is then lost.

    Finding what is forced at a place means to write all forced text in tokens, however long it is. So it is done once,
    and remembered until the text has been passed.
    """

    def __init__(self, matcher: LLMatcher, end_tokens: frozenset[int], end_words: Words) -> None:
        self._matcher = matcher
        self._end_tokens = end_tokens
        self._end_words = end_words
        self._mask: Words | None = None  # of this place, once it was asked for
        self._forced: list[int] | None = None  # the same; the first `_passed` of them are behind this place
        self._passed = 0

    def copy(self) -> "Constraint":
        """The same place, for another row."""
        other = Constraint(self._matcher.deep_copy(), self._end_tokens, self._end_words)
        other._mask, other._forced, other._passed = self._mask, self._forced, self._passed
        return other

    def mask(self) -> Words:
        """The tokens that may come next, ceil(vocabulary / 32) words; all end tokens where the answer may end."""
        if self._mask is None:
            forced = self.forced(1)
            self._mask = self._only(forced[0]) if forced else self._computed_mask()
        return self._mask

    def advance(self, token: int) -> None:
        """Moves past a token of the answer, which must be one that the mask allows or the next forced one."""
        if not self._matcher.consume_token(token):
            self._raise_error()
            raise GenerationFailed(f"Token {token} came after the end of the answer.")
        expected = self._forced is not None and self._forced[self._passed : self._passed + 1] == [token]
        self._passed = self._passed + 1 if expected else 0
        if not expected or self._passed == len(self._forced or ()):
            self._forced, self._passed = None, 0
        self._mask = None

    def masks_along(self, draft: Sequence[int]) -> tuple[int, list[Words]]:
        """How many tokens of `draft` the masks allow one after the other, and the masks before each and after the last.

        The place stays as it is. Nothing is allowed after an end token.
        """
        ahead = self.copy()
        masks = [ahead.mask()]
        for accepted, token in enumerate(draft):
            ended = accepted > 0 and draft[accepted - 1] in self._end_tokens
            if ended or not allows(masks[-1], token):
                return accepted, masks
            ahead.advance(token)
            masks.append(ahead.mask())
        return len(draft), masks

    def forced(self, limit: int) -> list[int]:
        """Up to `limit` tokens that have no alternative from here, or [] if there is a choice.

        It is the forced text as the tokenizer writes it: another spelling of the same text would be in the grammar
        too, but the masks at these places allow these tokens alone.
        """
        if self._forced is None:
            self._forced = self._matcher.compute_ff_tokens()
            self._raise_error()
        return self._forced[self._passed : self._passed + limit]

    def _computed_mask(self) -> Words:
        # llguidance allows an end token in a mask also when it failed, or where its text would do.
        words = np.frombuffer(self._matcher.compute_bitmask(), dtype="<u4")[: self._end_words.size]
        self._raise_error()
        may_end = self._matcher.is_stopped() or self._matcher.is_accepting()
        allowed: Words = words | self._end_words if may_end else words & ~self._end_words
        if not allowed.any():
            raise GenerationFailed("No token of the model continues the answer as its grammar asks.")
        return allowed

    def _only(self, token: int) -> Words:
        words: Words = np.zeros_like(self._end_words)
        words[token // 32] = 1 << token % 32
        return words

    def _raise_error(self) -> None:
        if self._matcher.is_error():
            reason = _first_line(self._matcher.get_error())
            raise GenerationFailed(f"The answer could not be kept within its grammar: {reason}.")


def allows(mask: Words, token: int) -> bool:
    return token < 32 * mask.size and bool(int(mask[token // 32]) >> (token % 32) & 1)


def _llguidance_form(grammar: Grammar) -> str:
    """One line of JSON that llguidance compiles. Raises ValueError or RecursionError, worded for the client."""
    if len(grammar.source) > MOST_SOURCE_CHARACTERS:
        raise ValueError(f"it has {len(grammar.source)} characters; at most {MOST_SOURCE_CHARACTERS} are allowed")
    match grammar.kind:
        case "json_object":
            return json.dumps({"grammars": [{"json_schema": {"type": "object", "x-guidance": JSON_FORM}}]})
        case "json_schema":
            schema = json.loads(grammar.source)
            if isinstance(schema, bool):
                schema = {} if schema else {"not": {}}
            if not isinstance(schema, dict):
                raise ValueError("it must be a JSON object")
            return json.dumps({"grammars": [{"json_schema": enforceable(schema) | {"x-guidance": JSON_FORM}}]})
        case "regex":
            form: str = LLMatcher.grammar_from_regex(grammar.source)
            return form
        case "lark":
            return json.dumps({"grammars": [{"lark_grammar": grammar.source}]})
        case "choice":
            choices = json.loads(grammar.source)
            if not (isinstance(choices, list) and choices and all(isinstance(choice, str) for choice in choices)):
                raise ValueError("it must have one string or more, and nothing else")
            strings = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
            return json.dumps({"grammars": [{"lark_grammar": f"start: CHOICE\nCHOICE: {strings}"}]})


def _refusal(grammar: Grammar, reason: str, param: str) -> InvalidRequest:
    """llguidance's reason in words that help a client who never heard of llguidance."""
    name = KIND_NAMES[grammar.kind]
    if unsupported := re.match(r"Unimplemented keys: \[(.*)\]", reason):
        keywords = unsupported[1].replace('"', "'")
        return UnsupportedParameter(
            f"The {name} uses keywords that this server cannot enforce: {keywords}. Leave them out.", param
        )
    if reason.startswith("NoExtension"):
        reason = "no text matches it"
    elif "regex parse error" in reason:
        reason = "".join(re.findall(r"error: ([^\n]+)", reason)[-1:]) or reason
    elif reason.startswith("recursion limit") or "maximum recursion depth" in reason:
        reason = "it is too deeply nested"
    return InvalidRequest(f"The {name} cannot be used: {_first_line(reason)}.", param)


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0][:300].rstrip(".")
