"""Where queued jobs of earlier versions look for their functions; they are in ``scdm_flows.flows``."""

from scdm_flows.flows.jobs import bands_summary as bands_summary
from scdm_flows.flows.jobs import gate as gate
from scdm_flows.flows.jobs import generate as generate
from scdm_flows.flows.jobs import phonon as phonon
from scdm_flows.flows.jobs import phonon_summary as phonon_summary
from scdm_flows.flows.jobs import screen as screen
