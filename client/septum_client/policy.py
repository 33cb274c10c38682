"""The hospital's own limits. Where study and policy differ, the stricter wins."""

from pathlib import Path
from typing import Final, Literal, get_args

from pydantic import ConfigDict, Field, ValidationError

from septum.caps import Caps
from septum.errors import Code, ConfigError, Refusal, explain
from septum.privacy import Mechanism
from septum.study import Name, PurposeOfUse, Study, Task
from septum.toml_text import TomlError, as_json
from septum.wire import METRICS
from septum_client.rules import Intake
from septum_client.spending import Limits

# Population origins and ancestry are left out: a hospital decides on those itself.
_PURPOSES: Final = tuple(purpose for purpose in get_args(PurposeOfUse) if purpose != "POARCH")


class Policy(Caps):
    """What this hospital lets a study do. The defaults are the strictest that still train.

    The numbers are those of :class:`~septum.caps.Caps`; where the study's are
    stricter, they hold. Everything else is a list of what is allowed: what is on
    none is refused, each kind with a public code of its own. Why each default is
    what it is: :mod:`septum_client.policy_reasons`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    minimum_patients: int = Field(50, ge=1)
    models: tuple[str, ...] = ("small_cnn", "resnet18", "densenet121", "oriented_linear")
    tasks: tuple[Task, ...] = get_args(Task)
    purposes: tuple[PurposeOfUse, ...] = _PURPOSES
    commercial: bool = False
    recipients: tuple[Name, ...] = ("participants",)
    metrics: tuple[str, ...] = ("steps",)
    intake: Intake = Intake()

    def mechanism(self, study: Study, *, site: str) -> Mechanism:
        """Return the study's mechanism at this site, tightened by this policy.

        Raises:
          Refusal: The study asks for something that this policy does not allow.
        """
        if site not in {participant.name for participant in study.sites}:
            raise Refusal(
                Code.STUDY_NOT_ALLOWED,
                "the study does not name this site.",
                remedy="Ask the coordinator for a study that does.",
            )
        self._allows(study)
        return self.tighten(study.mechanism(site))

    def study_delta(self, study: Study) -> float:
        """Return the smaller of the study's delta and the policy's."""
        return min(study.privacy.delta, self.delta)

    def limits(self, study: Study) -> Limits:
        """Return what ``study``, any year and all studies may cost a patient here."""
        return Limits(
            study=self.epsilon_per_study,
            delta=self.study_delta(study),
            year=self.year,
            total=self.total,
            rounds=study.rounds,
        )

    def to_toml(self) -> str:
        """Return the policy as TOML that :func:`load` reads back, with its reasons as comments."""
        from septum_client.policy_reasons import commented  # noqa: PLC0415 - it imports this one

        return commented(self.model_dump(mode="json"))

    def _allows(self, study: Study) -> None:
        """Refuse, by the first list that lacks it, what the study wants.

        Each list is of this hospital's own words, so a refusal says nothing about
        patients.
        """
        for code, key, wanted, allowed in (
            (Code.MODEL_NOT_ALLOWED, "models", (study.model.name,), self.models),
            (Code.TASK_NOT_ALLOWED, "tasks", (study.data.task,), self.tasks),
            (Code.PURPOSE_NOT_ALLOWED, "purposes", (study.purpose_of_use,), self.purposes),
            (Code.RECIPIENT_NOT_ALLOWED, "recipients", study.recipients, self.recipients),
        ):
            foreign = [word for word in wanted if word not in allowed]
            if foreign:
                raise Refusal(
                    code,
                    f"the study asks for {foreign}; the policy's {key} are {list(allowed)}.",
                    remedy=f"Add it to {key} in policy.toml, or leave the study.",
                )
        if study.commercial and not self.commercial:
            raise Refusal(
                Code.PURPOSE_NOT_ALLOWED,
                "the study is commercial, and the policy allows none.",
                remedy="Set commercial = true in policy.toml, or leave the study.",
            )


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
            Code.NO_POLICY,
            "this site has no policy.",
            remedy=f"Write one: septum site policy --write {path.name}.",
        ) from None
    try:
        fields = as_json(text)
        policy = Policy.model_validate_json(fields, strict=True)
    except (TomlError, ValidationError) as error:
        reason = explain(error) if isinstance(error, ValidationError) else str(error)
        raise ConfigError(f"{path.name}: {reason}.", remedy="Correct that key.") from None
    unknown = sorted(set(policy.metrics) - set(METRICS))
    if unknown:
        raise ConfigError(
            f"{path.name}: metrics names {unknown}, which no site can let out.",
            remedy=f"Choose from {sorted(METRICS)}.",
        )
    return policy
