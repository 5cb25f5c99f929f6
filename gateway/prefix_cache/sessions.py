"""Who comes back: the conversations of each session, and what their last requests left in the cache. No mlx here."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

MOST_SESSIONS = 1024
MOST_CONVERSATIONS = 4
"""Of one session: a main one, and those of titles, summaries and agents beside it."""

TAIL_EXTENTS = 8
LIVE_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Live:
    """The sessions that are expected to come back, and the extents with which their conversations end."""

    sessions: Collection[str]
    tails: Collection[bytes]


NOBODY = Live((), ())


@dataclass(slots=True)
class _Conversation:
    tail: frozenset[bytes]  # the last extents that its last request left behind
    tokens: int  # of its last request, prompt and answer
    seen: float
    returns: int = 0


class SessionTracker:
    """The sessions that use one model. Belongs to the MLX thread; the caller brings the time.

    A request continues a conversation of its session if it finds in the cache at least half of it, and something of
    what its last request left. All else, such as a title or what a compaction starts anew, is another conversation.
    """

    def __init__(self, most_sessions: int = MOST_SESSIONS, live_seconds: float = LIVE_SECONDS) -> None:
        self._most_sessions = most_sessions
        self._live_seconds = live_seconds
        self._sessions: dict[str, list[_Conversation]] = {}  # the least recently seen first, also of conversations

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, session: str) -> bool:
        return session in self._sessions

    def previous_tokens(self, session: str, found: Collection[bytes], matched: int) -> int | None:
        """How long the conversation was that this prompt continues, or the session's latest; None for a new session.

        `found` are the extents on the prompt's way, `matched` its tokens that are known.
        """
        conversations = self._sessions.get(session)
        if not conversations:
            return None
        return (_continued(conversations, found, matched) or conversations[-1]).tokens

    def note(
        self, session: str, found: Sequence[bytes], matched: int, left: Sequence[bytes], tokens: int, now: float
    ) -> None:
        """A request has ended: `left` are the extents it left behind, in order, `tokens` is prompt and answer."""
        conversations = self._sessions.pop(session, [])
        self._sessions[session] = conversations
        tail = frozenset(list(left)[-TAIL_EXTENTS:] or list(found)[-1:])
        continued = _continued(conversations, found, matched)
        returns = 0
        if continued is not None:
            conversations.remove(continued)
            returns = continued.returns + 1
        conversations.append(_Conversation(tail, tokens, now, returns))
        del conversations[:-MOST_CONVERSATIONS]
        while len(self._sessions) > self._most_sessions:
            del self._sessions[next(iter(self._sessions))]

    def live(self, now: float) -> Live:
        """Of those that came back at least once and were seen lately."""
        sessions: set[str] = set()
        tails: set[bytes] = set()
        for session, conversations in self._sessions.items():
            for one in conversations:
                if one.returns and now - one.seen <= self._live_seconds:
                    sessions.add(session)
                    tails |= one.tail
        return Live(sessions, tails)


def _continued(conversations: Sequence[_Conversation], found: Collection[bytes], matched: int) -> _Conversation | None:
    known = set(found)
    fitting = [one for one in conversations if one.tokens <= 2 * matched and not one.tail.isdisjoint(known)]
    return max(fitting, key=lambda one: one.tokens, default=None)
