"""Where queued jobs of earlier versions look for their makers; they are in ``scdm_flows.engines.forcefield.makers``."""

from scdm_flows.engines.forcefield.makers import LayerRelaxMaker as LayerRelaxMaker
from scdm_flows.engines.forcefield.makers import LayerStaticMaker as LayerStaticMaker
