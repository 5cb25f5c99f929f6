"""A process that compiles a client's grammar first, so that a hostile one kills it and not the server.

llguidance bounds most of a compilation, but not all: `{"type": "integer", "multipleOf": 1000003}` takes five seconds,
an `allOf` of thirty patterns has no end, and a Lark grammar whose rules form a chain of 50,000 overflows the stack,
which ends the process (llguidance 1.9.1). The trial has little processor time, memory and stack; what it survives,
the server survives too. Does not import mlx.
"""

import json
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Container
from contextlib import suppress
from pathlib import Path
from typing import IO

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from gateway.errors import GrammarsUnavailable

TRIAL_CPU_SECONDS = 0.3
"""A schema of a thousand properties takes 0.1 s; a usual one, 0.001 s."""

TRIAL_STACK_BYTES = 4 << 20  # half of what the server's own threads have
TRIAL_MEMORY_BYTES = 512 << 20
"""Of address space. The process by itself has 160 MiB; a schema of a thousand properties takes 15 more."""

MOST_LEXER_STATES = 20_000
"""Of one grammar, which come while its answers grow and take up to 2 KB each; an answer that needs more fails."""

READY = b"ready\n"
START_SECONDS = 30.0
ANSWER_SECONDS = 10.0
"""Far more than the processor time a trial has: only a process that is stopped or starved takes so long."""

DEATH_SECONDS = 0.5
DEADLY_SIGNALS = (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGILL)
"""Of a stack that overflowed, or memory that could not be had."""


def new_matcher(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """Compiles llguidance's own JSON form of a grammar. Never raises: ask the matcher for its error."""
    # A mask of 10,000 items takes 15 ms, in which all other rows wait; llguidance's default of 50,000 lets an ambiguous
    # grammar take 100.
    limits = LLParserLimits(max_lexer_states=MOST_LEXER_STATES, step_max_items=10_000, verbose_errors=False)
    return LLMatcher(tokenizer, grammar, log_level=0, limits=limits)


class GrammarTrial:
    """The process, started at the first trial and again after each death. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def why_refused(self, grammar: str) -> str:
        """llguidance's reason against a grammar (one line of JSON), or "". Blocks for about a second as a rule.

        Raises `GrammarsUnavailable` when the process cannot be started or does not answer: that is not the grammar's
        fault.
        """
        with self._lock:
            child = self._child or self._started()
            try:
                answer = _ask(child, grammar.encode() + b"\n")
                return str(json.loads(answer))
            except (OSError, ValueError):  # it died, perhaps within a line
                return self._last_words()

    def close(self) -> None:
        with self._lock:
            if self._child is not None:
                self._end()

    def _started(self) -> "subprocess.Popen[bytes]":
        try:
            self._child = _start_child()
            assert self._child.stdout
            if _line_within(self._child.stdout, START_SECONDS) == READY:
                return self._child
        except OSError as error:
            raise GrammarsUnavailable(f"the process that tries them cannot be started: {error}") from error
        raise GrammarsUnavailable(f"the process that tries them ended at its start, with status {self._end()}")

    def _last_words(self) -> str:
        """Why the process died of a grammar. Raises `GrammarsUnavailable` if it was something else."""
        code = self._end()
        if code == -signal.SIGPROF:
            return f"it is too complex: compiling it takes more than {TRIAL_CPU_SECONDS} s"
        if code in DEADLY_SIGNALS:
            return "it is too complex or too deeply nested to be compiled"
        raise GrammarsUnavailable(f"the process that tries them did not answer within {ANSWER_SECONDS} s ({code})")

    def _end(self) -> int:
        assert self._child
        child, self._child = self._child, None
        with child:  # closes its pipes
            if child.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(DEATH_SECONDS)  # one that is dying shall tell of what
            child.kill()
            return child.wait()


def _ask(child: "subprocess.Popen[bytes]", line: bytes) -> bytes:
    assert child.stdin
    assert child.stdout
    child.stdin.write(line)
    child.stdin.flush()
    return _line_within(child.stdout, ANSWER_SECONDS)


def _line_within(pipe: IO[bytes], seconds: float) -> bytes:
    """What the child writes, once it does; nothing if it is silent for so long. It writes whole lines at once."""
    readable, _, _ = select.select([pipe], [], [], seconds)
    return pipe.readline() if readable else b""


def mark_in_trial(special_tokens: Container[str]) -> Callable[[str], int | None]:
    """What stands for a model's special tokens in a grammar that is tried."""
    return lambda text: _Bytes.mark if text in special_tokens else None


def _start_child() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "gateway.engine.grammar_trial"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a fatal signal is told by the exit status
        # so that the child finds this very package, installed or not
        cwd=Path(__file__).parents[2],
        start_new_session=True,  # a Ctrl-C is for the server; the child ends when its input does
    )


class _Bytes:
    """The smallest tokenizer: what a grammar costs to compile hardly depends on the vocabulary."""

    eos_token_id = 256
    bos_token_id = None
    mark = 257
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>", b"<mark>")
    special_token_ids = (256, mark)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def _try_grammars() -> None:
    """Reads a grammar a line, answers each with a line of JSON: why it is refused, or ""."""
    tokenizer = LLTokenizer(TokenizerWrapper(_Bytes()), eos_token=_Bytes.eos_token_id)
    sys.stdout.buffer.write(READY)
    sys.stdout.flush()
    for line in sys.stdin:
        # The default action of the signal ends this process, wherever it is. Ours is processor time: a busy
        # machine must not turn a good grammar into a bad one.
        signal.setitimer(signal.ITIMER_PROF, TRIAL_CPU_SECONDS)
        matcher = new_matcher(tokenizer, line.rstrip("\n"))
        matcher.compute_bitmask()
        error = matcher.get_error()
        del matcher
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(error[:2000]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if sys.platform == "linux":  # macOS knows no such limit and refuses to set it
        resource.setrlimit(resource.RLIMIT_AS, (TRIAL_MEMORY_BYTES, TRIAL_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(TRIAL_STACK_BYTES)
    trial = threading.Thread(target=_try_grammars)
    trial.start()
    trial.join()
