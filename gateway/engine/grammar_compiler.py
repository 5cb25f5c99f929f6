"""From what an answer must look like to a grammar for one model's tokens, with llguidance. Does not import mlx."""

import hashlib
import re
import threading
import time
from collections import OrderedDict
from typing import Any

from llguidance import LLTokenizer

from gateway.engine.constraint import CompiledGrammar, first_line
from gateway.engine.grammar_form import llguidance_form
from gateway.engine.grammar_tokenizer import grammar_tokenizer, special_tokens
from gateway.engine.grammar_trial import GrammarTrial, mark_in_trial, new_matcher
from gateway.engine.token_budget import TokenBudget, limited_text
from gateway.errors import GenerationFailed, InvalidRequest, UnsupportedParameter
from gateway.generation.grammar import Preferably, Shape, parts_of, replaced
from gateway.generation.request import Grammar

COMPILED_GRAMMARS_KEPT = 8
VERDICTS_KEPT = 1024
MOST_TRIALS = 256
TRIAL_SECONDS = 3.0
"""Of one request. Each refusal may end the trial process, and all other grammars wait meanwhile."""

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
        self._special_tokens: dict[str, int] = {}
        self._compiled: OrderedDict[Shape, CompiledGrammar] = OrderedDict()
        self._verdicts: OrderedDict[bytes, str] = OrderedDict()  # why single grammars are refused, or ""; by digest

    def known(self, shape: Shape) -> CompiledGrammar | None:
        """What was compiled of it before. Never blocks for long."""
        with self._lock:
            if shape in self._compiled:
                self._compiled.move_to_end(shape)
            return self._compiled.get(shape)

    def compile(self, shape: Shape, param: str = "response_format") -> CompiledGrammar:
        """Raises InvalidRequest when a grammar in it is wrong, unsupported, too large or matches nothing.

        The error names the grammar's own field, or `param` where it is none of them.
        """
        if known := self.known(shape):
            return known
        with self._lock:
            tokenizer = self._prepared_tokenizer(param)
        enforced = self._enforced(shape, param)
        matcher = new_matcher(tokenizer, llguidance_form(enforced, self._special_tokens.get))
        try:
            compiled = CompiledGrammar(matcher, self._vocabulary, self._end_tokens, self._budget(tokenizer, enforced))
        except GenerationFailed as error:
            reason = matcher.get_error() or str(error)
            refusal = _refusal(shape, reason, param) if isinstance(shape, Grammar) else _together(reason, param)
            raise refusal from error
        with self._lock:
            self._compiled[shape] = compiled
            while len(self._compiled) > COMPILED_GRAMMARS_KEPT:
                self._compiled.popitem(last=False)
        return compiled

    def close(self) -> None:
        """Ends the trial process, which otherwise ends with this one."""
        self._trial.close()

    def _enforced(self, shape: Shape, param: str) -> Shape:
        """The same with every `Preferably` decided. Raises InvalidRequest when that is in vain.

        What there is no time to try is given up.
        """
        if not (reason := self._why_refused(shape)):
            return shape
        if isinstance(shape, Grammar):
            raise _refusal(shape, reason, param)
        parts = list(dict.fromkeys(parts_of(shape)))
        wishes = [part for part in parts if isinstance(part, Preferably)]
        trials = _Trials()
        for part in parts:
            if isinstance(part, Grammar) and (why := self._verdict(part, trials)):
                raise _refusal(part, why, part.param)
        refused = [wish for wish in wishes if self._verdict(wish.first, trials) != ""]
        for given_up in (refused, wishes):
            enforced = replaced(shape, {wish: wish.otherwise for wish in given_up})
            if given_up and not self._why_refused(enforced):
                return enforced
        raise _together(reason, param)

    def _verdict(self, leaf: Grammar, trials: "_Trials") -> str | None:
        """Why it is refused, or ""; None where that is not known and there is no time to try."""
        digest = hashlib.blake2b(f"{leaf.kind} {leaf.source}".encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            if digest in self._verdicts:
                self._verdicts.move_to_end(digest)
                return self._verdicts[digest]
        if not trials.may_go_on():
            return None
        verdict = self._why_refused(leaf)
        with self._lock:
            self._verdicts[digest] = verdict
            while len(self._verdicts) > VERDICTS_KEPT:
                self._verdicts.popitem(last=False)
        return verdict

    def _why_refused(self, shape: Shape) -> str:
        try:
            return self._trial.why_refused(llguidance_form(shape, mark_in_trial(self._special_tokens)))
        except (ValueError, RecursionError) as error:
            return str(error)

    def _budget(self, tokenizer: LLTokenizer, shape: Shape) -> TokenBudget | None:
        if (found := limited_text(shape)) is None:
            return None
        marks, text = found
        closing = text.until or ""
        return TokenBudget(
            tokenizer,
            b"".join(self._mark_bytes(tokenizer, mark) for mark in marks),
            self._mark_bytes(tokenizer, closing),
            self._special_tokens.get(closing),
            text.most_tokens or 0,
        )

    def _mark_bytes(self, tokenizer: LLTokenizer, mark: str) -> bytes:
        token = self._special_tokens.get(mark)
        return mark.encode() if token is None else bytes(tokenizer.decode_bytes([token]))

    def _prepared_tokenizer(self, param: str) -> LLTokenizer:
        if not self._end_tokens:
            raise UnsupportedParameter("This model has no end token, so it cannot be held to a grammar.", param)
        if self._of_llguidance is None:
            try:
                tokenizer = grammar_tokenizer(self._tokenizer, self._vocabulary, self._end_tokens)
            except ValueError as error:
                message = f"This model's tokenizer is of a kind that cannot be held to a grammar: {error}."
                raise UnsupportedParameter(message, param) from error
            self._special_tokens = special_tokens(self._tokenizer, tokenizer)
            self._of_llguidance = tokenizer
        return self._of_llguidance


class _Trials:
    """Those of one request, which have an end."""

    def __init__(self) -> None:
        self._left = MOST_TRIALS
        self._end = time.monotonic() + TRIAL_SECONDS

    def may_go_on(self) -> bool:
        self._left -= 1
        return self._left >= 0 and time.monotonic() < self._end


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
    return InvalidRequest(f"The {name} cannot be used: {first_line(reason)}.", param)


def _together(reason: str, param: str) -> InvalidRequest:
    return InvalidRequest(f"What this request asks of the answer cannot be enforced: {first_line(reason)}.", param)
