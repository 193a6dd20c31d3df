"""A Hub that refuses, fails or is not there: one sentence, and nothing half-written."""

import logging

import pytest
import torch
from huggingface_hub import constants

from fake_hub import READER, WRITER
from haba_hf import HabaModel
from haba_hf.hub import fetch_artifact, pull_artifact, push_artifact, read_artifact
from tiny_artifact import CODE, FILES


def test_tokens_reach_no_log_and_no_file(hub, artifact, tmp_path, caplog, capfd):
    """With every logger at its most talkative."""
    caplog.set_level(logging.DEBUG)
    for name in ("httpx2", "httpcore2", "huggingface_hub", "transformers", "datasets", "filelock"):
        caplog.set_level(logging.DEBUG, logger=name)
    push_artifact(artifact, "me/tiny", token=WRITER)
    push_artifact(artifact, "me/tiny", as_dataset=True)
    pull_artifact("me/tiny", tmp_path / "copy")
    hub.fail("POST", "/commit/", 500, times=9)
    (artifact / "gallery.png").unlink()
    with pytest.raises(OSError, match="HTTP 500") as caught:
        push_artifact(artifact, "me/tiny", token=WRITER)
    assert caplog.records, "something was said"
    said = [*(record.getMessage() for record in caplog.records), *capfd.readouterr()]
    error: BaseException | None = caught.value
    while error is not None:
        said += [str(error), repr(error)]
        error = error.__cause__
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(WRITER in text for text in said)
    assert not any(WRITER.encode() in content for content in written)
    for kind in ("model", "dataset"):
        assert not any(WRITER.encode() in content for content in hub.files("me/tiny", kind).values())


@pytest.mark.parametrize(
    ("token", "status", "sentence"),
    [
        ("hf_nobody_secret", 401, r"the Hub does not accept the token, or there is none: run `hf auth login`"),
        (READER, 403, r"the token has no right to do this"),
    ],
)
def test_tokens_that_may_not_write(hub, artifact, token, status, sentence):
    push_artifact(artifact, "me/tiny")
    commits = len(hub.repos[("model", "me/tiny")].commits)
    (artifact / "gallery.png").unlink()
    with pytest.raises(OSError, match=sentence) as caught:
        push_artifact(artifact, "me/tiny", token=token)
    assert f"(HTTP {status})" in str(caught.value)
    assert "secret" not in f"{caught.value} {caught.value.__cause__!r} {caught.value.__cause__}"
    assert len(hub.repos[("model", "me/tiny")].commits) == commits


def test_what_is_not_there(hub, artifact, tmp_path):
    with pytest.raises(OSError, match=r"me/nothing: there is no such repository on the Hub, or it is private"):
        pull_artifact("me/nothing", tmp_path / "copy")
    push_artifact(artifact, "me/tiny")
    with pytest.raises(OSError, match="me/tiny: there is no revision 'v9' on the Hub"):
        pull_artifact("me/tiny", tmp_path / "copy", "v9")
    assert not (tmp_path / "copy").exists()


def test_a_failing_hub_is_tried_again(hub, artifact, tmp_path, caplog):
    hub.fail("PUT", "/lfs/", 503, times=2)
    hub.drop("POST", "/objects/batch")
    push_artifact(artifact, "me/tiny")
    assert hub.files("me/tiny").keys() == FILES | CODE
    hub.drop("GET", r"/resolve/.*/model\.safetensors")
    hub.fail("GET", "/tree/", 503)
    copy = pull_artifact("me/tiny", tmp_path / "copy")
    assert (copy / "model.safetensors").read_bytes() == (artifact / "model.safetensors").read_bytes()
    assert not any(WRITER in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("fault", ["fail", "drop"])
def test_a_broken_hub_leaves_no_half_repository(hub, artifact, fault):
    status = [503] if fault == "fail" else []
    getattr(hub, fault)("POST", "/commit/", *status, times=20)
    sentence = "has a fault of its own: try again later" if fault == "fail" else "the connection to the Hub failed"
    with pytest.raises(OSError, match=sentence):
        push_artifact(artifact, "me/tiny")
    assert hub.files("me/tiny") == {}
    hub.faults.clear()
    uploaded = len(hub.asked("PUT"))
    push_artifact(artifact, "me/tiny")
    assert hub.files("me/tiny").keys() == FILES | CODE
    assert len(hub.asked("PUT")) == uploaded, "the files that had arrived are not sent again"


@pytest.mark.parametrize("fault", ["fail", "drop"])
def test_a_broken_hub_leaves_no_half_copy(hub, artifact, tmp_path, fault):
    push_artifact(artifact, "me/tiny")
    status = [500] if fault == "fail" else []
    getattr(hub, fault)("GET", r"/resolve/.*/model\.safetensors", *status, times=20)
    with pytest.raises(OSError, match="me/tiny: "):
        pull_artifact("me/tiny", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert not list((tmp_path / "hub-cache").rglob("snapshots/*/model.safetensors"))
    hub.faults.clear()
    pull_artifact("me/tiny", tmp_path / "copy")
    assert read_artifact(tmp_path / "copy").rows


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("PUT", "/lfs/", 500, r"the Hub has a fault of its own: try again later \(HTTP 500\)"),
        ("PUT", "/lfs/", 403, r"the token has no right to do this.*\(HTTP 403\)"),
        ("PUT", "/lfs/", 429, r"too many requests: try again in some minutes \(HTTP 429\)"),
        ("PUT", "/lfs/", None, r"the connection to the Hub failed"),
        ("POST", "/lfs-verify", 404, r"the Hub lacks a file that it lists or was sent: try again \(HTTP 404\)"),
        ("POST", "/objects/batch", 403, r"the token has no right to do this.*\(HTTP 403\)"),
        ("POST", "/preupload/", 429, r"too many requests"),
    ],
)
def test_a_first_push_that_fails_says_that_an_empty_repository_stays(
    hub, artifact, monkeypatch, method, path, status, sentence
):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's own tries
    hub.drop(method, path, times=99) if status is None else hub.fail(method, path, status, times=99)
    with pytest.raises(OSError, match=f"me/tiny: {sentence}.*The new repository is empty: push again, or delete it"):
        push_artifact(artifact, "me/tiny")
    hub.faults.clear()
    hub.fail("POST", "/commit/", 403)
    with pytest.raises(OSError, match="me/tiny: the token has no right") as caught:
        push_artifact(artifact, "me/tiny")
    assert "new repository" not in str(caught.value), "the second time it is there"
    push_artifact(artifact, "me/tiny")
    assert hub.files("me/tiny").keys() == FILES | CODE


@pytest.mark.parametrize("content", [b"<html>Please log in</html>", b"[]", b"null", b'{"siblings": 3}'])
@pytest.mark.parametrize("path", [r"/api/models/me/tiny(/revision/.*)?$", "/tree/"])
def test_a_hub_that_answers_something_else(hub, artifact, tmp_path, path, content):
    push_artifact(artifact, "me/tiny")
    hub.say("GET", path, content, times=9)
    with pytest.raises((OSError, ValueError), match=r"me/tiny") as caught:
        pull_artifact("me/tiny", tmp_path / "copy")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "copy").exists()


def test_no_hub_and_offline(hub, artifact, tmp_path, monkeypatch):
    push_artifact(artifact, "me/tiny")
    fetch_artifact("me/tiny")
    hub.close()
    with pytest.raises(OSError, match=r"me/tiny: the connection to the Hub failed \(ConnectError\)"):
        push_artifact(artifact, "me/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set"):
        pull_artifact("me/tiny", tmp_path / "copy")
    assert torch.equal(HabaModel.from_pretrained("me/tiny").bases, HabaModel.from_pretrained(artifact).bases), (
        "from the cache"
    )
