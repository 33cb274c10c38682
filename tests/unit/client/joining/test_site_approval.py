"""A study trains after this site's own signature over it, and after nothing less."""

import stat

import pytest

from septum.errors import BudgetExceeded, Code, ConfigError, Refusal
from septum.signed_study import SignedStudy
from septum_client import gate
from septum_client.approve import approve
from septum_client.join import join
from septum_client.policy import Policy
from septum_client.site import Site


@pytest.fixture
def joined(invited):
    """Return the invited site after joining, and the study that waits."""
    invited.offered = join(
        invited.site, invited.invitation(), heard=invited.spoken, now=invited.now
    )
    return invited


def refused(site, digest, today=None):
    with pytest.raises(Refusal) as caught:
        site.approved(digest, today=today)
    return caught.value.code


def test_an_approval_is_on_disk_beside_the_study_and_private(joined):
    assert approve(joined.site, joined.offered, by="Dr. X", now=joined.now) == 3
    digest = joined.offered.study.digest
    assert joined.site.approved(digest, today=joined.now.date()) == joined.offered.study
    folder = joined.site.folder / "approved"
    assert {path.name for path in folder.iterdir()} == {f"{digest}.toml", f"{digest}.approval"}
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (folder / f"{digest}.toml").read_text() == joined.offered.to_toml()
    assert 'by = "Dr. X"' in (folder / f"{digest}.approval").read_text()


def test_a_study_put_into_the_folder_by_another_hand_is_not_approved(joined, tiny):
    study = joined.offered.study
    path = joined.site.folder / "approved" / f"{study.digest}.toml"
    path.write_text(joined.offered.to_toml())
    assert refused(joined.site, study.digest) is Code.UNKNOWN_STUDY
    with pytest.raises(Refusal) as caught:
        gate.answer(joined.site, tiny.instruction(study), clock=lambda: joined.now)
    assert caught.value.code is Code.UNKNOWN_STUDY
    assert len(joined.site.ledger.entries()) == 1


@pytest.mark.parametrize(
    "change",
    [
        ('by = "Dr. X"', 'by = "Dr. Y"'),
        ('at = "2026', 'at = "2025'),
        ('site = "north"', 'site = "south"'),
        ('study = "', 'study = "0'),
        ("format = 1", "format = 2"),
        ('signature = "', 'hidden = "x"\nsignature = "'),
        ("\n", "\n["),
    ],
)
def test_an_approval_with_anything_changed_is_none(joined, change):
    approve(joined.site, joined.offered, by="Dr. X", now=joined.now)
    digest = joined.offered.study.digest
    path = joined.site.folder / "approved" / f"{digest}.approval"
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change, 1))
    assert refused(joined.site, digest) is Code.UNKNOWN_STUDY


def test_an_approval_of_one_study_approves_no_other(joined):
    approve(joined.site, joined.offered, by="Dr. X", now=joined.now)
    other = joined.signed(rounds=4)
    folder = joined.site.folder / "approved"
    given = (folder / f"{joined.offered.study.digest}.approval").read_text()
    (folder / f"{other.study.digest}.toml").write_text(other.to_toml())
    (folder / f"{other.study.digest}.approval").write_text(given)
    assert refused(joined.site, other.study.digest) is Code.UNKNOWN_STUDY


def test_another_sites_approval_is_not_this_ones(joined, tmp_path, tiny):
    approve(joined.site, joined.offered, by="Dr. X", now=joined.now)
    twin = Site.create(tmp_path / "twin", name="north", policy=tiny.policy())
    for path in (joined.site.folder / "approved").iterdir():
        (twin.folder / "approved" / path.name).write_bytes(path.read_bytes())
    assert refused(twin, joined.offered.study.digest) is Code.UNKNOWN_STUDY


def test_one_changed_byte_of_the_approved_study_is_found(joined):
    approve(joined.site, joined.offered, by="Dr. X", now=joined.now)
    digest = joined.offered.study.digest
    path = joined.site.folder / "approved" / f"{digest}.toml"
    text = path.read_text()
    for old, new, code in (
        ("rounds = 3", "rounds = 4", Code.UNKNOWN_STUDY),
        ("\n\n", "\n\n# read me\n", Code.STUDY_SIGNATURE),
        ('purpose = "A', 'hidden = 1\npurpose = "A', Code.STUDY_INVALID),
    ):
        assert old in text
        path.write_text(text.replace(old, new, 1))
        assert refused(joined.site, digest) is code


def test_a_coordinators_signature_that_was_swapped_lets_nothing_train(joined):
    forged = SignedStudy(study=joined.offered.study, signature="0" * 128)
    joined.site.approve(forged, by="Dr. X", at=joined.now)
    assert refused(joined.site, forged.study.digest, joined.now.date()) is Code.STUDY_SIGNATURE


def test_an_approval_lasts_as_long_as_the_study_and_its_ethics_approvals(joined):
    ethics = [{"number": "1", "body": "Board", "expires": "2026-06-30"}]
    signed = joined.signed(expires="2026-07-31", approvals=ethics)
    joined.site.approve(signed, by="Dr. X", at=joined.now)
    digest = signed.study.digest
    today = joined.now.date()
    assert joined.site.approved(digest, today=today.replace(month=6, day=30))
    late = today.replace(month=7, day=1)
    assert refused(joined.site, digest, late) is Code.STUDY_EXPIRED
    assert joined.site.approved(digest)


def test_a_site_that_joined_a_coordinator_trains_no_study_that_nobody_signed(joined, tiny):
    draft = tiny.study(name="draft")
    joined.site.approve(draft)
    assert refused(joined.site, draft.digest, joined.now.date()) is Code.STUDY_SIGNATURE


def test_a_named_coordinators_study_is_not_approved_without_its_signature(joined):
    with pytest.raises(ConfigError, match="signature is not here"):
        joined.site.approve(joined.offered.study)


def test_before_joining_nothing_can_be_approved(invited):
    with pytest.raises(ConfigError, match="joined no coordinator"):
        approve(invited.site, invited.signed(), by="Dr. X", now=invited.now)
    assert not list((invited.site.folder / "approved").iterdir())


@pytest.mark.parametrize("by", ["", "x" * 201])
def test_somebody_must_have_said_yes(joined, by):
    with pytest.raises(ConfigError, match="by"):
        approve(joined.site, joined.offered, by=by, now=joined.now)
    assert not list((joined.site.folder / "approved").iterdir())


def test_what_the_policy_forbids_or_cannot_pay_is_not_signed(joined):
    path = joined.site.folder / "policy.toml"
    for policy, error in (
        (Policy(models=("resnet18",), minimum_patients=1), Refusal),
        (Policy(epsilon_per_study=0.01, minimum_patients=1), BudgetExceeded),
    ):
        path.write_text(policy.to_toml())
        with pytest.raises(error):
            approve(joined.site, joined.offered, by="Dr. X", now=joined.now)
    assert not list((joined.site.folder / "approved").iterdir())
