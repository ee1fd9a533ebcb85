"""What is asked of a process ends with whoever waits for the answer."""

import threading
import time

import psutil
import pytest

from llamaforge.errors import LlamaForgeError
from llamaforge.runs import asking, hub_fetch
from llamaforge.runs.asking import Question, answers, stoppable

NEVER_ENDS = "tests.unit.runs.sleeper"


def children() -> list[psutil.Process]:
    return psutil.Process().children()


def test_a_process_that_nobody_waits_for_is_ended() -> None:
    left = threading.Event()
    threading.Timer(0.5, left.set).start()
    started = time.monotonic()
    with stoppable(left.is_set), pytest.raises(LlamaForgeError) as caught:
        list(answers(Question(NEVER_ENDS, "", 60.0)))
    assert caught.value.code == "stopped"
    assert time.monotonic() - started < 10
    assert not children()
    assert not asking.is_stopped(), "it holds for what is asked within"


def test_a_download_that_nobody_waits_for_is_ended() -> None:
    with stoppable(lambda: True), pytest.raises(LlamaForgeError) as caught:
        hub_fetch._carried_out(["sleep", "60"], {})
    assert caught.value.code == "stopped"
    assert not children()


def test_an_interrupted_download_leaves_no_process() -> None:
    def interrupted() -> bool:
        raise KeyboardInterrupt

    started = time.monotonic()
    with stoppable(interrupted), pytest.raises(KeyboardInterrupt):
        hub_fetch._carried_out(["sleep", "60"], {})
    assert time.monotonic() - started < 10
    assert not children()
