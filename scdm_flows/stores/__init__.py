"""Collections and connection (``database``), embedded server (``embedded``), their errors (``driver_errors``)."""

from __future__ import annotations

from scdm_flows.stores.database import Database, connect
from scdm_flows.stores.driver_errors import store_errors
from scdm_flows.stores.embedded import EmbeddedServer, ServerStatus

__all__ = ["Database", "EmbeddedServer", "ServerStatus", "connect", "store_errors"]
