"""What goes wrong on the way is gone on from, or told; nothing damaged reaches the cache."""

import logging
import os
import random
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from llamaforge.catalog import hub_download
from llamaforge.catalog.hub_cache import cache_of
from llamaforge.catalog.hub_download import Progress, download
from llamaforge.catalog.hub_http import Patience
from llamaforge.errors import LlamaForgeError
from tests.contract.hub.fake_hub import TOKEN, FakeHub, Fault
from tests.contract.hub.hub_desk import (
    HASTE,
    NAME,
    QUICK,
    contents,
    fetch,
    parts,
    patience_for,
    plan,
    serve,
    single,
)

WEIGHTS = "model.safetensors"


def cache() -> Path:
    return Path(constants.HF_HUB_CACHE)


def failed(patience: Patience = QUICK) -> LlamaForgeError:
    with pytest.raises(LlamaForgeError) as caught:
        fetch(patience=patience)
    return caught.value


def part_of(hub: FakeHub, content: bytes) -> Path:
    """Leave `content` as an earlier download would have left the beginning of the weights."""
    blobs = cache() / "models--maker--tiny" / "blobs"
    blobs.mkdir(parents=True)
    path = blobs / f"{hub.repos[NAME].etag(WEIGHTS)}.incomplete"
    path.write_bytes(content)
    return path


def test_cuts_are_gone_on_from_without_fetching_anything_twice(hub: FakeHub) -> None:
    files = single()
    serve(hub, files)
    hub.faults[WEIGHTS] = [Fault(cut_after=50_000, times=4)]

    assert contents(fetch()) == files
    starts = [seen.headers.get("range", "bytes=0-") for seen in hub.seen if seen.at_store]
    assert len(starts) == 5
    assert len(set(starts)) == 5


def test_a_hundred_cuts_that_bring_something_do_not_end_it(hub: FakeHub) -> None:
    files = single(100_000)
    serve(hub, files)
    hub.faults[WEIGHTS] = [Fault(cut_after=1_000, times=-1)]

    assert contents(fetch()) == files


@pytest.mark.parametrize(
    "fault",
    [
        Fault(500),
        Fault(503, {"Retry-After": "0"}),
        Fault(429, {"Retry-After": "9999"}),
        Fault(cut_after=0),
        Fault(hang=True),
        Fault(cut_after=1000, chunked=True),
        Fault(cut_after=50_000, ignore_range=True),
    ],
    ids=str,
)
def test_what_passes_is_tried_again(hub: FakeHub, fault: Fault) -> None:
    files = single()
    serve(hub, files)
    hub.faults[WEIGHTS] = [fault]

    assert contents(fetch(patience=patience_for(fault))) == files


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(500, times=-1), "hub_failed"),
        (Fault(429, times=-1), "hub_rate_limited"),
        (
            Fault(401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
            "hub_token",
        ),
        (Fault(403, {"X-Error-Code": "GatedRepo"}), "hub_gated"),
        (Fault(403), "hub_forbidden"),
        (Fault(404), "hub_not_found"),
        (Fault(cut_after=0, times=-1), "hub_offline"),
        (Fault(hang=True, times=-1), "hub_timeout"),
        (Fault(drip=True, times=-1), "hub_timeout"),
        (Fault(headers={"Content-Encoding": "gzip"}, times=-1), "hub_answer"),
    ],
    ids=str,
)
def test_what_does_not_pass_ends_it_with_its_own_words(
    hub: FakeHub, fault: Fault, code: str
) -> None:
    serve(hub, single())
    hub.faults[WEIGHTS] = [fault]

    error = failed(patience_for(fault))

    assert error.code == code
    assert error.hint
    assert cache_of(NAME).state == "partial"


def test_a_small_file_that_fails_ends_it_before_the_weights(hub: FakeHub) -> None:
    serve(hub, single())
    hub.faults["config.json"] = [Fault(500, times=-1)]

    assert failed().code == "hub_failed"
    assert hub.asked(WEIGHTS) == []


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
def test_content_of_another_digest_is_not_kept(hub: FakeHub, name: str) -> None:
    files = single()
    serve(hub, files)
    right = files[name]
    hub.faults[name] = [Fault(body=bytes([right[0] ^ 1]) + right[1:], times=-1)]

    error = failed()

    assert error.code == "hub_checksum"
    assert name in error.message
    assert parts(cache()) == []
    assert not (cache() / f"models--maker--tiny/snapshots/{'1' * 40}/{name}").exists()

    hub.faults.clear()
    assert contents(fetch()) == files


def test_one_flipped_bit_anywhere_is_found(hub: FakeHub) -> None:
    files = single(2_000)
    serve(hub, files)
    right = files[WEIGHTS]
    chance = random.Random(7)
    for _ in range(25):
        damaged = bytearray(right)
        damaged[chance.randrange(len(right))] ^= 1 << chance.randrange(8)
        hub.faults[WEIGHTS] = [Fault(body=bytes(damaged))]

        assert failed().code == "hub_checksum"

    assert contents(fetch()) == files


def test_content_with_more_bytes_than_promised_is_not_kept(hub: FakeHub) -> None:
    files = single()
    serve(hub, files)
    hub.faults[WEIGHTS] = [Fault(body=files[WEIGHTS] + b"more", times=-1)]

    assert failed().code == "hub_answer"
    assert all(part.stat().st_size == 0 for part in parts(cache()))


def test_a_part_left_by_an_earlier_download_is_gone_on_from(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_download, "_REPORT_SECONDS", 0)
    files = single(6_000_000)
    serve(hub, files)
    part_of(hub, files[WEIGHTS][:4_123_456])
    told: list[Progress] = []

    folder = fetch(told)

    assert contents(folder) == files
    assert hub.asked(WEIGHTS)[0].headers["range"] == "bytes=4123456-"
    done = [progress.done_bytes for progress in told]
    assert done[0] >= 4_123_456
    assert done == sorted(done)


def test_a_whole_part_needs_no_request(hub: FakeHub) -> None:
    files = single()
    serve(hub, files)
    part_of(hub, files[WEIGHTS])

    assert contents(fetch()) == files
    assert hub.asked(WEIGHTS) == []


@pytest.mark.parametrize("size", [1, 100_000, 300_000, 400_000])
def test_a_part_of_something_else_is_found_out_and_replaced(hub: FakeHub, size: int) -> None:
    files = single()
    serve(hub, files)
    part_of(hub, b"x" * size)

    assert contents(fetch()) == files


@pytest.mark.parametrize(
    ("fault", "requests"),
    [(Fault(ignore_range=True), 1), (Fault(wrong_range=True), 2), (Fault(416), 2)],
)
def test_a_server_that_cannot_go_on_begins_again(hub: FakeHub, fault: Fault, requests: int) -> None:
    files = single()
    serve(hub, files)
    part_of(hub, files[WEIGHTS][:1000])
    hub.faults[WEIGHTS] = [fault]

    assert contents(fetch()) == files
    assert len([seen for seen in hub.seen if seen.at_store]) == requests


def test_the_content_is_on_the_disk_before_it_gets_its_name(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(hub, single())
    synced: list[Path] = []
    fsync = os.fsync

    def watched(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    fetch()

    blobs = cache() / "models--maker--tiny" / "blobs"
    content = synced.index(blobs / f"{hub.repos[NAME].etag(WEIGHTS)}.incomplete")
    assert blobs in synced[content + 1 :]


def test_a_stop_while_the_server_is_silent_takes_no_longer_than_its_patience(
    hub: FakeHub,
) -> None:
    serve(hub, single())
    hub.faults[WEIGHTS] = [Fault(hang=True, times=-1)]
    agreed = plan()
    begin = time.monotonic()

    def stopped() -> bool:
        return time.monotonic() - begin > 0.1

    with pytest.raises(LlamaForgeError) as caught:
        download(agreed, lambda _: None, stopped, patience=HASTE)

    assert caught.value.code == "stopped"
    assert time.monotonic() - begin < 0.1 + HASTE.silence_seconds + 5


def test_the_token_is_not_logged(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    serve(hub, single()).gated = True
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    with caplog.at_level(logging.DEBUG):
        fetch()

    assert "resolve" in caplog.text
    assert TOKEN not in caplog.text


def test_a_token_that_the_server_repeats_is_not_told(hub: FakeHub) -> None:
    serve(hub, single())
    hub.faults[WEIGHTS] = [Fault(403, {"X-Error-Message": f"no rights for Bearer {TOKEN}"})]

    error = failed()

    assert "no rights" in error.message
    assert TOKEN not in error.message + error.hint


def test_a_message_of_the_server_cannot_move_the_cursor(hub: FakeHub) -> None:
    serve(hub, single())
    hub.faults[WEIGHTS] = [Fault(403, {"X-Error-Message": "\x9b2J\x1b[31mgone"})]

    error = failed()

    assert "\x1b" not in error.message
    assert "\x9b" not in error.message
