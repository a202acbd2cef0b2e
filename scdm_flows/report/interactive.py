"""Bands beside their density of states as plotly figures for pages, to read values off and zoom into. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scdm_flows.report.figures import IMAGINARY, INK, LINE, SOFT

if TYPE_CHECKING:
    from scdm_flows.report.bands import BandPlot


def figure(plot: BandPlot) -> Any:
    """A ``plotly.graph_objects.Figure`` of the same contents as ``bands.draw``."""
    from plotly import graph_objects as go
    from plotly.subplots import make_subplots

    columns = 2 if plot.dos else 1
    widths = [0.77, 0.23] if plot.dos else [1.0]
    found = make_subplots(rows=1, cols=columns, shared_yaxes=True, column_widths=widths, horizontal_spacing=0.02)
    for branch in plot.branches:
        line = {"color": branch.colour, "width": 1.4, "dash": "dash" if branch.dashed else "solid"}
        for number, band in enumerate(branch.values.T, 1):
            name = f"{branch.name} {number}".strip()
            hover = f"{name}: %{{y:.3f}}<extra></extra>"
            trace = go.Scatter(x=plot.distances, y=band, mode="lines", line=line, name=branch.name, hovertemplate=hover)
            found.add_trace(trace.update(showlegend=bool(branch.name) and number == 1), row=1, col=1)
            if plot.limit is not None and (band < plot.limit).any():
                below = np.where(band < plot.limit, band, np.nan)
                red = {"color": IMAGINARY, "width": 2.2}
                found.add_trace(
                    go.Scatter(x=plot.distances, y=below, mode="lines", line=red, hoverinfo="skip", showlegend=False),
                    row=1,
                    col=1,
                )
    for name, colour, places, density in plot.dos:
        hover = "%{y:.3f}: " + plot.dos_label + " %{x:.3f}<extra></extra>"
        found.add_trace(
            go.Scatter(
                x=density,
                y=places,
                mode="lines",
                fill="tozerox",
                line={"color": colour, "width": 1.4},
                name=name,
                showlegend=False,
                hovertemplate=hover,
            ),
            row=1,
            col=2,
        )
    for place in plot.ticks:
        found.add_vline(place, line={"color": LINE, "width": 1}, layer="below", row=1, col=1)
    for low, high in plot.spans:
        found.add_hrect(low, high, fillcolor=LINE, opacity=0.35, line_width=0, layer="below")
    found.add_hline(0, line={"color": SOFT, "width": 1}, layer="below")
    found.update_layout(
        template="plotly_white",
        title=plot.title or None,
        font={"color": INK, "family": "system-ui, sans-serif"},
        margin={"l": 70, "r": 20, "t": 50 if plot.title else 20, "b": 50},
        legend={"x": 0.76, "y": 1.0, "xanchor": "right"},
    )
    found.update_xaxes(showgrid=False, zeroline=False)
    found.update_yaxes(showgrid=False, zeroline=False)
    found.update_xaxes(
        tickvals=list(plot.ticks),
        ticktext=list(plot.ticks.values()),
        range=[float(plot.distances.min()), float(plot.distances.max())],
        row=1,
        col=1,
    )
    found.update_yaxes(title=plot.ylabel, range=plot.ylim, row=1, col=1)
    if plot.dos:
        found.update_xaxes(title=plot.dos_label, rangemode="tozero", row=1, col=2)
    return found


def html_file(plot: BandPlot) -> str:
    """An HTML file that needs no network: the figure with plotly's script in it (about 5 MB)."""
    text: str = figure(plot).to_html(full_html=True, include_plotlyjs=True, config={"displaylogo": False})
    return text


def fragment(plot: BandPlot) -> str:
    """The figure as an HTML element for a page that has loaded plotly's script itself."""
    text: str = figure(plot).to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})
    return text
