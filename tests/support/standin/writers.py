"""Writes OUTCAR, vasprun.xml, OSZICAR, CONTCAR and what else a run leaves, step by step as VASP does.

A run that dies leaves what it had written. What no parser of this project's world reads is left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure
from pymatgen.io.vasp.inputs import Kpoints, Poscar
from support.standin.electrons import ORBITALS, Electrons
from support.standin.inputs import DEFAULTS, Inputs
from support.standin.ions import Step
from support.standin.potential import potential

Array = NDArray[np.float64]
LARGE_CELL = 12  # atoms above which projections are written for bands on a charge density only: they are megabytes
RULE = "\n\n\n" + "-" * 104 + "\n\n\n"
NAMES_OF_STYLES = {Kpoints.supported_modes.Gamma: "Gamma", Kpoints.supported_modes.Monkhorst: "Monkhorst-Pack"}


def version(release: Sequence[int]) -> str:
    """What stands where VASP names its version; its first three parts are those of the VASP stood in for."""
    return ".".join(map(str, release)) + ".stand-in (CHGNet 0.3.0)"


class Record:
    """The files of one run in a folder."""

    def __init__(self, folder: Path, inputs: Inputs) -> None:
        self.folder, self.inputs = folder, inputs
        self.begin = self.last = time.time()
        self.steps = 0
        self.scf: list[float] = []  # energies of the last ionic step's electronic steps
        self.first_energy = 0.0
        self.outcar, self.vasprun, self.oszicar = (
            (folder / name).open("w") for name in ("OUTCAR", "vasprun.xml", "OSZICAR")
        )
        self._head()

    def _head(self) -> None:
        inputs, structure = self.inputs, self.inputs.structure
        points, weights = inputs.points
        now = datetime.now(UTC)
        waves = int(structure.volume * (float(self.parameters["ENMAX"]) / 3.81) ** 1.5 / (6 * np.pi**2))
        self.outcar.write(
            f" vasp.{version(inputs.release)}: energies of a force field and bands of a model, not of VASP\n\n"
            f" executed on stand-in date {now:%Y.%m.%d  %H:%M:%S}\n running on    1 total cores\n\n INCAR:\n"
            + "".join(f"   {tag} = {value}\n" for tag, value in inputs.incar.items())
            + "".join(f" POTCAR:    {title}\n" for title in inputs.titles)
            + f"\n   k-points           NKPTS = {len(points):6d}   k-points in BZ     NKDIM = {len(points):6d}"
            f"   number of bands    NBANDS= {inputs.bands:6d}\n   total plane-waves  NPLWV = {8 * waves:6d}\n"
            f"   ISPIN  = {inputs['ISPIN']:6d}    spin polarized calculation?\n"
            f"   NELM   = {inputs['NELM']:6d}\n   EDIFFG = {inputs['EDIFFG']:.1E}   stopping-criterion for IOM\n"
            f"   NSW    = {inputs['NSW']:6d}    number of steps for IOM\n"
            f"   IBRION = {inputs['IBRION']:6d}    ionic relax: 0-MD 1-quasi-New 2-CG\n"
            f"   NELECT = {inputs.electrons:12.4f}    total number of electrons\n"
            + RULE
            + "".join(
                f" k-point{i:4d} : {x:8.4f}{y:7.4f}{z:7.4f}  plane waves: {waves:7d}\n"
                for i, (x, y, z) in enumerate(points, 1)
            )
            + f"\n maximum and minimum number of plane-waves per node : {waves} {waves}\n"
        )
        types = zip(inputs.counts, inputs.poscar.site_symbols, inputs.valences, inputs.titles, strict=True)
        self.vasprun.write(
            '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n <generator>\n'
            + _item("program", "vasp stand-in")
            + _item("version", version(inputs.release))
            + _item("subversion", "energies of a force field, bands of a model")
            + _item("date", f"{now:%Y %m %d}")
            + _item("time", f"{now:%H:%M:%S}")
            + " </generator>\n <incar>\n"
            + "".join(_item(tag, value) for tag, value in inputs.incar.items())
            + " </incar>\n <kpoints>\n"
            + self._generation()
            + _varray("kpointlist", points)
            + _varray("weights", weights[:, None])
            + " </kpoints>\n <parameters>\n"
            + "".join(_item(tag, value) for tag, value in self.parameters.items())
            + f" </parameters>\n <atominfo>\n  <atoms>{len(structure):8d} </atoms>\n"
            '  <array name="atoms" >\n   <set>\n'
            + "".join(
                f"    <rc><c>{symbol}</c><c>{kind:4d}</c></rc>\n"
                for kind, (symbol, n) in enumerate(zip(inputs.poscar.site_symbols, inputs.counts, strict=True), 1)
                for _ in range(n)
            )
            + '   </set>\n  </array>\n  <array name="atomtypes" >\n   <set>\n'
            + "".join(
                f"    <rc><c>{n:4d}</c><c>{s}</c><c>1.0</c><c>{v:.4f}</c><c>{t}</c></rc>\n" for n, s, v, t in types
            )
            + "   </set>\n  </array>\n </atominfo>\n"
            + _crystal(structure, "initialpos")
        )
        self._flush()

    @property
    def parameters(self) -> dict[str, Any]:
        """What VASP uses, defaults included."""
        inputs = self.inputs
        known = {tag: inputs[tag] for tag in (*DEFAULTS, "IBRION", "EDIFFG")}
        others = {tag: value for tag, value in inputs.incar.items() if tag not in known}
        energies = {"NELECT": inputs.electrons, "ENMAX": float(inputs.incar.get("ENCUT", 250.0))}
        return {**known, **others, "NBANDS": inputs.bands, **energies}

    def _generation(self) -> str:
        kpoints = self.inputs.kpoints
        if self.inputs.line:
            ends = "".join(f"   <v> {x:16.8f} {y:16.8f} {z:16.8f} </v>\n" for x, y, z in kpoints.kpts)
            number = f'   <i name="divisions" type="int">{kpoints.num_kpts:6d}</i>\n'
            return f'  <generation param="listgenerated">\n{number}{ends}  </generation>\n'
        if kpoints.style not in NAMES_OF_STYLES:
            return ""
        mesh, shift = " ".join(map(str, kpoints.kpts[0])), " ".join(map(str, kpoints.kpts_shift))
        return (
            f'  <generation param="{NAMES_OF_STYLES[kpoints.style]}">\n   <v type="int" name="divisions"> {mesh} </v>\n'
            f'   <v name="usershift"> {shift} </v>\n  </generation>\n'
        )

    def electronic_steps(self, step: Step, self_consistent: bool, seconds: float) -> None:
        """The electronic steps of an ionic step, which take so many seconds; each is in the files when it is done."""
        scf = self.scf = _scf(step.energy, self.inputs["EDIFF"], self.inputs["NELM"], self_consistent)
        number, pause = self.steps + 1, seconds / len(scf)
        magnetization = f" number of electron {self.inputs.electrons:15.7f} magnetization {step.moments.sum():15.7f}\n"
        self.oszicar.write(
            "       N       E                     dE             d eps       ncg     rms          rms(c)\n"
        )
        for i, e in enumerate(scf, 1):
            time.sleep(pause)
            change = e - (scf[i - 2] if i > 1 else 0)
            self.oszicar.write(f"DAV: {i:3d} {e:20.12E} {change:14.5E} {change:12.5E} {100:5d} {abs(change):10.3E}\n")
            self.outcar.write(
                f"\n{'-' * 39} Iteration {number:6d}({i:4d})  {'-' * 39}\n\n      LOOP:  cpu time {pause:9.4f}: "
                f"real time {pause:9.4f}\n{magnetization}  entropy T*S    EENTRO =         0.00000000\n" + _toten(e)
            )
            self._flush()
        done = "EDIFF is reached" if self_consistent else "EDIFF was not reached (unconverged)"
        self.outcar.write(f"\n------------------------ aborting loop because {done} {'-' * 40}\n\n")

    def ionic_step(self, step: Step, electrons: Electrons | None) -> None:
        """One ionic step whose electronic steps are done; ``electrons`` with the last one."""
        self.steps += 1
        now = time.time()
        energy = self.scf[-1]
        self.first_energy = energy if self.steps == 1 else self.first_energy
        seconds = now - self.last
        self.oszicar.write(
            f"{self.steps:4d} F= {energy:.8E} E0= {energy:.8E}  d E ={energy - self.first_energy:.6E}"
            + (f"  mag= {step.moments.sum():9.4f}\n" if self.inputs["ISPIN"] == 2 else "\n")
        )
        pressure = step.stress.trace() / 3
        kilobar = "".join(f"{step.stress[i, j]:12.5f}" for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (2, 0)))
        self.outcar.write(
            f"  in kB {kilobar}\n  external pressure = {pressure:11.2f} kB  Pullay stress =        0.00 kB\n\n"
            f" VOLUME and BASIS-vectors are now :\n  volume of cell : {step.structure.volume:11.2f}\n"
            "      direct lattice vectors\n" + _rows(step.structure.lattice.matrix, "%15.9f") + "\n"
            f" POSITION {' ' * 35} TOTAL-FORCE (eV/Angst)\n {'-' * 83}\n"
            + _rows(np.hstack([step.structure.cart_coords, step.forces]), "%14.5f")
            + f" {'-' * 83}\n    total drift: "
            + "".join(f"{x:20.6f}" for x in step.forces.sum(axis=0))
            + f"\n\n  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)\n{_toten(energy)}"
            f"     LOOP+:  cpu time {seconds:9.4f}: real time {seconds:9.4f}\n"
        )
        self.vasprun.write(" <calculation>\n")
        for e in self.scf:
            self.vasprun.write(f'  <scstep>\n   <time name="total"> 0.01 0.01</time>\n{_energy(e)}  </scstep>\n')
        self.vasprun.write(
            _crystal(step.structure) + _varray("forces", step.forces) + _varray("stress", step.stress) + _energy(energy)
        )
        if electrons is not None:
            self._electrons(electrons, step.structure)
        self.vasprun.write(" </calculation>\n")
        # the geometry to go on from: VASP has moved the atoms when it writes its files, as the cells in the XDATCAR of a
        # relaxation with ISIF = 3 show, which are one step ahead of the positions
        after = step.structure if self.inputs["NSW"] == 0 else step.following
        (self.folder / "CONTCAR").write_text(Poscar(after, comment="stand-in").get_str(significant_figures=16))
        self.last = now
        self._flush()

    def _electrons(self, electrons: Electrons, structure: Structure) -> None:
        inputs, file = self.inputs, self.vasprun
        pairs = np.stack([electrons.energies, electrons.occupations], axis=-1)
        bands = (
            "   <eigenvalues>\n    <array>\n     <field>eigene</field>\n     <field>occ</field>\n     <set>\n"
            + "".join(
                f'      <set comment="spin {s}">\n'
                + "".join(f'       <set comment="kpoint {k}">\n{_cells(rows)}       </set>\n' for k, rows in each)
                + "      </set>\n"
                for s, each in ((s, enumerate(spin, 1)) for s, spin in enumerate(pairs, 1))
            )
            + "     </set>\n    </array>\n   </eigenvalues>\n"
        )
        file.write(bands)
        grid, states, integrals = electrons.density(inputs["NEDOS"])
        file.write(
            f'  <dos>\n   <i name="efermi"> {electrons.fermi:16.8f} </i>\n   <total>\n    <array>\n'
            "     <field>energy</field>\n     <field>total</field>\n     <field>integrated</field>\n     <set>\n"
        )
        for s, (one, total) in enumerate(zip(states, integrals, strict=True), 1):
            rows = np.column_stack([grid, one, total])
            file.write(f'      <set comment="spin {s}">\n{_cells(rows)}      </set>\n')
        file.write("     </set>\n    </array>\n   </total>\n")
        projected = inputs["LORBIT"] >= 10 and (len(structure) <= LARGE_CELL or inputs["ICHARG"] >= 10)
        names = "".join(f"     <field> {name} </field>\n" for name in ORBITALS)
        if projected:
            file.write(f"   <partial>\n    <array>\n     <field> energy </field>\n{names}     <set>\n")
            conducting = (grid > electrons.fermi).astype(int)
            for i in range(len(structure)):
                file.write(f'      <set comment="ion {i + 1}">\n')
                for s, one in enumerate(states, 1):
                    rows = np.column_stack([grid, one[:, None] * electrons.shares[conducting, i]])
                    file.write(f'       <set comment="spin {s}">\n{_cells(rows)}       </set>\n')
                file.write("      </set>\n")
            file.write("     </set>\n    </array>\n   </partial>\n")
        file.write("  </dos>\n")
        if projected:
            file.write(f"  <projected>\n{bands}   <array>\n{names}    <set>\n")
            for s, spin in enumerate(electrons.energies, 1):
                file.write(f'     <set comment="spin{s}">\n')
                for k, energies in enumerate(spin, 1):
                    file.write(f'      <set comment="kpoint {k}">\n')
                    for b, energy in enumerate(energies, 1):
                        rows = electrons.shares[int(energy > electrons.fermi)]
                        file.write(f'       <set comment="band {b}">\n{_cells(rows)}       </set>\n')
                    file.write("      </set>\n")
                file.write("     </set>\n")
            file.write("    </set>\n   </array>\n  </projected>\n")
        self._eigenval(electrons, pairs)
        if inputs["LCHARG"] and inputs["ICHARG"] < 10:
            density = " ".join([f"{inputs.electrons:.11E}"] * 8)  # of a uniform charge, on 2 x 2 x 2 points
            text = Poscar(structure, comment="stand-in: uniform charge").get_str(significant_figures=8)
            (self.folder / "CHGCAR").write_text(f"{text}\n    2    2    2\n {density}\n")
        if inputs["LVHAR"]:
            self._locpot(structure)
        (self.folder / "WAVECAR").write_text("stand-in\n" if inputs["LWAVE"] else "")

    def _locpot(self, structure: Structure) -> None:
        """The potential of ``potential``, which is the same all over a plane, once for each spin."""
        spacing = 0.1  # angstrom along c, about that of PREC = Accurate
        points = round(structure.lattice.c / spacing)
        along_c = potential(structure, np.arange(points) / points, corrected=bool(self.inputs["LDIPOL"]))
        values = np.repeat(along_c, 4)  # on 2 x 2 points of each plane; x runs fastest
        rows = "".join(
            " ".join(f"{x:.11E}" for x in values[start : start + 5]) + "\n" for start in range(0, len(values), 5)
        )
        text = Poscar(structure, comment="stand-in: potential of a model").get_str(significant_figures=8)
        spins = f"\n    2    2  {points}\n{rows}" * self.inputs["ISPIN"]
        (self.folder / "LOCPOT").write_text(f"{text}{spins}")

    def _eigenval(self, electrons: Electrons, pairs: Array) -> None:
        spins, points, bands = electrons.energies.shape
        text = (
            f"    1    1    1    {spins}\n" + "  stand-in\n" * 4 + f"{round(self.inputs.electrons)} {points} {bands}\n"
        )
        for k, (point, weight) in enumerate(zip(electrons.kpoints, electrons.weights, strict=True)):
            text += "\n" + "".join(f" {x:15.7E}" for x in (*point, weight)) + "\n"
            rows = np.hstack([pairs[:, k, :, 0].T, pairs[:, k, :, 1].T])
            text += "".join(f"{b:5d}" + "".join(f"{x:14.6f}" for x in row) + "\n" for b, row in enumerate(rows, 1))
        (self.folder / "EIGENVAL").write_text(text)

    def close(self, step: Step, electrons: Electrons, stopped: bool) -> None:
        """The end of a run that was not cut off."""
        if stopped:
            self.outcar.write("\n soft stop encountered!  aborting job ...\n\n")
        if step.converged and self.inputs["NSW"]:
            self.outcar.write("\n reached required accuracy - stopping structural energy minimisation\n")
        self.outcar.write(f"\n E-fermi : {electrons.fermi:9.4f}     XC(G=0):   0.0000     alpha+bet :   0.0000\n\n")
        if self.inputs["LORBIT"] >= 10 or self.inputs["ISPIN"] == 2:
            charges = electrons.shares[0] * self.inputs.electrons
            self.outcar.write(_atoms("total charge", charges))
        if self.inputs["ISPIN"] == 2:
            moments = np.zeros_like(charges)
            for row, site, moment in zip(moments, step.structure, step.moments, strict=True):
                row[4 if site.specie.block == "d" else 1] = moment
            total = f" number of electron {self.inputs.electrons:15.7f} magnetization {electrons.moment:15.7f}\n"
            self.outcar.write(_atoms("magnetization (x)", moments) + total)
        seconds = time.time() - self.begin
        self.outcar.write(
            "\n General timing and accounting informations for this job:\n"
            " ========================================================\n\n"
            f"                  Total CPU time used (sec): {seconds:12.3f}\n"
            f"                            User time (sec): {seconds:12.3f}\n"
            "                          System time (sec):        0.000\n"
            f"                         Elapsed time (sec): {seconds:12.3f}\n\n"
            "                   Maximum memory used (kb):      500000.\n"
            "                   Average memory used (kb):          N/A\n"
        )
        self.vasprun.write(_crystal(step.structure, "finalpos") + "</modeling>\n")
        for file in (self.outcar, self.vasprun, self.oszicar):
            file.close()

    def _flush(self) -> None:
        for file in (self.outcar, self.vasprun, self.oszicar):
            file.flush()


def _scf(energy: float, ediff: float, nelm: int, converged: bool) -> list[float]:
    """Energies of the electronic steps: they settle, or swing by 0.1 eV until NELM."""
    if not converged:
        return [energy + 0.1 * (-1) ** (nelm - i) for i in range(1, nelm + 1)]
    number = max(3, min(nelm - 1, 2 - int(np.floor(np.log10(ediff)))))
    return [*(energy + 5 * 10.0**-i for i in range(number - 1)), energy]


def _toten(energy: float) -> str:
    return (
        f"  free  energy   TOTEN  = {energy:18.8f} eV\n\n"
        f"  energy  without entropy= {energy:18.8f}  energy(sigma->0) = {energy:18.8f}\n"
    )


def _energy(energy: float) -> str:
    names = ("e_fr_energy", "e_wo_entrp", "e_0_energy")
    return "   <energy>\n" + "".join(f'    <i name="{n}"> {energy:16.8f} </i>\n' for n in names) + "   </energy>\n"


def _item(name: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        if isinstance(value[0], list):
            value = [number for vector in value for number in vector]
        kind = ' type="logical"' if isinstance(value[0], bool) else ""
        return f'  <v{kind} name="{name}"> {" ".join(_plain(v) for v in value)} </v>\n'
    kind = {bool: ' type="logical"', int: ' type="int"', str: ' type="string"'}.get(type(value), "")
    return f'  <i{kind} name="{name}"> {_plain(value)} </i>\n'


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "T" if value else "F"
    return f"{value:.8f}" if isinstance(value, float) else str(value)


def _rows(array: Iterable[Iterable[float]], form: str, begin: str = "", end: str = "\n") -> str:
    return "".join(begin + "".join(form % x for x in row) + end for row in array)


def _varray(name: str, array: Array) -> str:
    return f'  <varray name="{name}" >\n' + _rows(array, " %16.8f", "   <v>", " </v>\n") + "  </varray>\n"


def _cells(array: Array) -> str:
    """Rows of numbers with four decimals, as VASP writes bands and densities of states."""
    line = "<r>" + " %9.4f" * array.shape[1] + " </r>\n"
    return (line * len(array)) % tuple(array.ravel().tolist())


def _crystal(structure: Structure, name: str = "") -> str:
    basis = _varray("basis", structure.lattice.matrix)
    title = f' name="{name}"' if name else ""
    return (
        f"  <structure{title} >\n   <crystal>\n{basis}  </crystal>\n"
        + _varray("positions", structure.frac_coords)
        + "  </structure>\n"
    )


def _atoms(title: str, orbitals: Array) -> str:
    """A table of s, p, d and their sum of each atom."""
    table = np.column_stack([orbitals[:, 0], orbitals[:, 1:4].sum(1), orbitals[:, 4:].sum(1), orbitals.sum(1)])
    rows = "".join(f"{i:5d}     " + "".join(f"{x:8.3f}" for x in row) + "\n" for i, row in enumerate(table, 1))
    total = "tot       " + "".join(f"{x:8.3f}" for x in table.sum(axis=0))
    return f"\n\n {title}\n\n# of ion       s       p       d       tot\n{'-' * 42}\n{rows}{'-' * 50}\n{total}\n\n"
