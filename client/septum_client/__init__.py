"""What runs inside a hospital. It imports ``septum`` and nothing of the other zones."""

import septum  # noqa: F401 - switches Flower's telemetry off before a module here imports it
