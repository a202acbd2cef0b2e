"""Where queued fireworks of earlier versions look for their task; it is in ``scdm_flows.execution.fireworks``."""

from scdm_flows.execution.fireworks import ScdmJobFiretask as ScdmJobFiretask
