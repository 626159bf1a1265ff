"""Layouts: each official format, written by hand with its edge cases, is read by the rules of that format."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.shards import media
from trichord.core.errors import UserError
from trichord.shards.building.plan import check_groups
from trichord.shards.layouts import LAYOUTS, Item, Listing, medmnist3d, open_layout
from trichord.shards.layouts.listing import VideoIndex, key_from
from trichord.shards.synthetic import LAYOUTS as SYNTHETIC_LAYOUTS
from trichord.shards.synthetic import SyntheticRules, describe_clip, make_synthetic


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a layout only looks for files, it opens none")


def write(root: Path, name: str, text: str, encoding: str = "utf-8") -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def read(name: str, root: Path, split: str, **options: object) -> Listing:
    return open_layout(name, options).read(root, split)


def by_key(listing: Listing) -> dict[str, Item]:
    return {item.key: item for item in listing.items}


# Every layout


@pytest.mark.parametrize("name", LAYOUTS)
def test_empty_folder_is_refused_with_the_expected_files(name: str, tmp_path: Path) -> None:
    layout = open_layout(name)
    with pytest.raises(UserError) as caught:
        layout.splits(tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message and "Searched for:" in message and "Next:" in message
    assert layout.expects.rstrip() in message
    assert layout.name == name


def test_unknown_layout_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'charades'"):
        open_layout("charade")


def test_a_wrong_option_lists_the_options() -> None:
    with pytest.raises(UserError, match=r"Layout ucf101: option 'fold'.*Options of this layout: fold"):
        open_layout("ucf101", {"fold": "4"})
    with pytest.raises(UserError, match="option 'folds'"):
        open_layout("hmdb51", {"folds": 1})


def test_options_from_a_command_line_are_strings() -> None:
    assert open_layout("ucf11", {"fold": "7"}).model_dump() == {"fold": 7}


def test_keys_have_no_dots_or_slashes_and_stay_distinct() -> None:
    names = ["plain_name-1", "a.b", "a_b", "a/b", "Ünïcode", "x" * 200, "x" * 201, "#&!()[]; .avi", ""]
    keys = [key_from(name) for name in names]
    assert len(set(keys)) == len(names)
    assert all("." not in key and "/" not in key and key.isascii() and 0 < len(key) <= 80 for key in keys)
    assert keys[0] == names[0]


def test_index_follows_links_once_and_ignores_hidden_files(tmp_path: Path) -> None:
    put(tmp_path / "data", "a.mp4", "._a.mp4", "deep/b.MP4", "notes.txt")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "round").symlink_to(tmp_path / "data")
    index = VideoIndex(tmp_path / "root")
    assert len(index) == 2
    assert index.find("A") == tmp_path / "root/linked/a.mp4"
    assert index.find("._a") is None


# folder


def test_class_folders_without_splits(tmp_path: Path) -> None:
    put(tmp_path, "run/2.mp4", "run/1.webm", "jump high/deep/3.mkv", "run/readme.txt")
    (tmp_path / "empty").mkdir()
    assert open_layout("folder").splits(tmp_path) == ("all",)
    listing = read("folder", tmp_path, "all")
    assert listing.classes == ("jump high", "run")
    assert [(item.annotation.source, item.annotation.labels) for item in listing.items] == [
        ("jump high/deep/3.mkv", (0,)),
        ("run/1.webm", (1,)),
        ("run/2.mp4", (1,)),
    ]


def test_class_folders_with_splits_number_classes_over_all_of_them(tmp_path: Path) -> None:
    put(tmp_path, "train/b/1.mp4", "train/c/1.mp4", "val/a/1.mp4", "val/c/2.mp4")
    assert open_layout("folder").splits(tmp_path) == ("train", "val")
    listing = read("folder", tmp_path, "val")
    assert listing.classes == ("a", "b", "c")
    assert [item.annotation.labels for item in listing.items] == [(0,), (2,)]
    with pytest.raises(UserError, match=r"has no split 'test'\. It has: train, val"):
        read("folder", tmp_path, "test")


def test_split_folders_are_not_classes(tmp_path: Path) -> None:
    put(tmp_path, "train/1.mp4", "test/2.mp4")
    with pytest.raises(UserError, match="found no class folder"):
        open_layout("folder").splits(tmp_path)


def test_files_with_the_same_name_have_different_keys(tmp_path: Path) -> None:
    put(tmp_path, "run/1.mp4", "run/1.webm")
    first, again = (read("folder", tmp_path, "all") for _ in range(2))
    assert len(by_key(first)) == 2
    assert by_key(first).keys() == by_key(again).keys()


# csv

TABLE = (
    "\ufeffpath,caption,captions,labels,intervals,group,split,start,end,mood,weight\r\n"
    'v/a.mp4,"a dog, running","[""a dog"", ""it runs""]",run;dog,"[[""run"", 0.5, 1.25]]",g1,train,,,happy,2.5\r\n'
    "v/a.mp4,,,dog,,g1,train,1.5,2.75,NaN,\r\n"
    "v/b.mp4,,,,,g2,val,,,,\r\n"
    "v/gone.mp4,,,,,g3,val,,,,\r\n"
)


def test_table_is_read_by_its_header(tmp_path: Path) -> None:
    write(tmp_path, "clips.csv", TABLE)
    put(tmp_path, "v/a.mp4", "v/b.mp4")
    assert open_layout("csv").splits(tmp_path) == ("train", "val")
    train, val = read("csv", tmp_path, "train"), read("csv", tmp_path, "val")
    assert train.classes == val.classes == ("dog", "run")
    whole, part = sorted((item.annotation for item in train.items), key=lambda found: found.start or 0)
    assert whole.captions == ("a dog, running", "a dog", "it runs")
    assert whole.labels == (0, 1)
    assert [(i.label, i.start, i.end) for i in whole.intervals] == [(1, 0.5, 1.25)]
    assert (whole.group, whole.split, whole.start, whole.extra) == (
        "g1",
        "train",
        None,
        {"mood": "happy", "weight": 2.5},
    )
    assert (part.labels, part.start, part.end) == ((0,), 1.5, 2.75)
    assert part.extra == {"mood": "NaN"}, "NaN is not valid JSON, so nothing could read JSON written from it"
    assert len({item.key for item in train.items}) == 2, "two parts of one file are two clips"
    assert (len(val.items), val.missing) == (1, ("v/gone.mp4",))


def test_classes_txt_fixes_the_numbers(tmp_path: Path) -> None:
    write(tmp_path, "clips.csv", "path,labels\na.mp4,run\n")
    write(tmp_path, "classes.txt", "run\r\ndog\r\n")
    put(tmp_path, "a.mp4")
    listing = read("csv", tmp_path, "all")
    assert (listing.classes, listing.items[0].annotation.labels) == (("run", "dog"), (0,))
    write(tmp_path, "classes.txt", "ran\n")
    with pytest.raises(UserError, match=r"row 1: class 'run' is not in .*Did you mean 'ran'"):
        read("csv", tmp_path, "all")


@pytest.mark.parametrize(
    ("header", "row", "complaint"),
    [
        ("file", "a.mp4", "the header lacks path. Found: file"),
        ("path,start", "a.mp4,soon", "row 1: start is 'soon', expected seconds"),
        ("path,start,end", "a.mp4,3,2", "ends at 2 s but starts at 3 s"),
        ("path,intervals", 'a.mp4,"[[""run"", 2, 1]]"', "expected \\[class name, start_s, end_s\\]"),
        ("path,captions", "a.mp4,hello", "expected a JSON list"),
        ("path,captions", "a.mp4,[1]", "expected a JSON list of strings"),
        ("path,caption", ",hello", "row 1: the path is empty"),
    ],
)
def test_error_in_a_table_names_its_line(header: str, row: str, complaint: str, tmp_path: Path) -> None:
    write(tmp_path, "clips.csv", f"{header}\n{row}\n")
    put(tmp_path, "a.mp4")
    with pytest.raises(UserError, match=complaint):
        read("csv", tmp_path, "all")


def test_root_may_be_a_table_or_a_folder_with_one_table(tmp_path: Path) -> None:
    write(tmp_path, "mine.csv", "path\na.mp4\n")
    put(tmp_path, "a.mp4")
    assert read("csv", tmp_path, "all").items == read("csv", tmp_path / "mine.csv", "all").items
    write(tmp_path, "other.csv", "path\na.mp4\n")
    with pytest.raises(UserError, match="found no table"):
        read("csv", tmp_path, "all")
    assert len(read("csv", tmp_path, "all", table="other.csv").items) == 1


# The synthetic data set

WORLD_CLIPS, WORLD_SEED = 6, 5


@pytest.fixture(scope="module")
def synthetic_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic data set in the files of each public dataset, by a writer that is independent of the readers."""
    root = tmp_path_factory.mktemp("worlds")
    for layout in ("csv", "charades", "kinetics", "ucf", "msrvtt"):
        make_synthetic(root / layout, WORLD_CLIPS, WORLD_SEED, layout)
    return root


@pytest.mark.parametrize(
    ("public_name", "name"),
    [("csv", "csv"), ("charades", "charades"), ("kinetics", "kinetics"), ("ucf", "ucf101"), ("msrvtt", "msrvtt")],
)
def test_synthetic_data_in_each_public_layout_is_read_back_as_planned(
    public_name: str, name: str, synthetic_sets: Path
) -> None:
    layout, root = open_layout(name), synthetic_sets / public_name
    listings = {split: layout.read(root, split) for split in layout.splits(root)}
    assert all(listing.missing == () for listing in listings.values())
    check_groups(listings)
    got = sorted(
        sorted(listing.classes[label].replace(" ", "").casefold() for label in item.annotation.labels)
        for listing in listings.values()
        for item in listing.items
    )
    rules = SYNTHETIC_LAYOUTS[public_name].adapt(SyntheticRules())
    plans = [describe_clip(WORLD_SEED, number, rules) for number in range(WORLD_CLIPS)]
    planned = sorted(sorted({event.action.replace(" ", "") for event in plan.events}) for plan in plans)
    if public_name == "msrvtt":  # its label is a category of the video, not an action
        assert [len(labels) for labels in got] == [1] * WORLD_CLIPS
    else:
        assert got == planned
    assert public_name != "charades" or [] in planned, "data without an idle video would not test that they are kept"


def test_kinetics_and_msrvtt_files_have_the_fields_of_their_formats(synthetic_sets: Path) -> None:
    msrvtt_items = read("msrvtt", synthetic_sets / "msrvtt", "train").items
    assert all(len(item.annotation.captions) > 3 for item in msrvtt_items)
    own = {
        caption for item in read("csv", synthetic_sets / "csv", "train").items for caption in item.annotation.captions
    }
    assert own & {caption for item in msrvtt_items for caption in item.annotation.captions}


# kinetics


def test_kinetics_ids_are_alphabetical_over_all_lists(tmp_path: Path) -> None:
    write(
        tmp_path,
        "annotations/train.csv",
        'label,youtube_id,time_start,time_end,split\nzumba,AAA_-bbb111,10,20,train\n"tango, fast",-x,0,10,train\n',
    )
    write(tmp_path, "annotations/val.csv", "label,youtube_id,time_start,time_end,split\nabseiling,CCC,3,13,val\n")
    write(tmp_path, "annotations/test.csv", "youtube_id,time_start,time_end,split\nDDD,1,11,test\n")
    put(tmp_path, "train/AAA_-bbb111_000010_000020.mp4", "train/tango_fast/-x_000000_000010.mp4")
    put(tmp_path, "val/CCC_000003_000013.mp4", "test/DDD_000001_000011.mp4")
    layout = open_layout("kinetics")
    assert layout.splits(tmp_path) == ("train", "val", "test")
    train = layout.read(tmp_path, "train")
    assert train.classes == ("abseiling", "tango, fast", "zumba")
    assert {item.key: item.annotation.labels for item in train.items} == {
        "AAA_-bbb111_000010_000020": (2,),
        "-x_000000_000010": (1,),
    }
    found = by_key(train)["AAA_-bbb111_000010_000020"].annotation
    assert found.extra == {"youtube_id": "AAA_-bbb111", "time_start": 10.0, "time_end": 20.0}
    assert (found.start, found.end) == (None, None), "the files are cut already"
    assert [item.annotation.labels for item in layout.read(tmp_path, "val").items] == [(0,)]
    assert [item.annotation.labels for item in layout.read(tmp_path, "test").items] == [()]
    assert [found.missing for found in (train, layout.read(tmp_path, "test"))] == [(), ()]


def test_kinetics_prefers_txt_and_replacements(tmp_path: Path) -> None:
    write(tmp_path, "annotations/train.csv", "label,youtube_id,time_start,time_end,split\na,one,0,10,train\n")
    write(tmp_path, "annotations/train.txt", "a,one,0,10,train\r\nb,two,5,15,train\r\nb,gone,0,10,train\r\n")
    put(tmp_path, "train/one_000000_000010.mp4", "replacement_for_corrupted_k400/one_000000_000010.mp4")
    put(tmp_path, "train/b/two_000005_000015.mp4")
    listing = read("kinetics", tmp_path, "train")
    assert listing.classes == ("a", "b")
    assert [item.annotation.source for item in listing.items] == [
        "replacement_for_corrupted_k400/one_000000_000010.mp4",
        "train/b/two_000005_000015.mp4",
    ]
    assert listing.missing == ("gone_000000_000010.mp4",)


@pytest.mark.parametrize("separator", [" ", ","])
def test_kinetics_path_lists(separator: str, tmp_path: Path) -> None:
    write(tmp_path, "train.csv", f"x/one.mp4{separator}2\nx/two.mp4{separator}0\n")
    put(tmp_path, "videos/one.mp4", "videos/two.mp4")
    listing = read("kinetics", tmp_path, "train")
    assert listing.classes == ("0", "1", "2")
    assert [item.annotation.labels for item in listing.items] == [(2,), (0,)]
    write(tmp_path, "classes.txt", "a\nb\nc\n")
    assert read("kinetics", tmp_path, "train").classes == ("a", "b", "c")
    write(tmp_path, "classes.txt", "a\nb\n")
    with pytest.raises(UserError, match="a list has the class number 2, expected 0 to 1"):
        read("kinetics", tmp_path, "train")


def test_kinetics_refuses_another_version(tmp_path: Path) -> None:
    write(tmp_path, "annotations/val.csv", "label,youtube_id,time_start,time_end,split\na,one,0,10,val\n")
    with pytest.raises(UserError, match=r"number of classes in the lists under .*: 1, expected 400"):
        read("kinetics", tmp_path, "val", version=400)


# charades

CHARADES_CSV = (
    "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\r\n"
    'AAAAA,S1,Kitchen,6,7,Yes,"A person, tired, sits.",chair;cup,"Sitting, down.;Drinking.",'
    "c001 11.90 21.20;c000 0.00 12.60;c002 40.00 45.00,15.00\r\n"
    "BBBBB,S2,Hall,5,5,No,Nothing happens.,,,,31.5\r\n"
    "GONE1,S3,Hall,5,5,No,Away.,,,,30\r\n"
)
CHARADES_CLASSES = "c000 Holding some clothes\r\nc001 Putting clothes somewhere\r\nc002 Running\r\n"


def charades(root: Path) -> None:
    write(root, "Charades/Charades_v1_test.csv", CHARADES_CSV)
    write(root, "Charades/Charades_v1_classes.txt", CHARADES_CLASSES)
    put(root, "Charades_v1_480/AAAAA.mp4", "Charades_v1/AAAAA.mp4", "Charades_v1_480/BBBBB.mp4")


def test_charades_clips_intervals_and_keeps_empty_videos(tmp_path: Path) -> None:
    charades(tmp_path)
    assert open_layout("charades").splits(tmp_path) == ("test",)
    listing = read("charades", tmp_path, "test")
    assert listing.classes == ("Holding some clothes", "Putting clothes somewhere", "Running")
    assert listing.missing == ("GONE1.mp4",)
    busy, idle = (by_key(listing)[key].annotation for key in ("AAAAA", "BBBBB"))
    assert [(i.label, i.start, i.end) for i in busy.intervals] == [(1, 11.9, 15.0), (0, 0.0, 12.6)]
    assert busy.labels == (0, 1, 2), "class 2 occurs in the official ground truth, though beyond the end"
    assert busy.captions == ("A person, tired, sits.", "Sitting, down.", "Drinking.")
    assert busy.extra["actions"] == "c001 11.90 21.20;c000 0.00 12.60;c002 40.00 45.00"
    assert (busy.extra["objects"], busy.extra["subject"], busy.extra["length"]) == ("chair;cup", "S1", "15.00")
    assert busy.source == "Charades_v1_480/AAAAA.mp4"
    assert (idle.labels, idle.intervals, idle.captions) == ((), (), ("Nothing happens.",))


def test_charades_columns_may_be_in_any_order(tmp_path: Path) -> None:
    charades(tmp_path)
    write(tmp_path, "Charades/Charades_v1_test.csv", "actions,descriptions,script,id\nc002 1.0 2.0,,Runs.,AAAAA\n")
    annotation = read("charades", tmp_path, "test").items[0].annotation
    assert (annotation.labels, annotation.intervals[0].end, annotation.captions) == ((2,), 2.0, ("Runs.",))


@pytest.mark.parametrize(
    ("actions", "complaint"), [("c003 1 2", "action c003 is not in the class list"), ("c1", "expected the form")]
)
def test_charades_refuses_actions_it_cannot_place(actions: str, complaint: str, tmp_path: Path) -> None:
    charades(tmp_path)
    write(tmp_path, "Charades/Charades_v1_test.csv", f"id,script,descriptions,actions\nAAAAA,,,{actions}\n")
    with pytest.raises(UserError, match=f"video AAAAA: .*{complaint}"):
        read("charades", tmp_path, "test")


# ucf101


def test_ucf101_lists_with_their_line_ends_and_cases(tmp_path: Path) -> None:
    write(tmp_path, "ucfTrainTestlist/classInd.txt", "1 Archery\r\n2 HandstandPushups\r\n")
    for fold in (1, 2):
        write(tmp_path, f"ucfTrainTestlist/testlist0{fold}.txt", "HandstandPushups/v_HandStandPushups_g01_c01.avi\r\n")
        write(
            tmp_path,
            f"ucfTrainTestlist/trainlist0{fold}.txt",
            "Archery/v_Archery_g08_c01.avi 1\r\nHandstandPushups/v_HandStandPushups_g09_c02.avi 2\r\n"
            "Archery/v_Archery_g08_c99.avi 1\r\n",
        )
    put(tmp_path, "UCF-101/Archery/v_Archery_g08_c01.avi", "UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.avi")
    put(tmp_path, "UCF-101/HandStandPushups/v_HandstandPushups_g09_c02.avi")
    train, test = (read("ucf101", tmp_path, split, fold=2) for split in ("train", "test"))
    assert train.classes == ("Archery", "HandstandPushups")
    assert [(item.annotation.labels, item.annotation.group) for item in train.items] == [
        ((0,), "v_archery_g08"),
        ((1,), "v_handstandpushups_g09"),
    ]
    assert train.missing == ("Archery/v_Archery_g08_c99.avi",)
    assert [item.annotation.labels for item in test.items] == [(1,)]
    check_groups({"train": train, "test": test})
    with pytest.raises(UserError, match="trainlist03"):
        read("ucf101", tmp_path, "train", fold=3)


# ucf11


def ucf11(root: Path) -> None:
    for name, stem in (("basketball", "shooting"), ("swing", "swing")):
        for group in range(1, 26):
            for number in (1, 2):
                put(root, f"UCF11_updated_mpg/{name}/v_{stem}_{group:02d}/v_{stem}_{group:02d}_{number:02d}.mpg")
    put(root, "UCF11_updated_mpg/swing/Annotation/x.xgtf", "UCF11_updated_mpg/swing/odd.mpg")


@pytest.mark.parametrize("fold", [1, 25])
def test_ucf11_leaves_one_group_of_every_class_out(fold: int, tmp_path: Path) -> None:
    ucf11(tmp_path)
    train, test = (read("ucf11", tmp_path, split, fold=fold) for split in ("train", "test"))
    assert train.classes == test.classes == ("basketball", "swing")
    assert (len(train.items), len(test.items)) == (2 * 24 * 2, 2 * 2)
    assert {item.annotation.group for item in test.items} == {
        f"basketball/v_shooting_{fold:02d}",
        f"swing/v_swing_{fold:02d}",
    }
    assert {item.annotation.labels for item in test.items} == {(0,), (1,)}
    assert train.missing == ("UCF11_updated_mpg/swing/odd.mpg (no group in its name)",)
    check_groups({"train": train, "test": test})


def test_ucf11_folds_cover_every_clip_once(tmp_path: Path) -> None:
    ucf11(tmp_path)
    tested = [item.key for fold in range(1, 26) for item in read("ucf11", tmp_path, "test", fold=fold).items]
    assert sorted(tested) == sorted(set(tested)) and len(tested) == 100
    with pytest.raises(UserError, match="no clip of group 26"):
        read("ucf11", tmp_path, "test", fold=26)


# hmdb51


def test_hmdb51_file_names_and_split_marks(tmp_path: Path) -> None:
    odd = "#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi"
    worse = "Faith_[Rewarded]_(1)&!;x_clap_f_cm_np1_fr_med_1.avi"
    write(tmp_path, "testTrainMulti_7030_splits/clap_test_split1.txt", f"{odd} 1 \r\n{worse} 2 \r\nunused_0.avi 0 \r\n")
    write(tmp_path, "testTrainMulti_7030_splits/brush_hair_test_split1.txt", "b_0.avi 1 \nb_1.avi 1 \n")
    write(tmp_path, "testTrainMulti_7030_splits/clap_test_split2.txt", f"{odd} 2 \n")
    put(tmp_path, f"clap/{odd}", f"clap/{worse}", "clap/unused_0.avi", "brush_hair/b_0.avi")
    train, test = (read("hmdb51", tmp_path, split) for split in ("train", "test"))
    assert train.classes == ("brush_hair", "clap")
    assert {item.annotation.source: item.annotation.labels for item in train.items} == {
        f"clap/{odd}": (1,),
        "brush_hair/b_0.avi": (0,),
    }
    assert train.missing == ("brush_hair/b_1.avi",)
    assert [item.annotation.source for item in test.items] == [f"clap/{worse}"]
    assert [item.annotation.source for item in read("hmdb51", tmp_path, "test", fold=2).items] == [f"clap/{odd}"]
    assert all("." not in item.key and item.key.isascii() for item in (*train.items, *test.items))


# ssv2

SSV2_ITEM = {
    "id": "74225",
    "label": "holding a pen next to a cup",
    "template": "Holding [something] next to [something]",
    "placeholders": ["a pen", "a cup"],
}


@pytest.mark.parametrize("naming", ["20bn", "qualcomm"])
def test_ssv2_removes_brackets_from_templates(naming: str, tmp_path: Path) -> None:
    prefix = "something-something-v2-" if naming == "20bn" else "labels/"
    write(
        tmp_path,
        f"{prefix}labels.json",
        json.dumps({"Moving something": "1", "Holding something next to something": "0"}),
    )
    write(tmp_path, f"{prefix}validation.json", json.dumps([SSV2_ITEM, {**SSV2_ITEM, "id": "2"}]))
    write(tmp_path, f"{prefix}test.json", json.dumps([{"id": "9"}]))
    if naming == "qualcomm":
        write(tmp_path, "labels/test-answers.csv", "9;Moving something\n8;Moving something\n")
    put(tmp_path, "20bn-something-something-v2/74225.webm", "20bn-something-something-v2/9.webm")
    assert open_layout("ssv2").splits(tmp_path) == ("val", "test")
    val, test = (read("ssv2", tmp_path, split) for split in ("val", "test"))
    assert val.classes == ("Holding something next to something", "Moving something")
    (item,) = val.items
    assert (item.key, item.annotation.labels, item.annotation.captions) == ("74225", (0,), (SSV2_ITEM["label"],))
    assert item.annotation.extra == {"template": SSV2_ITEM["template"], "placeholders": ["a pen", "a cup"]}
    assert val.missing == ("2.webm",)
    assert test.items[0].annotation.labels == ((1,) if naming == "qualcomm" else ())


def test_ssv2_refuses_an_unknown_template(tmp_path: Path) -> None:
    write(tmp_path, "labels/labels.json", json.dumps({"Moving something": "0"}))
    write(tmp_path, "labels/train.json", json.dumps([SSV2_ITEM]))
    put(tmp_path, "74225.webm")
    with pytest.raises(UserError, match=r"id 74225: template .* is not in labels\.json"):
        read("ssv2", tmp_path, "train")


# msrvtt


def msrvtt(root: Path) -> None:
    def video(number: int, split: str) -> dict[str, object]:
        times = {"start time": 137.7, "end time": 149.4}
        return {"video_id": f"video{number}", "category": number % 2, "url": "u", "split": split, **times}

    def sentences_of(number: int) -> list[dict[str, object]]:
        texts = (f"first of {number}", f"second of {number} ", f"first of {number}")
        return [{"sen_id": i, "video_id": f"video{number}", "caption": text} for i, text in enumerate(texts)]

    first = [video(0, "train"), video(1, "train"), video(2, "validate")]
    last = [video(7010, "test"), video(7011, "test"), video(7012, "test")]
    for name, videos in (("train_val_videodatainfo", first), ("test_videodatainfo", last)):
        sentences = [text for each in videos for text in sentences_of(int(str(each["video_id"])[5:]))]
        write(root, f"{name}.json", json.dumps({"info": {}, "videos": videos, "sentences": sentences}))
    write(root, "category.txt", "music\t0\npeople\t1\n")
    write(
        root,
        "MSRVTT_JSFUSION_test.csv",
        'key,vid_key,video_id,sentence\r\nret0,msr7010,video7010,"one, and only"\r\nret1,msr7012,video7012,other\r\n',
    )
    put(root, *(f"videos/all/video{number}.mp4" for number in (0, 1, 2, 7010, 7011, 7012)))


def test_msrvtt_full(tmp_path: Path) -> None:
    msrvtt(tmp_path)
    assert open_layout("msrvtt").splits(tmp_path) == ("train", "val", "test")
    listings = {split: read("msrvtt", tmp_path, split) for split in ("train", "val", "test")}
    assert {split: [item.key for item in found.items] for split, found in listings.items()} == {
        "train": ["video0", "video1"],
        "val": ["video2"],
        "test": ["video7010", "video7011", "video7012"],
    }
    annotation = listings["train"].items[1].annotation
    assert listings["train"].classes == ("music", "people")
    assert (annotation.labels, annotation.captions) == ((1,), ("first of 1", "second of 1"))
    assert annotation.start is None and annotation.extra["start time"] == 137.7


def test_msrvtt_retrieval_protocol(tmp_path: Path) -> None:
    msrvtt(tmp_path)
    test = read("msrvtt", tmp_path, "test", protocol="1k-A")
    assert {item.key: item.annotation.captions for item in test.items} == {
        "video7010": ("one, and only",),
        "video7012": ("other",),
    }
    nine = read("msrvtt", tmp_path, "train", protocol="1k-A")
    seven = read("msrvtt", tmp_path, "train", protocol="1k-A", train="7k")
    assert [item.key for item in nine.items] == ["video0", "video1", "video2", "video7011"]
    assert [item.key for item in seven.items] == ["video0", "video1", "video2"]
    assert nine.items[-1].annotation.captions == ("first of 7011", "second of 7011")
    write(tmp_path, "MSRVTT_train.9k.csv", "video_id\nvideo1\nvideo99\n")
    listed = read("msrvtt", tmp_path, "train", protocol="1k-A")
    assert [item.key for item in listed.items] == ["video1"]
    assert listed.missing == ("video99 (not in the JSON)",)


# msvd

MSVD_TEXT = (
    "# a comment line with words\r\n\r\n-4wsuPCjDBc_5_15 a squirrel is eating\r\n-4wsuPCjDBc_5_15 the squirrel eats\r\n"
    "a_b_c_10_20 a man_plays\r\n"
)


def test_msvd_ids_with_underscores_and_split_lists(tmp_path: Path) -> None:
    write(tmp_path, "AllVideoDescriptions.txt", MSVD_TEXT)
    write(tmp_path, "train_list.txt", "-4wsuPCjDBc_5_15\nvid1301\n")
    write(tmp_path, "youtube_mapping.txt", "-4wsuPCjDBc_5_15 vid1\na_b_c_10_20 vid1301\n")
    put(tmp_path, "YouTubeClips/-4wsuPCjDBc_5_15.avi", "YouTubeClips/a_b_c_10_20.avi")
    assert open_layout("msvd").splits(tmp_path) == ("train",)
    found = by_key(read("msvd", tmp_path, "train"))
    assert found["-4wsuPCjDBc_5_15"].annotation.captions == ("a squirrel is eating", "the squirrel eats")
    assert found["a_b_c_10_20"].annotation.captions == ("a man_plays",)
    assert found["a_b_c_10_20"].annotation.extra == {"youtube_id": "a_b_c", "time_start": "10", "time_end": "20"}


def test_msvd_splits_by_number_without_lists(tmp_path: Path) -> None:
    write(tmp_path, "AllVideoDescriptions.txt", MSVD_TEXT)
    numbers = (1, 1200, 1201, 1300, 1301, 1970)
    write(tmp_path, "youtube_mapping.txt", "".join(f"clip{number}_0_9 vid{number}\n" for number in numbers))
    put(tmp_path, *(f"YouTubeClips/clip{number}_0_9.avi" for number in numbers if number != 1300))
    got = {split: read("msvd", tmp_path, split) for split in ("train", "val", "test")}
    assert {split: [item.key for item in found.items] for split, found in got.items()} == {
        "train": ["clip1_0_9", "clip1200_0_9"],
        "val": ["clip1201_0_9"],
        "test": ["clip1301_0_9", "clip1970_0_9"],
    }
    assert got["val"].missing == ("clip1300_0_9.avi",)


# medmnist3d


def test_medmnist_volumes_are_read_bit_for_bit(tmp_path: Path) -> None:
    draw = np.random.default_rng(7)
    volumes_NDHW = draw.integers(0, 256, (3, 28, 28, 28), dtype=np.uint8)
    np.savez(
        tmp_path / "organmnist3d.npz",
        train_images=volumes_NDHW,
        train_labels=np.array([[10], [0], [4]], np.uint8),
        test_images=volumes_NDHW[:1],
        test_labels=np.array([[1]], np.uint8),
    )
    layout = open_layout("medmnist3d")
    assert layout.splits(tmp_path) == ("train", "test")
    listing = layout.read(tmp_path, "train")
    assert len(listing.classes) == 11 and listing.classes[10] == "pancreas"
    assert [item.annotation.labels for item in listing.items] == [(10,), (0,), (4,)]
    for item, volume_DHW in zip(listing.items, volumes_NDHW, strict=True):
        load = pickle.loads(pickle.dumps(item)).load
        frames_THWC = media.full_decode(load())
        np.testing.assert_array_equal(frames_THWC, np.repeat(volume_DHW[..., None], 3, axis=-1))


def test_medmnist_never_unpickles(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "vesselmnist3d.npz",
        train_images=np.array([{"an": "object"}], object),
        train_labels=np.zeros((1, 1), np.uint8),
    )
    with pytest.raises(UserError, match=r"can be read without unpickling \(Object arrays"):
        read("medmnist3d", tmp_path, "train")


def test_medmnist_with_two_files_asks_for_a_choice(tmp_path: Path) -> None:
    for name in ("organmnist3d.npz", "organmnist3d_64.npz"):
        np.savez(
            tmp_path / name, train_images=np.zeros((1, 4, 4, 4), np.uint8), train_labels=np.zeros((1, 1), np.uint8)
        )
    with pytest.raises(UserError, match=r"choose one, e.g. --option file=organmnist3d.npz"):
        read("medmnist3d", tmp_path, "train")
    assert len(read("medmnist3d", tmp_path, "train", file="organmnist3d_64.npz").items) == 1


def test_medmnist_refuses_another_kind_of_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "pathmnist3d.npz", train_images=np.zeros((2, 8, 8)), train_labels=np.zeros((2, 1), np.uint8))
    with pytest.raises(UserError, match=r"expected uint8 \(N, slices, height, width\)"):
        read("medmnist3d", tmp_path, "train")
    (tmp_path / "pathmnist3d.npz").write_bytes(b"not an archive")
    with pytest.raises(UserError, match="is not an npz whose arrays can be read"):
        read("medmnist3d", tmp_path, "train")


@pytest.mark.parametrize(
    ("labels_N", "reason"),
    [
        (np.array([0.5, 1.0]), "integers from 0 to 9,999"),
        (np.array([-1, 1]), "integers from 0 to 9,999"),
        (np.array([0, 1 << 62]), "integers from 0 to 9,999"),
        (np.array(["a", "b"]), "integers from 0 to 9,999"),
        (np.array([0]), "number of train labels: 1, expected 2"),
    ],
)
def test_medmnist_refuses_labels_that_number_no_classes(labels_N: NDArray[Any], reason: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "pathmnist3d.npz", train_images=np.zeros((2, 4, 4, 4), np.uint8), train_labels=labels_N)
    with pytest.raises(UserError, match=reason):
        read("medmnist3d", tmp_path, "train")


def test_medmnist_refuses_what_would_unpack_to_gigabytes_or_is_no_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pathmnist3d.npz"
    np.savez_compressed(path, train_images=np.zeros((2, 64, 64, 64), np.uint8), train_labels=np.zeros((2, 1), np.uint8))
    monkeypatch.setattr(medmnist3d, "_MOST_BYTES", 1 << 18)
    with pytest.raises(UserError, match=r"train_images.npy has 524,\d+ bytes once unpacked"):
        read("medmnist3d", tmp_path, "train")
    for name, content in (
        ("train_images.npy", b"text"),
        ("train_images.npy", b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, content)
            archive.writestr("train_labels.npy", content)
        with pytest.raises(UserError, match="is not an npz whose arrays can be read"):
            read("medmnist3d", tmp_path, "train")
        medmnist3d._array.cache_clear()
