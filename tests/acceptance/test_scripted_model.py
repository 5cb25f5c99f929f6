"""The scripted model answers the same alone and in a crowd, however its prompts are cut and reused."""

from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.acceptance.conftest import MODEL, StartScene

LONG = "word " * 5000


def test_the_rules_decide_what_is_said(scene: StartScene) -> None:
    rules = [(r"count to (?P<last>\d+)", "1 2 3 4 5 6 7 8 9 10 and at last <<last>>"), ("", "Anything else.")]
    url = scene(rules).url

    def answer(text: str) -> str:
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
        response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
        assert response.status_code == 200, response.text
        content: str = response.json()["choices"][0]["message"]["content"]
        return content

    prompts = [f"Please count to {number}. {LONG if number % 3 == 0 else ''}" for number in range(10, 22)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(answer, prompts))
    assert together == [f"1 2 3 4 5 6 7 8 9 10 and at last {number}" for number in range(10, 22)]
    assert [answer(prompt) for prompt in prompts] == together
    assert answer("Hello") == "Anything else."
