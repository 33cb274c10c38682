"""A hospital's limits in numbers: what its policy and a plan made before joining both read."""

import tomllib
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from septum.errors import ConfigError, explain
from septum.privacy import Mechanism
from septum.privacy_filter import Filter

YEAR_DAYS: Final = 365


class Caps(BaseModel):
    """Limits on what training may cost one patient, and on how it is done.

    Epsilon is patient-level, for one patient with all images added or removed.
    ``epsilon_per_study`` bounds one study, whose mechanism is fixed before its
    first round, by privacy-loss distributions. ``epsilon_per_year`` (any 365
    days) and ``epsilon_total`` bound all studies together, each of which may be
    chosen after seeing what the earlier ones released, by a Rényi filter.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    epsilon_per_study: float = Field(3.0, gt=0, allow_inf_nan=False)
    epsilon_per_year: float = Field(4.0, gt=0, allow_inf_nan=False)
    epsilon_total: float = Field(4.0, gt=0, allow_inf_nan=False)
    delta: float = Field(1e-4, gt=0, lt=0.1)
    noise_floor: float = Field(0.5, ge=0.1, allow_inf_nan=False)
    clip_ceiling: float = Field(1.0, gt=0, allow_inf_nan=False)

    @property
    def year(self) -> Filter:
        """The filter over the releases of any 365 days."""
        return Filter(epsilon=self.epsilon_per_year, delta=self.delta)

    @property
    def total(self) -> Filter:
        """The filter over everything the site ever releases."""
        return Filter(epsilon=self.epsilon_total, delta=self.delta)

    def tighten(self, mechanism: Mechanism) -> Mechanism:
        """Return the study's mechanism under these limits: the stricter number of each pair."""
        return mechanism.tightened(
            noise_floor=self.noise_floor, clip_ceiling=self.clip_ceiling, delta=self.delta
        )


def load_caps(path: Path) -> Caps:
    """Read the limits of a policy file; its other keys are not looked at.

    Raises:
      ConfigError: The file cannot be read, is not TOML, or a limit is no such number.
    """
    try:
        return Caps.model_validate(tomllib.loads(path.read_text(encoding="utf-8")), strict=True)
    except OSError as error:
        raise ConfigError(
            f"{path.name} cannot be read ({error.strerror}).", remedy="Name a policy file."
        ) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"{path.name} is not TOML: {error}.", remedy="Correct the line it names."
        ) from None
    except ValidationError as error:
        raise ConfigError(f"{path.name}: {explain(error)}.", remedy="Correct that key.") from None
