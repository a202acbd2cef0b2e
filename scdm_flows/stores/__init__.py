"""Collections and connection (``database``), embedded server (``embedded``), their errors (``trouble``)."""

from __future__ import annotations

from scdm_flows.stores.database import Database, connect, memory_database
from scdm_flows.stores.embedded import EmbeddedServer, ServerStatus
from scdm_flows.stores.trouble import store_errors

__all__ = ["Database", "EmbeddedServer", "ServerStatus", "connect", "memory_database", "store_errors"]
