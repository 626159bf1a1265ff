"""Random classes depend on seed and names alone, and known classes are excluded in any spelling."""

from __future__ import annotations

from pathlib import Path

import pytest

from trichord.core.errors import UserError
from trichord.finetune.zeroshot.candidates import ClassDraws, candidates_of, read_names

NAMES = [f"class {number:03d}" for number in range(50)]


def drawn(names: list[str], seed: int = 0, known: tuple[str, ...] = ()) -> list[set[str]]:
    found = candidates_of(names, draws=ClassDraws(3, 16, seed), known=known)
    return [{names[number] for number in each.numbers} for each in found]


def test_draws_depend_on_the_seed_and_not_on_the_order_of_names() -> None:
    assert drawn(NAMES) == drawn(NAMES) == drawn(NAMES[::-1])
    assert all(len(each) == 16 for each in drawn(NAMES))
    one, two, three = drawn(NAMES)
    assert one != two and two != three and one != three and drawn(NAMES, seed=1) != drawn(NAMES)


def test_known_classes_are_excluded_in_any_spelling() -> None:
    names = ["ApplyEyeMakeup", "Archery", "tai_chi", "YoYo"]
    (new,) = candidates_of(names, known=["apply eye makeup", "Tai Chi"])
    assert (new.title, new.numbers) == ("new 2", (1, 3))
    assert candidates_of(names)[0].title == "all 4"
    known = tuple(NAMES[:30])
    assert not set().union(*drawn(NAMES, known=known)) & set(known)


def test_lists_name_candidates(tmp_path: Path) -> None:
    (tmp_path / "split1.txt").write_text("archery\n\nYo Yo\n")
    (tmp_path / "wrong.txt").write_text("archerry\n")
    (found,) = candidates_of(["ApplyEyeMakeup", "Archery", "YoYo"], lists=[tmp_path / "split1.txt"])
    assert (found.title, found.numbers) == (str(tmp_path / "split1.txt"), (1, 2))
    with pytest.raises(UserError, match=r"has no class 'archerry'\. Did you mean 'archery'"):
        candidates_of(["archery"], lists=[tmp_path / "wrong.txt"])
    with pytest.raises(UserError, match="one class name on each line"):
        read_names(tmp_path / "none.txt")


def test_too_few_classes_are_an_error() -> None:
    with pytest.raises(UserError, match=r"--draws 1x60: .* expected at most 50"):
        candidates_of(NAMES, draws=ClassDraws(1, 60))
    with pytest.raises(UserError, match="every class of the set is known"):
        candidates_of(NAMES, known=NAMES)
