"""Prompts that share no prefix unless they are to, and make a small model write on."""

import random
from uuid import uuid4

from loadtests.streaming_client import Message

FRAME_TOKENS = 98
"""About what `long_story` has without its word list, in SmolLM2's tokens; the report says what was really sent."""

QUESTION_FRAME_TOKENS = 30
SYSTEM_FRAME_TOKENS = 40
"""The same of the others."""

# Each is one token, with its space, to most tokenizers.
WORDS = (
    "river mountain forest village winter summer morning evening window garden bridge castle island ocean harbor "
    "letter book song story dream light shadow stone silver golden green blue white dark little great old young "
    "king queen child mother father brother sister friend teacher doctor farmer horse bird fish dog cat wolf bear "
    "tree flower apple bread water fire wind rain snow storm road door house table chair clock music voice hand "
    "heart eye face walk run speak sing write read open close find keep hold carry build break begin end"
)


def long_story(prompt_tokens: int) -> list[Message]:
    """A request for a long story, of about `prompt_tokens` tokens, unlike any other from its very start.

    The system message begins with the nonce: a template that adds a system message of its own would share it. The
    question stands alone at the end: a small model ends its answer at once after a few thousand words of a list.
    """
    nonce = uuid4().hex
    return [
        Message("system", f"{nonce} is the number of this conversation. You are a novelist who writes long chapters."),
        Message("user", f"These words shall inspire you: {_words(nonce, prompt_tokens - FRAME_TOKENS)}"),
        Message("assistant", "I have read them all."),
        Message("user", "Write a very long and detailed story about a journey across the sea. Never stop early."),
    ]


def question(tokens: int) -> Message:
    """A user's message of about `tokens` tokens, unlike any other from its very start."""
    nonce = uuid4().hex[:8]
    words = _words(nonce, tokens - QUESTION_FRAME_TOKENS)
    return Message("user", f"{nonce}: {words}. Now tell me what happens next, with every one of these words.")


def system_message(tokens: int) -> Message:
    """Of about `tokens` tokens, unlike any other from its very start."""
    nonce = uuid4().hex
    words = _words(nonce, tokens - SYSTEM_FRAME_TOKENS)
    return Message("system", f"{nonce} is the number of these rules. You are a novelist and use these words: {words}")


def _words(nonce: str, count: int) -> str:
    return " ".join(random.Random(nonce).choices(WORDS.split(), k=max(0, count)))
