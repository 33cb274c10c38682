"""What runs at the coordinator. It sees releases and codes, never a patient."""

import septum  # noqa: F401 - switches Flower's telemetry off before a module here imports it
