"""The prefix cache's figures: from known values, and one section for real."""

import os
from pathlib import Path

import msgspec
import pytest

from gateway.prefix_cache.block_file import SUFFIX, UNFINISHED_NAME, write
from gateway.prefix_cache.cipher import Cipher
from gateway.prefix_cache.extent import START, Blob, Part, StoredArray, cut
from loadtests.bare import Work
from loadtests.bare_process import bare
from loadtests.cache_figures.__main__ import main
from loadtests.cache_figures.attach import later
from loadtests.cache_figures.bench import continued
from loadtests.cache_figures.decode_slowdown import speed_after, speed_beside
from loadtests.cache_figures.edited import PLACES, edited
from loadtests.cache_figures.kill_writes import WriteWatch, bad_files, files_in
from loadtests.cache_figures.memory import memory_by_owner
from loadtests.cache_figures.shared_system import Pair
from loadtests.cache_folder import empty_cache_folder, kept_in
from loadtests.cache_state import NO_DISK, CacheState
from loadtests.figure import Report
from loadtests.prompt_tokens import PromptTokenizer, common_length
from loadtests.prompts import long_story, question, system_message
from loadtests.streaming_client import ChatStream, Message
from loadtests.turns import UnusableRun, require_cold

NAMESPACE = b"a model's digest"


def stream(
    started: float, content_times: list[float], *, prompt: int = 0, cached: int = 0, tokens: int = 0
) -> ChatStream:
    """As if it had been received."""
    chat = ChatStream()
    details = {"cached_tokens": cached}
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "prompt_tokens_details": details}
    chat._take(msgspec.json.encode({"choices": [], "usage": usage}).decode())
    chat.started, chat.content_times, chat.ended = started, content_times, content_times[-1] if content_times else 0
    return chat


def test_a_stream_tells_what_was_computed_for_it() -> None:
    answered = stream(1, [3, 4], prompt=100, cached=64)

    assert (answered.cached_tokens, answered.computed_tokens, answered.ttft_seconds) == (64, 36, 2)


def test_a_prompt_that_was_known_is_not_cold() -> None:
    require_cold([stream(0, [1], prompt=2000, cached=3)])  # how every prompt begins
    with pytest.raises(UnusableRun, match="2000 tokens that was to be computed, 1984 came"):
        require_cold([stream(0, [1], prompt=2000, cached=1984)])


def test_what_two_sessions_computed_twice() -> None:
    """A shared beginning of 8 tokens, and 2 and 3 of their own."""
    prompts = [[*range(8), 100, 101], [*range(8), 200, 201, 202]]

    once = Pair([stream(0, [], prompt=10), stream(0, [], prompt=11, cached=8)], prompts)
    the_other_first = Pair([stream(0, [], prompt=10, cached=8), stream(0, [], prompt=11)], prompts)
    twice = Pair([stream(0, [], prompt=10), stream(0, [], prompt=11)], prompts)

    assert once.own_tokens == [2, 3]
    assert (once.beyond_tokens, the_other_first.beyond_tokens, twice.beyond_tokens) == (0, 0, 8)


def test_how_much_later_an_attached_request_is_answered() -> None:
    assert later(first=stream(10, [20]), second=stream(14, [21])) == 0.1


def test_the_speed_of_a_stream_beside_a_prompt_and_of_the_answer_behind_it() -> None:
    running = stream(0, [1, 2, 3, 4, 5, 6, 7])
    neighbour = stream(2.5, [6.5, 7, 8.5], tokens=5)

    assert speed_beside(running, neighbour) == 4 / 4  # 3, 4, 5 and 6
    assert speed_after(neighbour) == 4 / 2


def test_an_edit_changes_one_word_of_the_last_message() -> None:
    message = question(270)
    for word in PLACES.values():
        before, after = message.content.split(), edited(message, word).content.split()
        assert sum(one != other for one, other in zip(before, after, strict=True)) == 1
        assert before[word] != after[word]


def test_the_next_turn_has_the_answer_as_it_was_received() -> None:
    answer = stream(0, [])
    answer.text = " Yes.\n"
    following = Message("user", "Why?")

    assert continued([Message("user", "So?")], answer, following)[1:] == [Message("assistant", " Yes.\n"), following]


def test_memory_by_owner_from_metrics() -> None:
    line = 'mlx_gateway_memory_bytes{{owner="{}"}} {}\n'
    weights, caches = line.format("weights", "5.4e+08"), line.format("kv_cache", "0.0")

    assert memory_by_owner(weights + caches) == {"weights": 540e6, "kv_cache": 0}
    with pytest.raises(UnusableRun, match="does not tell of kv_cache"):
        memory_by_owner(weights)


def test_the_state_of_a_cache_that_may_have_no_disk() -> None:
    ram = {"bytes": 1, "limit_bytes": 2, "evicted": 3}
    disk = {"bytes": 5, "limit_bytes": 6, "files": 7, "waiting_bytes": 8, "removed": {"truncated": 1}, "written": 9}

    both = msgspec.convert({"models": [], "ram": ram, "disk": disk}, CacheState)
    assert (both.ram.evicted, both.disk.waiting_bytes, both.disk.removed) == (3, 8, {"truncated": 1})
    assert msgspec.convert({"models": [], "ram": ram, "disk": None}, CacheState).disk == NO_DISK


def test_every_cache_folder_is_new_and_goes_away(tmp_path: Path) -> None:
    with empty_cache_folder(tmp_path) as one, empty_cache_folder(tmp_path) as other:
        assert one != other
        assert kept_in(one)["MLX_GATEWAY_CACHE_DIRECTORY"] == str(one)
        (one / "file").write_bytes(b"...")
    assert not one.exists()


def test_writes_are_seen_by_the_name_of_an_unfinished_file(tmp_path: Path) -> None:
    watch = WriteWatch(tmp_path)
    (tmp_path / "of one model").mkdir()
    unfinished = tmp_path / "of one model" / UNFINISHED_NAME
    seen = []
    for _ in range(2):
        unfinished.write_bytes(b"")
        for _ in range(2):
            watch.look()
            seen.append((watch.begun, watch.writing))
        unfinished.unlink()
        watch.look()
        seen.append((watch.begun, watch.writing))

    assert seen == [(1, True), (1, True), (1, False), (2, True), (2, True), (2, False)]


def test_files_that_cannot_be_read_are_named_once(tmp_path: Path) -> None:
    ((extent, _),) = cut(NAMESPACE, START, bytes(4 * 32))
    blob = Blob(extent, Part.FULL, 0, [StoredArray("uint8", (3,), b"abc")])
    good, cut_short = tmp_path / f"good{SUFFIX}", tmp_path / f"short{SUFFIX}"
    for file in (good, cut_short):
        write(file, blob, Cipher(), last_used_ns=0)
    os.truncate(cut_short, 100)
    (tmp_path / UNFINISHED_NAME).write_bytes(b"")
    checked: set[tuple[str, int]] = set()

    bad = bad_files(files_in(tmp_path), checked)

    assert [line.partition(":")[0] for line in bad] == [cut_short.name, UNFINISHED_NAME]
    assert len(checked) == 3
    assert bad_files(files_in(tmp_path), checked) == []


async def test_without_a_server_the_history_is_computed_beforehand(demo_store: Path, tiny_folder: Path) -> None:
    history = [Message("system", "You are brief."), Message("user", "Hello"), Message("assistant", "Hi!")]
    prompt = [*history, Message("user", "And now?")]
    tokenizer = PromptTokenizer(tiny_folder)

    async with bare(tiny_folder, demo_store) as without_server:
        cold = await without_server.generate(Work([prompt], 2, batched=False))
        warm = await without_server.generate(Work([prompt], 2, 8, batched=False, history=history))

    assert cold.prompt_tokens == warm.prompt_tokens == [len(tokenizer.ids(prompt))]
    assert cold.history_tokens == 0
    # all but the new message and the beginning of the answer
    assert (
        warm.history_tokens == common_length(tokenizer.ids(prompt), tokenizer.ids([*history, Message("user", "?")])) - 3
    )
    assert len(warm.token_times[0]) == len(cold.token_times[0])


def test_prompts_are_as_long_as_they_are_called(tiny_folder: Path) -> None:
    tokenizer = PromptTokenizer(tiny_folder)

    def added(message: Message) -> int:
        return len(tokenizer.ids([Message("system", ""), message])) - len(tokenizer.ids([Message("system", "")]))

    assert abs(len(tokenizer.ids(long_story(2500))) - 2500) < 50
    assert abs(added(question(270)) - 270) < 20
    assert abs(added(system_message(2000)) - 2000) < 40


@pytest.mark.slow
@pytest.mark.timeout(900)  # a prompt of 2200 tokens takes a busy machine minutes
def test_a_section_for_real_and_the_json_holds_what_was_printed(
    demo_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_file = tmp_path / "figures.json"
    options = ["--only", "restart_repeat", "--rounds", "1", "--store", str(demo_store), "--json", str(json_file)]

    assert main(options) == 0

    report = msgspec.json.decode(json_file.read_bytes(), type=Report)
    printed = capsys.readouterr().out
    assert report.command[-len(options) :] == options
    assert report.blas in printed
    (section,) = report.sections
    assert str(section) in printed
    assert not section.failure
    before, repeat = section.measured.figures
    assert 0 < repeat.value < before.value
    assert repeat.goal


def test_an_unknown_section_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "next_turn,nonsense"])
    assert "there is no nonsense" in capsys.readouterr().err
