"""The files that a run leaves, and who may write them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tcl_train.errors import RequestError
from tcl_train.run.trust import check_targets
from tcl_train.runtime.files import copy_file, write_text

log = logging.getLogger(__name__)

NEEDED_KEYS = ("names", "overrides", "encoder", "dataset", "seed")


class RunDir:
    """A run's directory. `result.json` is there if and only if the run finished."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.config = self.path / "config.yaml"
        self.log = self.path / "train.log"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.last_checkpoint = self.checkpoints / "last.pt"
        self.tensorboard = self.path / "tensorboard"
        self.result = self.path / "result.json"
        self.predictions = self.path / "predictions.npz"
        self.evaluations = self.path / "evaluations"

    def __str__(self) -> str:
        return str(self.path)

    @property
    def finished(self) -> bool:
        return self.result.exists()

    @property
    def started(self) -> bool:
        return self.config.exists()

    @property
    def extended(self) -> bool:
        """Whether it had finished with fewer epochs before."""
        return any(self.path.glob("result-*-epochs.json"))

    def check_free(self) -> None:
        """Raises RequestError if another run has been here."""
        if self.finished:
            raise RequestError(
                f"hydra.run.dir={self}: already contains a finished run; choose another directory"
            )
        if self.started:
            raise RequestError(
                f"hydra.run.dir={self}: already contains an unfinished run; choose another "
                "directory, or resume the run",
                resumable=self.path,
            )

    def check_resumable(self, *, extends: bool = False) -> None:
        """Raises RequestError unless an unfinished run is here, or any that is to be extended."""
        if not self.started:
            raise RequestError(
                f"resume={self}: contains no run (no config.yaml); give a run directory"
            )
        if self.finished and not extends:
            raise RequestError(
                f"resume={self}: this run is finished; its result is {self.result} (to train it "
                "for more epochs, add resume_extend=true epochs=N)"
            )

    def claim(self, config: DictConfig) -> None:
        """Makes the directory and writes `config.yaml`, unless another run was faster."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.config, OmegaConf.to_yaml(config, resolve=True), new=True)
        except FileExistsError:
            self.check_free()
            raise RequestError(f"hydra.run.dir={self}: is a file; give a directory") from None
        except OSError as error:
            raise RequestError(
                f"hydra.run.dir={self}: cannot be written ({error.strerror}); choose another "
                "directory"
            ) from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """No other process trains this run inside the block, where the system has such locks.

        Raises:
            RequestError: another one does.
        """
        try:
            import fcntl
        except ImportError:
            yield
            return
        with self.config.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RequestError(
                    f"resume={self}: another process is training this run; wait until it ends, or "
                    "stop it"
                ) from None
            except OSError:  # a file system without locks
                log.debug("%s: cannot be locked", self.config)
            yield

    def extend(self, config: DictConfig) -> None:
        """Writes the config of a run that is trained for more epochs. What belongs to the fewer
        epochs, config, result and predictions, stays under other names: `result-30-epochs.json`."""
        before = OmegaConf.load(self.config)
        for path in (self.result, self.config, self.predictions):
            kept = path.with_name(f"{path.stem}-{before.epochs}-epochs{path.suffix}")
            if path.exists() and not kept.exists():
                copy_file(path, kept)
        write_text(self.config, OmegaConf.to_yaml(config, resolve=True))
        self.result.unlink(missing_ok=True)
        self.predictions.unlink(missing_ok=True)

    def read_config(self, trust: Sequence[str] | None = ()) -> DictConfig:
        """`config.yaml`.

        trust: packages besides this one whose functions it may call; None: nothing is called.

        Raises:
            RequestError: there is none, it cannot be read, or it calls something else.
        """
        try:
            config = OmegaConf.load(self.config)
            OmegaConf.resolve(config)  # claim() stored what is resolved
        except FileNotFoundError:
            raise RequestError(
                f"{self}: contains no run (no config.yaml); give a run directory"
            ) from None
        except Exception as error:
            raise RequestError(f"{self.config}: not readable as a config ({error})") from error
        if not isinstance(config, DictConfig) or any(key not in config for key in NEEDED_KEYS):
            raise RequestError(f"{self.config}: is not the config of a run; give a run directory")
        if trust is not None:
            check_targets(config, self.config, trust)
        return config

    def read_result(self) -> dict[str, Any]:
        return json.loads(self.result.read_text())
