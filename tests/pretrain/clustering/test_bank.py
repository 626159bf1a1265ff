"""A bank has the rows of the last steps, oldest first; a table has the labels of the newest round by sample."""

from __future__ import annotations

import pytest
import torch

from tests.pretrain.clustering.rank_stage import BANK_STEPS, BATCH, STEPS, filled_bank, held, push
from trichord.pretrain.clustering.bank import Labelled, LabelTable, MemoryBank, hash_keys


def test_bank_grows_and_then_drops_the_oldest_rows() -> None:
    for steps in range(STEPS + 1):
        bank = filled_bank(steps)
        assert bank.count == min(steps, BANK_STEPS) * BATCH
        expected = []
        for step in range(max(0, steps - BANK_STEPS), steps):
            expected += [(of if of % 4 == 0 else 100 * step + of, step, of) for of in range(BATCH)]
        found = held(bank)["video"]
        assert found["keys"].tolist() == [key for key, _, _ in expected]
        assert found["truths"].tolist() == [of % 5 for _, _, of in expected]
        assert found["ages"].tolist() == list(range(len(expected) - 1, -1, -1))
        first = torch.tensor([(10 * of + 1000 * step) / 8192 for _, step, of in expected])
        torch.testing.assert_close(found["rows"][:, 0], first.half().float())


def test_absent_rows_are_not_stored() -> None:
    found = held(filled_bank())["audio"]
    steps = range(STEPS - BANK_STEPS, STEPS)
    there = [(step, of) for step in steps for of in range(BATCH) if (of + step) % 3]
    assert found["truths"].tolist() == [of % 5 for _, of in there]
    assert found["rows"].isfinite().all() and len(found["rows"]) == len(there) < BANK_STEPS * BATCH
    assert not filled_bank().state()["embedding.audio"].isnan().any()


def test_smaller_bank_loads_the_newest_rows_and_wrong_ones_are_refused() -> None:
    bank = filled_bank()
    smaller = MemoryBank(BATCH, {"video": 4, "audio": 3}, BATCH)
    smaller.load_state(bank.state())
    assert smaller.keys("video").tolist() == bank.keys("video")[-BATCH:].tolist()
    smaller.load_state(filled_bank(0).state())
    assert smaller.count == 0
    with pytest.raises(ValueError, match="36 rows are not a multiple of the batch size 10"):
        MemoryBank(20, {"video": 4, "audio": 3}, 10).load_state(bank.state())
    with pytest.raises(ValueError, match=r"expected a bank's .*found"):
        MemoryBank(20, {"video": 4}, 10).load_state(bank.state())
    with pytest.raises(ValueError, match="a bank of 25 rows is not a multiple of 10 rows a step"):
        MemoryBank(25, {"video": 4}, 10)
    with pytest.raises(ValueError, match="expected embeddings of \\['video'\\], found \\['audio'\\]"):
        MemoryBank(20, {"video": 4}, 10).push({"audio": torch.zeros(1, 4)}, torch.zeros(1), {}, torch.zeros(1))


def test_bank_is_saved_between_steps_only() -> None:
    bank = MemoryBank(BATCH * BANK_STEPS, {"video": 4, "audio": 3}, BATCH)
    push(bank, 0)
    assert len(bank.state()["keys"]) == BATCH
    keys = torch.zeros(1, dtype=torch.long)
    one_of = {name: torch.ones(1, dtype=torch.bool) for name in ("video", "audio")}
    bank.push({"video": torch.ones(1, 4), "audio": torch.ones(1, 3)}, keys, one_of, keys)
    with pytest.raises(ValueError, match="saved only between steps"):
        bank.state()


def test_table_has_the_newest_round_only() -> None:
    table = LabelTable()
    keys = hash_keys(["a/1", "a/2", "b/1"])
    assert table.lookup("video", keys).tolist() == [-1, -1, -1] and not table.state()
    ages = torch.tensor([2, 1, 0])
    table.replace({"video": Labelled(keys, ages, torch.tensor([4, 5, 6]))})
    assert table.lookup("video", keys.flip(0)).tolist() == [6, 5, 4]
    table.replace(
        {
            "video": Labelled(keys[[0, 1, 0]], ages, torch.tensor([7, 8, 9])),
            "audio": Labelled(keys[:0], keys[:0], keys[:0]),
        }
    )
    assert table.lookup("video", keys).tolist() == [9, 8, -1]
    assert table.lookup("audio", keys).tolist() == [-1, -1, -1]


def test_hashes_of_keys_never_change() -> None:
    assert hash_keys(["clip"]).tolist() == [-1080555901787995891]  # as in checkpoints
    assert len(hash_keys([f"clip_{number}" for number in range(5000)]).unique()) == 5000
