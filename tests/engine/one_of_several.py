"""One of several processes that train together, for test_processes.py:

    python one_of_several.py FOLDER RANK COUNT JOB...

Each job is a JSON object {"name", "config", "float64", "small_blocks"}: five steps of a run with
this config (YAML), of which the first process stores the parameters and the losses as
FOLDER/NAME-COUNT.pt.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf

from tcl_train.building.parts import build_data
from tcl_train.building.run import build_run
from tcl_train.data.dataset import DataSet
from tcl_train.engine.fit import Trainer
from tcl_train.losses import blockwise
from tcl_train.losses.blockwise import Tile
from tcl_train.runtime.processes import Processes

STEPS = 5
WHOLE = blockwise.TILES["cpu"]


def train(
    config: DictConfig, data: DataSet, processes: Processes, *, float64: bool
) -> tuple[Trainer, list[float]]:
    trainer = build_run(config, data=data, processes=processes).trainer
    trainer.method.train()
    if float64:
        trainer.method.double()
        for part in trainer.method.modules():
            if isinstance(part, type(trainer.method.encoder)):  # a teacher's, too
                part.register_forward_pre_hook(lambda _, given: (given[0].double(),))
    batches = trainer.loader.epoch(0)
    losses = [trainer.train_step(next(batches)).loss.item() for _ in range(STEPS)]
    return trainer, losses


def main(folder: Path, rank: int, count: int, jobs: list[str]) -> None:
    torch.set_num_threads(1)
    if count > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder / f'met-{count}'}", rank=rank, world_size=count
        )
    data: DataSet | None = None
    for job in map(json.loads, jobs):
        processes = Processes(rank, count, rank, count)
        blockwise.TILES["cpu"] = Tile(10, 12, 8) if job["small_blocks"] else WHOLE
        config = OmegaConf.create(job["config"])
        assert isinstance(config, DictConfig)
        data = data or build_data(config, supervised=True)
        trainer, losses = train(config, data, processes, float64=job["float64"])
        if rank == 0:
            state = {"losses": losses, **trainer.method.state_dict()}
            torch.save(state, folder / f"{job['name']}-{count}.pt")
    if count > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", module="hydra|omegaconf|torch")
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
