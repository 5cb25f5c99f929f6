"""One model's generation: takes requests, steps the batch, reports tokens. Everything here runs on the MLX thread."""

import logging
from collections import OrderedDict
from collections.abc import Callable

from gateway.engine.batch import Batch, RowToken
from gateway.engine.sampling import RowSampling
from gateway.engine.scheduling import requests_to_start
from gateway.engine.token_stream import GeneratedToken, StepReport, TokenRequest
from gateway.errors import GatewayError, GenerationFailed, InvalidRequest, ModelUnavailable, ShuttingDown

log = logging.getLogger(__name__)


class GenerationLoop:
    """A `Worker` of the MLX thread.

    A ticket is a request; each of its choices is a row of the batch. Every ticket that was submitted is
    reported to its end exactly once (all choices finished, one failure, or the engine closed) unless it is
    cancelled.
    """

    def __init__(
        self,
        new_batch: Callable[[], Batch],
        vocabulary: int,
        max_running: int,
        report: Callable[[StepReport], None],
    ) -> None:
        self._new_batch = new_batch
        self._batch = new_batch()
        self._vocabulary = vocabulary
        self._max_running = max_running
        self._report = report
        self._waiting: OrderedDict[int, TokenRequest] = OrderedDict()
        self._rows: dict[int, tuple[int, int]] = {}  # row -> (ticket, choice)

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._rows)

    def submit(self, ticket: int, request: TokenRequest) -> None:
        self._waiting[ticket] = request

    def cancel(self, ticket: int, choice: int | None = None) -> None:
        """Frees the rows of a ticket, or of one of its choices, at whatever stage they are.

        Nothing more is reported for them.
        """
        if choice is not None or self._waiting.pop(ticket, None) is None:
            self._drop_rows(ticket, choice)
        self._publish(StepReport())

    def step(self) -> None:
        report = StepReport()
        self._start_waiting(report)
        if self._rows:
            try:
                for row_token in self._batch.step():
                    self._note(row_token, report)
            except Exception as error:
                log.exception("a generation step failed; its %d rows end, the engine goes on", len(self._rows))
                self._fail_rows(f"The model failed while generating: {error}", report)
        self._publish(report)

    def close(self, error: BaseException | None) -> None:
        """Ends every ticket: the server stops (`error` None) or this engine cannot go on."""
        reason: GatewayError = ShuttingDown()
        if error is not None:
            reason = ModelUnavailable(f"The model's engine stopped and cannot go on: {error}")
        self._rows.clear()
        self._waiting.clear()
        self._publish(StepReport(closed=reason))  # first: whoever waits must hear of it whatever happens next
        self._batch.close()

    def _start_waiting(self, report: StepReport) -> None:
        widths = (len(request.seeds) for request in self._waiting.values())
        for _ in range(requests_to_start(widths, len(self._rows), self._max_running)):
            ticket, request = self._waiting.popitem(last=False)
            try:
                self._insert(ticket, request)
            except InvalidRequest as error:
                report.failures.append((ticket, error))
            except Exception as error:
                log.exception("a request could not be started")
                self._drop_rows(ticket)
                report.failures.append((ticket, GenerationFailed(f"The request could not be started: {error}")))

    def _insert(self, ticket: int, request: TokenRequest) -> None:
        request.check_tokens(self._vocabulary)
        for choice, seed in enumerate(request.seeds):
            sampling = RowSampling(request.sampling, seed, request.prompt, self._vocabulary, request.top_logprobs)
            row = self._batch.insert(request.prompt, request.max_tokens, request.end_tokens, sampling)
            self._rows[row] = (ticket, choice)

    def _note(self, row_token: RowToken, report: StepReport) -> None:
        ticket, choice = self._rows[row_token.row]
        if row_token.finish:
            del self._rows[row_token.row]
        report.tokens.append((ticket, GeneratedToken(choice, row_token.token, row_token.scores, row_token.finish)))

    def _drop_rows(self, ticket: int, choice: int | None = None) -> None:
        rows = [row for row, owner in self._rows.items() if owner[0] == ticket and choice in (None, owner[1])]
        for row in rows:
            del self._rows[row]
        self._batch.remove(rows)

    def _fail_rows(self, message: str, report: StepReport) -> None:
        tickets = sorted({ticket for ticket, _ in self._rows.values()})
        report.failures.extend((ticket, GenerationFailed(message)) for ticket in tickets)
        self._rows.clear()
        self._batch.close()
        self._batch = self._new_batch()

    def _publish(self, report: StepReport) -> None:
        report.running = len(self._rows)
        report.waiting = sum(len(request.seeds) for request in self._waiting.values())
        self._report(report)
