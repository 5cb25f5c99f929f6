"""Vercel's AI SDK, on which many clients are built, runs tools through the gateway until the model is content."""

from pathlib import Path

from tests.acceptance.conftest import MODEL, StartScene
from tests.acceptance.task import call, thinking
from tests.end_to_end.test_node_clients import ask

TWO_CALLS = call("weather", city="Zürich", days=2) + "\n" + call("weather", city="Bern").split("I call weather.\n")[1]
RULES = [
    ("<tool_response>.*clear over Zürich.*clear over Bern", thinking("Both are clear.") + "It is clear."),
    ("<tools>", TWO_CALLS),
    ("", "There are no tools."),
]


def test_two_calls_at_once_and_reasoning(scene: StartScene, tmp_path: Path) -> None:
    answer = ask(scene(RULES).url, MODEL, "vercelTools", tmp_path)
    assert answer["asked"] == [{"city": "Zürich", "days": 2}, {"city": "Bern"}]
    assert answer["text"] == "It is clear."
    assert answer["steps"] == ["tool-calls", "stop"]
    assert answer["reasoning"] == ["I need weather for that.", "Both are clear."]
    assert {"reasoning-delta", "tool-input-delta", "tool-call", "text-delta"} <= set(answer["kinds"])
