import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamFailed
from gateway.serving.upstream_events import MOST_EVENT_BYTES, EventSplitter, says_something

ANSWER = b': keep-alive\n\nevent: a\r\ndata: {"x": 1}\r\n\r\ndata: two\ndata: lines\n\n: pause\n\ndata: [DONE]\n\n'


def test_only_whole_events_are_given_on_wherever_it_is_cut() -> None:
    for first in range(len(ANSWER)):
        for second in range(first, len(ANSWER)):
            splitter = EventSplitter()
            given_on = b""
            for piece in (ANSWER[:first], ANSWER[first:second], ANSWER[second:]):
                given_on += (events := splitter.feed(piece))
                assert not events or events.endswith((b"\n\n", b"\n\r\n"))
            assert given_on == ANSWER
            assert splitter.ended
            assert splitter.finish() == b""


@given(st.lists(st.sampled_from([b"data: x", b":", b"\r", b"\n", b"\n\n", b"event: error"])), st.integers(1, 9))
def test_nothing_is_lost_or_changed(pieces: list[bytes], step: int) -> None:
    text = b"".join(pieces)
    splitter = EventSplitter()
    given_on = b"".join(splitter.feed(text[i : i + step]) for i in range(0, len(text), step)) + splitter.finish()
    assert text.startswith(given_on) or given_on == text + b"\n"
    assert b"\n\n" not in text[len(given_on) :]


@pytest.mark.parametrize(
    "last",
    [
        b"data: [DONE]\n\n",
        b"data:[DONE]\r\n\r\n",
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
        b"event: response.completed\ndata: {}\n\n",
        b"event: response.incomplete\ndata: {}\n\n",
    ],
)
def test_the_end_of_each_protocol_is_known(last: bytes) -> None:
    splitter = EventSplitter()
    splitter.feed(b'data: {"choices": [{"delta": {"content": "data: [DONE]\\n\\n"}}]}\n\nevent: message_start\n\n')
    assert not splitter.ended
    splitter.feed(last)
    assert splitter.ended
    assert not splitter.told_error


def test_what_follows_the_end_is_dropped() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: a\n\ndata: [DONE]\r\n\r\ndata: b\n\n") == b"data: a\n\ndata: [DONE]\r\n\r\n"


@pytest.mark.parametrize(
    ("event", "is_error"),
    [
        (b'data: {"error": {"message": "no"}}\n\n', True),
        (b'data: {"error":"no"}\n\n', True),
        (b'event: error\ndata: {"type":"error"}\n\n', True),
        (b'data: {"error": null, "choices": []}\n\n', False),
        (b'data: {"text": "event: error"}\n\n', False),
    ],
)
def test_errors_within_a_stream_are_known(event: bytes, is_error: bool) -> None:
    splitter = EventSplitter()
    splitter.feed(event)
    assert (splitter.told_error, splitter.ended) == (is_error, False)


def test_a_missing_last_empty_line_is_forgiven_and_half_a_line_is_not() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: [DONE]\n") == b""
    assert splitter.finish() == b"data: [DONE]\n\n"
    assert splitter.ended
    cut = EventSplitter()
    assert cut.feed(b"data: a\n\ndata: [DONE") == b"data: a\n\n"
    assert cut.finish() == b""
    assert not cut.ended


def test_an_endless_event_is_refused() -> None:
    splitter = EventSplitter()
    splitter.feed(b"data: " + b"x" * (MOST_EVENT_BYTES - 6))
    with pytest.raises(UpstreamFailed, match="more than"):
        splitter.feed(b"x")


def test_comments_say_nothing() -> None:
    assert not says_something(b": keep-alive\n\n:\r\n\r\n")
    assert says_something(b": keep-alive\n\nevent: ping\n\n")
