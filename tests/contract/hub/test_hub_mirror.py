"""A mirror named in the environment is asked, and nothing else; a killed download goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.contract.hub.fake_hub import TOKEN, FakeHub, Fault
from tests.contract.hub.hub_desk import NAME, contents, serve, single

FETCH = f"""
from llamaforge.catalog.hub_download import download, plan_download
plan = plan_download({NAME!r})
print(download(plan, lambda progress: None, lambda: False))
"""


def environment(hub: FakeHub, home: Path) -> dict[str, str]:
    kept = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith("HF_") and not name.lower().endswith("_proxy")
    }
    return kept | {"HF_ENDPOINT": hub.url + "/", "HF_HOME": str(home), "HF_TOKEN": TOKEN}


def test_a_mirror_of_the_environment_is_used(hub: FakeHub, tmp_path: Path) -> None:
    files = single()
    serve(hub, files).gated = True

    done = subprocess.run(
        [sys.executable, "-c", FETCH],
        env=environment(hub, tmp_path / "home"),
        capture_output=True,
        text=True,
        check=True,
    )

    folder = Path(done.stdout.strip())
    assert folder.is_relative_to(tmp_path / "home" / "hub")
    assert contents(folder) == files
    assert TOKEN not in done.stdout + done.stderr


def test_a_download_that_is_killed_goes_on_from_what_came(hub: FakeHub, tmp_path: Path) -> None:
    files = single(1_000_000)
    serve(hub, files)
    # The first answer stalls in the middle: the process is killed while it waits.
    content = files["model.safetensors"]
    hub.faults["model.safetensors"] = [
        Fault(cut_after=600_000),
        Fault(hang=True),
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", FETCH], env=environment(hub, tmp_path / "home")
    )
    deadline = time.monotonic() + 30
    while len([seen for seen in hub.seen if seen.at_store]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.faults.clear()
    hub.seen.clear()

    done = subprocess.run(
        [sys.executable, "-c", FETCH],
        env=environment(hub, tmp_path / "home"),
        capture_output=True,
        text=True,
        check=True,
    )

    assert contents(Path(done.stdout.strip())) == files
    (asked,) = [seen for seen in hub.seen if seen.at_store]
    start = int(asked.headers["range"].removeprefix("bytes=").removesuffix("-"))
    assert 500_000 < start < len(content)
