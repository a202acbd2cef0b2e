"""The energy model: what force fields see of a relaxed layer -> its PBE formation energy, with an error. Pure.

The formation energy is that of the first force field, ``e_1``, plus a Gaussian process fitted on C2DB (``fit``):

    E_f(layer) = e_1 + m + sum_i alpha_i k(layer, layer_i)
    k = V_x x.x' + V_u u.u' + sum_f V_f M(z_f, z_f') + V_c M(c, c') M(z_1, z_1') + V_d d.d'

with x the element fractions, u those of the metals that the Materials Project treats with +U where oxygen or fluorine
is (the force fields learned such energies), z_f the force field's features averaged over the atoms, c descriptors of
the composition, d the differences of the force fields' formation energies from the first one's, and M Matern's kernel
of order 5/2. Energies are on the scale of C2DB (M. Gjerding et al., 2D Mater. 8, 044002 (2021),
doi:10.1088/2053-1583/ac1059); its hull is in ``thermo``.

The error is conformal by distance: among layers whose chemical system was left out of the fit, and that were as far
from the nearest layer of the fit, nine in ten had an error of E_hull below it. What is farther than all but one in a
hundred of these, or is made of a single element, is ``extrapolated``.

Further Gaussian processes on the same rows say how likely DFT's phonons would call the layer dynamically stable, and
whether PBE would call it metallic or magnetic, and its band gap (``properties``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.composition import descriptor, element_properties, plus_u_terms
from scdm_flows.thermo.properties import ErrorByDistance, PredictedProperties, PropertyModel

Array = NDArray[np.float64]
PACKAGED = "energy-model.npz"
GUIDE = "guide.npz"
COVERAGE = 0.9
EXTRAPOLATED_QUANTILE = 0.99


@dataclass(frozen=True)
class Seen:
    """What one force field says of a layer: energy (eV/atom, on its own scale) and mean features of the atoms (d,)."""

    energy_per_atom: float
    features: Array


@dataclass(frozen=True)
class PredictedEnergy:
    """A layer's energy on C2DB's PBE scale.

    formation_energy_per_atom: eV/atom; error: half-width that holds nine in ten errors of E_hull, eV/atom; distance: to
    the nearest layer of the fit, in standard deviations of the features; extrapolated: whether it lies outside what the
    model has learned from; model: its id; properties: what else is predicted of it.
    """

    formation_energy_per_atom: float
    error: float
    distance: float
    extrapolated: bool
    model: str
    properties: PredictedProperties


@dataclass(frozen=True)
class Variances:
    """V of the kernel's terms, eV^2; lengths are in standard deviations.

    noise: of a target at the geometry it belongs to, eV^2; noise_by_area: what comes to it, times the square of the
    relative change of the cell's area, eV^2.
    """

    fractions: float = 9.0
    plus_u: float = 3.0
    first: float = 0.1
    others: float = 0.05
    composition: float = 0.05
    differences: float = 1.0
    noise: float = 0.0007
    noise_by_area: float = 0.3
    length: float = 1.0


def matern(a: Array, b: Array, length: float) -> Array:
    """(n, m) Matern kernel of order 5/2 between the rows of (n, d) and (m, d)."""
    from scipy.spatial.distance import cdist

    r = np.sqrt(5) / length * cdist(a, b)
    found: Array = (1 + r + r * r / 3) * np.exp(-r)
    return found


@dataclass(frozen=True)
class Inputs:
    """Rows of the kernel: x (n, n_elements), u (n, 16), c (n, 29) scaled, z: one (n, d_f) scaled for each force field,
    formation: (n_force_fields, n) formation energies by the force fields, eV/atom."""

    x: Array
    u: Array
    c: Array
    z: tuple[Array, ...]
    formation: Array

    def take(self, rows: NDArray[Any]) -> Inputs:
        """Some of the rows."""
        return Inputs(self.x[rows], self.u[rows], self.c[rows], tuple(z[rows] for z in self.z), self.formation[:, rows])

    def join(self, other: Inputs) -> Inputs:
        """These rows, then those of another."""
        z = tuple(np.vstack(both) for both in zip(self.z, other.z, strict=True))
        x, u, c = (np.vstack(both) for both in ((self.x, other.x), (self.u, other.u), (self.c, other.c)))
        return Inputs(x, u, c, z, np.hstack([self.formation, other.formation]))

    @property
    def coordinates(self) -> Array:
        """(n, sum of d_f) where distances are measured."""
        return np.hstack(self.z)


def kernel(a: Inputs, b: Inputs, v: Variances) -> Array:
    """(n, m) covariances, eV^2."""
    found: Array = v.fractions * (a.x @ b.x.T) + v.plus_u * (a.u @ b.u.T)
    first = matern(a.z[0], b.z[0], v.length)
    found += v.first * first + v.composition * first * matern(a.c, b.c, v.length)
    for z, other in zip(a.z[1:], b.z[1:], strict=True):
        found += v.others * matern(z, other, v.length)
    differences = [f[1:] - f[:1] for f in (a.formation, b.formation)]
    found += v.differences * (differences[0].T @ differences[1])
    return found


def nearest(a: Array, b: Array) -> Array:
    """(n,) distance of each row of (n, d) to the nearest row of (m, d)."""
    from scipy.spatial import KDTree

    return np.asarray(KDTree(b).query(a)[0], dtype=float)


@dataclass(frozen=True)
class Scaling:
    """How a layer becomes a row: symbols of the elements, properties (103, 7), centre and spread of the composition's
    descriptors and of each force field's features, elemental energies (n_force_fields, n_elements) in eV/atom."""

    elements: tuple[str, ...]
    properties: Array
    centres: tuple[Array, ...]
    spreads: tuple[Array, ...]
    elemental: Array

    @classmethod
    def of(
        cls,
        compositions: Sequence[Mapping[str, float]],
        seen: Sequence[Sequence[Seen]],
        elemental: Sequence[Mapping[str, float]],
    ) -> Scaling:
        """From the layers of a fit; elemental: energy of the elements (eV/atom) on each force field's scale."""
        elements = tuple(sorted({e for c in compositions for e in c}))
        properties = element_properties()
        raw = [np.array([descriptor(c, properties) for c in compositions])]
        raw += [np.array([s.features for s in one], dtype=float) for one in seen]
        centres = tuple(r.mean(0) for r in raw)
        spreads = tuple(np.maximum(r.std(0), 1e-6) * np.sqrt(r.shape[1]) for r in raw)
        table = np.array([[energies[e] for e in elements] for energies in elemental])
        return cls(elements, properties, centres, spreads, table)

    def inputs(self, compositions: Sequence[Mapping[str, float]], seen: Sequence[Sequence[Seen]]) -> Inputs:
        """Rows of some layers; seen: for each force field what it says of each layer.

        Raises
        ------
        ReferenceDataError
            If a layer has an element that the fit had not, or an energy or a feature is not a number.
        """
        for fractions in compositions:
            strange = sorted(set(fractions) - set(self.elements))
            if strange:
                raise ReferenceDataError(
                    f"{', '.join(strange)} {'is' if len(strange) == 1 else 'are'} in none of the layers that the "
                    "energy model was fitted on; leave the element out (`generator.elements`)"
                )
        x = np.array([[c.get(e, 0.0) for e in self.elements] for c in compositions])
        raw = [np.array([descriptor(c, self.properties) for c in compositions])]
        raw += [np.array([s.features for s in one], dtype=float) for one in seen]
        energies = np.array([[s.energy_per_atom for s in one] for one in seen])
        if not all(np.isfinite(r).all() for r in (*raw, energies)):
            raise ReferenceDataError("a force field gave energies or features that are no numbers; check the structure")
        c, *z = ((r - m) / s for r, m, s in zip(raw, self.centres, self.spreads, strict=True))
        u = np.array([plus_u_terms(f) for f in compositions])
        return Inputs(x, u, c, tuple(z), energies - self.elemental @ x.T)


# of what properties.py predicts: verdicts +1 and -1, gaps in eV
PROPERTIES = Variances(
    fractions=0.3, plus_u=0.0, first=1.0, others=0.5, composition=0.5, differences=0.0, noise=0.1, noise_by_area=0.0
)


@dataclass(frozen=True)
class EnergyModel:
    """A fitted model.

    noise: (n,) variances of the rows' targets, eV^2, with which it can learn more (``thermo.learning``), None in files
    of earlier versions; header: how it was fitted and how good it is, JSON-able.
    """

    scaling: Scaling
    variances: Variances
    rows: Inputs
    weights: Array
    mean: float
    errors: ErrorByDistance
    properties: PropertyModel
    header: dict[str, Any]
    noise: Array | None = None

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.header["id"])

    @property
    def force_fields(self) -> tuple[str, ...]:
        """Names of the force fields whose features it takes, in its order."""
        return tuple(self.header["features"])

    def predict(
        self, compositions: Sequence[Mapping[str, float]], seen: Sequence[Sequence[Seen]]
    ) -> list[PredictedEnergy]:
        """Energies of relaxed layers.

        Parameters
        ----------
        compositions
            Element -> atom fraction of each layer.
        seen
            For each of ``force_fields`` what it says of each layer.

        Raises
        ------
        ReferenceDataError
            If a layer has an element that the fit had not, or a number is none.
        """
        rows = self.scaling.inputs(compositions, seen)
        value = rows.formation[0] + self.mean + kernel(rows, self.rows, self.variances) @ self.weights
        distance = nearest(rows.coordinates, self.rows.coordinates)
        error = self.errors(distance)
        properties = self.properties.predict(kernel(rows, self.rows, PROPERTIES), distance)
        return [
            PredictedEnergy(
                float(value[k]),
                float(error[k]),
                float(distance[k]),
                bool(distance[k] > self.errors.farthest or len(fractions) == 1),
                self.id,
                properties[k],
            )
            for k, fractions in enumerate(compositions)
        ]

    def save(self, path: Path) -> None:
        """Write it; numbers of the rows in single precision."""
        arrays: dict[str, NDArray[Any]] = {
            "header": np.array(json.dumps(self.header)),
            "elements": np.array(self.scaling.elements),
            "properties": self.scaling.properties,
            "elemental": self.scaling.elemental,
            "variances": np.array(list(vars(self.variances).values())),
            "x": self.rows.x.astype(np.float32),
            "formation": self.rows.formation,
            "weights": self.weights,
            "mean": np.array([self.mean]),
            **self.errors.arrays(""),
            **self.properties.arrays(),
            **({} if self.noise is None else {"noise": self.noise}),
        }
        for k, (centre, spread) in enumerate(zip(self.scaling.centres, self.scaling.spreads, strict=True)):
            arrays |= {f"centre_{k}": centre, f"spread_{k}": spread}
        for k, z in enumerate((self.rows.c, *self.rows.z)):
            arrays[f"z_{k}"] = z.astype(np.float32)
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as handle:
            np.savez_compressed(handle, allow_pickle=False, **arrays)
        temporary.replace(path)

    @classmethod
    def load(cls, source: Any, name: str) -> EnergyModel:
        """From a file's bytes; ``ReferenceDataError`` where it is damaged. name: for the message."""
        try:
            with np.load(BytesIO(source.read_bytes()), allow_pickle=False) as data:
                arrays = {key: data[key] for key in data.files}
            header = json.loads(str(arrays["header"]))
            n = len(header["features"]) + 1
            elements = tuple(str(e) for e in arrays["elements"])
            x = arrays["x"].astype(float)
            u = np.array([plus_u_terms({e: v for e, v in zip(elements, row, strict=True) if v > 0}) for row in x])
            scaling = Scaling(
                elements,
                arrays["properties"],
                tuple(arrays[f"centre_{k}"] for k in range(n)),
                tuple(arrays[f"spread_{k}"] for k in range(n)),
                arrays["elemental"],
            )
            c, *z = (arrays[f"z_{k}"].astype(float) for k in range(n))
            rows = Inputs(x, u, c, tuple(z), arrays["formation"])
            errors = ErrorByDistance.of_arrays(arrays, "")
            variances = Variances(*arrays["variances"].tolist())
            weights, mean = arrays["weights"], float(arrays["mean"][0])
            properties, noise = PropertyModel.of_arrays(arrays), arrays.get("noise")
            return cls(scaling, variances, rows, weights, mean, errors, properties, header, noise)
        except FileNotFoundError:
            raise ReferenceDataError(f"the energy model {name} does not exist; make it with `scdm refs fit`") from None
        except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
            raise ReferenceDataError(
                f"the energy model {name} is damaged ({type(error).__name__}: {error}); make it again with "
                "`scdm refs fit`"
            ) from None


@cache
def load_energy_model(path: str | None = None) -> EnergyModel:
    """The energy model of a file (None: the packaged one); ``ReferenceDataError`` if missing or damaged."""
    packaged = files("scdm_flows.thermo").joinpath("data", PACKAGED)
    return EnergyModel.load(packaged if path is None else Path(path), PACKAGED if path is None else path)


@cache
def load_guide() -> EnergyModel:
    """The packaged energy model that guides generation; ``ReferenceDataError`` if damaged."""
    return EnergyModel.load(files("scdm_flows.thermo").joinpath("data", GUIDE), GUIDE)


def shared_with_guide(model: EnergyModel) -> list[str]:
    """What a model that judges samples shares with the guide that may have chosen them; nothing: a fair judge."""
    own, guide = model.header, load_guide().header
    shared = [f"the features of {name}" for name in guide["features"] if name in own["features"]]
    shared += [f"layers relaxed by {own['force_field']}"] if own["force_field"] == guide["force_field"] else []
    return shared + (["the guide's chemical systems"] if own.get("half") != "judge" else [])


@cache
def load_energy_model_card() -> dict[str, Any]:
    """Header of the packaged energy model: what it was fitted on and how good it is."""
    return load_energy_model().header


def energy_model_for(
    force_field: str, path: str | None = None, options: Mapping[str, Any] | None = None
) -> EnergyModel | None:
    """The energy model of layers relaxed with a force field; None where none is packaged for it and none is given.

    None is packaged for a force field with ``options`` either: they change what it gives.

    Raises
    ------
    ReferenceDataError
        If the file's model was fitted on layers relaxed with another force field.
    """
    if path is None:
        if options:
            return None
        packaged = load_energy_model()
        return packaged if packaged.header["force_field"] == force_field else None
    model = load_energy_model(path)
    if model.header["force_field"] != force_field:
        raise ReferenceDataError(
            f"the energy model {path} was fitted on layers relaxed with {model.header['force_field']}, the campaign's "
            f"are relaxed with {force_field}; make one with `scdm refs fit --force-field {force_field}`"
        )
    return model
