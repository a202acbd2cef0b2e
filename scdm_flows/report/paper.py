"""What the paper reports, to set beside: Xu et al., J. Phys. Chem. C (2024), doi:10.1021/acs.jpcc.4c08681.

Energies and phonons are DFT's (VASP, PBE); phonons were computed for six chosen candidates of SCDM, all of them stable.
"""

from __future__ import annotations

DOI = "10.1021/acs.jpcc.4c08681"
CITATION = f"Xu et al., J. Phys. Chem. C (2024), [doi:{DOI}](https://doi.org/{DOI})"
# Section 3 and Fig. 5: SCDM and UnSCDM together
FUNNEL = {"generated": 4000, "valid": 3378, "unique": 2140, "in_window": 1145, "dynamically_stable": 6}
# the same by generator; what is not there is not reported by generator
BY_GENERATOR = {
    "scdm": {"generated": 2000, "unique": 1376, "in_window": 843, "dynamically_stable": 6},
    "unscdm": {"generated": 2000, "unique": 764, "in_window": 302},
}
NAMES = {"scdm": "SCDM", "unscdm": "UnSCDM"}
CHARACTER = {  # Section 3 and Fig. 7
    "NiS2": "semiconducting",
    "ZnS2": "semiconducting",
    "Nb2S2": "semiconducting",
    "V2S2": "metallic",
    "Cu2S2": "metallic",
    "Ti2Te2": "metallic",
}
COMPOUNDS = ("NiS2", "ZnS2", "Nb2S2", "V2S2", "Cu2S2", "Ti2Te2")  # Fig. 6: all in the window and phonon-stable
