"""What is asked of a process ends with whoever waits for the answer."""

import threading
import time
from collections.abc import Callable

import psutil
import pytest

from llamaforge.errors import LlamaForgeError
from llamaforge.runs import asking, hub_fetch
from llamaforge.runs.asking import Question, answers, stoppable

NEVER_ENDS = "tests.unit.runs.sleeper"


Children = Callable[[], set[psutil.Process]]


@pytest.fixture
def children() -> Children:
    """What gives the processes that this one has started since; other tests may have left some."""
    before = set(psutil.Process().children())
    return lambda: set(psutil.Process().children()) - before


def test_a_process_that_nobody_waits_for_is_ended(children: Children) -> None:
    left = threading.Event()
    threading.Timer(0.5, left.set).start()
    started = time.monotonic()
    with stoppable(left.is_set), pytest.raises(LlamaForgeError) as caught:
        list(answers(Question(NEVER_ENDS, "", 60.0)))
    assert caught.value.code == "stopped"
    assert time.monotonic() - started < 10
    assert not children()
    assert not asking.is_stopped(), "it holds for what is asked within"


def test_a_download_that_nobody_waits_for_is_ended(children: Children) -> None:
    with stoppable(lambda: True), pytest.raises(LlamaForgeError) as caught:
        hub_fetch._carried_out(["sleep", "60"], {})
    assert caught.value.code == "stopped"
    assert not children()


def test_an_interrupted_download_leaves_no_process(children: Children) -> None:
    def interrupted() -> bool:
        raise KeyboardInterrupt

    started = time.monotonic()
    with stoppable(interrupted), pytest.raises(KeyboardInterrupt):
        hub_fetch._carried_out(["sleep", "60"], {})
    assert time.monotonic() - started < 10
    assert not children()
