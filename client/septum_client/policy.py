"""The hospital's own limits. Where study and policy differ, the stricter wins."""

import json
import tomllib
from pathlib import Path
from typing import Literal

import tomlkit
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from septum.errors import Code, ConfigError, Refusal, explain
from septum.privacy import Mechanism
from septum.study import Study
from septum.wire import METRICS
from septum_client.rules import Intake


class Policy(BaseModel):
    """What this hospital lets a study do. The defaults are the strictest that still train.

    ``epsilon_per_study`` and ``epsilon_total`` bound the patient-level epsilon
    of one study and of all studies together, at ``delta`` or the study's own
    delta if that is smaller.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    epsilon_per_study: float = Field(3.0, gt=0, allow_inf_nan=False)
    epsilon_total: float = Field(3.0, gt=0, allow_inf_nan=False)
    delta: float = Field(1e-4, gt=0, lt=0.1)
    noise_floor: float = Field(0.5, ge=0.1, allow_inf_nan=False)
    clip_ceiling: float = Field(1.0, gt=0, allow_inf_nan=False)
    minimum_patients: int = Field(50, ge=1)
    models: tuple[str, ...] = ("small_cnn", "resnet18", "densenet121")
    metrics: tuple[str, ...] = ("steps",)
    intake: Intake = Intake()

    def mechanism(self, study: Study, *, site: str) -> Mechanism:
        """Return the study's mechanism at this site, tightened by this policy.

        Raises:
          Refusal: The study asks for something that this policy does not allow.
        """
        if study.model.name not in self.models:
            raise Refusal(
                Code.STUDY_NOT_ALLOWED,
                f"the study trains {study.model.name!r}; the policy allows {list(self.models)}.",
                remedy="Add the model to the policy, or leave the study.",
            )
        if site not in {participant.name for participant in study.sites}:
            raise Refusal(
                Code.STUDY_NOT_ALLOWED,
                "the study does not name this site.",
                remedy="Ask the coordinator for a study that does.",
            )
        return study.mechanism(site).tightened(
            noise_floor=self.noise_floor, clip_ceiling=self.clip_ceiling
        )

    def study_delta(self, study: Study) -> float:
        """Return the smaller of the study's delta and the policy's."""
        return min(study.privacy.delta, self.delta)

    def to_toml(self) -> str:
        """Return the policy as TOML that :func:`load` reads back."""
        return tomlkit.dumps(self.model_dump(mode="json"))


def load(path: Path) -> Policy:
    """Read the policy at ``path``.

    Raises:
      Refusal: With :attr:`Code.NO_POLICY` when the file is absent: absent means no.
      ConfigError: Not TOML, an unknown key, or a value outside its limits.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Refusal(
            Code.NO_POLICY, "this site has no policy.", remedy="Write policy.toml first."
        ) from None
    try:
        fields = json.dumps(tomllib.loads(text), default=str)
        policy = Policy.model_validate_json(fields, strict=True)
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        reason = explain(error) if isinstance(error, ValidationError) else str(error)
        raise ConfigError(f"{path.name}: {reason}.", remedy="Correct that key.") from None
    unknown = sorted(set(policy.metrics) - set(METRICS))
    if unknown:
        raise ConfigError(
            f"{path.name}: metrics names {unknown}, which no site can let out.",
            remedy=f"Choose from {sorted(METRICS)}.",
        )
    return policy
