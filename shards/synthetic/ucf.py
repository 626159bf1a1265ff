"""The UCF101 layout: avi files in class folders, groups in their names, three folds that keep groups together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trichord.core.files import write_whole
from trichord.shards.synthetic.plan import ClipPlan, GeneratedClip, SyntheticRules
from trichord.shards.synthetic.vocabulary import CLASSES

_FOLDS = (1, 2, 3)
_ROTATION = 5


def adapt(rules: SyntheticRules) -> SyntheticRules:
    """Return the rules with exactly one event per clip, as in UCF101."""
    return rules.model_copy(update={"two_events_share": 0.0, "no_event_share": 0.0})


def name_files(plans: Sequence[ClipPlan]) -> list[str]:
    """Return a path for each clip; groups of a class and clips of a group are numbered from 1, in the clips' order."""
    groups: dict[str, dict[str, int]] = {}  # class -> group -> clips seen
    names = []
    for plan in plans:
        folder = class_folder(plan.events[0].action)
        seen = groups.setdefault(folder, {})
        seen[plan.group.name] = seen.get(plan.group.name, 0) + 1
        group = list(seen).index(plan.group.name) + 1
        names.append(f"UCF-101/{folder}/v_{folder}_g{group:02d}_c{seen[plan.group.name]:02d}.avi")
    return names


def write_lists(out: Path, clips: Sequence[GeneratedClip], rules: SyntheticRules) -> None:
    """Write classInd.txt and the lists of each fold; only training lists contain the class number."""
    folder = out / "ucfTrainTestlist"
    numbers = {class_folder(name): number for number, name in enumerate(sorted(CLASSES), start=1)}
    _write(folder / "classInd.txt", [f"{number} {name}" for name, number in numbers.items()])
    for fold in _FOLDS:
        tested = _tested_groups(clips, fold)
        train, test = [], []
        for clip in clips:
            name = clip.path.removeprefix("UCF-101/")
            if clip.plan.group.name in tested:
                test.append(name)
            else:
                train.append(f"{name} {numbers[name.split('/')[0]]}")
        _write(folder / f"trainlist{fold:02d}.txt", sorted(train))
        _write(folder / f"testlist{fold:02d}.txt", sorted(test))


def class_folder(action: str) -> str:
    """Return the folder of an action: MovingLeft for `moving left`."""
    return "".join(word.capitalize() for word in action.split())


def _tested_groups(clips: Sequence[GeneratedClip], fold: int) -> set[str]:
    """Return the test groups of a fold.

    Groups of the test split are in every fold, because no training list may contain their held-out combinations; the
    others alternate.
    """
    test = {clip.plan.group.name for clip in clips if clip.plan.group.split == "test"}
    others = sorted({clip.plan.group.name for clip in clips} - test)
    return test | {name for place, name in enumerate(others) if fold > 1 and place % _ROTATION == fold - 2}


def _write(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    # The official lists have Windows line endings, which a reader must accept.
    write_whole(path, "".join(f"{line}\r\n" for line in lines))
