"""The subjects of the fuzzing, by name."""

from __future__ import annotations

from collections.abc import Mapping

from tests.fuzzing.media import Media
from tests.fuzzing.requests import Requests
from tests.fuzzing.subject import Subject

SUBJECTS: Mapping[str, Subject] = {"media": Media(), "requests": Requests()}
