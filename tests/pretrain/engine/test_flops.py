"""Counted operations equal those computed by hand: none is missing, none is counted twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.pretrain.engine.small_run import small_config
from trichord.pretrain.backbones.timesformer import TimeSformerSpec
from trichord.pretrain.backbones.vtn import VtnSpec
from trichord.pretrain.engine.rehearsal import count_flops, fake_batch, rehearse, training_flops

NOWHERE = Path("nowhere")


def forward_products(spec: TimeSformerSpec, clips: int, frames: int, places: int) -> int:
    """Return the multiplications of the forward pass of TimeSformer, layer by layer."""
    dim, hidden = spec.dim, int(spec.mlp_ratio * spec.dim)
    grid = clips * frames * places
    seen_in_space = clips * frames * (places + 1)
    tokens = clips * (frames * places + 1)
    # The two projections after temporal attention are merged if that costs less than applying both.
    time_maps = dim**3 + grid * dim**2 if grid > dim else 2 * grid * dim**2
    time = 3 * grid * dim**2 + 2 * grid * frames * dim + time_maps
    space = 4 * seen_in_space * dim**2 + 2 * seen_in_space * (places + 1) * dim
    return grid * 3 * spec.patch**2 * dim + spec.depth * (time + space + 2 * tokens * dim * hidden)


@pytest.mark.parametrize(("clips", "frames", "size"), [(1, 2, 16), (3, 4, 24)])
def test_forward_operations_equal_those_computed_by_hand(clips: int, frames: int, size: int) -> None:
    spec = TimeSformerSpec(dim=32, depth=2, heads=4, mlp_ratio=2.0, patch=8, frames=frames, size=size, drop_path=0.0)
    backbone = spec.build()
    with torch.no_grad():
        found = count_flops(lambda: backbone(torch.zeros(clips, 3, frames, size, size)))
    assert found == 2 * forward_products(spec, clips, frames, (size // 8) ** 2)


def test_timesformer_base_has_the_published_196_gmac_minus_merged_projections() -> None:
    spec = TimeSformerSpec(drop_path=0.0)
    places = 8 * 14**2
    spared = spec.depth * (2 * places * spec.dim**2 - (spec.dim**3 + places * spec.dim**2))
    assert forward_products(spec, 1, 8, 14**2) + spared == pytest.approx(196e9, rel=0.01)


def test_backward_is_twice_forward_except_for_unneeded_gradients() -> None:
    first, second = nn.Linear(3, 5), nn.Linear(5, 7)
    rows_ND = torch.zeros(11, 3)
    found = count_flops(lambda: second(first(rows_ND).relu()).sum().backward())
    assert found == 2 * 11 * (3 * 5 * (1 + 1) + 5 * 7 * (1 + 2))  # the input has no gradient


def test_backbones_with_teacher_buffers_are_counted_too() -> None:
    backbone = VtnSpec(frame_backbone="test_resnet", heads=4, size=16)
    config = small_config(NOWHERE).model_copy(update={"backbone": backbone})
    two, four = (training_flops(config, micro_batch) for micro_batch in (2, 4))
    assert four == 2 * two > 0


def test_fused_attention_is_counted_without_the_recomputation_of_scores() -> None:
    queries, keys, values = (torch.zeros(2, 3, 8, 16, requires_grad=True) for _ in range(3))
    forward = 2 * 2 * (2 * 3 * 8 * 8 * 16)

    def attend() -> Tensor:
        return functional.scaled_dot_product_attention(queries, keys, values)

    assert count_flops(attend) == forward
    assert count_flops(lambda: attend().sum().backward()) == 3 * forward


def test_compiled_modules_are_counted_without_being_compiled() -> None:
    layer = nn.Linear(4, 4)
    layer.compile(backend=_refuse)
    assert count_flops(lambda: layer(torch.zeros(2, 4))) == 2 * 2 * 4 * 4


def _refuse(*arguments: object) -> object:
    raise AssertionError("counting must not compile anything")


def test_figure_of_a_run_is_that_of_its_real_step() -> None:
    config = small_config(NOWHERE)
    torch.manual_seed(0)
    objective = config.build_objective()
    batch = fake_batch(config.objective.sample_spec(), 2)
    real = count_flops(lambda: objective(batch, config.steps - 1).loss.backward())
    assert training_flops(config, 2) == real > 0


def test_recomputation_does_not_count_as_throughput() -> None:
    config = small_config(NOWHERE)
    assert training_flops(small_config(NOWHERE, backbone__activation_checkpointing=True), 2) == training_flops(
        config, 2
    )
    with rehearse(config, 2, checkpoints_activations=True) as rehearsal:
        assert count_flops(lambda: rehearsal.forward().backward()) > training_flops(config, 2)


def test_counting_does_not_advance_the_random_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    training_flops(small_config(NOWHERE), 1)
    assert torch.equal(torch.rand(3), expected)
