"""The audio-visual objective: losses by hand, the clusters of the other modality as targets, ranks, and resuming."""

from __future__ import annotations

import json
import math
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.pretrain.clustering.row_stage import where_rounding_decides_nothing
from tests.pretrain.objectives import av_stage
from tests.pretrain.objectives.av_stage import BATCH, ROUNDS, batch, build, run_steps
from tests.pretrain.processes import run_ranks
from trichord.core.errors import UserError
from trichord.pretrain.objectives.av_prototypes.clusters import Clustered
from trichord.pretrain.objectives.av_prototypes.objective import AvPrototypes
from trichord.pretrain.objectives.av_prototypes.sinkhorn import balanced_codes
from trichord.pretrain.objectives.av_prototypes.target import Pair, Samples, TowerOutput

XDC = {"kind": "labels", "clusters": [3, 4], "rounds": ROUNDS}
TARGETS: dict[str, dict[str, Any]] = {
    "prototypes": {},
    "xdc": {"target": XDC},
    "both": {"target": {**XDC, "labels": "both"}},
    "joint": {"target": {**XDC, "labels": "joint", "balanced": True}},
    "own": {"target": {**XDC, "labels": "own"}, "embedding_dim": None, "cross_weight": 0.0},
    "sinkhorn": {"target": {"kind": "sinkhorn", "prototypes": 7}, "learn_temperature": True},
}
PRESENT = batch().audio_present


def embedded(objective: AvPrototypes, step: int) -> tuple[Tensor, Tensor]:
    found = batch(step=step)
    video = objective.video(objective.spec.normalisation(found.video[0])).unit_BD
    return video.detach(), objective.audio(found.audio[0]).unit_BD.detach()


def clustered(objective: AvPrototypes) -> Clustered:
    assert isinstance(objective.target, Clustered)
    return objective.target


def test_contrast_of_clips_excludes_silent_ones() -> None:
    objective = build(target=None, temperature=0.2)
    video, audio = embedded(objective, 0)
    logits = (video @ audio.T / 0.2)[PRESENT][:, PRESENT]
    own = torch.arange(len(logits))
    expected = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(objective(batch(), 0).loss, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("by_concentration", [True, False])
def test_each_modality_predicts_the_cluster_of_the_other(by_concentration: bool) -> None:
    objective = build(
        target={"kind": "prototypes", "clusters": [3, 5], "by_concentration": by_concentration, "rounds": ROUNDS},
        cross_weight=0.0,
    )
    run_steps(objective, range(2))
    rounds = clustered(objective).rounds
    step = 1  # its clips were part of the round, so they have the labels of that round
    units = dict(zip(("video", "audio"), embedded(objective, step), strict=True))
    terms = []
    for cluster_set in rounds.cluster_sets:
        prototypes = rounds.prototypes[cluster_set]
        labels = [rounds.cluster_of(cluster_set, av_hash(f"clip {step} {number}")).item() for number in range(BATCH)]
        assert all(
            label >= 0 for number, label in enumerate(labels) if cluster_set.subject == "video" or PRESENT[number]
        )
        other = units["audio" if cluster_set.subject == "video" else "video"]
        for number in range(BATCH):
            if not PRESENT[number]:
                continue
            heat = prototypes.temperatures_K if by_concentration else torch.full((cluster_set.clusters,), 0.2)
            shares = [
                math.exp(float(other[number] @ centre / t))
                for centre, t in zip(prototypes.centroids_KD, heat, strict=True)
            ]
            terms.append(-math.log(shares[int(labels[number])] / sum(shares)))
    output = objective(batch(step=step), 9)
    assert float(output.loss) == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    assert float(output.health["known_share"]) == 1
    assert torch.stack(
        [rounds.prototypes[cluster_set].temperatures_K.mean() for cluster_set in rounds.cluster_sets]
    ).allclose(torch.tensor(0.2), rtol=1e-5)


def av_hash(key: str) -> Tensor:
    from trichord.pretrain.clustering.bank import hash_keys

    return hash_keys([key])


@pytest.mark.parametrize(
    ("kind", "video_learns", "audio_learns"),
    [("other", ["audio"], ["video"]), ("own", ["video"], ["audio"]), ("both", ["video", "audio"], ["audio", "video"])],
)
def test_labels_come_from_the_modality_of_the_recipe(
    kind: str, video_learns: list[str], audio_learns: list[str]
) -> None:
    objective = build(target={**XDC, "labels": kind}, cross_weight=0.0)
    run_steps(objective, range(2))
    rounds = clustered(objective).rounds
    found = batch(step=1)
    output = {
        "video": objective.video(objective.spec.normalisation(found.video[0])),
        "audio": objective.audio(found.audio[0]),
    }
    terms = []
    for sense, subjects in (("video", video_learns), ("audio", audio_learns)):
        wanted = [(subject, clusters) for subject in subjects for clusters in (3, 4)]
        for head, (subject, clusters) in enumerate(wanted):
            (cluster_set,) = (each for each in rounds.cluster_sets if each == (subject, clusters))
            labels = torch.cat([rounds.cluster_of(cluster_set, av_hash(f"clip 1 {number}")) for number in range(BATCH)])
            is_used = torch.ones_like(PRESENT) if sense == subject == "video" else PRESENT
            terms.append(functional.cross_entropy(output[sense].logits_BK[head][is_used], labels[is_used]))
    torch.testing.assert_close(objective(found, 9).loss, torch.stack(terms).mean(), rtol=1e-5, atol=0)


def test_swapped_target_equals_that_of_swav() -> None:
    objective = build(target={"kind": "sinkhorn", "prototypes": 5, "epsilon": 0.1, "iterations": 3}, cross_weight=0.0)
    output = objective(batch(), 0)
    directions = functional.normalize(objective.target.prototypes.weight_KD, dim=1)  # type: ignore[union-attr]
    scores = [unit[PRESENT] @ directions.T for unit in embedded(objective, 0)]
    codes = []
    for score in scores:  # as in the listing of the paper: cluster_sets are samples
        q = (score.detach().double() / 0.1).exp().T
        q = q / q.sum()
        for _ in range(3):
            q = q / q.sum(dim=1, keepdim=True) / q.shape[0]
            q = q / q.sum(dim=0, keepdim=True) / q.shape[1]
        codes.append((q * q.shape[1]).T.float())
    logs = [functional.log_softmax(score / 0.1, dim=1) for score in scores]
    expected = -((codes[1] * logs[0]).sum(dim=1).mean() + (codes[0] * logs[1]).sum(dim=1).mean()) / 2
    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=0)


def test_codes_use_all_prototypes_equally_for_unequal_scores() -> None:
    torch.manual_seed(0)
    scores = functional.normalize(torch.randn(64, 4), dim=1) * 0.1 + torch.tensor([0.9, 0.0, 0.0, 0.0])
    codes = balanced_codes(scores, torch.ones(64), epsilon=0.003, iterations=100)
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(64))
    torch.testing.assert_close(codes.sum(dim=0), torch.full((4,), 16.0), rtol=0.05, atol=0)


@pytest.mark.parametrize("target", TARGETS)
def test_sound_of_a_silent_clip_is_ignored(target: str) -> None:
    one, other = build(**TARGETS[target]), build(**TARGETS[target])
    for objective, noise in ((one, 0.0), (other, 5.0)):
        for step in range(4):
            found = batch(step=step)
            found.audio[0][~PRESENT] += noise
            objective(found, step)
            objective.after_update(step)
    torch.testing.assert_close(one(batch(step=5), 5).loss, other(batch(step=5), 5).loss, rtol=0, atol=0)


def test_close_clusters_are_distinguished_under_bfloat16() -> None:
    """Centroids that differ by a thousandth have equal cosines in bfloat16, so that the first would get every clip."""
    objective = build(target={**XDC, "clusters": [4]}, embedding_dim=6)
    run_steps(objective, range(2))
    target = clustered(objective)
    (cluster_set, *_) = target.rounds.cluster_sets
    near_KD = functional.normalize(torch.ones(4, 6) + 2e-3 * torch.eye(4, 6))
    target.rounds.prototypes[cluster_set] = target.rounds.prototypes[cluster_set]._replace(centroids_KD=near_KD)
    unseen = batch(step=3)
    unit_BD = near_KD.repeat(2, 1)
    pairs = [
        Pair(TowerOutput(unit_BD, each.video.logits_BK), TowerOutput(unit_BD, each.audio.logits_BK))
        for each in objective._encode(unseen)
    ]
    samples = Samples([f"unseen {number}" for number in range(BATCH)], unseen.labels, unseen.valid, PRESENT)
    expected = target.compute_loss(pairs, samples).loss
    with torch.autocast("cpu", torch.bfloat16):
        assert len((unit_BD @ near_KD.T).unique(dim=0)) == 1
        assert torch.equal(target.compute_loss(pairs, samples).loss, expected)


def test_without_any_sound_there_is_no_cross_modal_loss() -> None:
    objective = build(target={"kind": "sinkhorn", "prototypes": 5})
    found = batch().replace(audio_present=torch.zeros_like(PRESENT))
    output = objective(found, 0)
    output.loss.backward()
    assert float(output.loss) == 0
    assert all(not each.grad.any() for each in objective.parameters() if each.grad is not None)


def test_two_clips_of_a_video_are_positives_in_each_modality() -> None:
    objective = build(target=None, cross_weight=0.0, within_weight=1.0, clips={**CLIP, "clips": 2})
    found = batch(clips=2)
    terms = []
    for sense, is_used in (("video", torch.ones_like(PRESENT)), ("audio", PRESENT)):
        tower = objective.video if sense == "video" else objective.audio
        inputs = [objective.spec.normalisation(each) for each in found.video] if sense == "video" else found.audio
        rows = torch.cat([tower(each).unit_BD[is_used] for each in inputs])
        count = len(rows) // 2
        cosines = rows @ rows.T / 0.07
        cosines.fill_diagonal_(-torch.inf)
        terms.append(functional.cross_entropy(cosines, (torch.arange(2 * count) + count) % (2 * count)))
    torch.testing.assert_close(objective(found, 0).loss, torch.stack(terms).mean(), rtol=1e-5, atol=0)


CLIP = {"kind": "window", "frames": 4, "clip_seconds": 1.0}


def test_two_ranks_equal_one_rank_with_the_same_batch(tmp_path: Path) -> None:
    """In float64, because the first clustering chooses rows by float16 bits, which other rounding may change."""
    program = """
        import json, sys, torch
        import torch.distributed as dist
        from tests.pretrain.objectives import av_stage
        from tests.pretrain.objectives.test_av_prototypes import TARGETS
        dist.init_process_group("gloo")
        for name, weights in json.loads(sys.argv[2]).items():
            objective = av_stage.build(weights=weights, **TARGETS[name]).double()
            losses = av_stage.run_steps(objective, range(6), dist.get_rank(), 2)
            found = {"losses": losses, "state": objective.state(), "weights": list(objective.parameters())}
            torch.save(found, f"{sys.argv[1]}/{name}{dist.get_rank()}.pt")
    """
    alone = {name: where_rounding_decides_nothing(partial(_six_steps, target)) for name, target in TARGETS.items()}
    seeds = json.dumps({name: weights for name, (weights, _) in alone.items()})
    run_ranks(["-c", textwrap.dedent(program), str(tmp_path), seeds], ranks=2)
    for name, (_, (objective, losses)) in alone.items():
        for rank in range(2):
            _compare(torch.load(tmp_path / f"{name}{rank}.pt", weights_only=True), objective, losses)


def _six_steps(target: dict[str, Any], weights: int) -> tuple[AvPrototypes, list[dict[str, float]]]:
    objective = build(weights=weights, **target).double()
    return objective, run_steps(objective, range(6))


def _compare(found: dict[str, Any], objective: AvPrototypes, losses: list[dict[str, float]]) -> None:
    for theirs, ours in zip(found["losses"], losses, strict=True):
        assert theirs == pytest.approx(ours, rel=2e-4)
    for theirs, ours in zip(found["weights"], objective.parameters(), strict=True):
        torch.testing.assert_close(theirs.detach(), ours.detach(), rtol=1e-3, atol=1e-4)
    state = objective.state()
    assert found["state"].keys() == state.keys()
    for name, tensor in state.items():
        if ".table." in name or name.endswith(("keys", "truths", "counts_K")):
            assert torch.equal(found["state"][name], tensor), name


@pytest.mark.parametrize("steps", [3, 4], ids=["within a round", "between rounds"])
@pytest.mark.parametrize("target", TARGETS)
def test_resuming_does_not_change_the_result(target: str, steps: int) -> None:
    whole, first = build(**TARGETS[target]), build(**TARGETS[target])
    run_steps(first, range(steps))
    resumed = build(**TARGETS[target])
    resumed.load_state_dict(first.state_dict())
    resumed.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    resumed_losses = run_steps(resumed, range(steps, 8))
    assert run_steps(whole, range(8))[steps:] == resumed_losses
    state = whole.state()
    assert state.keys() == resumed.state().keys()
    assert all(torch.equal(tensor, resumed.state()[name]) for name, tensor in state.items())
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_too_few_clips_for_the_clusters_are_an_error_before_the_run() -> None:
    with pytest.raises(UserError, match=r"clusters=\[3, 17\].* has 16 clips.*rounds.first_step"):
        build(target={"kind": "prototypes", "clusters": [3, 17], "rounds": ROUNDS})


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"within_weight": 1.0}, "set clips.clips=2"),
        ({"embedding_dim": None}, "Set embedding_dim, or set cross_weight=0"),
        ({"target": None, "cross_weight": 0.0}, "there is no loss"),
    ],
)
def test_invalid_settings_are_refused_with_a_remedy(changes: dict[str, Any], advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        av_stage.spec(**changes)
