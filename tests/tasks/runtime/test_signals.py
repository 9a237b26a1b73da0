"""The first signal asks to stop, the second ends at once; afterwards all handlers are as before."""

import signal
import threading
from collections.abc import Iterator

import pytest

from model.errors import TrainingDiverged, TrainingStopped
from tasks.runtime.signals import STOPPING, stop_by_signal


class Delivered(BaseException):
    """What the handler that was there before does."""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Let both signals raise, and check that they do so again after the test."""

    def deliver(number: int, frame: object) -> None:
        raise Delivered(number)

    before = {number: signal.signal(number, deliver) for number in STOPPING}
    yield
    after = {number: signal.signal(number, handler) for number, handler in before.items()}
    assert set(after.values()) == {deliver}


@pytest.mark.parametrize("number", STOPPING)
def test_the_first_signal_is_a_wish_and_is_delivered_when_the_training_has_stopped(
    number: signal.Signals,
) -> None:
    reached = []
    with pytest.raises(Delivered, match=str(int(number))), stop_by_signal() as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        reached.append("the end of the step")
        raise TrainingStopped("stopped after step 3")
    assert reached


@pytest.mark.parametrize("second", STOPPING)
def test_the_second_signal_ends_at_once(second: signal.Signals) -> None:
    with pytest.raises(Delivered, match=str(int(second))), stop_by_signal():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(second)
        pytest.fail("it goes on")


def test_a_signal_that_comes_when_all_is_done_is_delivered_too() -> None:
    with pytest.raises(Delivered), stop_by_signal():
        signal.raise_signal(signal.SIGTERM)


def test_without_a_signal_nothing_is_delivered() -> None:
    with stop_by_signal() as stop:
        pass
    assert not stop()
    with pytest.raises(TrainingStopped), stop_by_signal():
        raise TrainingStopped("a callback wanted it")


def test_another_error_is_told_and_not_the_signal() -> None:
    with pytest.raises(TrainingDiverged), stop_by_signal():
        signal.raise_signal(signal.SIGTERM)
        raise TrainingDiverged("step 3")


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_by_signal() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop()
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    heard = []

    def run() -> None:
        with stop_by_signal() as stop:
            heard.append(stop())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert heard == [False]
