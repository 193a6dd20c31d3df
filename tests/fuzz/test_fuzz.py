"""Whatever a file from outside holds, a reader takes it or says in one sentence why not, soon and in little memory."""

import json
import resource
import shutil
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from haba_hf.data import DataArguments, load_image_data
from haba_hf.hub import artifact_facts, artifact_summary, read_artifact, render_dataset_card, render_model_card
from haba_hf.recipes import parse_recipe, recipes_folder
from haba_hf.recipes.recipe import Recipe
from tiny_artifact import tiny_artifact

MOST_BYTES = 500e6
fuzzed = settings(
    max_examples=500,
    deadline=timedelta(seconds=5),
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

words = st.text(max_size=20) | st.sampled_from(["none", "true", "1e400", "-1", "../x", "a\x1b[2Jb", "\u202ex"])
numbers = st.integers(-(10**25), 10**25) | st.integers(-3, 300) | st.floats()
leaves = st.none() | st.booleans() | numbers | words
values = st.recursive(
    leaves, lambda of: st.lists(of, max_size=3) | st.dictionaries(words, of, max_size=3), max_leaves=6
)


@pytest.fixture(autouse=True)
def little_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
    assert grown < MOST_BYTES


def taken_or_refused(read):
    """What `read` gives, or `None` where it says a sentence."""
    try:
        return read()
    except (ValueError, OSError) as error:
        message = str(error)
        assert message.strip() and len(message) < 5000
        assert "Traceback" not in message
        return None


# Recipes


@st.composite
def mutated(draw, content: bytes) -> bytes:
    """Bytes with some of them replaced, left out or put in."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(found)))
        found[start : start + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(found)


FIELDS = [*sorted(Recipe().to_dict()), "unheard_of"]
settings_of_recipes = st.dictionaries(st.sampled_from(FIELDS), values, max_size=4)
contents = [
    st.binary(max_size=200),
    st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass")),
    mutated((recipes_folder() / "cifar10" / "dm-1pc.yaml").read_bytes()),
    settings_of_recipes.map(lambda found: json.dumps(found).encode()),
]


@fuzzed
@given(content=st.one_of(contents))
def test_recipes(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    recipe = taken_or_refused(lambda: parse_recipe([str(path)]))
    if recipe is not None:
        recipe.write(tmp_path / "again.yaml")
        assert parse_recipe([str(tmp_path / "again.yaml")]) == recipe


# Artifacts


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tiny_artifact(tmp_path_factory.mktemp("whole"), analysed=True)
    read_all(directory)  # so that no example waits for what is imported once
    return directory


@pytest.fixture
def artifact(whole, tmp_path):
    shutil.copytree(whole.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "artifact"


def read_all(directory):
    artifact = read_artifact(directory)
    json.dumps(artifact_facts(artifact))
    shown = "".join(artifact_summary(artifact))
    assert not {"\x1b", "\u202e"} & set(shown)
    for render in (render_model_card, render_dataset_card):
        assert not {"\x1b", "\u202e"} & set(render(artifact, "me/it").split("---")[-1])
    return artifact


def places(value, path=()):
    """The paths of all values in a tree of JSON."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def replaced(tree, path, value):
    if not path:
        return value
    tree = dict(tree) if isinstance(tree, dict) else list(tree)
    tree[path[0]] = replaced(tree[path[0]], path[1:], value)
    return tree


RECORDS = ["artifact/config.json", "artifact/preprocessor_config.json", "artifact/distillation.json", "results.json"]
RECORDS += ["cross_architecture.json", "robustness.json"]


@fuzzed
@given(data=st.data())
def test_files_of_an_artifact(whole, artifact, data):
    name = data.draw(st.sampled_from([*RECORDS, "artifact/recipe.yaml"]))
    written = content = (whole.parent / name).read_bytes()
    kind = data.draw(st.sampled_from(["a value", "more values", "bytes"]))
    if kind == "bytes" or name.endswith("yaml"):
        written = data.draw(mutated(content))
    elif kind == "more values":
        more = data.draw(st.dictionaries(words, values, max_size=2))
        written = json.dumps(json.loads(content) | more).encode()
    else:
        tree = json.loads(content)
        place = data.draw(st.sampled_from(list(places(tree))))
        written = json.dumps(replaced(tree, place, data.draw(values))).encode()
    (artifact.parent / name).write_bytes(written)
    taken_or_refused(lambda: read_all(artifact))
    (artifact.parent / name).write_bytes(content)


@fuzzed
@given(data=st.data())
def test_headers_of_safetensors(whole, artifact, data):
    path = artifact / "model.safetensors"
    content = (whole / path.name).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    if data.draw(st.booleans()):
        header = replaced(header, data.draw(st.sampled_from(list(places(header)))), data.draw(values))
        written = json.dumps(header).encode()
        path.write_bytes(len(written).to_bytes(8, "little") + written + content[8 + length :])
    else:
        path.write_bytes(data.draw(mutated(content[: 8 + length])) + content[8 + length :])
    taken_or_refused(lambda: read_all(artifact))


# Folders of images

NAMES = ["train", "Test", "val", "cat", "dog", "0", "a [v1]", "train_0", "data", "\u202ecat", "__background__", "é"]
FILES = ["0.png", "1.PNG", "train.parquet", "metadata.csv", "metadata.jsonl", "a.wav", "x.txt", "dataset_info.json"]
FILES += ["state.json", "train.zip", ".hidden.png", "README.md"]
READY = {
    "a png": None,
    "empty": b"",
    "csv": b"file_name,label\n0.png,cat\n../x.png,dog\n",
    "json": b'{"file_name": 3}\n',
}


@fuzzed
@given(
    files=st.lists(
        st.tuples(
            st.lists(st.sampled_from(NAMES), max_size=3),
            st.sampled_from(FILES),
            st.sampled_from(sorted(READY)) | st.binary(max_size=50),
        ),
        max_size=12,
    )
)
def test_folders(tmp_path, files):
    root = tmp_path / "set"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for number, (folders, name, content) in enumerate(files):
        path = Path(root, *folders, name)
        if any(parent.is_file() for parent in path.parents) or path.is_dir():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if content == "a png":
            pixels = np.full((8, 8, 3), 20 * number, dtype=np.uint8)
            with path.open("wb") as file:
                Image.fromarray(pixels).save(file, "PNG")
        else:
            path.write_bytes(READY.get(content, content) if isinstance(content, str) else content)
    data = taken_or_refused(lambda: load_image_data(DataArguments(str(root)), needs_test=False))
    if data is not None:
        assert len(data.train) and data.summary()
        assert not {"\x1b", "\u202e"} & set(data.summary())
