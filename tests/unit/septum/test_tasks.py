import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from septum import tasks
from septum.models import MODELS, network_of
from septum.study import Data, Study
from septum.tasks import Classification, Multilabel, Regression, Segmentation, task_of

TASKS = {
    "multilabel": Multilabel(3, positive_weight=(2.0, 1.0, 9.0)),
    "classification": Classification(3, class_weight=(1.0, 5.0, 0.5)),
    "regression": Regression(((0.0, 10.0), (-5.0, 5.0), (100.0, 300.0))),
    "segmentation": Segmentation(2, class_weight=(4.0, 0.5)),
}


def pair(name, images, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if name == "segmentation":
        outputs = torch.randn((images, 3, 4, 5), generator=generator, dtype=torch.float64)
        return outputs, torch.randint(0, 3, (images, 4, 5), generator=generator).to(torch.uint8)
    outputs = torch.randn((images, 3), generator=generator, dtype=torch.float64)
    if name == "classification":
        classes = torch.randint(0, 3, (images,), generator=generator)
        return outputs, functional.one_hot(classes, 3).float()
    if name == "regression":
        return outputs, 400 * torch.rand((images, 3), generator=generator) - 50
    return outputs, torch.randint(0, 2, (images, 3), generator=generator).float()


@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), images=st.integers(2, 5))
def test_the_loss_of_an_image_ignores_its_batch(name, seed, images):
    outputs, targets = pair(name, images, seed)
    losses = TASKS[name].loss(outputs, targets)
    assert losses.shape == (images,)
    for index in range(images):
        alone = TASKS[name].loss(outputs[index : index + 1], targets[index : index + 1])
        assert torch.allclose(losses[index], alone[0], rtol=0, atol=1e-12)
    jacobian = torch.autograd.functional.jacobian(lambda o: TASKS[name].loss(o, targets), outputs)
    for index in range(images):
        others = [other for other in range(images) if other != index]
        assert jacobian[index, others].abs().max() == 0
        assert jacobian[index, index].abs().max() > 0


@pytest.mark.parametrize("name", TASKS)
def test_the_gradient_is_finite_for_outputs_of_any_size(name):
    for scale in (0.0, 1e3, 1e6):
        outputs, targets = pair(name, 3)
        outputs = (outputs * scale).requires_grad_()
        torch.autograd.backward(TASKS[name].loss(outputs, targets).sum())
        assert outputs.grad.isfinite().all()


@pytest.mark.parametrize("name", TASKS)
def test_a_step_against_the_gradient_lowers_the_loss(name):
    outputs, targets = pair(name, 4)
    outputs.requires_grad_()
    before = TASKS[name].loss(outputs, targets)
    (gradient,) = torch.autograd.grad(before.sum(), outputs)
    after = TASKS[name].loss(outputs - 0.01 * gradient, targets)
    assert (after <= before).all()
    assert after.sum() < before.sum()


def test_multilabel_without_weights_is_the_loss_that_studies_under_way_use():
    outputs, targets = pair("multilabel", 5)
    expected = tasks.loss(outputs, targets.double())
    assert torch.equal(Multilabel(3).loss(outputs, targets), expected)


def test_a_positive_weight_multiplies_what_a_present_finding_costs_and_nothing_else():
    outputs = torch.zeros((2, 1))
    targets = torch.tensor([[1.0], [0.0]])
    plain = Multilabel(1).loss(outputs, targets)
    weighted = Multilabel(1, positive_weight=(7.0,)).loss(outputs, targets)
    assert torch.allclose(weighted, plain * torch.tensor([7.0, 1.0]))


def test_a_class_weight_is_not_divided_by_the_weights_of_the_batch():
    outputs, targets = torch.zeros((2, 2)), torch.eye(2)
    losses = Classification(2, class_weight=(1.0, 10.0)).loss(outputs, targets)
    assert torch.allclose(losses[1], 10 * losses[0])
    assert torch.allclose(losses[0], torch.tensor(2.0).log())


def test_regression_is_scaled_by_the_public_range_alone():
    task = Regression(((0.0, 100.0),))
    outputs = torch.tensor([[0.5], [0.5], [0.5]])
    near, far, outside = task.loss(outputs, torch.tensor([[50.0], [100.0], [1e9]]))
    assert near == 0
    assert far == outside  # a value beyond the range counts as its end
    assert torch.equal(task.predict(torch.tensor([[0.25], [3.0]])), torch.tensor([[25.0], [100.0]]))


def test_a_perfect_mask_costs_nearly_nothing_and_a_wrong_one_much():
    masks = torch.randint(0, 3, (2, 6, 6), generator=torch.Generator().manual_seed(0))
    outputs = 50.0 * functional.one_hot(masks, 3).movedim(-1, 1)
    assert Segmentation(2).loss(outputs, masks).max() < 1e-3
    assert Segmentation(2).loss(outputs, (masks + 1) % 3).min() > 10
    assert torch.equal(Segmentation(2).predict(outputs), masks.to(torch.uint8))


def test_a_mask_of_a_volume_has_a_loss_of_each_volume():
    outputs = torch.zeros((2, 2, 3, 4, 4))
    masks = torch.zeros((2, 3, 4, 4), dtype=torch.uint8)
    assert Segmentation(1).loss(outputs, masks).shape == (2,)


@pytest.mark.parametrize("name", TASKS)
def test_targets_of_another_shape_are_an_error_and_never_broadcast(name):
    outputs, targets = pair(name, 3)
    with pytest.raises(ValueError, match="differ"):
        TASKS[name].loss(outputs, targets[:1])


def study_of(tiny, data, model):
    fields = tiny.study().model_dump(mode="json")
    fields["data"] |= {"image_size": 32} | data
    fields["model"] |= model
    return Study.model_validate(fields)


STUDIES = {
    "multilabel": ({}, "small_cnn", (2, 1)),
    "classification": ({"task": "classification", "labels": ["a", "b", "c"]}, "resnet18", (2, 3)),
    "regression": ({"task": "regression", "ranges": [(0, 9)]}, "vit", (2, 1)),
    "segmentation": ({"task": "segmentation"}, "unet", (2, 2, 32, 32)),
    "volumes": ({"task": "segmentation", "depth": 16}, "segresnet", (2, 2, 16, 32, 32)),
    "labelled volumes": ({"depth": 4}, "small_cnn", (2, 1)),
}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_s_network_and_task_fit_together(tiny, name):
    data, model, shape = STUDIES[name]
    study = study_of(tiny, data, {"name": model})
    sides = (study.data.depth,) * (study.data.depth > 1) + (32, 32)
    outputs = network_of(study)(torch.rand((2, 1, *sides)))
    assert outputs.shape == shape
    task = task_of(study)
    assert task.outputs == shape[1]
    targets = (
        torch.zeros((2, *sides), dtype=torch.uint8) if task.targets == "mask" else torch.ones(shape)
    )
    assert task.loss(outputs, targets).shape == (2,)
    assert len(task.predict(outputs)) == 2


@pytest.mark.parametrize("model", ["small_cnn", "resnet18", "densenet121", "vit"])
def test_a_public_prevalence_is_where_the_head_starts(tiny, model):
    plain = study_of(tiny, {}, {"name": model})
    told = study_of(tiny, {"reference": {"prevalence": (0.01, 0.03)}}, {"name": model})
    images = torch.rand((2, 1, 32, 32), generator=torch.Generator().manual_seed(1))
    without, with_it = network_of(plain), network_of(told)
    head = with_it.get_submodule(MODELS[model].head)
    assert head.bias.detach().sigmoid().item() == pytest.approx(0.02)
    shift = with_it(images) - without(images)
    expected = head.bias - without.get_submodule(MODELS[model].head).bias
    assert torch.allclose(shift, expected.expand_as(shift), atol=1e-5)


@pytest.mark.parametrize("prevalence", [(0.0, 0.0), (1.0, 1.0)])
def test_a_prevalence_at_the_edge_still_starts_with_finite_odds(prevalence):
    bias = Multilabel(1, prevalence=sum(prevalence) / 2).bias()
    assert bias.isfinite().all()


def test_regression_starts_in_the_middle_of_its_range(tiny):
    study = study_of(tiny, {"task": "regression", "ranges": [(10, 30)]}, {"name": "small_cnn"})
    bias = task_of(study).bias()
    assert task_of(study).predict(bias[None]).item() == 20.0


def test_data_of_a_task_is_multilabel_and_two_dimensional_unless_told(tiny):
    data = Data(labels=("sick",))
    assert (data.task, data.depth) == ("multilabel", 1)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_prints_its_constants_and_no_address(name):
    assert "0x" not in repr(TASKS[name])
    assert len({repr(task) for task in TASKS.values()}) == len(TASKS)
    assert repr(Multilabel(2)) == repr(Multilabel(2)) != repr(Multilabel(2, prevalence=0.1))
