"""The settings of a stream: short forms of a source, and validation without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from trichord.shards.reading.manifest import Manifest, ShardEntry
from trichord.shards.reading.stream_config import DataConfig, SourceConfig, StreamConfig

A, B = SourceConfig(root="a"), SourceConfig(root="b")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("a", (A,)),
        (["a", "b"], (A, B)),
        ({"root": "a"}, (A,)),
        (["a", {"root": "b", "weight": 2}], (A, SourceConfig(root="b", weight=2.0))),
    ],
)
def test_a_source_may_be_its_root_alone(given: object, meant: tuple[SourceConfig, ...]) -> None:
    config = DataConfig.model_validate({"sources": given, "batch_size": 4})
    assert config.sources == meant
    assert DataConfig.model_validate(config.model_dump(mode="json")) == config


def test_a_source_is_required() -> None:
    with pytest.raises(ValidationError, match="expected at least one source"):
        DataConfig(sources=(), batch_size=4)


def test_stream_is_defined_by_its_data_and_a_seed() -> None:
    assert set(StreamConfig.model_fields) - set(DataConfig.model_fields) == {"seed"}


def test_settings_are_checked_and_samples_counted_without_torch(tmp_path: Path) -> None:
    Manifest(shards=(ShardEntry(name="00000.tar", samples=7, bytes=1),)).save(tmp_path)
    script = f"""
import sys
from trichord.shards.reading.stream_config import DataConfig
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.normalise import Normalisation
from trichord.shards.transforms.view_specs import MixSpec, svt_views
SampleSpec(views=svt_views())
(source,) = DataConfig(sources={str(tmp_path)!r}, batch_size=4).open_sources()
print(source.counts, sorted({{"torch", "av", "webdataset"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[7] []"
