"""Where queued jobs of earlier versions look for their functions; they are in ``scdm_flows.flows``."""

from scdm_flows.engines.jobs import bands_summary as bands_summary
from scdm_flows.engines.jobs import phonon as phonon
from scdm_flows.engines.jobs import phonon_summary as phonon_summary
from scdm_flows.flows.campaign import generate as generate
from scdm_flows.flows.campaign import screen as screen
from scdm_flows.flows.gate import gate as gate
