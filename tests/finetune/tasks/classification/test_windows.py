"""Combining the clips of a video equals plain loops over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.finetune.small_head import settings
from trichord.finetune.tasks.classification.scoring import ScoredVideo
from trichord.finetune.tasks.classification.spec import ClassificationSpec

CLIPS = ((0.0, 2.0), (1.0, 3.0), (2.0, 4.0), (5.0, 6.0))


def spec(average: str, loss: str) -> ClassificationSpec:
    objective = settings(shards=None, objective__average=average, objective__loss={"kind": loss})["objective"]  # type: ignore[arg-type]
    return ClassificationSpec.model_validate(objective)


@pytest.mark.parametrize("loss", ["binary", "cross_entropy"])
@pytest.mark.parametrize("average", ["probability", "logit", "max"])
def test_clips_are_combined_for_videos_and_instants(average: str, loss: str) -> None:
    rule, generator = spec(average, loss), torch.Generator().manual_seed(0)
    given_CK = torch.randn(4, 4, generator=generator)
    given_CK = given_CK if average == "logit" else given_CK.softmax(1)
    video = ScoredVideo("v", 6.0, (), CLIPS, given_CK)

    def together(clips: list[int]) -> torch.Tensor:
        rows = [given_CK[clip] for clip in clips]
        if average == "max":
            return torch.tensor([max(float(row[k]) for row in rows) for k in range(4)])
        mean_K = torch.stack([row / len(rows) for row in rows]).sum(0)
        if average == "probability":
            return mean_K
        return 1 / (1 + (-mean_K).exp()) if loss == "binary" else mean_K.exp() / mean_K.exp().sum()

    torch.testing.assert_close(video.scores(rule), together([0, 1, 2, 3]))
    # 4.3 is in no clip; the middle of the third is 1.3 away, that of the last 1.2. Ends are excluded.
    instants_T = np.array([0.0, 1.5, 2.0, 3.9, 4.3, 4.1, 5.0])
    speak = [[0], [0, 1], [1, 2], [2], [3], [2], [3]]
    torch.testing.assert_close(video.scores_at(instants_T, rule), torch.stack([together(each) for each in speak]))
