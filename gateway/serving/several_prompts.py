"""Several prompts served at once as one request: their choices are numbered through, prompt by prompt."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from gateway.generation.events import Admitted, Event, Finished, Waiting
from gateway.generation.request import TextRequest

Generate = Callable[[TextRequest], AsyncGenerator[Event, None]]


async def generate_all(generate: Generate, requests: Sequence[TextRequest]) -> AsyncGenerator[Event, None]:
    """The events of all requests, as those of one; closing the generator cancels them all.

    No delta comes before all are admitted, so that what is refused is refused whole. The first error ends all of them.
    """
    arrived: asyncio.Queue[tuple[int, Event | Exception]] = asyncio.Queue(maxsize=len(requests))
    tasks = [
        asyncio.create_task(_forward(generate(request), number, arrived)) for number, request in enumerate(requests)
    ]
    first_choices = [sum(request.choices for request in requests[:number]) for number in range(len(requests))]
    admitted: list[Admitted] = []
    finished: list[Finished] = []
    held: list[Event] = []
    try:
        while len(finished) < len(requests):
            number, event = await arrived.get()
            match event:
                case Exception():
                    raise event
                case Waiting():
                    yield event
                case Admitted():
                    admitted.append(event)
                    if len(admitted) < len(requests):
                        continue
                    yield Admitted(sum(each.prompt_tokens for each in admitted))
                    for early in held:
                        yield early
                    held.clear()
                case Finished():
                    finished.append(event)
                case _:
                    of_all = replace(event, choice=first_choices[number] + event.choice)
                    if len(admitted) < len(requests):
                        held.append(of_all)
                    else:
                        yield of_all
        yield _together(finished)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _forward(
    events: AsyncGenerator[Event, None], number: int, to: "asyncio.Queue[tuple[int, Event | Exception]]"
) -> None:
    try:
        async with aclosing(events):
            async for event in events:
                await to.put((number, event))
    except Exception as error:  # noqa: BLE001  (raised to whoever reads the queue)
        await to.put((number, error))


def _together(finished: Sequence[Finished]) -> Finished:
    return Finished(
        sum(each.prompt_tokens for each in finished),
        sum(each.completion_tokens for each in finished),
        sum(each.cached_tokens for each in finished),
        sum(each.reasoning_tokens for each in finished),
    )
