"""An agent's next turn: a long conversation and a new message, while what was computed before is being written to disk.

Without a server it is the same model with a cache that has all of the history, and the new tokens in chunks of 128.
"""

from collections import defaultdict

from loadtests.bare import Generated, Work
from loadtests.bare_process import BARE
from loadtests.cache_figures.bench import SHORT_ANSWER_TOKENS, Bench, ask, continued
from loadtests.cache_state import written_to_disk
from loadtests.contenders import Contenders, contenders
from loadtests.figure import Measured, at_most, each, ratio, span
from loadtests.prompts import long_story, question
from loadtests.servers import GATEWAY, MLX_LM
from loadtests.streaming_client import ChatStream, Message
from loadtests.turns import UnusableRun, require_cold

HISTORY_TOKENS = 2500
NEW_TOKENS = 270
CHUNK_TOKENS = 128
ANSWER_TOKENS = 2


async def measure(bench: Bench) -> Measured:
    seconds: dict[str, list[float]] = defaultdict(list)
    turns: dict[str, list[ChatStream]] = defaultdict(list)
    bare_turns = list[Generated]()
    async with contenders(bench.store) as all_three:
        for _ in range(bench.rounds):
            first, following = long_story(HISTORY_TOKENS), question(NEW_TOKENS)
            for server in all_three.servers:
                answer = await ask(server, first)
                require_cold([answer])
                messages = continued(first, answer, following)
                turn = await ask(server, messages, ANSWER_TOKENS)
                seconds[server.name].append(turn.ttft_seconds)
                turns[server.name].append(turn)
                if server is all_three.gateway:
                    ours = messages
                    await written_to_disk(server)
                await all_three.quiet()
            generated = await _without_server(all_three, ours, turns[GATEWAY][-1])
            seconds[BARE].append(generated.token_times[0][0])
            bare_turns.append(generated)
    return Measured(
        [
            *each("TTFT of the next turn, s", seconds),
            ratio(seconds, GATEWAY, BARE, at_most(1.1)),
            ratio(seconds, GATEWAY, MLX_LM),
        ],
        [
            f"{name}: prompts of {span([turn.prompt_tokens for turn in of_server])} tokens, of which "
            f"{span([turn.computed_tokens for turn in of_server])} were computed for this turn"
            for name, of_server in turns.items()
        ]
        + [
            f"{BARE}: of {span([one.prompt_tokens[0] for one in bare_turns])} tokens, "
            f"{span([one.prompt_tokens[0] - one.history_tokens for one in bare_turns])} were computed for this turn",
            f"the answer before had at most {SHORT_ANSWER_TOKENS} tokens; the next turn followed at once",
        ],
    )


async def _without_server(all_three: Contenders, messages: list[Message], turn: ChatStream) -> Generated:
    history, prompt = messages[:-1], messages
    work = Work([prompt], ANSWER_TOKENS, CHUNK_TOKENS, batched=False, history=history)
    generated = await all_three.bare.generate(work)
    if generated.prompt_tokens != [turn.prompt_tokens]:
        raise UnusableRun(f"The same prompt has {turn.prompt_tokens} tokens and {generated.prompt_tokens[0]} tokens.")
    return generated
