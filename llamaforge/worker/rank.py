"""One of the processes that train together: `python -m llamaforge.worker.rank RUN_DIR PHASE`.

torchrun starts it and says by variables which it is. Rank 0 writes checkpoints and tells what
happens; the worker that started all of them writes the run's own files.
"""

import os
import sys
import time
from pathlib import Path
from typing import Final

from llamaforge.errors import LlamaForgeError
from llamaforge.files import write_json
from llamaforge.hardware import physical_cores
from llamaforge.recipe.spec import RunSpec
from llamaforge.runs.directory import RunDirectory
from llamaforge.worker.job import Job, Stopped
from llamaforge.worker.loading import load_libraries
from llamaforge.worker.log import log_error
from llamaforge.worker.many import RankFiles
from llamaforge.worker.memory import memory_shortage
from llamaforge.worker.together import end_with_starter

_OURS: Final = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""torchrun's variables. transformers must not see them: it would divide the rows once more."""
_ACCELERATE: Final = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_")
"""Those of `accelerate launch`, and of its own configuration: the run spec says all that."""


class RankJob(Job):
    """A job that tells the worker what happens; the run's own files are not written here."""

    def __init__(self, run: RunDirectory, spec: RunSpec, rank: int) -> None:
        files = RankFiles.of(run)
        silent = files.folder / f"events-{rank}.jsonl"
        super().__init__(run, spec, events_file=silent if rank else files.events)

    def _write_status(self) -> None:
        """Leave the run's state to the worker."""


def forget_launcher() -> None:
    """Take from the environment what a launcher has put there."""
    for name in list(os.environ):
        if name in _OURS or name.startswith(_ACCELERATE):
            del os.environ[name]


def main(arguments: list[str]) -> int:
    """Train as the rank that torchrun's variables name, and return an exit code."""
    end_with_starter()
    load_libraries()
    import torch

    from llamaforge.training.ranks import Ranks
    from llamaforge.worker.train import train_adapter

    run = RunDirectory(Path(arguments[0]).absolute())
    phase = int(arguments[1])
    whole = RunSpec.load(run.spec_file)
    spec = whole.of_phase(phase)
    local, beside = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    is_cuda = spec.training.device == "cuda"
    if is_cuda:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = visible.split(",") if visible else [str(number) for number in range(beside)]
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[local]
    torch.set_num_threads(max(1, physical_cores() // beside))
    ranks = Ranks.join("nccl" if is_cuda else "gloo")
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    forget_launcher()
    files = RankFiles.of(run)
    job = RankJob(run, whole, ranks.rank)
    job.turn_to(phase, steps_before=0)  # the worker counts on from the phases before
    if restarts and ranks.is_first:
        job.warn(
            "ranks_restarted",
            f"A process that trained has ended. All of them were started again, from the last "
            f"checkpoint: restart {restarts} of at most {spec.launch.max_restarts}. The log says "
            f"why: {run.log_file}",
        )
    outcome: dict[str, int | bool] = {"stopped": True}
    try:
        outcome = {"step": train_adapter(job, ranks), "stopped": False}
    except Stopped:
        pass
    except LlamaForgeError as error:
        return _say(files, {"message": error.message, "hint": error.hint, "code": error.code})
    except Exception as error:
        log_error()
        shortage = memory_shortage(error)
        if shortage is None:
            os._exit(1)  # torchrun starts all of them again; others may wait for this one
        return _say(files, {"shortage": shortage})
    if ranks.is_first:
        write_json(files.outcome, outcome)
    ranks.leave()
    return 0


def _say(files: RankFiles, outcome: dict[str, str]) -> int:
    """Tell the worker what no new start mends, and wait for it to end all ranks."""
    if not files.outcome.exists():
        write_json(files.outcome, outcome)
    time.sleep(3600)
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
