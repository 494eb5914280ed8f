"""Which files are found, with which captions; names and captions of every kind."""

import json
import os

import pytest

from training.errors import ConfigError
from training.preparation.manifest import read_collection, shown


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def found(data, **options):
    """({source: caption}, {source: reason})"""
    entries, dropped = read_collection(data, **options)
    return {each.source: each.caption for each in entries}, {each.source: each.reason for each in dropped}


def test_a_folder_with_captions_beside(tmp_path):
    touch(
        tmp_path, "b.mp4", "a/x.MOV", "a/y.webp", "c.jpg", "notes.pdf", ".hidden.mp4", "._b.mp4", ".git/z.mp4", "d.mp4"
    )
    (tmp_path / "b.txt").write_text("a kite\n over the sea ")
    (tmp_path / "a/x.MOV.txt").write_text("\ufeffa street", "utf-8")
    (tmp_path / "a/y.txt").write_text("ein Gärtner", "utf-8")
    (tmp_path / "c.txt").write_text("  \n")
    entries, dropped = found(tmp_path)
    assert entries == {"b.mp4": "a kite over the sea", "a/x.MOV": "a street", "a/y.webp": "ein Gärtner"}
    assert dropped == {"c.jpg": "no caption", "d.mp4": "no caption"}
    entries, dropped = found(tmp_path, caption="something")
    assert entries["c.jpg"] == entries["d.mp4"] == "something" and not dropped


def test_a_caption_that_is_no_text(tmp_path):
    touch(tmp_path, "a.mp4")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    assert found(tmp_path) == ({}, {"a.mp4": "bad caption"})


def test_the_caption_of_one_file_alone_comes_before_that_of_several(tmp_path):
    touch(tmp_path, "a.mp4", "a.webp")
    (tmp_path / "a.txt").write_text("both")
    (tmp_path / "a.mp4.txt").write_text("the video")
    assert found(tmp_path) == ({"a.mp4": "the video", "a.webp": "both"}, {})


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ('["a red kite"]', "a red kite"),
        ('["a red kite", "a kite"]', "bad caption"),
        ("7", "bad caption"),
        ('{"en": "a kite"}', "bad caption"),
        ("NaN", "no caption"),
        ("[null]", "no caption"),
    ],
)
def test_a_cell_that_is_no_text_is_no_caption(tmp_path, cell, said):
    touch(tmp_path, "a.mp4")
    (tmp_path / "list.jsonl").write_text(f'{{"path": "a.mp4", "cap": {cell}}}\n')
    entries, dropped = found(tmp_path / "list.jsonl")
    assert {**entries, **dropped} == {"a.mp4": said}


def test_a_cache_inside_the_collection_is_not_part_of_it(tmp_path):
    touch(tmp_path, "a.mp4", "cache/contact_sheet.jpg", "cache/summary.json", "cache/shards/x", "b/shards/b.mp4")
    assert found(tmp_path, caption="x")[0] == {"a.mp4": "x", "b/shards/b.mp4": "x"}


def test_a_folder_with_two_tables_is_refused(tmp_path):
    """Either would leave out what the other describes."""
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "metadata.csv").write_text("path,caption\na.mp4,a kite\n")
    (tmp_path / "metadata.jsonl").write_text('{"path": "b.mp4", "caption": "a boat"}\n')
    with pytest.raises(ConfigError, match="has metadata.csv and metadata.jsonl: name one of them with --data"):
        found(tmp_path)
    assert found(tmp_path / "metadata.jsonl") == ({"b.mp4": "a boat"}, {})


def test_a_file_that_the_table_of_its_folder_leaves_out_is_listed(tmp_path):
    touch(tmp_path, "a.mp4", "in/b.mp4", "in/c.webp")
    (tmp_path / "metadata.csv").write_text("path,caption\nin/b.mp4,a boat\n./a.mp4,a kite\n")
    assert found(tmp_path) == ({"in/b.mp4": "a boat", "a.mp4": "a kite"}, {"in/c.webp": "no caption"})


def test_linked_folders_are_read_once_and_closed_ones_are_listed(tmp_path, monkeypatch):
    touch(tmp_path, "disk/a.mp4", "disk/deep/b.mp4", "videos/c.mp4", "videos/closed/d.mp4")
    (tmp_path / "videos" / "linked").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "deep" / "around").symlink_to(tmp_path / "videos")
    scandir = os.scandir

    def closed(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    entries, dropped = found(tmp_path / "videos", caption="x")
    assert [*entries] == ["c.mp4", "linked/a.mp4", "linked/deep/b.mp4"] and dropped == {"closed": "unreadable"}


def test_the_order_does_not_depend_on_the_disk(tmp_path):
    touch(tmp_path, "b/2.mp4", "a/3.mp4", "1.mp4", "B.mp4")
    assert [*found(tmp_path, caption="x")[0]] == ["1.mp4", "B.mp4", "a/3.mp4", "b/2.mp4"]


def write_table(path, rows):
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        lines = [list(rows[0]), *(row.values() for row in rows)]
        path.write_text("\n".join(",".join(f'"{cell or ""}"' for cell in line) for line in lines))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("columns", [("file_name", "text"), ("path", "caption"), ("video", "prompt")])
def test_a_table(tmp_path, kind, columns):
    touch(tmp_path, "clips/a.mp4", "clips/b, c.mp4", "d.mp4")
    texts = {"clips/a.mp4": "a kite, red", "clips/b, c.mp4": "eine Straße", "gone.mp4": "x", "d.mp4": None}
    write_table(tmp_path / f"list.{kind}", [dict(zip(columns, pair, strict=True)) for pair in texts.items()])
    entries, dropped = found(tmp_path / f"list.{kind}")
    assert entries == {"clips/a.mp4": "a kite, red", "clips/b, c.mp4": "eine Straße"}
    assert dropped == {"gone.mp4": "missing", "d.mp4": "no caption"}


def test_a_folder_that_is_described_by_a_table(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    write_table(tmp_path / "metadata.jsonl", [{"file_name": "a.mp4", "text": "a kite"}])
    assert found(tmp_path) == ({"a.mp4": "a kite"}, {"b.mp4": "no caption"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"name,caption\nx.mp4,hello\n", r"row 1: it needs one of file_name, path, video, file"),
        ("a.csv", b"path,caption\nx.mp4,caf\xe9\n", "is not UTF-8 text .* save it as UTF-8"),
        (
            "a.csv",
            b"path,caption\nx.mp4,a kite\ny.mp4,a kite, red\n",
            r'row 2: it has more cells than there are columns\. Put captions with commas in them in "quotes"',
        ),
        (
            "a.csv",
            b'path,caption\nx.mp4,"a kite\ny.mp4,two dogs\nz.mp4,rain\n',
            r"row 1: unexpected end of data\. A cell in quotes ends with one",
        ),
        ("a.csv", b'path,caption\nx.mp4,"a "red" kite"\n', r"row 1: .* has each quote within it twice"),
        ("a.csv", b'path,caption\nx.mp4,"' + b"kite " * 30_000 + b'"\n', "row 1: field larger than field limit"),
        ("a.jsonl", b'{"path": "x.mp4"}\n{"path": \n', "line 2 is not JSON"),
        ("a.jsonl", b'["x.mp4", "hello"]\n', "row 1: it must be a mapping such as"),
        ("a.parquet", b"PAR1 not at all", "is no parquet file"),
        ("a.xlsx", b"PK", r"is no table of videos; use a folder, or a file of \.csv, \.jsonl, \.parquet"),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(ConfigError, match=message):
        read_collection(tmp_path / name)


def test_empty_cells_behind_the_last_column_are_no_mistake(tmp_path):
    touch(tmp_path, "x.mp4")
    (tmp_path / "a.csv").write_text("path,caption\nx.mp4,a kite,,\n")
    assert found(tmp_path / "a.csv") == ({"x.mp4": "a kite"}, {})


def test_parquet_without_pyarrow_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match="needs the package pyarrow: pip install pyarrow, or save the table as CSV"):
        read_collection(tmp_path / "a.parquet")


def test_nothing_to_read(tmp_path):
    with pytest.raises(ConfigError, match="There is no folder or table at"):
        read_collection(tmp_path / "gone")
    (tmp_path / "a.pdf").touch()
    with pytest.raises(ConfigError, match="holds no videos or images; known are"):
        read_collection(tmp_path)


def test_names_that_are_no_text_can_be_printed_and_kept(tmp_path):
    names = [b"caf\xe9.mp4", b"line\nbreak.mp4", b"\x1b[31mred.mp4", "ü.mp4".encode(), b"--output.mp4"]
    for name in names:
        (tmp_path / os.fsdecode(name)).touch()
    entries, _ = found(tmp_path, caption="x")
    assert set(entries) == {r"caf\udce9.mp4", r"line\nbreak.mp4", r"\x1b[31mred.mp4", "ü.mp4", "--output.mp4"}
    assert all(source.isprintable() and source.encode() for source in entries)
    assert shown("a/b") == "a/b"
