"""Opacus without what no hospital's training uses: a hospital is ready seconds earlier.

``import opacus`` brings its accountants, with SciPy, and its optimizers for
many machines, with much of ``torch.distributed``: half of what the process that
answers orders imports, and holds in memory for as long as it waits for them.
Septum has its own accountant, and takes three of Opacus' modules, by their own names.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Final

from septum.errors import EngineError

_PACKAGES: Final = ("opacus", "opacus.optimizers")


def stand() -> None:
    """Let modules of Opacus be imported without its packages' own lists of all others.

    Only for a process that does nothing but answer orders: whoever imports
    ``opacus`` afterwards finds its modules, and none of the names that it gathers.

    Guarantees:
      - What is imported is what Opacus installed, file by file.
      - Where Opacus is imported already, nothing changes.

    Raises:
      EngineError: Opacus is not installed.
    """
    if _PACKAGES[0] in sys.modules:
        return
    for name in _PACKAGES:
        found = importlib.util.find_spec(name)
        if found is None or found.submodule_search_locations is None:
            raise EngineError(
                f"{name} is not installed.",
                remedy="Install Septum with its extra `site`.",
            )
        package = ModuleType(name)
        package.__spec__, package.__file__ = found, found.origin
        package.__path__ = list(found.submodule_search_locations)
        sys.modules[name] = package
