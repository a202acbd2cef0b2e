"""Tables of how good hulls and energy models are, for ``scdm refs``."""

from __future__ import annotations

from typing import Any

import click

from scdm_flows.cli.common import table


def show_hull(found: dict[str, Any]) -> None:
    """What ``thermo.validate.validate_hull`` found."""
    hulls = [(name, found[name]) for name in ("as it is", "legacy corrections removed", "converted, left out")]
    hulls += [(f"  {name}", s) for name, s in found["by_chemistry"].items()]
    rows = [
        [
            name,
            s["n"],
            f"{s['mae']:.4f} ({s['mae_95'][0]:.4f} to {s['mae_95'][1]:.4f})",
            f"{s['median']:.4f}",
            f"{s['bias']:+.4f}",
        ]
        for name, s in hulls
    ]
    table(
        f"Hull energy against C2DB's, {found['n_layers']} layers, chemical systems left out, eV/atom",
        ["hull of", "n", "mean error (95 %)", "median", "bias"],
        rows,
    )
    absent = [formula for formula, there in found["present"].items() if there is not True]
    click.echo(f"on the hull: {', '.join(f for f in found['present'] if f not in absent)}")
    if absent:
        click.echo(f"NOT on the hull: {', '.join(absent)}")


def show_model(header: dict[str, Any]) -> None:
    """How good an energy model is, from its header."""
    kinds = [
        ("hull energy", header["hull_energy"]),
        ("formation energy", header["formation_energy"]),
        ("energy above hull", header["e_above_hull"]),
    ]
    if "external" in header:
        kinds.append(("energy above hull, 2DMatPedia", header["external"]))
    rows = [
        [
            name,
            s.get("n", header["n"]),
            f"{s['mae']:.4f} ({s['mae_95'][0]:.4f} to {s['mae_95'][1]:.4f})",
            f"{s['median']:.4f}",
            f"{s['bias']:+.4f}",
            f"{s['spearman']:.3f} ({s['spearman_95'][0]:.3f} to {s['spearman_95'][1]:.3f})",
        ]
        for name, s in kinds
    ]
    table(
        f"{header['id']}: layers relaxed with {header['force_field']} against DFT, chemical systems left out, eV/atom",
        ["", "n", "mean error (95 %)", "median", "bias", "Spearman (95 %)"],
        rows,
    )
    inside, width = header["error_coverage_by_distance"], header["errors_by_distance"]
    names = ("nearest third", "middle third", "farthest third")
    rows = [[n, f"± {w:.3f}", f"{100 * i:.0f} %"] for n, w, i in zip(names, width, inside, strict=True)]
    if "external" in header:
        rows.append(["2DMatPedia, new systems", "", f"{100 * header['external']['coverage']:.0f} %"])
    claimed = f"{100 * header['error_coverage_claimed']:.0f} %"
    table(f"Errors said to hold {claimed}, by distance to known layers", ["layers", "median, eV/atom", "hold"], rows)
    close, kept = header["e_above_hull"]["within_0.05"], header["stable_kept_in_window"]
    click.echo(
        f"errors hold {100 * header['error_coverage']:.1f} % of all; {100 * close:.1f} % of layers are within 0.05 "
        f"eV/atom; of those truly below 0.2 {100 * kept:.1f} % stay in the window of 0.6"
    )
    _verdict("Dynamically stable by DFT's phonons", header["phonon_stability"])
    titles = {
        "nonmetal": "With a band gap by PBE",
        "magnetic": "Magnetic by PBE",
        "direct_gap": "With a direct gap by PBE, of layers with a gap that 2DMatPedia has, too",
    }
    for name, title in titles.items():
        if name in header:
            _verdict(title, header[name])
    if "band_gap" in header:
        _gaps(header["band_gap"])


def _verdict(title: str, verdict: dict[str, Any]) -> None:
    rows = [
        [
            name,
            v["n"],
            *(f"{v[k]:.3f} ({v[k + '_95'][0]:.3f} to {v[k + '_95'][1]:.3f})" for k in ("balanced_accuracy", "auc")),
            f"{v['f1']:.2f}",
            f"{v['brier']:.3f}",
        ]
        for name, v in (("all", verdict), *verdict["by_chemistry"].items())
    ]
    heads = ["layers", "n", "balanced accuracy (95 %)", "area under curve (95 %)", "F1", "Brier"]
    table(f"{title}, predicted from the features, chemical systems left out", heads, rows)


def _gaps(gaps: dict[str, Any]) -> None:
    rows = [
        [name, s["n"], f"{s['mae']:.3f} ({s['mae_95'][0]:.3f} to {s['mae_95'][1]:.3f})", f"{s['median']:.3f}"]
        for name, s in (
            ("with a gap", gaps["of_layers_with_a_gap"]),
            ("said to have one", gaps["of_layers_said_to_have_one"]),
        )
    ]
    table(
        "PBE band gaps predicted from the features, chemical systems left out, eV",
        ["layers", "n", "mean error (95 %)", "median"],
        rows,
    )
    claimed, holds, width = (gaps[k] for k in ("error_coverage_claimed", "error_coverage", "error_median"))
    click.echo(f"errors said to hold {100 * claimed:.0f} % of them, ± {width:.2f} eV, hold {100 * holds:.0f} %")
