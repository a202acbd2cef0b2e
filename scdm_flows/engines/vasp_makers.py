"""Where queued jobs of earlier versions look for their makers; they are in ``scdm_flows.engines.vasp.makers``."""

from scdm_flows.engines.vasp.makers import SlabBandsMaker as SlabBandsMaker
from scdm_flows.engines.vasp.makers import SlabDoubleRelaxMaker as SlabDoubleRelaxMaker
from scdm_flows.engines.vasp.makers import SlabMaker as SlabMaker
