"""Where queued jobs of earlier versions look for their input sets; they are in ``scdm_flows.engines.vasp.inputs``."""

from scdm_flows.engines.vasp.inputs import SlabSetGenerator as SlabSetGenerator
