"""A stand-in for the VASP executable, for tests only: ``VASP_CMD="python tests/support/standin/vasp.py"``.

Energies, forces and stresses are those of CHGNet, bands and vacuum levels those of models with a known gap and step, and
the version that is stored with every result says stand-in. ``STANDIN_VASP_RELEASE`` (6.5.0) is the VASP that is stood in for: one before
6.4 does not know LATTICE_CONSTRAINTS. ``failures.py`` tells how it fails on command, ``server.py`` how it starts in a
tenth of a second.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> int:
    """One run in the present folder; the exit status."""
    from support.standin import failures, inputs, ions, journal, writers
    from support.standin.electrons import electrons

    folder = Path.cwd()
    release = tuple(int(part) for part in os.environ.get("STANDIN_VASP_RELEASE", "6.5.0").split("."))
    print(f" running    1 mpi-ranks\n vasp.{writers.version(release)}", flush=True)
    try:
        run = inputs.read(folder, release)
    except inputs.RefusedError as refused:
        print(f" {refused}\n\n   ---->  I REFUSE TO CONTINUE WITH THIS SICK JOB ... BYE!!! <----", flush=True)
        return 1
    if max(run.structure.lattice.abc) > 50 and run["AMIN"] > 0.01:
        print(" One of the lattice vectors is very long (>50 A), but AMIN is rather large", flush=True)
    failure = failures.claim(run.kind, run.structure.composition.reduced_formula)
    slow = failures.Slow(folder, run.kind) if failure in ("walltime", "slow") else None
    record = writers.Record(folder, run)
    for step in ions.relax(run, forever=failure in ("walltime", "unconverged_ionic")):
        journal.note("begun", folder, step.structure)
        record.electronic_steps(step, failure != "unconverged_scf", slow.pause if slow else 0.0)
        stopped = slow.stopped() if slow else failures.stop_requested(folder, run.kind)
        exhausted = record.steps + 1 >= run["NSW"] and not slow
        last = stopped or step.converged or exhausted
        bands = electrons(run, step.structure, step.moments.sum()) if last else None
        record.ionic_step(step, bands)
        journal.note("computed", folder, step.structure)
        failures.after_first_step(failure, folder / "vasprun.xml")
        if bands is not None:
            record.close(step, bands, stopped)
            break
    if failure == "truncated":
        failures.cut(folder / "vasprun.xml")
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # as a script it is a module of the package support.standin
    if server := os.environ.get("STANDIN_VASP_SERVER"):
        from support.standin.server import ask

        sys.exit(ask(server))
    sys.exit(main())
