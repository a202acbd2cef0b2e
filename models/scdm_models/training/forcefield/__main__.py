"""Makes the layer force field: labels of a teacher, training, weights. Each step goes on where it was interrupted.

    python -m scdm_models.training.forcefield label --data DIR --teacher nequix.calculator:NequixCalculator \\
        --options '{"model_path": "nequix-oam-1-pft.nqx", "backend": "torch", "use_kernel": false}' \\
        --samples scdm.jsonl unscdm.jsonl -o labels.jsonl
    python -m scdm_models.training.forcefield train --data DIR \\\\
        --config models/configs/layer-force-field.yaml labels.jsonl \\
        -o layers.state
    python -m scdm_models.training.forcefield export layers.state --card card.yaml -o layers.safetensors

The teacher is any ASE calculator; its package is no dependency of this one.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
from pathlib import Path

from scdm_models.errors import ScdmError
from scdm_models.training.forcefield.finetune import FineTune, export, load_fine_tune, train
from scdm_models.training.forcefield.labels import label, plan
from scdm_models.training.train_config import mapping_of

logger = logging.getLogger("scdm_models.training.forcefield")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        prog="python -m scdm_models.training.forcefield", description=__doc__.split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("label", help="make structures and label them with a teacher")
    make.add_argument("--data", type=Path, required=True, help="folder of the compact JSON lines")
    make.add_argument("--samples", type=Path, nargs="*", default=[], help="JSON lines of `scdm generate`")
    make.add_argument("--teacher", required=True, help="import path of an ASE calculator, package.module:Class")
    make.add_argument("--options", type=json.loads, default={}, help="its arguments, JSON")
    make.add_argument("--processes", type=int, default=2)
    make.add_argument("-o", "--out", type=Path, required=True)
    teach = commands.add_parser("train", help="fine-tune CHGNet on the labels")
    teach.add_argument("labels", type=Path, nargs="+")
    teach.add_argument("--data", type=Path, required=True, help="folder of the bulk phases")
    teach.add_argument("--config", type=Path, help="YAML with fields of FineTune")
    teach.add_argument("--processes", type=int, default=2)
    teach.add_argument("-o", "--out", type=Path, required=True, help="state: goes on from it where it exists")
    write = commands.add_parser("export", help="averaged weights of a state as safetensors")
    write.add_argument("state", type=Path)
    write.add_argument("--card", type=Path, required=True)
    write.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    try:
        _run(given)
    except ScdmError as error:
        raise SystemExit(f"Error: {error}") from None


def _run(given: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if given.command == "label":
        tasks = plan(given.data, given.samples)

        def show(done: int, total: int) -> None:
            if done % 200 < 8:
                logger.info("%d of %d", done, total)

        label(tasks, given.teacher, given.options, given.out, given.processes, show)
    elif given.command == "train":
        how = load_fine_tune(given.config) if given.config else FineTune()
        if given.processes == 1:
            train(given.data, given.labels, given.out, how)
        else:
            from torch.multiprocessing.spawn import start_processes

            os.environ["MASTER_ADDR"] = "127.0.0.1"
            with socket.socket() as free:  # a fixed port may be that of another training
                free.bind(("127.0.0.1", 0))
                os.environ["MASTER_PORT"] = str(free.getsockname()[1])
            arguments = (given.processes, given.data, given.labels, given.out, how)
            start_processes(_train, args=arguments, nprocs=given.processes, start_method="spawn")
    else:
        export(given.state, given.out, mapping_of(given.card))


def _train(rank: int, world: int, data: Path, labels: list[Path], state: Path, how: FineTune) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(data, labels, state, how, rank, world)


if __name__ == "__main__":
    main()
