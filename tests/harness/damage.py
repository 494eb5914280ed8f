"""What can happen to a safetensors file on its way: each function damages one in place, as the dice fall."""

import json
import random
from pathlib import Path

Content = tuple[dict, bytes]


def read(path: Path) -> Content:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write(path: Path, header: dict | str, data: bytes) -> None:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def flip_bit(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def flip_header_bit(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[dice.randrange(8 + int.from_bytes(content[:8], "little"))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def cut(path: Path, dice: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: dice.randrange(len(content))])


def double_key(path: Path, dice: random.Random) -> None:
    header, data = read(path)
    key = dice.choice(sorted(header))
    again = json.dumps({key: header[key]})
    write(path, json.dumps(header)[:-1] + "," + again[1:], data)
