"""Whose texts are computed together and when, with a tiny encoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from gateway.engine.encoders.encoder_config import read_encoder_config
from gateway.engine.encoders.encoder_loop import MOST_TOKENS, EncoderLoop, EncoderReport, texts_together
from gateway.engine.encoders.text_encoder import TextEncoder, load_encoder
from gateway.engine.encoders.tokenizer import EncoderInput
from gateway.engine.memory_ledger import MemoryLedger
from gateway.engine.sliced_work import at_once
from gateway.errors import GenerationFailed, ShuttingDown
from tests.tiny_encoder import WIDTH, write_tiny_encoder


def text(length: int, token: int = 7) -> EncoderInput:
    return EncoderInput([token] * length, [0] * length, length)


@pytest.mark.parametrize(
    ("longest", "seconds_per_token", "texts"),
    [(10, 0.0005, 10), (100, 0.0005, 1), (500, 0.0005, 1), (10, 1e-9, MOST_TOKENS // 10), (10, 0.0, MOST_TOKENS // 10)],
)
def test_a_step_is_as_large_as_its_time(longest: int, seconds_per_token: float, texts: int) -> None:
    assert texts_together(longest, seconds_per_token) == texts


class Setting:
    """A loop whose steps hold 20 tokens by what it believes, and what it was asked to compute."""

    def __init__(self, model: TextEncoder) -> None:
        self.reports: list[EncoderReport] = []
        self.ledger = MemoryLedger(10**9)
        self.loop = EncoderLoop(model, "tiny", self.ledger, self.reports.append)
        self.steps: list[list[int]] = []
        compute = self.loop._compute

        def noted(texts: Sequence[EncoderInput]) -> Any:
            self.steps.append([len(text.ids) for text in texts])
            vectors = compute(texts)
            self.loop._seconds_per_token = 0.05 / 20
            return vectors

        self.loop._compute = noted  # type: ignore[method-assign]
        self.loop._seconds_per_token = 0.05 / 20

    def run(self) -> None:
        while self.loop.has_work:
            self.loop.step()


@pytest.fixture
def setting(tmp_path: Path, minilm_folder: Path) -> Setting:
    write_tiny_encoder(tmp_path / "tiny", "bert", minilm_folder)
    config = read_encoder_config(tmp_path / "tiny")
    assert config
    return Setting(load_encoder(tmp_path / "tiny", config, mx.float32, lambda fraction: None))


def test_texts_of_like_length_are_computed_together(setting: Setting) -> None:
    setting.loop.submit(1, [text(length) for length in (10, 2, 9, 2, 1, 2, 10)])
    setting.run()
    assert setting.steps == [[10, 10], [9], [2, 2, 2, 1]]


def test_vectors_come_in_the_order_of_the_texts(setting: Setting) -> None:
    texts = [text(length, token) for length, token in ((3, 1), (40, 2), (1, 3), (10, 4), (3, 5))]
    setting.loop.submit(1, texts)
    setting.run()
    (report,) = setting.reports
    assert isinstance(report.outcome, np.ndarray)
    assert report.outcome.shape == (5, WIDTH)
    for alone, vector in zip(texts, report.outcome, strict=True):
        np.testing.assert_allclose(setting.loop._model.encode([alone])[0], vector, atol=1e-5)


def test_a_short_request_does_not_wait_for_a_long_one(setting: Setting) -> None:
    setting.loop.submit(1, [text(20)] * 10)
    setting.loop.submit(2, [text(4)])
    setting.run()
    assert [report.ticket for report in setting.reports] == [2, 1]
    assert len(setting.steps) == 11


def test_requests_share_steps(setting: Setting) -> None:
    for ticket in (1, 2, 3, 4):
        setting.loop.submit(ticket, [text(5)])
    setting.loop.step()
    assert setting.steps == [[5, 5, 5, 5]]
    assert {report.ticket for report in setting.reports} == {1, 2, 3, 4}


def test_what_is_cancelled_is_not_computed(setting: Setting) -> None:
    setting.loop.submit(1, [text(20)] * 10)
    setting.loop.submit(2, [text(20)] * 2)
    setting.loop.step()
    setting.loop.cancel(1)
    setting.run()
    assert [report.ticket for report in setting.reports] == [2]
    assert len(setting.steps) <= 3


def test_a_failing_pass_ends_only_its_requests(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    setting.loop.submit(1, [text(100)])  # more than there are positions
    setting.loop.submit(2, [text(3)])
    encode = setting.loop._model.encode

    def failing(texts: Sequence[EncoderInput]) -> Any:
        if len(texts[0].ids) > 80:
            raise RuntimeError("no such position")
        return encode(texts)

    monkeypatch.setattr(setting.loop._model, "encode", failing)
    setting.run()
    outcomes = {report.ticket: report.outcome for report in setting.reports}
    assert isinstance(outcomes[1], GenerationFailed)
    assert isinstance(outcomes[2], np.ndarray)


def test_memory_is_booked_and_given_back(setting: Setting) -> None:
    before = setting.ledger.work_space_bytes
    at_once(setting.loop.calibrate(80), lambda fraction: None)
    assert setting.ledger.lasting_bytes == setting.loop._model.weight_bytes > 30522 * WIDTH * 4
    assert setting.ledger.work_space_bytes > before
    setting.loop.close(None)
    assert isinstance(setting.reports[-1].closed, ShuttingDown)
    assert setting.ledger.lasting_bytes == setting.ledger.work_space_bytes == 0
