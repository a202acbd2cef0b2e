"""Collections and connections (``database``), and the embedded server (``embedded``)."""

from __future__ import annotations

from scdm_flows.stores.database import Database, connect, memory_database
from scdm_flows.stores.embedded import EmbeddedServer, ServerStatus

__all__ = ["Database", "EmbeddedServer", "ServerStatus", "connect", "memory_database"]
