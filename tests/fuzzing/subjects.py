"""The subjects of the fuzzing, by name."""

from __future__ import annotations

from collections.abc import Mapping

from tests.fuzzing.files import FilesOfOthers
from tests.fuzzing.media import Media
from tests.fuzzing.requests import Requests
from tests.fuzzing.subject import Subject
from tests.fuzzing.weights import Weights

SUBJECTS: Mapping[str, Subject] = {
    "media": Media(),
    "weights": Weights(),
    "files": FilesOfOthers(),
    "requests": Requests(),
}
