"""Plotly figures of the pages, drawn by pymatgen and pymatviz where they can: structure, hull, funnel, distributions.

Pure. Bands and densities of states are in ``report.interactive``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scdm_flows.config import WINDOW_EV
from scdm_flows.report.crystals import SHELL_FACTOR
from scdm_flows.report.figures import IMAGINARY, INK, OURS, PALE, SOFT

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from scdm_flows.documents import CandidateDoc
    from scdm_flows.documents.hull import HullDoc
    from scdm_flows.report.content import FunnelRow

UNSCDM = "#d08a2c"
COLOURS = {"scdm": OURS, "unscdm": UNSCDM}
PATCH_ANGSTROM = 9.0
MOST_ATOMS = 120
DRAWN_EV = 1.0  # phases further above the hull are not drawn
EDGES = np.linspace(-0.5, 2.0, 51)  # bins of E_hull, eV/atom
FONT = {"color": INK, "family": "system-ui, sans-serif"}


def structure(layer: Structure) -> Any:
    """The layer in 3D, some cells of it, with buttons for the views from above and from the side."""
    from pymatgen.analysis.local_env import MinimumDistanceNN
    from pymatviz.structure import structure_3d

    n, m = (int(np.clip(np.ceil(PATCH_ANGSTROM / side), 1, 4)) for side in layer.lattice.abc[:2])
    while n * m * len(layer) > MOST_ATOMS and n * m > 1:
        n, m = max(1, n - 1), max(1, m - 1)
    patch = layer.make_supercell((n, m, 1), in_place=False)
    # bonds as in report.crystals: to neighbours not much further than the nearest; others are slow in dense samples
    bonds = MinimumDistanceNN(tol=SHELL_FACTOR - 1, cutoff=6) if len(patch) <= MOST_ATOMS else False
    found = structure_3d(
        patch,
        show_bonds=bonds,
        bond_kwargs={"color": SOFT, "width": 5},
        show_image_sites=False,
        show_cell=False,
        subplot_title=False,
        n_cols=1,
        atom_size=14,
    )
    views = {
        "top": ((0, 0, 1.6), (0, 1, 0)),
        "side": ((0, -1.6, 0), (0, 0, 1)),
        "oblique": ((0.9, -1.2, 0.7), (0, 0, 1)),
    }
    cameras = {
        name: {
            "eye": dict(zip("xyz", eye, strict=True)),
            "up": dict(zip("xyz", up, strict=True)),
            "center": dict.fromkeys("xyz", 0),
            "projection": {"type": "orthographic"},
        }
        for name, (eye, up) in views.items()
    }
    buttons = [
        {"label": name, "method": "relayout", "args": [{"scene.camera": camera}]} for name, camera in cameras.items()
    ]
    menu = {"type": "buttons", "direction": "right", "buttons": buttons, "active": 2, "showactive": True}
    menu |= {"x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"t": 0, "b": 4}}
    found.update_layout(
        updatemenus=[menu], margin={"l": 0, "r": 0, "t": 40, "b": 0}, font=FONT, title=None, showlegend=True, width=None
    )
    found.update_scenes(camera=cameras["oblique"], aspectmode="data", domain={"x": [0, 1], "y": [0, 1]})
    return found


def hull(document: HullDoc, candidate: CandidateDoc | None = None) -> Any | None:
    """The hull of two, three or four elements as pymatgen draws it, a candidate marked; None for other systems.

    Energies are formation energies, so the elements lie at zero. A candidate that does not compete is no phase of the
    document; it is put at its own energy above the hull.
    """
    from pymatgen.analysis.phase_diagram import PDEntry, PDPlotter, PhaseDiagram
    from pymatgen.core import Composition

    if not 2 <= len(document.elements) <= 4:
        return None
    entries, marked = [PDEntry(Composition(e), 0.0, name=e) for e in document.elements], []
    for point in document.points:
        composition = Composition(point.formula)
        if not {e.symbol for e in composition.elements} <= set(document.elements):
            continue
        energy = point.formation_energy_per_atom * composition.num_atoms
        entry = PDEntry(composition, energy, name=f"{point.formula} {point.name}")
        entries.append(entry)
        if candidate is not None and point.name == candidate.candidate_id:
            marked.append(entry)
    diagram = PhaseDiagram(entries)
    if candidate is not None and not marked and candidate.e_above_hull is not None:
        composition = Composition(candidate.formula)
        energy = diagram.get_hull_energy_per_atom(composition) + candidate.e_above_hull
        name = f"{candidate.formula} {candidate.candidate_id}"
        marked.append(PDEntry(composition, energy * composition.num_atoms, name=name))
        diagram = PhaseDiagram([*entries, *marked])
    plotter = PDPlotter(diagram, show_unstable=DRAWN_EV, backend="plotly", ternary_style="2d")
    found: Any = plotter.get_plot(label_unstable=False, highlight_entries=marked or None)
    for trace in found.data:
        if trace.name == "Highlighted":
            trace.name = "this candidate"
    found.update_layout(font=FONT, margin={"l": 60, "r": 20, "t": 40, "b": 20}, width=None, autosize=True, title=None)
    found.update_xaxes(title_font_size=13, tickfont_size=12, automargin=True)
    found.update_yaxes(title_font_size=13, tickfont_size=12, automargin=True)
    below = {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.2, "yanchor": "top", "bgcolor": "rgba(0,0,0,0)"}
    found.update_layout(legend=below)
    return found


def funnel(rows: Sequence[FunnelRow]) -> Any:
    """The steps of a campaign beside the paper's, in percent of what was generated."""
    from plotly import graph_objects as go

    from scdm_flows.report.campaign import percent

    words = [row.words for row in rows]
    found = go.Figure()
    texts = [f"{row.count:,} ({percent(row.share)})" for row in rows]
    found.add_bar(
        y=words,
        x=[row.share for row in rows],
        text=texts,
        name="this campaign",
        orientation="h",
        marker_color=OURS,
    )
    paper = [("" if row.paper is None else f"{row.paper:,} ({percent(row.paper_share)})") for row in rows]
    found.add_bar(
        y=words, x=[row.paper_share for row in rows], text=paper, name="paper (DFT)", orientation="h", marker_color=PALE
    )
    found.update_traces(
        textposition="auto", cliponaxis=False, hovertemplate="%{y}: %{text}<extra>%{fullData.name}</extra>"
    )
    found.update_yaxes(autorange="reversed", automargin=True)
    found.update_xaxes(title="% of generated", range=[0, 105])
    return _plain(found)


def throughput(hours: Mapping[str, Mapping[Any, int]]) -> Any:
    """Stages that ended in each hour. hours: stage -> start of the hour -> how many."""
    from plotly import graph_objects as go

    found = go.Figure()
    for stage, counts in hours.items():
        times = sorted(counts)
        found.add_bar(x=times, y=[counts[t] for t in times], name=stage)
    found.update_layout(barmode="stack")
    found.update_yaxes(title="stages ended in the hour", rangemode="tozero")
    return _plain(found)


def score(terms: Mapping[str, float]) -> Any:
    """The parts that add up to a score."""
    from plotly import graph_objects as go

    found = go.Figure(go.Bar(y=list(terms), x=list(terms.values()), orientation="h", marker_color=OURS))
    found.update_traces(text=[f"{v:.3f}" for v in terms.values()], hovertemplate="%{y}: %{x:.3f}<extra></extra>")
    found.update_yaxes(autorange="reversed", automargin=True)
    found.update_xaxes(title="part of the score", rangemode="tozero")
    return _plain(found)


def e_hull(values: Mapping[str, NDArray[np.float64]]) -> Any:
    """Distributions of E_hull by generator, as shares of its candidates; what lies beyond is in the outer bins."""
    from plotly import graph_objects as go

    found = go.Figure()
    middle = (EDGES[:-1] + EDGES[1:]) / 2
    for generator, energies in values.items():
        counts, _ = np.histogram(np.clip(energies, EDGES[0], EDGES[-1] - 1e-9), EDGES)
        found.add_scatter(
            x=middle,
            y=100 * counts / max(1, len(energies)),
            mode="lines",
            line={"shape": "hvh", "color": COLOURS.get(generator, PALE)},
            fill="tozeroy",
            name=f"{generator} (n = {len(energies):,})",
            hovertemplate="%{x:.3f} eV/atom: %{y:.1f} %<extra>%{fullData.name}</extra>",
        )
    found.add_vline(WINDOW_EV, line={"dash": "dash", "color": IMAGINARY, "width": 1})
    found.update_xaxes(title="energy above hull, eV/atom", range=[float(EDGES[0]), float(EDGES[-1])])
    found.update_yaxes(title="% of candidates", rangemode="tozero")
    return _plain(found)


def distances(medians: Mapping[str, Mapping[str, float]], key: str, title: str) -> Any:
    """Medians of one reconstruction distance. medians: kind, such as ``SCDM, t* = 0.3`` -> distance -> value."""
    from plotly import graph_objects as go

    models: dict[str, dict[str, float]] = {}  # model -> what it did -> median
    for kind, values in medians.items():
        model, _, how = kind.partition(", ")
        models.setdefault(model, {})[how or "perturbed"] = values[key]
    found = go.Figure()
    for model, values in models.items():
        found.add_bar(
            x=list(values),
            y=list(values.values()),
            name=model,
            # the baseline has a place of its own, so it needs no room beside the models
            offsetgroup="unscdm" if model.lower() == "unscdm" else "first",
            marker_color=COLOURS.get(model.lower(), PALE),
            hovertemplate=f"{model}, %{{x}}: %{{y:.3g}}<extra></extra>",
        )
    found.update_yaxes(title=title, rangemode="tozero", title_font_size=12)
    return _plain(found).update_layout(margin={"l": 10, "r": 10, "t": 30, "b": 30}, font_size=11)


def _plain(figure: Any) -> Any:
    figure.update_layout(
        template="plotly_white",
        font=FONT,
        margin={"l": 10, "r": 20, "t": 40, "b": 50},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        bargap=0.25,
    )
    return figure
