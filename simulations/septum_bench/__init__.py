"""The bench: phantoms, engines, attacks and the report.

It may import everything and is installed nowhere in production, unless a
hospital's own auditor asks for it. It alone may hold a seed.
"""

import septum  # noqa: F401 - switches Flower's telemetry off before a module here imports it
