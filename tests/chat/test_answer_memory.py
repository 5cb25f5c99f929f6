from gateway.chat.answer_memory import TOKENS_PER_ANSWER, AnswerMemory
from gateway.chat.splice import Place
from gateway.generation.request import Message, ToolCall

PLACE = Place("before", "opening")
ASKED = (Message("user", "Why?"),)
CALLS = ToolCall("call_1", "read", "{}"), ToolCall("call_2", "run", "{}")


def ids_recalled(memory: AnswerMemory, answer: Message, *, model: str = "m", session: str = "s") -> list[int] | None:
    answers = memory.recall(model, session, [*ASKED, answer])
    assert set(answers) <= {1}
    return list(answers[1].ids) if answers else None


def test_a_text_is_found_in_its_session_only() -> None:
    memory = AnswerMemory()
    memory.remember("m", "s", ASKED, PLACE, [1, 2, 3], "Because.\n")
    assert ids_recalled(memory, Message("assistant", " Because.")) == [1, 2, 3]
    assert ids_recalled(memory, Message("assistant", "<think>x</think>Because.")) == [1, 2, 3]
    assert ids_recalled(memory, Message("assistant", "Because")) is None
    assert ids_recalled(memory, Message("assistant", "Because."), session="another") is None
    assert ids_recalled(memory, Message("assistant", "Because."), model="another") is None
    assert ids_recalled(memory, Message("user", "Because.")) is None
    assert ids_recalled(memory, Message("assistant", "Because.", CALLS)) is None


def test_a_text_behind_reasoning_is_found_without_the_mark_that_the_prompt_opened() -> None:
    memory = AnswerMemory()
    memory.remember("m", "s", ASKED, PLACE, [1, 2, 3], "Because.", reasoned=True)
    recalled = memory.recall("m", "s", [*ASKED, Message("assistant", "Hm.</think>Because.")])
    assert recalled[1].is_replayed_by(Message("assistant", "Hm.</think>Because."))
    memory.remember("m", "s", ASKED, PLACE, [1, 2, 3], "Because.", reasoned=False)
    recalled = memory.recall("m", "s", [*ASKED, Message("assistant", "Hm.</think>Because.")])
    assert not recalled[1].is_replayed_by(Message("assistant", "Hm.</think>Because."))


def test_a_text_is_found_after_the_same_words_only() -> None:
    memory = AnswerMemory()
    memory.remember("m", "s", ASKED, PLACE, [1], "Yes.")
    memory.remember("m", "s", [*ASKED, Message("assistant", "Yes."), *ASKED], PLACE, [2], "Yes.")
    answer = Message("assistant", "Yes.")
    recalled = memory.recall("m", "s", [*ASKED, answer, *ASKED, answer])
    assert {number: list(answer.ids) for number, answer in recalled.items()} == {1: [1], 3: [2]}
    assert memory.recall("m", "s", [Message("system", ""), *ASKED, answer]) == {}
    assert memory.recall("m", "s", [Message("user", "Why?assistant"), answer]) == {}


def test_calls_are_found_by_all_their_ids_in_any_session() -> None:
    memory = AnswerMemory()
    memory.remember("m", "s", ASKED, PLACE, [1, 2, 3], "I read.", CALLS)
    assert ids_recalled(memory, Message("assistant", "", CALLS), session="another") == [1, 2, 3]
    assert ids_recalled(memory, Message("assistant", "", CALLS[::-1])) == [1, 2, 3]
    assert ids_recalled(memory, Message("assistant", "", CALLS[:1])) is None
    assert ids_recalled(memory, Message("assistant", "", CALLS), model="another") is None
    assert ids_recalled(memory, Message("assistant", "I read.")) is None  # that is no turn with calls


def test_calls_are_found_after_the_same_words_only() -> None:
    memory = AnswerMemory()
    asked = (*ASKED, Message("assistant", "", CALLS[:1]), Message("tool", "Done"))
    memory.remember("m", "s", asked, PLACE, [1], "", CALLS[1:])
    answer = Message("assistant", "", CALLS[1:])
    rewritten = Message("assistant", "Yes.", (ToolCall("call_1", "read", "{ }"),))
    assert memory.recall("m", "s", [ASKED[0], rewritten, asked[2], answer])
    for role in ("system", "user", "assistant", "tool"):
        for number in range(len(asked) + 1):
            changed = [*asked[:number], Message(role, "Stop"), *asked[number:]]
            assert memory.recall("m", "s", [*changed, answer]) == {}
    assert memory.recall("m", "s", [*asked[:2], Message("tool", "Done "), answer]) == {}


def test_an_answer_behind_words_of_the_assistant_that_may_have_changed_is_not_found() -> None:
    memory = AnswerMemory()
    memory.remember("m", "s", [*ASKED, Message("assistant", "")], PLACE, [1], "", CALLS)
    assert memory.recall("m", "s", [*ASKED, Message("assistant", "Other"), Message("assistant", "", CALLS)]) == {}


def test_the_least_recently_used_go_first() -> None:
    memory = AnswerMemory(most_tokens=2 * (TOKENS_PER_ANSWER + 10))
    for text in ("one", "two"):
        memory.remember("m", "s", ASKED, PLACE, [1] * 10, text)
    assert memory.tokens == 2 * (TOKENS_PER_ANSWER + 10)
    assert ids_recalled(memory, Message("assistant", "one"))
    memory.remember("m", "s", ASKED, PLACE, [1] * 10, "three")
    assert ids_recalled(memory, Message("assistant", "two")) is None
    assert ids_recalled(memory, Message("assistant", "one"))
    assert memory.tokens == 2 * (TOKENS_PER_ANSWER + 10)


def test_an_answer_given_anew_takes_the_place_of_the_old() -> None:
    memory = AnswerMemory()
    memory.remember("m", "s", ASKED, PLACE, [1, 2], "Yes")
    memory.remember("m", "s", ASKED, PLACE, [3], "Yes")
    assert ids_recalled(memory, Message("assistant", "Yes")) == [3]
    assert memory.tokens == TOKENS_PER_ANSWER + 1


def test_what_is_too_large_or_could_not_be_put_back_is_not_kept() -> None:
    memory = AnswerMemory(most_tokens=1_000)
    memory.remember("m", "s", ASKED, PLACE, range(1_000), "long")
    memory.remember("m", "s", ASKED, None, [1], "nowhere")
    memory.remember("m", "s", ASKED, PLACE, [], "")
    assert memory.tokens == 0
    for text in ("long", "nowhere", ""):
        assert ids_recalled(memory, Message("assistant", text)) is None
