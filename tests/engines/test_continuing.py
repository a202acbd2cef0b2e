"""Where a relaxation begins after attempts that were killed, stopped or got nowhere."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Poscar

from scdm_flows.config import VaspEngineConfig
from scdm_flows.engines.attempts import Attempts
from scdm_flows.engines.vasp.continuing import FAIR_SECONDS, MOST, STALLED, beginning, ionic_steps
from scdm_flows.engines.vasp.disk import needed, take_wave_functions, tidy
from scdm_flows.engines.vasp.inputs import incar_tags
from scdm_flows.errors import EngineError

NSW = 10


def layer(a: float = 2.6, c: float = 20.0) -> Structure:
    """Nitrogen first, which pymatgen's sorting puts last."""
    made = Structure(Lattice.hexagonal(a, c), ["N", "B"], [[2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.5]])
    made.add_site_property("magmom", [0.5, 1.5])
    return made


def attempt(folder: Path, steps: int, left: str | None = None, began: Structure | None = None) -> Path:
    """A folder as VASP leaves it. left: content of CONTCAR."""
    folder.mkdir()
    (folder / "INCAR").write_text("NSW = 10\n")
    (folder / "POSCAR").write_text(Poscar((began or layer()).get_sorted_structure()).get_str(significant_figures=12))
    line = "  {} F= -.175E+02 E0= -.175E+02  d E =-.175E+02\n"
    (folder / "OSZICAR").write_text("DAV:   1    -0.175E+02\n" + "".join(line.format(k + 1) for k in range(steps)))
    if left is not None:
        (folder / "CONTCAR").write_text(left)
    return folder


def contcar(a: float, c: float = 20.0) -> str:
    return Poscar(layer(a, c).get_sorted_structure()).get_str(significant_figures=12)


def test_without_attempts_it_begins_as_given(tmp_path: Path) -> None:
    assert beginning(layer(), Attempts(), NSW).structure == layer()
    empty = tmp_path / "empty"
    empty.mkdir()  # a worker that was lost before VASP had its input
    assert beginning(layer(), Attempts((empty,), 1), NSW).folder is None


def test_it_goes_on_from_the_last_whole_geometry_with_its_own_moments(tmp_path: Path) -> None:
    first = attempt(tmp_path / "1", 2, contcar(2.55))
    second = attempt(tmp_path / "2", 3, contcar(2.52))
    third = attempt(tmp_path / "3", 0, "")  # killed in its first step: VASP has begun an empty CONTCAR
    found = beginning(layer(), Attempts((first, second, third), 3), NSW)
    assert (found.folder, found.steps) == (second, 3)
    assert found.structure.lattice.a == pytest.approx(2.52)
    assert found.structure.lattice.matrix[2].tolist() == layer().lattice.matrix[2].tolist()  # c to the last digit
    # in the order of the POSCAR, each atom with its own moment
    assert [(str(s.specie), s.properties["magmom"]) for s in found.structure] == [("B", 1.5), ("N", 0.5)]


def test_half_a_geometry_is_passed_over(tmp_path: Path) -> None:
    whole = contcar(2.52)
    for number, broken in enumerate([whole[: len(whole) // 2], "", "not a structure\n" * 9, contcar(2.52, c=21.0)]):
        began = layer(2.58)
        folder = attempt(tmp_path / str(number), 2, broken, began)
        found = beginning(layer(), Attempts((folder,), 1), NSW)
        assert found.structure.lattice.a == pytest.approx(2.58)  # where that attempt began
    assert np.allclose(found.structure.lattice.matrix[2], layer().lattice.matrix[2])


def test_another_crystal_is_nobodys_beginning(tmp_path: Path) -> None:
    other = layer().replace_species({"N": "P"})
    folder = attempt(tmp_path / "1", 4, Poscar(other).get_str(), other)
    assert beginning(layer(), Attempts((folder,), 1), NSW).folder is None


def test_attempts_that_get_nowhere_are_an_end_until_the_user_says_otherwise(tmp_path: Path) -> None:
    useful = attempt(tmp_path / "0", 2, contcar(2.55))
    stuck = [attempt(tmp_path / str(k + 1), 0, "") for k in range(STALLED)]
    assert beginning(layer(), Attempts((useful, *stuck), 4), NSW).folder == useful  # they had no time for a step
    for folder in stuck:
        os.utime(folder / "INCAR", (time.time() - 2 * FAIR_SECONDS,) * 2)
    folders = (useful, *stuck)
    assert beginning(layer(), Attempts(folders[:-1], STALLED), NSW).folder == useful
    with pytest.raises(EngineError, match="finished no ionic step.*more time"):
        beginning(layer(), Attempts(folders, len(folders)), NSW)
    assert beginning(layer(), Attempts(folders, counted=0), NSW).folder == useful  # tried again all the same
    # and what moves without end is an end as well
    endless = [attempt(tmp_path / f"e{k}", NSW, contcar(2.5)) for k in range(MOST)]
    with pytest.raises(EngineError, match=f"did not converge in {MOST * NSW} ionic steps of {MOST} attempts"):
        beginning(layer(), Attempts(tuple(endless), MOST), NSW)


def test_wave_functions_of_a_run_that_ended_by_itself_are_taken(tmp_path: Path) -> None:
    source, target = attempt(tmp_path / "1", 2, contcar(2.5)), tmp_path / "2"
    target.mkdir()
    (source / "WAVECAR").write_bytes(b"wave functions")
    assert not take_wave_functions(source, target)  # no OUTCAR
    (source / "OUTCAR").write_text("LOOP+:  cpu time\n" * 2000)
    assert not take_wave_functions(source, target)  # cut off: they may be half written
    assert not (target / "WAVECAR").exists()
    with (source / "OUTCAR").open("a") as file:
        file.write(" General timing and accounting informations for this job:\n")
    assert take_wave_functions(source, target)
    assert (target / "WAVECAR").read_bytes() == b"wave functions"
    assert ionic_steps(source) == 2
    assert ionic_steps(target) == 0
    (target / "WAVECAR").unlink()
    for name in ("WAVECAR", "OUTCAR"):  # atomate2 packs the files of a run that was stopped
        (source / f"{name}.gz").write_bytes(gzip.compress((source / name).read_bytes()))
        (source / name).unlink()
    assert take_wave_functions(source, target)
    assert (target / "WAVECAR").read_bytes() == b"wave functions"


def test_large_files_stay_as_long_as_a_later_run_reads_them(tmp_path: Path) -> None:
    def left(incar: dict[str, Any], stay: tuple[str, ...] = ()) -> set[str]:
        for name in ("WAVECAR", "CHGCAR.gz", "CHG", "CONTCAR", "OUTCAR.gz"):
            (tmp_path / name).touch()
        tidy(tmp_path, {*needed(incar), *stay})
        return {path.name for path in tmp_path.iterdir()} - {"CONTCAR", "OUTCAR.gz"}

    tags = incar_tags(VaspEngineConfig())
    assert left(tags["relax_1"]) == left(tags["phonon"]) == left(tags["line"]) == set()
    assert left(tags["static"]) == {"CHGCAR.gz"}  # the bands begin with it
    assert left(tags["relax_2"], ("WAVECAR",)) == {"WAVECAR"}
    assert {path.name for path in tmp_path.iterdir()} >= {"CONTCAR", "OUTCAR.gz"}
    tidy(tmp_path / "elsewhere")
