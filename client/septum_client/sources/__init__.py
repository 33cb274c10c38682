"""Whatever a hospital exports, one item at a time, in an order that no disk decides.

Folders, archives and archives in archives become :class:`Item` values. Names
of files serve order and the labels table only: nothing here writes, logs or
raises one.
"""

from septum_client.sources.export import count, tables, walk
from septum_client.sources.items import LIMITS, Item, Kind, Limits

__all__ = ["LIMITS", "Item", "Kind", "Limits", "count", "tables", "walk"]
