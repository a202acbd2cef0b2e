"""Candidates as files that other programs read, and as tables. Owns formats; knows no database.

Coordinates have ``DECIMALS`` decimals, so the symmetry of a structure is the same after it has been read back, and the
sites of an element follow each other, as programs that read POSCAR files want them.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from scdm_flows.errors import OutputError

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms
    from pymatgen.core import Structure

    from scdm_flows.documents import CandidateDoc

SUFFIX = {"cif": ".cif", "poscar": ".vasp", "json": ".json"}  # one candidate a file
COLLECTIONS = {
    ".zip": "the candidates' files, and candidates.csv",
    ".extxyz": "extended XYZ (ASE, OVITO), the values in the comment line",
    ".db": "ASE's database (ase.db.connect)",
}
# what goes with a structure into extended XYZ and ASE's database
VALUES = (
    "candidate_id",
    "campaign",
    "rank",
    "layer_group",
    "e_above_hull",
    "e_above_hull_error",
    "e_above_hull_lower_bound",
    "extrapolated",
    "energy_scheme",
    "surrogate",
    "energy_model",
    "dynamically_stable",
    "band_gap",
    "novel",
    "known_as",
    "duplicate_of",
    "bulk_compound",
)
DECIMALS = 12  # of coordinates, in angstrom or fractions of the cell
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for a formula, at the beginning of a text


def structure_of(document: CandidateDoc) -> Structure:
    """The relaxed structure where there is one, else the sample.

    Raises
    ------
    OutputError
        If the candidate has none: its entry could not be read.
    """
    from pymatgen.core import Structure

    data = document.relaxed_structure or document.structure
    if not data:
        raise OutputError(f"candidate {document.candidate_id} has no structure: {document.reason}")
    return Structure.from_dict(data)


def as_text(document: CandidateDoc, fmt: str) -> str:
    """The candidate's structure as ``cif`` or ``poscar``, or its whole document as ``json``."""
    if fmt == "json":
        return document.model_dump_json(indent=1) + "\n"
    structure = structure_of(document)
    if fmt == "poscar":
        from pymatgen.io.vasp import Poscar

        structure = _by_element(structure)
        sign = ">=" if document.e_above_hull_lower_bound else "="
        e_hull = "" if document.e_above_hull is None else f" E_hull{sign}{document.e_above_hull:.3f} eV/atom"
        return str(Poscar(structure, comment=f"{document.formula} {document.candidate_id}{e_hull}"))
    return as_cif(structure)


def as_cif(structure: Structure) -> str:
    """The structure as CIF, in P1."""
    from pymatgen.io.cif import CifWriter

    return str(CifWriter(_by_element(structure), significant_figures=DECIMALS))


def _by_element(structure: Structure) -> Structure:
    """The structure with the sites of each element together, elements and their sites in the order they had."""
    symbols = list(dict.fromkeys(site.specie.symbol for site in structure))
    return structure.get_sorted_structure(key=lambda site: symbols.index(site.specie.symbol))


def as_atoms(document: CandidateDoc) -> Atoms:
    """The structure for ASE, periodic in the plane only; ``info`` holds what is known of ``VALUES``."""
    from pymatgen.io.ase import AseAtomsAdaptor

    atoms = AseAtomsAdaptor.get_atoms(_by_element(structure_of(document)), msonable=False)
    atoms.pbc = (True, True, False)
    atoms.info = {name: value for name, value in _values(document).items() if value is not None}
    return atoms


def _values(document: CandidateDoc) -> dict[str, Any]:
    """``VALUES``, with what it is known as in words."""
    from scdm_flows.query.candidate_db import known_words

    return {name: getattr(document, name) for name in VALUES} | {"known_as": known_words(document.known_as)}


def as_frame(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Flat records (``CandidateDB.flat_records``) as a pandas table, indexed by ``candidate_id``."""
    import pandas as pd

    return pd.DataFrame.from_records(list(records), index="candidate_id" if records else None)


def write_csv(handle: IO[str], records: Iterable[Mapping[str, Any]], fields: Sequence[str]) -> None:
    """Write flat records as CSV with a header; what is not known is empty."""
    writer = csv.DictWriter(handle, fields, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({name: cell(record.get(name)) for name in fields})


def cell(value: Any) -> Any:
    """The value as a cell of a table: a text that a spreadsheet would compute is quoted."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def write_collection(path: Path, documents: Iterable[CandidateDoc], fmt: str = "cif") -> None:
    """Write many candidates to one file, in the format its name ends in (``COLLECTIONS``).

    fmt: of the files in a zip. The file must not exist: what is there is not touched.
    """
    suffix = path.suffix.lower()
    if suffix == ".zip":
        _zip(path, documents, fmt)
    elif suffix == ".extxyz":
        with path.open("x", encoding="utf-8") as handle:
            for document in documents:
                handle.write(_extxyz(as_atoms(document)))
    elif suffix == ".db":
        import ase.db

        with ase.db.connect(str(path), append=False) as rows:
            for document in documents:
                atoms = as_atoms(document)
                rows.write(atoms, key_value_pairs=atoms.info)
    else:
        raise OutputError(f"{path} has no known format; its name must end in {', '.join(COLLECTIONS)}")


def _extxyz(atoms: Atoms) -> str:
    """The frame of extended XYZ; ASE's own writer gives coordinates 8 decimals and no more."""
    from ase.io.extxyz import output_column_format

    columns: dict[str, Any] = {"symbols": np.array(atoms.get_chemical_symbols()), "positions": atoms.positions}
    comment, *_ = output_column_format(atoms, list(columns), columns)
    sites = [
        f"{symbol:<2} " + " ".join(f"{x:{DECIMALS + 8}.{DECIMALS}f}" for x in place)
        for symbol, place in zip(*columns.values(), strict=True)
    ]
    return "\n".join([str(len(atoms)), comment, *sites]) + "\n"


def _zip(path: Path, documents: Iterable[CandidateDoc], fmt: str) -> None:
    rows: list[dict[str, Any]] = []
    with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED) as archive:
        for document in documents:
            archive.writestr(f"{document.candidate_id}{SUFFIX[fmt]}", as_text(document, fmt))
            rows.append({"formula": document.formula, **_values(document)})
        buffer = io.StringIO()
        write_csv(buffer, rows, ["candidate_id", "formula", *VALUES[1:]])
        archive.writestr("candidates.csv", buffer.getvalue())
