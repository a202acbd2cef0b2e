"""The static run of a layer in several magnetic orders: a job for each, known when the flow is built.

Orders are made of the moments that the relaxation left (``analysis.orderings``). A layer without moments, or with fewer
orders than were asked for, has nothing to do in the jobs that are left over.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atomate2.vasp.jobs.base import BaseVaspMaker
from emmet.core.tasks import TaskDoc
from jobflow import job
from jobflow.core.flow import Flow
from jobflow.core.maker import Maker
from pydantic import BaseModel, Field
from pymatgen.core.structure import Structure

from scdm_flows.analysis.magnetism import lowest, orders_of
from scdm_flows.config import VaspEngineConfig, executed
from scdm_flows.documents.static import StaticSummary
from scdm_flows.engines import engine_of
from scdm_flows.engines.vasp.disk import local_folder, tidy
from scdm_flows.engines.vasp.makers import SlabMaker, run_slab
from scdm_flows.errors import EngineError, ProgramKilled, Unfinished


class OrderRun(BaseModel):
    """What became of one order; nothing where the layer has no such order."""

    summary: StaticSummary | None = Field(None, description="of the run, in the cell of the order")
    failed: str | None = Field(None, description="why it has none")


def without_density(generator: Any) -> Any:
    """The same input without charge density and potential, which nothing reads of another cell than the layer's."""
    found = copy(generator)
    found.user_incar_settings = {**generator.user_incar_settings, "LCHARG": False, "LVHAR": False}
    return found


@dataclass
class SlabOrderMaker(SlabMaker):
    """A static run of a layer in its ``number``-th order, from 0, of at most ``most``."""

    name: str = "order"
    engine: VaspEngineConfig = field(default_factory=VaspEngineConfig)
    number: int = 0
    most: int = 1

    @job(output_schema=OrderRun)
    def make(self, structure: Structure, prev_dir: str | Path | None = None) -> OrderRun:
        """Run VASP; an order that cannot be computed says why and ends nothing else. prev_dir: not used."""
        orders = orders_of(structure, self.most)
        if self.number >= len(orders):
            return OrderRun()
        start, original = orders[self.number], BaseVaspMaker.make
        maker = copy(self)
        if len(start) != len(structure):
            maker.input_set_generator = without_density(self.input_set_generator)
        try:
            response = run_slab(maker, start, lambda made, of: original.original(made, of, None))  # type: ignore[attr-defined]
        except (ProgramKilled, Unfinished):
            raise  # to be tried again
        except EngineError as error:
            return OrderRun(failed=str(error))
        engine: Any = engine_of(self.engine)
        return OrderRun(summary=engine.static_summary(response.output))


@dataclass
class SlabOrdersMaker(Maker):
    """A static run in the order that the relaxation ended in, those of other orders, and what is lowest."""

    static_maker: Maker
    order_makers: list[Maker] = field(default_factory=list)
    engine: VaspEngineConfig = field(default_factory=VaspEngineConfig)
    name: str = "static"

    def make(self, structure: Structure, prev_dir: str | Path | None = None) -> Flow:
        """A flow whose output is a ``StaticSummary``. prev_dir: not used."""
        makers: list[Any] = [self.static_maker, *self.order_makers]
        own, *others = [maker.make(structure) for maker in makers]
        own.name = "static fm"
        last = lowest_order(self.engine, own.output, [run.output for run in others])
        return Flow([own, *others, last], output=last.output, name=self.name)


@job(output_schema=StaticSummary)
def lowest_order(engine: VaspEngineConfig, static: TaskDoc, orders: list[OrderRun]) -> StaticSummary:
    """The lowest of a layer's magnetic orders, with its distance to the others, whose large files go."""
    made: Any = engine_of(engine)
    own = made.static_summary(static)
    others = [run.summary for run in orders if run.summary is not None]
    failed = [f"order {number}: {run.failed}" for number, run in enumerate(orders, 1) if run.failed]
    found = lowest(own, others, failed)
    for run in (own, *others):
        if run.folder is not None and run.folder != found.folder:
            tidy(local_folder(run.folder), executed(engine).keep_files)
    return found
