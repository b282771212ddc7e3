"""Every model by name: size, structure, features, errors."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from memberscope.errors import ConfigError
from memberscope.models import MODELS, build

IMAGE = (3, 32, 32)
SMALL = {
    "cnn": {},
    "densenet": {"depth": 16},
    "fcn": {},
    "resnet": {"width": 8},
    "vit": {"dim": 48, "blocks": 2},
}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_small_options_cover_every_model() -> None:
    assert set(SMALL) == set(MODELS)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "options", "count"),
    [
        ("densenet", IMAGE, 10, {}, 769_162),
        ("resnet", IMAGE, 10, {}, 11_173_962),
        # Σ (in + 1)·out over 600-1024-512-256-128-100.
        ("fcn", (600,), 100, {}, 615_424 + 524_800 + 131_328 + 32_896 + 12_900),
        ("fcn", (446,), 30, {"widths": (256, 128)}, 114_432 + 32_896 + 3_870),
    ],
)
def test_parameter_counts(
    name: str, shape: tuple[int, ...], classes: int, options: dict[str, object], count: int
) -> None:
    assert parameters(build(name, shape, classes, **options)) == count


@pytest.mark.parametrize("name", MODELS)
def test_features_lead_to_logits(name: str) -> None:
    model = build(name, IMAGE, 7, dropout=0.5, **SMALL[name]).eval()
    batch = torch.randn(3, *IMAGE)
    features = model.features(batch)
    assert features.shape == (3, model.classifier.in_features)
    assert torch.equal(model.classifier(features), model(batch))
    # Evaluation has no dropout left, and records of a batch do not touch each other.
    assert torch.allclose(model(batch)[1:2], model(batch[1:2]), atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_dropout_acts_in_training_only(name: str) -> None:
    model = build(name, IMAGE, 4, dropout=0.5, **SMALL[name]).eval()
    batch = torch.randn(4, *IMAGE)
    assert torch.equal(model(batch), model(batch))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    assert not torch.equal(model(batch), model(batch))


@pytest.mark.parametrize("name", MODELS)
def test_nothing_works_in_place(name: str) -> None:
    model = build(name, IMAGE, 10, dropout=0.1)
    assert not [module for module in model.modules() if getattr(module, "inplace", False)]
    # Autograd refuses a leaf that is changed in place, and so does a hook's saved output.
    outputs: list[tuple[torch.Tensor, int]] = []

    def keep(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        outputs.append((output, output._version))

    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(keep)
    model(torch.randn(2, *IMAGE))
    assert outputs
    assert all(output._version == version for output, version in outputs)


@pytest.mark.parametrize("name", ["cnn", "densenet", "resnet"])
def test_group_norm_replaces_every_batch_norm(name: str) -> None:
    batch, group = (build(name, IMAGE, 10, norm=norm) for norm in ("batch", "group"))
    norms = [module for module in group.modules() if isinstance(module, nn.GroupNorm)]
    assert len(norms) == sum(isinstance(module, nn.BatchNorm2d) for module in batch.modules()) > 0
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in group.modules())
    assert all(module.num_channels // module.num_groups >= 2 for module in norms)
    assert parameters(batch) == parameters(group)


@pytest.mark.parametrize("name", MODELS)
def test_gradcam_layer_is_the_last_map(name: str) -> None:
    model = build(name, IMAGE, 10, **SMALL[name])
    layer = model.gradcam_layer
    if name == "fcn":
        assert layer is None
        return
    assert layer is not None
    seen: list[torch.Tensor] = []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(torch.randn(2, *IMAGE))
    if name == "vit":
        assert seen[0].shape == (2, 64, 48)
    else:
        assert isinstance(layer, nn.Conv2d)
        assert seen[0].ndim == 4
        last = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)][
            -1
        ]
        assert layer is last


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28)])
@pytest.mark.parametrize("name", MODELS)
def test_other_image_sizes(name: str, shape: tuple[int, ...]) -> None:
    assert build(name, shape, 2, **SMALL[name])(torch.randn(2, *shape)).shape == (2, 2)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "options", "message"),
    [
        ("fnc", (4,), 2, {}, "did you mean 'fcn'"),
        ("fcn", (4,), 2, {"width": [3]}, "did you mean 'widths'"),
        ("fcn", (4,), 2, {"widths": [0]}, "greater than or equal to 1"),
        ("fcn", (4,), 2, {"widths": []}, "at least 1 item"),
        ("fcn", (4,), 2, {"activation": "gelu"}, "'tanh' or 'relu'"),
        ("fcn", (4,), 2, {"norm": "group"}, "It knows activation, dropout, widths"),
        ("cnn", IMAGE, 2, {"norm": "layer"}, "'batch' or 'group'"),
        ("cnn", IMAGE, 2, {"dropout": 1.0}, "less than 1"),
        ("cnn", (64,), 2, {}, "Use the model 'fcn' for tables"),
        ("cnn", (1, 4, 4), 2, {}, "at least 8×8"),
        ("cnn", IMAGE, 1, {}, "at least 2 classes"),
        ("vit", (3, 30, 30), 2, {}, "multiples of the patch"),
        ("vit", IMAGE, 2, {"dim": 50}, "multiple of heads"),
    ],
)
def test_wrong_models_are_refused(
    name: str, shape: tuple[int, ...], classes: int, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        build(name, shape, classes, **options)


def test_checking_models_and_recipes_needs_no_torch() -> None:
    code = (
        "import sys; from memberscope.training.recipe import Recipe;"
        "import memberscope.models, memberscope.training.pool, memberscope.signals.collect;"
        "Recipe.parse({'model': 'vit'}).check_inputs((3, 32, 32), 10); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
