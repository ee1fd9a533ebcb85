"""What the machine is doing now, measured; reading it takes no longer than a few milliseconds."""

import time
from dataclasses import dataclass
from typing import Final

import psutil

from llamaforge.hardware import Gpu, available_memory_bytes, gpus, total_memory_bytes
from llamaforge.runs.directory import RunDirectory

_GPU_SECONDS: Final = 2.0
"""How often the driver is asked."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """One look at the machine; memory in bytes, parts from 0 to 1. None is what nobody tells."""

    cpu: float | None = None
    """Part of all processors that is busy, with whatever."""
    memory_used: int | None = None
    memory_total: int | None = None
    run_memory: int | None = None
    """Resident memory of the run's process; None where there is none on this machine."""
    run_cores: float | None = None
    """How many processors the run's process keeps busy."""
    gpus: tuple[Gpu, ...] = ()


class GaugeReader:
    """Looks again and again; the first look knows no processor, which is counted between two."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._process: psutil.Process | None = None
        self._is_first = True
        self._gpus: tuple[Gpu, ...] | None = None
        self._gpus_read = 0.0

    def read(self) -> Gauges:
        """Return what the machine does now."""
        busy = psutil.cpu_percent(interval=None) / 100
        is_first, self._is_first = self._is_first, False
        total = total_memory_bytes()
        memory, cores = self._of_run()
        return Gauges(
            cpu=None if is_first else busy,
            memory_used=max(total - available_memory_bytes(), 0),
            memory_total=total,
            run_memory=memory,
            run_cores=cores,
            gpus=self._of_gpus(),
        )

    def _of_run(self) -> tuple[int | None, float | None]:
        process = self._run.process()
        if process is None:
            self._process = None
            return None, None
        try:
            if self._process is None or self._process.pid != process.pid:
                self._process = process
                process.cpu_percent(interval=None)
                return int(process.memory_info().rss), None
            return (
                int(self._process.memory_info().rss),
                self._process.cpu_percent(interval=None) / 100,
            )
        except psutil.Error:  # it ended meanwhile
            self._process = None
            return None, None

    def _of_gpus(self) -> tuple[Gpu, ...]:
        if self._gpus == ():  # none is plugged in while a run goes on
            return ()
        now = time.monotonic()
        if self._gpus is None or now - self._gpus_read >= _GPU_SECONDS:
            self._gpus, self._gpus_read = tuple(gpus()), now
        return self._gpus
