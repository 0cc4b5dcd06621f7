"""The HTTP API, over a real connection, with the shipped model."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import pytest

import one_peace
from one_peace.data.lock import FolderBusyError
from one_peace.search.manifest import LibraryError
from one_peace.search.stores.base import StoreError
from server import hostile
from server.conftest import COLORS, Running, colored_square


def data_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def square(name: str) -> bytes:
    buffer = io.BytesIO()
    colored_square(COLORS[name]).save(buffer, "PNG")
    return buffer.getvalue()


def test_every_modality_is_encoded_as_the_model_does(server: Running, model: one_peace.OnePeace) -> None:
    picture, sound = hostile.picture(), hostile.sound()
    inputs = [("text", "a cow"), ("image", data_url(picture, "image/png")), ("audio", data_url(sound, "audio/wav"))]
    body = {"inputs": [{"modality": m, "source": s} for m, s in inputs]}
    answer = server.client.post("/v1/encode", json=body).json()
    expected = [model.encode_text("a cow"), model.encode_image(picture), model.encode_audio(sound)]
    assert np.allclose(answer["embeddings"], np.concatenate(expected), atol=1e-5)
    assert (answer["dim"], answer["fingerprint"]) == (model.dim, model.fingerprint)
    alone = server.client.post("/v1/encode/image", content=picture).json()
    assert np.allclose(alone["embeddings"][0], expected[1], atol=1e-5)


def test_long_sounds_are_averaged_over_windows(server: Running, model: one_peace.OnePeace) -> None:
    sound = hostile.sound(700, 20)
    answer = server.client.post("/v1/encode/audio", content=sound).json()
    assert np.allclose(answer["embeddings"][0], model.encode_audio(sound)[0], atol=1e-5)


def test_requests_at_the_same_time_share_batches_and_keep_apart(server: Running, model: one_peace.OnePeace) -> None:
    texts = [f"{count} {animal}" for count in ("one", "two red", "very many") for animal in ("cows", "dogs", "birds")]

    def encode(text: str) -> Any:
        return server.client.post("/v1/encode", json={"inputs": [{"modality": "text", "source": text}]}).json()

    with ThreadPoolExecutor(9) as pool:
        answers = list(pool.map(encode, texts))
    assert np.allclose([one["embeddings"][0] for one in answers], model.encode_text(texts), atol=1e-5)


@pytest.mark.parametrize("color", COLORS)
def test_a_word_finds_its_picture(server: Running, color: str) -> None:
    results = server.search(("text", color, 1.0), filters={"modality": ["image"], "folder": "shapes"})
    assert results[0]["name"] == f"{color}.png" and [r["rank"] for r in results] == [1, 2, 3, 4]
    assert results[0]["folder"] == "shapes" and results[0]["why"] == pytest.approx([results[0]["score"]], abs=1e-4)


def test_a_mix_with_weights_says_why(server: Running) -> None:
    picture = data_url(square("blue"), "image/png")
    only = {"modality": ["image"]}
    assert server.search(("image", picture, 1.0), filters=only)[0]["name"] == "blue.png"
    mixed = server.search(("image", picture, 0.2), ("text", "red", 2.0), filters=only)
    assert mixed[0]["name"] == "red.png" and len(mixed[0]["why"]) == 2
    without = server.search(("text", "a square", 1.0), ("image", picture, -1.0), filters=only)
    assert without[-1]["name"] == "blue.png"


def test_more_like_this_leaves_itself_out(server: Running) -> None:
    tone = server.search(("audio", data_url(hostile.sound(440, 1.0), "audio/wav"), 1.0), k=1)[0]
    assert tone["name"] == "tone.wav" and tone["score"] > 0.999
    alike = server.search(("item", tone["id"], 1.0), filters={"modality": ["audio"]})
    assert [one["name"] for one in alike] == ["whistle.wav"]


def test_openai_client(server: Running, model: one_peace.OnePeace) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)
    picture, sound = hostile.picture(), hostile.sound()
    inputs = ["a cow", data_url(picture, "image/png"), data_url(sound, "audio/x-wav")]
    expected = np.concatenate([model.encode_text("a cow"), model.encode_image(picture), model.encode_audio(sound)])
    name = client.models.list().data[0].id
    for options in ({}, {"encoding_format": "float"}):  # base64 is what the client asks for by itself
        answer = client.embeddings.create(model=name, input=inputs, **options)  # type: ignore[call-overload]
        assert np.allclose([row.embedding for row in answer.data], expected, atol=1e-5)
        assert [row.index for row in answer.data] == [0, 1, 2] and answer.usage.total_tokens > 3
    one = client.embeddings.create(model=name, input="a cow")
    assert np.allclose(one.data[0].embedding, expected[0], atol=1e-5)
    with pytest.raises(openai.NotFoundError, match="gpt-5"):
        client.embeddings.create(model="gpt-5", input="a cow")
    with pytest.raises(openai.UnprocessableEntityError, match="input 2"):
        client.embeddings.create(model=name, input=["a cow", "data:image/png;base64,AAAA"])
    with pytest.raises(openai.UnprocessableEntityError, match="dimensions"):
        client.embeddings.create(model=name, input="a cow", dimensions=7)


def test_openai_content_parts(server: Running, model: one_peace.OnePeace) -> None:
    sound = base64.b64encode(hostile.sound()).decode()
    parts = [
        {"type": "text", "text": "a cow"},
        {"type": "image_url", "image_url": {"url": data_url(hostile.picture(), "image/png")}},
        {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
    ]
    answer = server.client.post("/v1/embeddings", json={"model": model.config.name, "input": parts})
    assert answer.status_code == 200 and len(answer.json()["data"]) == 3, answer.text


@pytest.mark.parametrize("text", ["Gr\u00fc\u00dfe".encode("latin-1"), "Gr\u00fc\u00dfe".encode("utf-16")])
def test_a_text_that_is_not_utf8_is_called_so(server: Running, text: bytes) -> None:
    answer = server.client.post("/v1/items", files=[("files", ("letter.txt", text))])
    assert answer.status_code == 422 and answer.json()["error"]["message"] == "letter.txt: is not UTF-8 text"


def test_an_added_file_is_found_shown_and_removed(server: Running) -> None:
    picture = hostile.picture((0, 130, 60), (64, 64))
    files = [("files", ("../../etc/Green <Thing>.png", picture)), ("files", ("x.wav", b"RIFFnothing"))]
    answer = server.client.post("/v1/items", files=files, data={"caption": "a green thing", "tags": "made, flat"})
    assert answer.status_code == 201, answer.text
    (item,), (refused,) = answer.json()["items"], answer.json()["refused"]
    assert refused["name"] == "x.wav" and item["name"] == "Green _Thing_.png"
    assert item["folder"] == ".one-peace/uploads"
    assert set(item["tags"]) == {"made", "flat"} and item["caption"] == "a green thing"
    found = server.search(("image", data_url(picture, "image/png"), 1.0), filters={"tag": ["flat"]})
    assert [one["id"] for one in found] == [item["id"]]

    again = server.client.post("/v1/items", files=[("files", ("other.png", picture))]).json()["items"][0]
    assert again == item  # equal contents are one item, whose caption and tags stay where none come

    media = server.client.get(item["media"])
    assert media.content == picture and media.headers["content-type"] == "image/png"
    part = server.client.get(item["media"], headers={"range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, picture[1:4])
    beyond = server.client.get(item["media"], headers={"range": f"bytes={len(picture)}-"})
    assert beyond.status_code == 416 and beyond.headers["content-range"] == f"bytes */{len(picture)}"
    assert beyond.json()["error"]["code"] == "range_not_satisfiable"
    malformed = server.client.get(item["media"], headers={"range": "some of it"})
    assert malformed.status_code == 400 and "Range" in malformed.json()["error"]["message"]
    assert server.client.get(item["thumbnail"]).content.startswith(b"\xff\xd8")
    listed = server.client.get("/v1/items", params={"count": 1000}).json()
    unknown = server.client.get("/v1/items", params={"tag": "farm"})
    assert unknown.status_code == 422 and unknown.json()["error"]["param"] == "query.tag"
    assert item["id"] in [one["id"] for one in listed["items"]] and listed["next"] is None

    path = server.service.library.content(item["id"])
    assert server.client.delete(f"/v1/items/{item['id']}").status_code == 204
    assert server.client.get(f"/v1/items/{item['id']}").status_code == 404 and not path.exists()
    assert server.client.delete(f"/v1/items/{item['id']}").status_code == 404


def test_a_file_is_not_sent_again_to_who_has_it(server: Running) -> None:
    found = server.search(("text", "red", 1.0), filters={"modality": ["image"]}, k=1)[0]
    whole = server.client.get(found["media"])
    seen = {"if-none-match": f'"other", {whole.headers["etag"]}'}
    for method in ("GET", "HEAD"):
        again = server.client.request(method, found["media"], headers=seen | {"range": "bytes=0-3"})
        assert (again.status_code, again.content) == (304, b"")
        # what a browser puts in place of the headers that it has
        for name in ("etag", "cache-control", "content-security-policy"):
            assert again.headers[name] == whole.headers[name]
    assert server.client.get(found["media"], headers={"if-none-match": '"other"'}).content == whole.content
    since = {"if-modified-since": whole.headers["last-modified"]}
    assert server.client.get(found["media"], headers=since).status_code == 304


def test_an_added_text_is_captioned_as_an_indexed_one(server: Running) -> None:
    files = [("files", ("2024_notes.txt", b"Boats are moored at the pier."))]
    item = server.client.post("/v1/items", files=files).json()["items"][0]
    assert item["caption"] == "Boats are moored at the pier."
    given = server.client.post("/v1/items", files=files, data={"caption": "of boats"}).json()["items"][0]
    assert (given["id"], given["caption"]) == (item["id"], "of boats")
    assert server.client.post("/v1/items", files=files).json()["items"] == [given]
    server.client.delete(f"/v1/items/{item['id']}")


def test_a_folder_is_filtered_by_as_it_is_told(server: Running) -> None:
    (server.folder / "uploads").mkdir()  # not to be taken for the service's own
    (server.folder / "linked").symlink_to("shapes")
    own, linked = server.folder / "uploads" / "own.png", server.folder / "linked" / "red.png"
    own.write_bytes(hostile.picture((90, 90, 90)))
    ids = server.service.library.add([(own, "grey"), (linked, "red")]).items
    uploaded = server.client.post("/v1/items", files=[("files", ("x.png", hostile.picture((3, 7, 9))))]).json()["items"]
    for id in (ids[str(own)], ids[str(linked)], uploaded[0]["id"]):
        folder = server.client.get(f"/v1/items/{id}").json()["folder"]
        assert [one["id"] for one in server.search(("text", "red", 1.0), filters={"folder": folder})] == [id]
    (server.folder / "loop").symlink_to("loop")
    query: dict[str, Any] = {"parts": [{"modality": "text", "source": "red"}], "filters": {"folder": "loop"}}
    assert "no file of the library" in server.client.post("/v1/search", json=query).json()["error"]["message"]
    for inside in (".", "shapes/.."):
        assert len(server.search(("text", "red", 1.0), filters={"folder": inside})) == len(server.service.library)
    for outside in ("..", "../..", f"../{server.folder.name}/../.."):
        query["filters"] = {"folder": outside}
        refused = server.client.post("/v1/search", json=query)
        assert refused.status_code == 422 and refused.json()["error"]["param"] == "folder"
        assert "leads out of the library's" in refused.json()["error"]["message"]
    ever = {"after": "0001-01-02T00:00:00Z", "before": "9999-12-31T00:00:00Z"}  # beyond what files' times can be
    assert len(server.search(("text", "red", 1.0), filters=ever)) == len(server.service.library)
    for id in (ids[str(own)], ids[str(linked)], uploaded[0]["id"]):
        server.client.delete(f"/v1/items/{id}")
    (server.folder / "loop").unlink()
    (server.folder / "linked").unlink()
    own.unlink()
    own.parent.rmdir()


def test_removing_an_item_that_was_not_uploaded_leaves_its_file(server: Running) -> None:
    own = server.folder / "shapes" / "own.png"
    own.write_bytes(hostile.picture((90, 90, 90)))
    id = server.service.library.add([(own, "grey")]).items[str(own)]
    assert server.client.delete(f"/v1/items/{id}").status_code == 204 and own.is_file()
    own.unlink()


def test_pages_of_items(server: Running) -> None:
    names, start = [], 0
    while start is not None:
        page = server.client.get("/v1/items", params={"start": start, "count": 3}).json()
        names += [one["name"] for one in page["items"]]
        start = page["next"]
    assert len(names) == page["total"] == len(set(names)) and "note.txt" in names


def test_map_has_every_item_once(server: Running) -> None:
    points = server.client.get("/v1/map").json()
    about = server.client.get("/v1/about").json()
    assert len(set(points["id"])) == len(points["id"]) == sum(about["items"].values())
    assert max(map(abs, points["x"] + points["y"])) <= 1
    kinds = [points["modalities"][number] for number in points["modality"]]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == about["items"]


def test_health_and_metrics(server: Running) -> None:
    assert server.client.get("/health").json() == {"status": "ok"}
    server.search(("text", "boats", 1.0))
    text = server.client.get("/metrics").text
    assert 'one_peace_requests_total{method="POST",route="/v1/search",status="200"}' in text
    assert 'one_peace_library_items{modality="image"}' in text
    assert 'one_peace_batch_inputs_count{modality="text"}' in text and "process_resident_memory_bytes" in text


def test_a_file_that_changed_since_is_not_shown(server: Running) -> None:
    path = server.folder / "shapes" / "fleeting.png"
    path.write_bytes(hostile.picture((1, 2, 3)))
    id = server.service.library.add([(path, "fleeting")]).items[str(path)]
    path.unlink()
    path.symlink_to(server.folder.parent / "secret.txt")
    answer = server.client.get(f"/v1/items/{id}/media")
    assert answer.status_code == 410 and "nobody" not in answer.text
    server.client.delete(f"/v1/items/{id}")
    path.unlink()


def test_times_that_no_file_has_are_no_bounds(server: Running) -> None:
    far = {"after": "0001-01-01T00:00:00", "before": "9999-12-31T23:59:59Z"}
    assert len(server.search(("text", "red", 1.0), filters=far)) == len(server.search(("text", "red", 1.0)))
    assert server.search(("text", "red", 1.0), filters={"after": "9999-12-31T23:59:59Z"}) == []


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/v1/search", {"parts": []}, 422, "parts"),
        ("/v1/search", {"parts": [{"modality": "text", "source": "a"}], "kk": 3}, 422, "kk"),
        ("/v1/search", {"parts": [{"modality": "text", "source": "   "}]}, 422, "empty"),
        ("/v1/search", {"parts": [{"modality": "smell", "source": "a"}]}, 422, "smell"),
        ("/v1/search", {"parts": [{"modality": "text", "source": "a", "weight": -1}]}, 422, "weight"),
        ("/v1/search", {"parts": [{"modality": "item", "source": "nothing"}]}, 422, "nothing"),
        ("/v1/search", {"parts": [{"modality": "text", "source": "a"}], "k": 10_000}, 422, "k"),
        (
            "/v1/search",
            {"parts": [{"modality": "text", "source": "a"}], "filters": {"modality": ["smell"]}},
            422,
            "smell",
        ),
        (
            "/v1/search",
            {"parts": [{"modality": "text", "source": "a"}], "filters": {"min_duration": 5, "max_duration": 1}},
            422,
            "duration",
        ),
        ("/v1/encode", {"inputs": [{"modality": "text", "source": "a" * 3000}]}, 422, "2000"),
        ("/v1/encode", {"inputs": [{"modality": "text", "source": "a"}] * 17}, 422, "16"),
        ("/v1/encode", {"inputs": [{"modality": "text", "source": "\ud800"}]}, 422, "unicode"),
        ("/v1/embeddings", {"model": "one-peace-nano", "input": []}, 422, "empty"),
        ("/v1/embeddings", {"model": "one-peace-nano", "input": [1, 2]}, 422, "input"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(server: Running, path: str, body: Any, status: int, says: str) -> None:
    answer = server.client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StoreError("/srv/vectors: not found"), 503, "unavailable"),
        (LibraryError("/srv/library was made with another model"), 503, "unavailable"),
        (FolderBusyError("/srv/library: process 7 is writing to it"), 503, "unavailable"),
        (RuntimeError("/srv/vectors: not found"), 500, "internal_error"),
        (OSError(5, "Input/output error", "/srv/vectors"), 500, "internal_error"),
    ],
)
def test_a_fault_within_has_the_shape_of_all_errors(
    server: Running, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    def fail(*_: Any) -> None:
        raise error

    for name in ("search", "item", "remove"):
        monkeypatch.setattr(server.service.library, name, fail)
    item = f"/v1/items/{server.service.library.items()[0].id}"
    query = {"parts": [{"modality": "text", "source": "a"}]}
    for answer in (
        server.client.post("/v1/search", json=query),
        server.client.get(item),
        server.client.get(f"{item}/media"),
        server.client.delete(item),
    ):
        assert answer.status_code == status and answer.json()["error"]["code"] == code
        assert "/srv" not in answer.text


def test_an_unknown_item_of_a_query_discloses_no_folder(server: Running) -> None:
    answer = server.client.post("/v1/search", json={"parts": [{"modality": "item", "source": "nothing"}]})
    assert "'nothing'" in answer.text and str(server.folder) not in answer.text


def test_head_is_get_without_a_body(server: Running) -> None:
    id = server.search(("text", "red", 1.0), filters={"modality": ["image"]}, k=1)[0]["id"]
    for path in ("/", "/page/main.js", "/health", f"/v1/items/{id}/media", f"/v1/items/{id}/thumbnail"):
        head, whole = server.client.head(path), server.client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(whole.content))
        assert head.headers["content-type"] == whole.headers["content-type"]


def test_openapi_says_all_of_it(server: Running) -> None:
    paths = server.client.get("/openapi.json").json()["paths"]
    assert {"/v1/search", "/v1/items", "/v1/encode", "/v1/embeddings", "/health", "/metrics"} <= set(paths)
    for path, operations in paths.items():
        for operation in operations.values():
            assert operation["description"], path
